"""Latency of a whole Transformer in int8, in Espalier and in other runtimes that quantise the same model.

Espalier quantises by `--dtype int8` within --max-error on made-up inputs; ONNX Runtime dynamically (weights
by channel, of 7 bits where the CPU has no int8 dot product); OpenVINO runs the QDQ model that ONNX Runtime's
static quantisation makes of the same inputs. `error` is the root mean square of the difference from ONNX
Runtime in float32, over that of the output.

    python benchmarks/int8_latency.py --cases dense,hp90-g4 --sequence 128
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

from encoder_latency import CASES, ROOT, make
from models import MODELS

from espalier import api
from espalier.bench.machine import this_machine
from espalier.bench.peers import Run, onnxruntime, openvino
from espalier.bench.timing import interleave
from espalier.passes.samples import samples
from espalier.targets.host import host

Arrays = Mapping[str, np.ndarray]


def espalier_int8(path: Path, inputs: Arrays, max_error: float) -> tuple[str, Run]:
    """(what was chosen, run)."""
    shapes = {name: array.shape for name, array in inputs.items()}
    package = api.compile(path, dtype="int8", max_error=max_error, input_shapes=shapes, threads=1)
    layers = package.metadata.layers
    count = sum(layer.kernel.startswith("u8-") for layer in layers)
    executor = package.executor(threads=1)
    return f"espalier int8 ({count} of {len(layers)} layers)", lambda: executor.run(inputs)


def made_up(path: Path, inputs: Arrays) -> list[Arrays]:
    """What Espalier takes for samples where none are given."""
    from espalier.passes.frontend import import_model, read_model
    from espalier.runtime.signature import Signature, Tensor

    imported = import_model(read_model(path), {name: array.shape for name, array in inputs.items()}, None)
    tensors = tuple(Tensor(one.name, one.shape, one.dtype) for one in imported.inputs)
    return list(samples(imported.mod, Signature(tensors, (), {}), None, 1.0))


def onnxruntime_int8(path: Path, folder: Path) -> Path:
    """The model with dynamically quantised products."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = folder / f"{path.stem}-dynamic.onnx"
    quantize_dynamic(path, made, per_channel=True, reduce_range=not host().vnni, weight_type=QuantType.QInt8)
    return made


def qdq(path: Path, folder: Path, batches: list[Arrays]) -> Path:
    """The model with QuantizeLinear and DequantizeLinear around its products with weights."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> Arrays | None:
            return next(self.left, None)

    made = folder / f"{path.stem}-qdq.onnx"
    quantize_static(
        path,
        made,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=not host().vnni,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        extra_options={"MatMulConstBOnly": True},
    )
    return made


def contestants(path: Path, max_error: float, folder: Path, inputs: Arrays) -> Iterator[tuple[str, Run]]:
    """Every runtime in float32 and in int8."""
    shapes = {name: array.shape for name, array in inputs.items()}
    executor = api.compile(path, input_shapes=shapes, threads=1).executor(threads=1)
    yield "onnxruntime f32", onnxruntime.load(path, inputs, 1)
    yield "espalier f32", lambda: executor.run(inputs)
    yield espalier_int8(path, inputs, max_error)
    yield "onnxruntime int8", onnxruntime.load(onnxruntime_int8(path, folder), inputs, 1)
    yield "openvino f32", openvino.load_f32(path, inputs, 1)
    yield "openvino int8", openvino.load(qdq(path, folder, made_up(path, inputs)), inputs, 1)


def relative(got: Arrays, wanted: Arrays) -> float:
    """Root mean square of the difference, over that of what is wanted, the worst output's."""
    errors = []
    for name, exact in wanted.items():
        difference = np.square(got[name].astype(np.float64) - exact).mean()
        errors.append(float(np.sqrt(difference / np.square(exact.astype(np.float64)).mean())))
    return max(errors)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=ROOT / "out" / "models")
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--cases", default="dense,hp90-g4", help=f"of {', '.join(CASES)}")
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--max-error", type=float, default=0.05)
    parser.add_argument("--repeat", type=int, default=40, help="samples of each")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for each")
    options = parser.parse_args()
    shapes = MODELS[options.model].shapes(options.sequence)
    print("| model | runtime | median ms | p5 | p95 | x openvino int8 | error |")
    print("|---|---|---|---|---|---|---|")
    for case in options.cases.split(","):
        path = make(options.model, case, options.models)
        session = made_up(path, {name: np.zeros(shape) for name, shape in shapes.items()})
        with tempfile.TemporaryDirectory() as folder:
            runs = dict(contestants(path, options.max_error, Path(folder), session[0]))
        exact = {name: np.array(array) for name, array in runs["onnxruntime f32"]().items()}
        errors = {name: relative(run(), exact) for name, run in runs.items()}
        times = interleave(runs, repeat=options.repeat, budget_s=options.budget)
        for name, one in times.items():
            ratio = times["openvino int8"].median / one.median
            print(
                f"| {path.stem} | {name} | {one.median:.2f} | {one.p5:.2f} | {one.p95:.2f} "
                f"| {ratio:.2f} | {errors[name]:.1e} |",
                flush=True,
            )
    print(f"\n{this_machine(('apache-tvm', 'onnxruntime', 'openvino')).line()}")


if __name__ == "__main__":
    main()
