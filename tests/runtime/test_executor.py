"""Running a compiled module: results, times, threads, and what is not imported for it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from espalier.errors import DataError
from espalier.package import Package
from espalier.runtime.executor import Executor
from espalier.runtime.inputs import aligned
from espalier.runtime.library import ffi
from espalier.runtime.signature import Signature, Tensor
from espalier.runtime.threads import set_threads

pytestmark = pytest.mark.compile

WEIGHT = np.arange(32, dtype="float32").reshape(8, 4)


def inputs(batch: int, length: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(batch * 100 + length)
    return {
        "x": random.standard_normal((batch, 8)).astype("float32"),
        "ids": random.integers(0, 100, (batch, length)),
    }


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 7), (8, 64)])
def test_the_outputs_are_those_of_numpy(tiny_package: Package, batch: int, length: int) -> None:
    given = inputs(batch, length)
    outputs = tiny_package.run(given)
    assert list(outputs) == ["y", "next_ids"]
    np.testing.assert_allclose(outputs["y"], np.maximum(given["x"] @ WEIGHT, 0), rtol=1e-5, atol=1e-5)
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["next_ids"], given["ids"] + 1)
    assert outputs["next_ids"].dtype == np.int64


def test_a_second_run_leaves_the_outputs_of_the_first(tiny_package: Package) -> None:
    first = tiny_package.run(inputs(2, 3))
    kept = {name: array.copy() for name, array in first.items()}
    tiny_package.run(inputs(3, 3))
    for name in kept:
        np.testing.assert_array_equal(first[name], kept[name])


def test_inputs_need_be_neither_contiguous_nor_aligned_nor_writeable(tiny_package: Package) -> None:
    x = np.random.default_rng(0).standard_normal((8, 3)).astype("float32").T
    misaligned = np.frombuffer(b"\0" + np.arange(12).tobytes(), np.int64, offset=1).reshape(3, 4)
    outputs = tiny_package.run({"x": x, "ids": misaligned})
    np.testing.assert_allclose(outputs["y"], np.maximum(x @ WEIGHT, 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(outputs["next_ids"], np.arange(1, 13).reshape(3, 4))


def test_nan_passes_through(tiny_package: Package) -> None:
    given = inputs(2, 1)
    given["x"][1, 3] = np.nan
    y = tiny_package.run(given)["y"]
    assert not np.isnan(y[0]).any()
    # relu of TVM may give either for NaN, as max does in C; the row before it must be untouched
    np.testing.assert_allclose(y[0], np.maximum(given["x"][0] @ WEIGHT, 0), rtol=1e-5, atol=1e-5)


def test_the_number_of_threads_changes_no_output(tiny_package: Package) -> None:
    given = inputs(8, 64)
    one, two = (tiny_package.run(given, threads=threads) for threads in (1, 2))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    assert len(tiny_package.benchmark(given, repeat=2, threads=1).milliseconds) == 2
    executor = tiny_package.executor(threads=1)
    assert (executor.threads, executor.with_threads(2).threads) == (1, 2)


def test_what_does_not_fit_is_refused_before_the_call(tiny_package: Package) -> None:
    given = inputs(2, 3)
    given["ids"] = given["ids"][:1]
    with pytest.raises(DataError, match="batch is 1, but 2 in input 'x'"):
        tiny_package.run(given)


def test_benchmark_gives_a_time_a_repetition(tiny_package: Package) -> None:
    times = tiny_package.benchmark(inputs(1, 1), repeat=7, number=3)
    assert len(times.milliseconds) == 7
    assert all(ms > 0 for ms in times.milliseconds)
    assert (
        times.to_dict()["min"]
        <= times.to_dict()["median"]
        <= times.to_dict()["p95"]
        <= times.to_dict()["max"]
    )


def test_profile_names_the_kernels_in_the_order_of_the_calls(tiny_package: Package) -> None:
    executor = tiny_package.executor()
    kernels = [call.kernel for call in executor.profile(inputs(2, 5))]
    assert [name for name in kernels if name != "shape_func"] == ["matmul", "relu", "add"]
    np.testing.assert_array_equal(executor.run(inputs(2, 5))["next_ids"], inputs(2, 5)["ids"] + 1)


def test_threads_are_set_and_set_again(tiny_package: Package) -> None:
    tiny_package.executor()
    count = ffi().get_global_func("runtime.NumThreads")
    seen: list[int] = []

    def work() -> None:
        for wanted in (1, 3, 2, 1):
            set_threads(wanted)
            seen.append(count())

    # TVM keeps a pool a thread: a new thread has none yet
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    cores = len(os.sched_getaffinity(0))
    assert seen == [1, min(3, cores), min(2, cores), 1]


RUN_WITHOUT_COMPILER = """
import sys
for blocked in ("tvm", "torch", "onnx", "espalier.passes", "espalier.schedules", "espalier.codegen"):
    sys.modules[blocked] = None
import numpy as np
from espalier.package import Package
package = Package.load(sys.argv[1])
y = package.run({"x": np.ones((2, 8)), "ids": np.zeros((2, 3), "int32")})["y"]
assert y.tolist() == [[112, 120, 128, 136]] * 2, y
loaded = sorted(name for name, module in sys.modules.items() if module is not None)
print(*[name for name in loaded if name.split(".")[0] in ("tvm", "torch", "onnx", "onnxruntime")])
maps = open("/proc/self/maps").read()
assert "libtvm_runtime.so" in maps and "libtvm_compiler.so" not in maps
"""


def test_a_package_runs_where_the_compiler_cannot_be_imported(tiny_package: Package, tmp_path: Path) -> None:
    tiny_package.save(tmp_path / "tiny.tar")
    done = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT_COMPILER, str(tmp_path / "tiny.tar")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_running_leaves_no_file_behind(
    tiny_package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tiny_package.executor().run(inputs(1, 1))
    assert list(tmp_path.iterdir()) == []


def test_a_module_with_other_outputs_than_its_metadata_is_a_bug(tiny_package: Package) -> None:
    metadata = tiny_package.metadata
    fewer = metadata.model_copy(update={"outputs": metadata.outputs[:1]})
    with pytest.raises(RuntimeError, match="the module gives 2 outputs, its metadata names 1"):
        Package(fewer, tiny_package.module).run(inputs(1, 1))


@pytest.fixture(scope="module")
def odd() -> Executor:
    """Takes and gives booleans, bytes, halves and scalars, and gives an input as it is."""
    import tempfile

    import tvm
    from tvm import relax

    n = tvm.tirx.Var("n", "int64")
    shapes = {"x": ((n,), "float32"), "m": ((n,), "bool"), "s": ((), "float16"), "u": ((n,), "uint8")}
    x, m, s, u = (relax.Var(name, relax.TensorType(*form)) for name, form in shapes.items())
    builder = relax.BlockBuilder()
    with builder.function("main", [x, m, s, u], attrs={"num_input": 4}):
        with builder.dataflow():
            positive = builder.emit(relax.op.greater(x, relax.const(0.0, "float32")))
            values = [relax.op.sum(x), relax.op.logical_not(m), relax.op.add(s, s)]
            found = [positive, *(builder.emit(value) for value in values)]
            result = builder.emit_output(relax.Tuple([*found, u, x]))
        builder.emit_func_output(result)
    compiled = tvm.compile(builder.get(), tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v2"}))
    with tempfile.TemporaryDirectory() as folder:
        compiled.export_library(f"{folder}/mod.so")
        module = Path(folder, "mod.so").read_bytes()
    inputs = tuple(Tensor(name, ("n",) if form[0] else (), form[1]) for name, form in shapes.items())
    kinds = {
        "positive": "bool",
        "sum": "float32",
        "not": "bool",
        "twice": "float16",
        "u": "uint8",
        "x": "float32",
    }
    outputs = tuple(Tensor(name, (), dtype) for name, dtype in kinds.items())
    return Executor(module, Signature(inputs, outputs, {"n": (1, 9)}))


def test_booleans_bytes_halves_and_scalars(odd: Executor) -> None:
    x, m = np.array([1, -2, 3], "float32"), np.array([True, False, True])
    outputs = odd.run({"x": x, "m": m, "s": np.float16(1.5), "u": np.arange(3, dtype="uint8")})
    assert {name: array.dtype.name for name, array in outputs.items()} == {
        tensor.name: tensor.dtype for tensor in odd.signature.outputs
    }
    wanted = {"positive": x > 0, "sum": 2, "not": ~m, "twice": 3, "u": np.arange(3), "x": x}
    for name, value in wanted.items():
        np.testing.assert_array_equal(outputs[name], value)
        assert outputs[name].flags.writeable


def test_an_output_is_never_the_memory_of_an_input(odd: Executor) -> None:
    given = {
        "x": aligned(np.zeros(3, "float32")),
        "m": np.ones(3, bool),
        "s": np.float16(0),
        "u": aligned(np.zeros(3, "uint8")),
    }
    outputs = odd.run(given)
    for name in ("x", "u"):
        assert not np.shares_memory(outputs[name], given[name])
