"""The comparison itself: rows, ratios, errors, and peers that decline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from espalier.bench import compare
from espalier.bench.compare import bench, choose_peers
from espalier.bench.inputs import model_inputs
from espalier.bench.peers import PEERS, Declined, Peer
from espalier.errors import ModelError, UnavailableError, UsageError

pytestmark = pytest.mark.unit


def two_layers(path: Path, width: int = 24) -> Path:
    """y = relu(x W) V with a dynamic batch."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((width, width), np.float32), name) for name in ("W", "V")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "V"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width]),
        helper.make_tensor_value_info("unused", TensorProto.INT64, ["batch", "length"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])]
    graph = helper.make_graph(nodes, "two_layers", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return two_layers(tmp_path / "two.onnx")


def test_inputs_follow_the_declaration_and_the_wish(model: Path):
    proto = onnx.load(model)
    inputs = model_inputs(proto, {"unused": (3, 5)})
    assert inputs["x"].shape == (3, 24) and inputs["x"].dtype == np.float32
    assert inputs["unused"].shape == (3, 5) and inputs["unused"].dtype == np.int64
    assert (inputs["unused"] == 1).all()
    assert model_inputs(proto, {})["unused"].shape == (1, 128)
    assert np.array_equal(model_inputs(proto, {"x": (3, 24)})["x"], inputs["x"])


@pytest.mark.parametrize(
    "shapes", [{"z": (1,)}, {"x": (1, 25)}, {"x": (24,)}, {"x": (2, 24), "unused": (3, 3)}]
)
def test_shapes_that_contradict_the_model(model: Path, shapes):
    with pytest.raises(UsageError):
        model_inputs(onnx.load(model), shapes)


def test_real_runtimes_agree_and_are_timed(model: Path, tmp_path: Path):
    other = two_layers(tmp_path / "other.onnx", width=40)
    pytest.importorskip("openvino")
    result = bench([model, other], peers=["onnxruntime", "openvino-f32", "openvino"], repeat=3, budget_s=1.0)
    assert [(one.model, one.peer) for one in result.entries][:2] == [
        ("two", "onnxruntime"),
        ("two", "openvino-f32"),
    ]
    assert len(result.entries) == 6
    for entry in result.entries:
        assert entry.times and entry.times.median > 0
        assert entry.error is not None and (entry.error < 1e-5 or not entry.exact)
    found = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    row = found["entries"][1]
    ratio = found["entries"][0]["time_ms"]["median"] / row["time_ms"]["median"]
    assert row["over_onnxruntime"] == pytest.approx(ratio, rel=0.01)
    assert row["best_peer"] in ("onnxruntime", "openvino-f32")
    assert "onnxruntime" in found["machine"]["versions"]


def fake(monkeypatch: pytest.MonkeyPatch, outcome) -> None:
    """A peer `fake` whose loader does what `outcome` says."""
    peer = Peer("fake", "numpy", "numpy", "nowhere")
    monkeypatch.setattr(Peer, "load", lambda self, *args: outcome() if self is peer else real(self, *args))
    monkeypatch.setitem(PEERS, "fake", peer)


real = Peer.load


def decline():
    raise Declined("no such operator\nand a long story")


def crash():
    raise KeyError("num_heads")


def crash_late():
    return lambda: crash()


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (decline, "no such operator"),
        (crash, "KeyError: 'num_heads'"),
        (crash_late, "KeyError: 'num_heads'"),
        (lambda: lambda: {"y": np.zeros((2, 2))}, "has shape"),
        (lambda: lambda: {}, "no such output"),
        (lambda: lambda: {"y": np.full((1, 24), np.nan)}, "NaN"),
    ],
)
def test_a_peer_that_cannot_or_errs_is_listed_with_the_reason(monkeypatch, model, outcome, why):
    fake(monkeypatch, outcome)
    result = bench([model], peers=["onnxruntime", "fake"], repeat=3, budget_s=0.1)
    entry = result.of("two", "fake")
    assert entry and entry.times is None and why in entry.why and "\n" not in entry.why
    assert result.best_peer("two") == result.of("two", "onnxruntime")
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_wrong_result_shows_as_an_error(monkeypatch, model):
    fake(monkeypatch, lambda: lambda: {"y": np.zeros((1, 24), np.float32)})
    result = bench([model], peers=["onnxruntime", "fake"], repeat=3, budget_s=0.1)
    entry = result.of("two", "fake")
    assert entry and entry.error == pytest.approx(1.0)


def test_our_own_crash_is_a_bug_and_no_refusal(monkeypatch, model):
    monkeypatch.setattr(compare, "OURS", "fake")
    fake(monkeypatch, crash)
    with pytest.raises(KeyError):
        bench([model], peers=["fake"], repeat=3, budget_s=0.1)


def test_no_reference_no_error(monkeypatch, model):
    fake(monkeypatch, lambda: lambda: {"y": np.zeros((1, 24), np.float32)})
    entry = bench([model], peers=["fake"], repeat=3, budget_s=0.1).of("two", "fake")
    assert entry and entry.error is None and entry.times


def test_models_of_one_name_are_told_apart(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [two_layers(tmp_path / folder / "m.onnx") for folder in ("a", "b")]
    result = bench(paths, peers=["onnxruntime"], repeat=3, budget_s=0.1)
    assert [one.model for one in result.entries] == [str(path) for path in paths]


def test_torch_says_what_it_needs(model: Path):
    pytest.importorskip("torch")
    entry = bench([model], peers=["torch"], repeat=3, budget_s=0.1).of("two", "torch")
    assert entry and "two.pt2" in entry.why


def test_unknown_peer():
    with pytest.raises(UsageError) as caught:
        choose_peers(["onnxruntme"])
    assert "onnxruntime" in caught.value.hint


def test_absent_peer(monkeypatch):
    monkeypatch.setitem(PEERS, "gone", Peer("gone", "gone-runtime", "no_such_module", "nowhere"))
    with pytest.raises(UnavailableError) as caught:
        choose_peers(["gone"])
    assert "pip install gone-runtime" in caught.value.hint
    assert "gone" not in [peer.name for peer in choose_peers(None)]


def test_bad_model(tmp_path: Path):
    with pytest.raises(ModelError):
        bench([tmp_path / "none.onnx"], peers=["onnxruntime"])


def test_every_peer_has_its_file():
    folder = Path(compare.__file__).parent / "peers"
    for peer in PEERS.values():
        assert f"def {peer.function}(" in (folder / f"{peer.module}.py").read_text()
