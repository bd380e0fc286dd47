"""Models through the whole compiler for an FPGA, on the functional simulator."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from bert_models import bert

from espalier import api
from espalier.codegen.fpga import generator
from espalier.demo import data
from espalier.errors import DataError, ModelError, UsageError
from espalier.package import Package
from espalier.sparsity import HP

pytestmark = pytest.mark.compile
SMALL = "fpga -board=pynq-z2"


def inputs(rng, batch, sequence, vocabulary=60):
    mask = np.ones((batch, sequence), np.int64)
    for row, length in enumerate(rng.integers(1, sequence + 1, batch)):
        mask[row, length:] = 0
    return {"ids": rng.integers(0, vocabulary, (batch, sequence)), "attention_mask": mask}


def wanted(path, arrays):
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, arrays), strict=True))


def near(got, exact):
    """Root mean square of the error over that of the exact values."""
    return float(np.sqrt(((got - exact) ** 2).mean() / (exact**2).mean()))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def prune(matrix):
        structure = HP(16, matrix.shape[1] // 2 // 8 * 8, 8, 4)
        return np.where(structure.mask(matrix), matrix, 0)

    return bert(tmp_path_factory.mktemp("fpga") / "bert.onnx", prune=prune)


@pytest.fixture(scope="module")
def samples():
    return inputs(np.random.default_rng(1), 16, 24)


def compiled(path, **options):
    """The package and its parts in int8."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        quantise = generator.quantise

        def recorded(*args):
            made.append(quantise(*args))
            return made[-1]

        patch.setattr(generator, "quantise", recorded)
        return api.compile(path, **options), made


@pytest.fixture(scope="module")
def both(model, samples):
    most = dict(ids=(4, 40), attention_mask=(4, 40))
    return compiled(model, target=SMALL, calibrate=samples, max_shape=most)


@pytest.fixture(scope="module")
def package(both) -> Package:
    return both[0]


def check_bits(executor, ints, arrays):
    """The outputs of a run whose only part must equal the integer reference bit for bit."""
    calls = []
    call = executor._host._functions["espalier.part0"]

    def recorded(*tensors):
        call(*tensors)
        calls.append([np.array(np.from_dlpack(tensor)) for tensor in tensors])

    executor._host._functions["espalier.part0"] = recorded
    executor._host._main = executor._host._new_machine()["main"]
    found = executor.run(arrays)
    executor._host._functions["espalier.part0"] = call
    (tensors,) = calls
    x, mask, out = tensors
    (name,) = ints.part.outputs
    for row in range(len(x)):
        quantised = np.clip(np.round(x[row] / ints.scales["input0"]), -128, 127).astype(np.int8)
        exact = ints({"input0": quantised}, {"mask0": mask[row, 0, 0]})[name]
        np.testing.assert_array_equal(out[row], (exact * ints.scales[name]).astype("f4"))
    return found


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (2, 17), (4, 40)])
def test_it_equals_the_integer_reference_and_is_near_the_float_model(both, model, batch, sequence):
    package, (ints,) = both
    arrays = inputs(np.random.default_rng(sequence), batch, sequence)
    found = check_bits(package.executor(threads=1), ints, arrays)
    kept = arrays["attention_mask"].astype(bool)
    for name, exact in wanted(model, arrays).items():
        assert found[name].shape == exact.shape and found[name].dtype == exact.dtype
        rows = kept if name == "hidden" else slice(None)
        assert near(found[name][rows], exact[rows]) < 0.2


@pytest.mark.slow
def test_a_model_of_the_shape_of_tinybert(tmp_path):
    def prune(matrix):
        columns = matrix.shape[1] // 2 // 8 * 8
        structure = HP(32, columns, 8, 4, banked=True)
        return np.where(structure.mask(matrix), matrix, 0)

    shape = (1, 128)
    path = bert(
        tmp_path / "t.onnx", layers=4, width=312, hidden=1200, heads=12, longest=128, shape=shape, prune=prune
    )
    package, (ints,) = compiled(path, target="zcu104", calibrate=inputs(np.random.default_rng(1), 4, 128))
    arrays = inputs(np.random.default_rng(2), 1, 128)
    found = check_bits(package.executor(), ints, arrays)
    kept = arrays["attention_mask"].astype(bool)
    assert near(found["hidden"][kept], wanted(path, arrays)["hidden"][kept]) < 0.2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("verilator") is None, reason="verilator is not installed")
def test_a_layer_of_tinybert_on_the_rtl(tmp_path):
    path = bert(tmp_path / "l.onnx", layers=1, width=312, hidden=1200, heads=12, shape=(1, 16))
    sizes = (
        "-pes=16 -lanes=4 -banks=8 -tokens=8 -width=4 -bus=16 -act_depth=4096 -wgt_depth=512 -par_depth=256"
    )
    package = api.compile(path, target=f"fpga -board=pynq-z2 {sizes} -tile_depth=32")
    arrays = inputs(np.random.default_rng(2), 1, 16)
    functional, rtl = package.executor().run(arrays), package.executor(device="rtl").run(arrays)
    np.testing.assert_array_equal(functional["hidden"], rtl["hidden"])


def test_the_package_tells_what_runs_where(package, tmp_path):
    metadata = package.metadata
    assert (metadata.target.kind, metadata.target.name) == ("fpga", "pynq-z2")
    assert {name: bound.max for name, bound in metadata.dims.items()} == {"batch": 4, "sequence": 40}
    names = [layer.name for layer in metadata.layers]
    assert names[:2] == ["pooler.weight", "classifier.weight"] and names[2:8] == [
        f"0.{name}.weight" for name in ("query", "key", "value", "output", "inner", "outer")
    ]
    for layer in metadata.layers[2:]:
        assert layer.structure.startswith("HP(") and layer.kernel == "int8-sparse"
        assert layer.how == "predicted" and layer.kernel in layer.candidates
    assert metadata.accelerator is not None
    (part,) = metadata.accelerator.parts
    assert [program.tokens for program in part.programs] == [16, 32, 40] and part.masks == 1
    package.save(tmp_path / "p.tar")
    again = Package.load(tmp_path / "p.tar")
    assert again.metadata == metadata and again.images == package.images


def test_the_same_model_gives_the_same_bytes(package, model, samples):
    again = api.compile(
        model, target=SMALL, calibrate=samples, max_shape=dict(ids=(4, 40), attention_mask=(4, 40))
    )
    assert again.images == package.images and again.metadata.to_bytes() == package.metadata.to_bytes()


def test_times_are_predicted_and_the_profile_has_cycles_and_bytes(package):
    executor = package.executor(threads=1)
    assert executor.how == "predicted"
    arrays = inputs(np.random.default_rng(0), 2, 20)
    times = executor.benchmark(arrays, repeat=3).milliseconds
    assert len(times) == 3 and len(set(times)) == 1
    rows = executor.profile(arrays)
    device = [row for row in rows if row.figures]
    assert [row.layer for row in device if row.layer][:3] == [
        "0.query.weight",
        "0.key.weight",
        "0.value.weight",
    ]
    assert {"turn", "softmax", "norm"} <= {row.kernel.split(".")[-1].rstrip("0123456789") for row in device}
    assert all(row.figures["cycles"] > 0 for row in device)
    (part,) = executor.accelerator.parts
    program = next(p for p in part.programs if p.tokens == 32)
    assert times[0] == pytest.approx(2 * program.cycles / (executor.accelerator.mhz * 1e3))
    assert sum(row.milliseconds for row in device) == pytest.approx(times[0], rel=0.2)
    assert any(not row.figures for row in rows)  # the host's kernels


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("verilator") is None, reason="verilator is not installed")
def test_the_rtl_gives_the_same_and_counts_cycles(model, samples):
    sizes = "-pes=8 -lanes=2 -banks=4 -tokens=4 -width=2 -bus=16"
    sizes += " -act_depth=2048 -wgt_depth=256 -par_depth=128 -tile_depth=32"
    package = api.compile(
        model,
        target=f"fpga -board=pynq-z2 {sizes}",
        calibrate={name: array[:, :9] for name, array in samples.items()},
        input_shapes=dict(ids=(1, 9), attention_mask=(1, 9)),
    )
    arrays = inputs(np.random.default_rng(3), 1, 9)
    functional, rtl = package.executor(), package.executor(device="rtl")
    expected, found = functional.run(arrays), rtl.run(arrays)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    assert rtl.how == "simulated"
    ratio = rtl.benchmark(arrays).milliseconds[0] / functional.benchmark(arrays).milliseconds[0]
    assert 0.85 < ratio < 1.15
    assert all(call.counters["conflicts"] == 0 for call in rtl._calls)


def test_digits_lose_at_most_half_a_point():
    images, labels = data.test_set()
    package = api.compile(
        data.pruned_model(),
        target="zcu104",
        calibrate={data.INPUT: images[:16]},
        max_shape={data.INPUT: images.shape},
    )
    got = package.run({data.INPUT: images})[data.OUTPUT]
    exact = wanted(data.pruned_model(), {data.INPUT: images})[data.OUTPUT]
    accuracy, reference = ((array.argmax(1) == labels).mean() for array in (got, exact))
    assert accuracy >= reference - 0.005


def test_what_does_not_fit_is_said(model, tmp_path):
    fixed = dict(ids=(1, 24), attention_mask=(1, 24))
    with pytest.raises(ModelError, match=r"part0 of 24 tokens does not fit pynq-z2 \(P8N2.*activations need"):
        api.compile(model, target=f"{SMALL} -act_depth=16", input_shapes=fixed)
    with pytest.raises(
        ModelError, match=r"layer 0.query.weight \[48, 48\]: a block of rows takes 11 weight words"
    ):
        api.compile(model, target=f"{SMALL} -wgt_depth=4", input_shapes=fixed)
    with pytest.raises(ModelError, match=r"no part of the model can run on the accelerator: .* 4 tokens"):
        api.compile(model, target=SMALL, input_shapes=dict(ids=(1, 4), attention_mask=(1, 4)))
    with pytest.raises(UsageError, match="target of kind 'llvm' has no 'isa'"):
        api.compile_model(model, target="host", dump_code=("isa",))
    with pytest.raises(DataError, match="calibration"):
        api.compile(
            model,
            target=SMALL,
            calibrate={"ids": np.zeros((2, 8), np.int64), "attention_mask": np.ones((3, 8), np.int64)},
        )


def test_a_longest_sequence_that_does_not_fit_is_cut_unless_it_was_asked_for(model):
    package = api.compile(model, target=f"{SMALL} -act_depth=40")
    assert package.metadata.dims["sequence"].max == 32
    with pytest.raises(ModelError, match="of 64 tokens does not fit"):
        api.compile(
            model, target=f"{SMALL} -act_depth=40", max_shape=dict(ids=(1, 64), attention_mask=(1, 64))
        )


def test_an_activation_unknown_to_it_stays_on_the_host(tmp_path):
    path = bert(tmp_path / "sine.onnx", activation="Sin", layers=1, hidden=240)
    package = api.compile(path, target=SMALL, input_shapes=dict(ids=(1, 16), attention_mask=(1, 16)))
    assert package.metadata.accelerator is not None and len(package.metadata.accelerator.parts) == 2
    arrays = inputs(np.random.default_rng(0), 1, 16)
    assert near(package.run(arrays)["hidden"], wanted(path, arrays)["hidden"]) < 0.2


def test_a_causal_mask_is_a_tensor(tmp_path, samples):
    path = bert(tmp_path / "causal.onnx", causal=True, shape=(1, 24))
    package = api.compile(path, target=SMALL, calibrate=samples)
    assert package.metadata.accelerator is not None
    (part,) = package.metadata.accelerator.parts
    assert (part.squares, part.keys) == ((0,), ())
    arrays = inputs(np.random.default_rng(0), 1, 24)
    arrays["attention_mask"][:] = 1
    assert near(package.run(arrays)["hidden"], wanted(path, arrays)["hidden"]) < 0.1


def test_the_assembly_can_be_shown(model):
    done = api.compile_model(
        model, target=SMALL, dump_code=("isa",), input_shapes=dict(ids=(1, 16), attention_mask=(1, 16))
    )
    lines = done.dumps["isa"].splitlines()
    assert lines[0].startswith("# part0, 16 tokens, P8") and lines[1].split()[:2] == ["0", "START"]
    assert "# 0.query.weight" in lines and lines[-1].split()[1] == "FINISH"


def test_a_model_without_attention_is_a_chain_whose_result_may_be_larger_than_the_chip(tmp_path):
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    up, down = (rng.standard_normal(shape).astype("f4") / 8 for shape in ((64, 96), (96, 1500)))
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "up"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "down"], ["y"]),
        ],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [40, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [40, 1500])],
        [numpy_helper.from_array(up, "up"), numpy_helper.from_array(down, "down")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "c.onnx",
    )
    x = rng.standard_normal((40, 64)).astype("f4")
    package = api.compile(tmp_path / "c.onnx", target=f"{SMALL} -act_depth=1024", calibrate={"x": x})
    assert near(package.run({"x": x})["y"], np.maximum(x @ up, 0) @ down) < 0.03
