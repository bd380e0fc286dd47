from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from espalier.pruning.export import export_onnx, load_onnx_weights
from espalier.pruning.families import HPFamily
from espalier.pruning.pruner import Pruner

pytestmark = pytest.mark.unit


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.square = nn.Linear(16, 16)
        self.wide = nn.Linear(16, 24)
        self.norm = nn.LayerNorm(16)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        x, y = inputs
        return self.wide(self.norm(self.square(x)) + y)


def trained() -> Block:
    torch.manual_seed(0)
    model = Block()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Block, Path]:
    model = trained()
    holder = nn.Module()
    holder.inner = model
    holder.forward = lambda *inputs: model(*inputs)
    Pruner(model, HPFamily(B=8, v=4, n=2), 0.75).finish()
    path = tmp_path_factory.mktemp("export") / "block.onnx"
    example = (torch.randn(2, 3, 16), torch.randn(2, 3, 16))
    open_axes = {0: "batch", 1: "tokens"}
    export_onnx(
        holder, path, example, inputs=["x", "y"], outputs=["z"], dynamic={"x": open_axes, "y": open_axes},
        prefix="inner.",
    )  # fmt: skip
    return model, path


def test_names_and_exact_zeros_survive(exported: tuple[Block, Path]) -> None:
    model, path = exported
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for name in ("square.weight", "wide.weight"):
        weight = model.get_parameter(name).detach().numpy()
        assert np.array_equal(stored[name].T, weight)
        assert (weight == 0).mean() == 0.75 and not np.signbit(weight[weight == 0]).any()
    assert {"square.bias", "wide.bias", "norm.weight", "norm.bias"} <= set(stored)


def test_runs_at_other_sizes_and_equals_torch(exported: tuple[Block, Path]) -> None:
    model, path = exported
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in ((1, 1, 16), (3, 7, 16)):
        x, y = torch.randn(shape), torch.randn(shape)
        (got,) = session.run(None, {"x": x.numpy(), "y": y.numpy()})
        assert np.allclose(got, model(x, y).detach().numpy(), atol=1e-5)


def test_nothing_of_the_machine_is_written(exported: tuple[Block, Path]) -> None:
    data = exported[1].read_bytes()
    assert b".py" not in data and b"site-packages" not in data


def test_weights_come_back(exported: tuple[Block, Path]) -> None:
    model, path = exported
    fresh = Block()
    load_onnx_weights(fresh, path)
    for name, parameter in model.named_parameters():
        assert torch.equal(fresh.get_parameter(name), parameter), name


def test_a_file_of_another_model_is_refused(exported: tuple[Block, Path]) -> None:
    with pytest.raises(ValueError, match=r"block\.onnx: weight should be \[3, 16\], got nothing"):
        load_onnx_weights(nn.Linear(16, 3), exported[1])
