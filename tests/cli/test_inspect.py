"""`espalier inspect` and `es.inspect` on small models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import espalier as es
from espalier.cli.main import run

pytestmark = pytest.mark.unit


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x -> MatMul with a dense [8, 16] -> MatMul with a weight of which half is zero, used by two nodes."""
    random = np.random.default_rng(0)
    first = random.standard_normal((8, 16)).astype("float32")
    second = random.standard_normal((16, 16)).astype("float32")
    second[::2] = 0
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["h"], name="up"),
            helper.make_node("MatMul", ["h", "second"], ["g"], name="down"),
            helper.make_node("MatMul", ["g", "second"], ["y"], name="again"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_json_is_the_contract(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(model), "--json"]) == 0
    out, err = capsys.readouterr()
    first, second = json.loads(out)["weights"]
    assert err == ""
    for weight in (first, second):
        assert set(weight) == {"name", "node", "shape", "structure", "params", "sparsity", "bytes"}
        assert set(weight["bytes"]) == {"dense", "csr", "bcsr", "bitmap", "hp"}
    assert (first["name"], first["node"], first["shape"]) == ("first", "up", [16, 8])
    assert (first["structure"], first["params"], first["sparsity"]) == ("dense", {}, 0.0)
    assert first["bytes"]["dense"] == 16 * 8 * 4 and first["bytes"]["hp"] is None
    assert (second["name"], second["node"], second["shape"]) == ("second", ["down", "again"], [16, 16])
    assert second["structure"] != "dense" and second["sparsity"] == 0.5
    assert second["bytes"]["bitmap"] == 16 * 16 // 8 + 128 * 4


def test_the_api_gives_the_same(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(model), "--json"]) == 0
    assert es.inspect(model).to_dict() == json.loads(capsys.readouterr().out)


def test_the_table_has_a_row_a_weight(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(model)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["weight", "shape", "structure", "sparsity"]
    assert [row.split()[:2] for row in rows] == [["first", "16x8"], ["second", "16x16"]]
    assert "50.0 %" in rows[1]


def test_a_model_without_linear_layers_is_an_empty_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "m.onnx",
    )
    assert run(["inspect", str(tmp_path / "m.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"weights": []}
