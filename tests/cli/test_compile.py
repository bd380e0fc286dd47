"""`espalier compile` end to end on a small pruned model, and `es.compile`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import espalier as es
from espalier.cli.main import run
from espalier.package import Package

pytestmark = pytest.mark.compile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m.onnx: x[batch, length, 64] -> MatMul, bias, Relu -> MatMul with half of the weights zero."""
    random = np.random.default_rng(0)
    up = random.standard_normal((64, 96)).astype("float32")
    down = random.standard_normal((96, 32)).astype("float32")
    down.reshape(24, 4, 32)[:, 2:] = 0
    initializers = {"up": up, "bias": random.standard_normal(96).astype("float32"), "down": down}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "up"], ["a"]),
            helper.make_node("Add", ["a", "bias"], ["b"]),
            helper.make_node("Relu", ["b"], ["c"]),
            helper.make_node("MatMul", ["c", "down"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 32])],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    folder = tmp_path_factory.mktemp("compile")
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "m.onnx"
    )
    return folder


@pytest.fixture(autouse=True)
def _in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def reference(x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession("m.onnx").run(None, {"x": x})[0]


def test_the_whole_way_for_every_length(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compile", "m.onnx", "--json", "--max-shape", "x:[4,50,64]"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert set(result) == {"package", "target", "layers", "seconds"} and err == ""
    assert result["package"] == "m.tar" and result["target"]["kind"] == "llvm" and result["seconds"] > 0
    assert [layer["name"] for layer in result["layers"]] == ["up", "down"]
    for layer in result["layers"]:
        assert set(layer) == {"name", "structure", "kernel", "candidates", "how"}
        assert layer["how"] == "predicted" and layer["kernel"] in layer["candidates"]
        assert layer["candidates"][layer["kernel"]] == min(layer["candidates"].values())
    package = Package.load("m.tar")
    assert [set(layer.rows or ()) for layer in package.metadata.layers] == [{"batch", "length"}] * 2
    weights = {weight.name: weight for weight in onnx.load("m.onnx").graph.initializer}
    for layer in package.metadata.layers:
        assert layer.nonzeros == np.count_nonzero(numpy_helper.to_array(weights[layer.name]))
    assert {name: (bound.min, bound.max) for name, bound in package.metadata.dims.items()} == {
        "batch": (1, 4),
        "length": (1, 50),
    }
    for batch, length in [(1, 1), (2, 7), (4, 50)]:
        x = np.random.default_rng(length).standard_normal((batch, length, 64)).astype("float32")
        wanted = reference(x)
        np.testing.assert_allclose(package.run({"x": x})["y"], wanted, atol=1e-4 * np.abs(wanted).max())


def test_the_same_model_gives_the_same_bytes_and_the_api_the_same_package() -> None:
    assert run(["compile", "m.onnx", "-o", "first.tar", "-q"]) == 0
    assert run(["compile", "m.onnx", "-o", "second.tar", "-q"]) == 0
    assert Path("first.tar").read_bytes() == Path("second.tar").read_bytes()
    package = es.compile("m.onnx", target="host")
    package.save("third.tar")
    assert Path("third.tar").read_bytes() == Path("first.tar").read_bytes()


def test_explain_dumps_and_printed_modules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prints = ["--print-ir-before", "lower", "--print-ir-after", "lower", "--print-pass-times"]
    dumps = ["--dump-code", "asm,relax,tir,ll", "--dump-dir", str(tmp_path)]
    target = ["--target", "llvm -mcpu=x86-64-v3 -num-cores=4"]
    assert run(["compile", "m.onnx", "-o", "e.tar", "--explain", *prints, *dumps, *target]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["layer", "structure", "kernel", "ms", "how", "candidates", "(ms)"]
    assert lines[1].startswith("up ") and "dense" in lines[1] and "predicted" in lines[1]
    assert lines[-1].startswith("e.tar: 2 linear layers for x86-64-v3")
    assert err.index("# before lower") < err.index("# after lower") < err.index("codegen")
    assert "call_tir" in err
    assert {path.name for path in tmp_path.iterdir()} == {"e.asm", "e.relax", "e.tir", "e.ll"}
    assert "define" in (tmp_path / "e.ll").read_text() and "R.call_tir" in (tmp_path / "e.relax").read_text()
    assert "vfmadd" in (tmp_path / "e.asm").read_text() and "T.prim_func" in (tmp_path / "e.tir").read_text()
    target_info = Package.load("e.tar").metadata.target
    assert (target_info.mcpu, target_info.isa, target_info.cores) == ("x86-64-v3", "avx2", 4)


def test_fixed_shapes_and_a_pass_left_out() -> None:
    options = ["--input-shapes", "x:[2,5,64]", "--disabled-pass", "fuse-linear", "--target", "x86-64-v2"]
    assert run(["compile", "m.onnx", "-o", "f.tar", "-q", *options]) == 0
    package = Package.load("f.tar")
    assert package.metadata.inputs[0].shape == (2, 5, 64) and package.metadata.dims == {}
    x = np.random.default_rng(1).standard_normal((2, 5, 64)).astype("float32")
    wanted = reference(x)
    np.testing.assert_allclose(package.run({"x": x})["y"], wanted, atol=1e-4 * np.abs(wanted).max())


def test_the_api_takes_a_cpu_and_refuses_what_the_verb_refuses() -> None:
    with pytest.raises(es.EspalierError, match="dtype 'int9' cannot be compiled"):
        es.compile("m.onnx", dtype="int9")
    with pytest.raises(es.EspalierError, match="unknown target 'znver9'"):
        es.compile("m.onnx", target="znver9")


def test_settings_of_tvm(capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--pass-config",
        "tirx.disable_storage_rewrite=TRUE",
        "--pass-config",
        "tirx.debug_keep_trivial_loop=0",
    ]
    assert run(["compile", "m.onnx", "-o", "s.tar", "-q", *options]) == 0
    assert (
        run(["compile", "m.onnx", "-o", "t.tar", "--pass-config", "tirx.disable_storage_rewrite=maybe"]) == 2
    )
    err = capsys.readouterr().err
    assert err.startswith("error: --pass-config: TVM refuses {'tirx.disable_storage_rewrite': 'maybe'}")
    assert not Path("t.tar").exists()


def test_compiling_does_not_import_torch() -> None:
    code = "import sys, espalier as es; es.compile('m.onnx'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_integers_and_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("samples.npz", x=np.random.default_rng(2).standard_normal((3, 40, 64)).astype("float32"))
    options = ["--dtype", "int8", "--calibrate", "samples.npz", "--target", "x86-64-v3"]
    assert run(["compile", "m.onnx", "-o", "int8.tar", "--json", *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["error"] <= 0.05
    assert any(layer["kernel"].startswith("u8-") for layer in result["layers"])
    x = np.random.default_rng(1).standard_normal((2, 37, 64)).astype("float32")
    got, wanted = Package.load("int8.tar").run({"x": x})["y"], reference(x)
    assert np.sqrt(np.square(got - wanted).mean() / np.square(wanted).mean()) < 0.05
    assert run(["compile", "m.onnx", "-o", "no.tar", "--max-error", "1e-6", *options]) == 2
    assert "error: --dtype int8: no linear layer can be rounded within" in capsys.readouterr().err
    assert not Path("no.tar").exists()
