"""From an ONNX file to outputs, against ONNX Runtime, at many lengths from one package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx_models import VOCABULARY, encoder

import espalier
from espalier.api import compile_model
from espalier.passes.pipeline import PIPELINES
from espalier.sparsity import BP, HP, NM, Block, Dense, Structure, Unstructured
from espalier.targets.parse import parse_target

pytestmark = pytest.mark.compile

LENGTHS = [(1, 1), (1, 7), (2, 16), (3, 21), (1, 33)]
STRUCTURES = {
    "dense": lambda shape: Dense(),
    "HP": lambda shape: HP(B=16, kc=8, v=4, n=2),
    "HP shared": lambda shape: HP(B=16, kc=8, v=4, n=2, g=4),
    "BP": lambda shape: BP(B=8, kc=5, axis="columns"),
    "2:4": lambda shape: NM(2, 4),
    "block": lambda shape: Block.for_sparsity(shape, 0.7, bh=8, bw=4),
    "unstructured": lambda shape: Unstructured.for_sparsity(shape, 0.9),
}


def pruned(path: Path, structure: str, **options: str) -> Path:
    def prune(matrix: np.ndarray) -> np.ndarray:
        form: Structure = STRUCTURES[structure](matrix.shape)
        return np.where(form.mask(matrix), matrix, 0)

    return encoder(path, prune, **options)


def check(model: Path, package: espalier.Package, atol: float = 2e-5) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for size in LENGTHS:
        feeds = {"ids": rng.integers(0, VOCABULARY, size)}
        (expected,) = session.run(None, feeds)
        found = package.run(feeds)["hidden"]
        assert found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_equals_onnx_runtime_at_every_length(structure: str, tmp_path: Path) -> None:
    model = pruned(tmp_path / "model.onnx", structure)
    package = espalier.compile(model)
    assert len(package.metadata.layers) == 6
    for layer in package.metadata.layers:
        dense = [ms for name, ms in layer.candidates.items() if "dense" in name]
        assert dense and layer.candidates[layer.kernel] <= min(dense), "chosen although dense is faster"
    check(model, package)


def test_every_optional_pass_can_be_left_out(tmp_path: Path) -> None:
    model = pruned(tmp_path / "model.onnx", "HP")
    optional = [step.name for step in PIPELINES["llvm"] if not step.required]
    assert len(optional) >= 5
    for names in [*([name] for name in optional), optional]:
        check(model, espalier.compile(model, disabled_pass=names))


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3"])
def test_older_levels_of_x86(target: str, tmp_path: Path) -> None:
    model = pruned(tmp_path / "model.onnx", "HP")
    check(model, espalier.compile(model, target=target))


def test_avx512_uses_wide_registers(tmp_path: Path) -> None:
    model = pruned(tmp_path / "model.onnx", "HP")
    done = compile_model(model, target="x86-64-v4", dump_code=["asm"])
    assert "zmm" in done.dumps["asm"]


def test_float16_model_keeps_its_output_type(tmp_path: Path) -> None:
    model = pruned(tmp_path / "model.onnx", "HP", dtype="float16")
    package = espalier.compile(model)
    assert package.metadata.outputs[0].dtype == "float16"
    assert len(package.metadata.layers) == 6
    check(model, package, atol=2e-2)


def test_fixed_shapes(tmp_path: Path) -> None:
    model = pruned(tmp_path / "model.onnx", "HP")
    package = espalier.compile(model, input_shapes={"ids": [1, 5]})
    assert package.metadata.inputs[0].shape == (1, 5)
    feeds = {"ids": np.arange(5).reshape(1, 5)}
    (expected,) = onnxruntime.InferenceSession(model).run(None, feeds)
    np.testing.assert_allclose(package.run(feeds)["hidden"], expected, atol=2e-5)


def test_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = pruned(tmp_path / "model.onnx", "HP")
    for name in "ab":
        espalier.compile(model).save(tmp_path / f"{name}.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_dumps_tell_what_was_asked_for(tmp_path: Path) -> None:
    model = pruned(tmp_path / "model.onnx", "dense")
    done = compile_model(model, dump_code=["relax", "tir", "ll", "asm"])
    parts = {"relax": "R.call_tir", "tir": "T.prim_func", "ll": "define", "asm": ".text"}
    assert all(part in done.dumps[kind] for kind, part in parts.items())


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("structure", ["HP", "BP", "unstructured"])
def test_more_zeros_are_predicted_faster_and_beat_dense(target: str, structure: str) -> None:
    from espalier.schedules import Epilogue, LinearWork, linear_candidates

    shape = (384, 384)
    cpu = parse_target(target)
    rng = np.random.default_rng(0)
    forms = {
        "HP": lambda sparsity: HP.for_sparsity(shape, sparsity, B=32, v=4, n=2),
        "BP": lambda sparsity: BP.for_sparsity(shape, sparsity, B=32),
        "unstructured": lambda sparsity: Unstructured.for_sparsity(shape, sparsity),
    }
    best = []
    for sparsity in (0.5, 0.75, 0.9):
        form = forms[structure](sparsity)
        packed = form.pack(np.where(form.mask(rng.standard_normal(shape)), 1.0, 0.0).astype("float32"))
        kernels = linear_candidates(LinearWork(*shape, packed.structure, Epilogue(bias=True)), cpu)
        times = {kernel.name: kernel.milliseconds(128, 1) for kernel in kernels}
        dense = [ms for name, ms in times.items() if "dense" in name]
        sparse = [ms for name, ms in times.items() if "dense" not in name]
        assert min(sparse) < min(dense)
        best.append(min(sparse))
    assert best == sorted(best, reverse=True), "more zeros, more time"
