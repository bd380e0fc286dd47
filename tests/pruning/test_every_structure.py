"""From the pruner to a package: each structure is seen by `inspect` as what it is, and runs as torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import espalier as es
from espalier.pruning.export import export_onnx
from espalier.pruning.families import parse_family
from espalier.pruning.pruner import LayerReport, Pruner

STRUCTURES = {
    "hp(B=32,v=4,n=2)": 0.8,
    "hp(B=32,v=4,n=1)": 0.8,
    "hp(B=32,v=4,n=1,g=4)": 0.9,
    "hp(B=32,v=4,n=2,g=4)": 0.8,
    "hp(B=32,v=4,n=2,g=8)": 0.8,
    "hp(B=32,v=8,n=2,g=2)": 0.9,
    "hp(B=32,v=4,n=2,banked=true)": 0.8,
    "bp(B=32)": 0.8,
    "bp(B=32,axis=rows)": 0.8,
    "pp(p=16,m=4)": 0.8,
    "bp+pp(B=32,p=16,m=4)": 0.8,
    "nm(v=4)": 0.5,
    "nm(v=8,g=4)": 0.75,
    "block(bh=16,bw=1)": 0.8,
    "block(bh=32,bw=32)": 0.8,
    "unstructured": 0.8,
}
"""Each with a sparsity that leaves level 1 something to prune."""

SIZE = 256


class Tower(nn.Module):
    """One residual layer for each structure."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(SIZE, SIZE) for _ in STRUCTURES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return x


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tower, list[LayerReport], Path]:
    torch.manual_seed(0)
    model = Tower().eval()
    reports = []
    for i, (structure, sparsity) in enumerate(STRUCTURES.items()):
        others = [f"layers.{j}" for j in range(len(STRUCTURES)) if j != i]
        reports += Pruner(model, parse_family(structure), sparsity, leave=others).finish()
    path = tmp_path_factory.mktemp("structures") / "tower.onnx"
    export_onnx(
        model, path, (torch.randn(2, SIZE),), inputs=["x"], outputs=["y"], dynamic={"x": {0: "batch"}}
    )
    return model, reports, path


@pytest.mark.unit
def test_inspect_sees_each_structure_with_its_parameters(
    pruned: tuple[Tower, list[LayerReport], Path],
) -> None:
    _, reports, path = pruned
    weights = {weight.name: weight for weight in es.inspect(path).weights}
    for (text, sparsity), report in zip(STRUCTURES.items(), reports, strict=True):
        weight = weights[report.name]
        expected = parse_family(text).at((SIZE, SIZE), sparsity)
        assert weight.label == expected.label() == report.structure, text
        assert dict(weight.params) == expected.params(), text
        assert weight.sparsity == pytest.approx(expected.sparsity((SIZE, SIZE)), abs=0.01), text


@pytest.mark.compile
def test_the_package_equals_torch(pruned: tuple[Tower, list[LayerReport], Path]) -> None:
    model, _, path = pruned
    package = es.compile(path)
    for batch in (1, 5):
        x = torch.randn(batch, SIZE)
        with torch.no_grad():
            expected = model(x).numpy()
        got = package.run({"x": x.numpy()})["y"]
        assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
