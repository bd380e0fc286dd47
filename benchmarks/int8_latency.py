"""Latency of MiniLM in int8, in Espalier and in other runtimes that quantise the same model.

All of them are calibrated on sixteen training sentences of STS-B, padded to the sequence.

- espalier int8: `--dtype int8 --calibrate` within the error that is named; layers on integers are counted.
- onnxruntime dynamic: its dynamic quantisation, weights by channel (of 7 bits without VNNI, as it advises).
- onnxruntime qdq: its static quantisation of the products with weights.
- openvino qdq: the same file; OpenVINO's own tool, NNCF, is not among the packages of this project. Layers
  that the plug-in runs on integers are counted.
- espalier dynamic, espalier qdq: the same files as for ONNX Runtime.

`error` is the root mean square of the difference from ONNX Runtime in float32 over that of the output, on
held-out sentences; `spearman` is the rank correlation of cosines with the scores of people there (pruned
models were not retrained, so theirs says little).

    python benchmarks/int8_latency.py --data STS-B --cases dense,hp75,hp90-g4 --sequence 128 --write
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

from encoder_latency import CASES, ROOT, make
from models import MODELS
from sts import Arrays, Pairs, calibration, each, held_out

from espalier import api
from espalier.bench.machine import this_machine
from espalier.bench.peers import onnxruntime, openvino
from espalier.bench.timing import interleave, pinned
from espalier.targets.host import host

MODEL = "minilm"
COLUMNS = (
    "model",
    "runtime",
    "median ms",
    "p5",
    "p95",
    "x openvino qdq",
    "x openvino f32",
    "error",
    "spearman",
)


class Contestant:
    """A runtime with its model; told an input once, it runs on that one again and again."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, inputs: Arrays) -> np.ndarray:
        """The model's output."""
        raise NotImplementedError


class Espalier(Contestant):
    def __init__(self, name: str, path: Path, inputs: Arrays, **options: object) -> None:
        shapes = {key: array.shape for key, array in inputs.items()}
        package = api.compile(path, input_shapes=shapes, threads=1, **options)
        layers = package.metadata.layers
        count = sum(layer.kernel.startswith("u8-") for layer in layers)
        super().__init__(f"{name} ({count} of {len(layers)})" if count else name)
        self._executor = package.executor(threads=1)

    def run(self, inputs: Arrays) -> np.ndarray:
        (output,) = self._executor.run(inputs).values()
        return output


class OnnxRuntime(Contestant):
    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self._session = onnxruntime.session(path, 1)

    def run(self, inputs: Arrays) -> np.ndarray:
        return np.asarray(self._session.run(None, dict(inputs))[0])


class OpenVino(Contestant):
    def __init__(self, name: str, path: Path, inputs: Arrays, precision: dict[str, str]) -> None:
        compiled = openvino.compiled(path, inputs, 1, precision)
        kinds = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
        linear = [
            str(kind["runtimePrecision"].value)
            for kind in kinds
            if kind["layerType"].value == "FullyConnected"
        ]
        count = sum(precision in ("i8", "u8") for precision in linear)
        super().__init__(f"{name} ({count} of {len(linear)})" if count else name)
        self._request = compiled.create_infer_request()

    def run(self, inputs: Arrays) -> np.ndarray:
        return np.array(self._request.infer(dict(inputs), share_inputs=True)[0])


def dynamic(path: Path, folder: Path) -> Path:
    """The model with dynamically quantised products."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = folder / f"{path.stem}-dynamic.onnx"
    quantize_dynamic(path, made, per_channel=True, reduce_range=not host().vnni, weight_type=QuantType.QInt8)
    return made


def qdq(path: Path, folder: Path, batches: Sequence[Arrays]) -> Path:
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


def contestants(path: Path, errors: Sequence[float], folder: Path, samples: Arrays) -> Iterator[Contestant]:
    """Every runtime in float32 and in int8."""
    one, *_ = batches = each(samples)
    made = {"dynamic": dynamic(path, folder), "qdq": qdq(path, folder, batches)}
    yield OnnxRuntime("onnxruntime f32", path)
    yield OpenVino("openvino f32", path, one, {"INFERENCE_PRECISION_HINT": "f32"})
    yield Espalier("espalier f32", path, one)
    for error in errors:
        yield Espalier(
            f"espalier int8 within {error:.0%}", path, one, dtype="int8", calibrate=samples, max_error=error
        )
    for name, file in made.items():
        yield OnnxRuntime(f"onnxruntime {name}", file)
        yield Espalier(f"espalier {name}", file, one)
    yield OpenVino("openvino qdq", made["qdq"], one, {})


def relative(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """Root mean square of the difference, over that of what is wanted."""
    difference, exact = (
        np.concatenate([a.ravel() for a in arrays]).astype(np.float64) for arrays in (got, wanted)
    )
    difference -= exact
    return float(np.sqrt(np.square(difference).mean() / np.square(exact).mean()))


def rows(case: str, options: argparse.Namespace, pairs: Pairs) -> Iterator[list[str]]:
    """The lines of one model."""
    path = make(MODEL, case, options.models)
    samples = calibration(options.data, options.sequence)
    errors = [float(one) for one in options.max_error.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        loaded = list(contestants(path, errors, Path(folder), samples))
    sentences = each(pairs.sentences)[:CHECKED]
    exact = [loaded[0].run(one) for one in sentences]
    fixed = sentences[0]
    runs = {one.name: lambda one=one: one.run(fixed) for one in loaded}
    times = interleave(runs, repeat=options.repeat, budget_s=options.budget)
    bases = [
        next(times[one] for one in times if one.startswith(base)) for base in ("openvino qdq", "openvino f32")
    ]
    for one in loaded:
        time = times[one.name]
        yield [
            path.stem,
            one.name,
            *(f"{ms:.2f}" for ms in (time.median, time.p5, time.p95)),
            *(f"{base.median / time.median:.2f}" for base in bases),
            f"{relative([one.run(each) for each in sentences], exact):.1e}",
            f"{pairs.spearman(one.run):.3f}",
        ]


CHECKED = 16
"""Sentences that errors are taken on."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=ROOT / "out" / "models")
    parser.add_argument("--data", type=Path, required=True, help="the folder of STS-B, as GLUE has it")
    parser.add_argument("--pairs", type=int, default=100, help="of sentences, for the accuracy")
    parser.add_argument("--cases", default="dense,hp75,hp90-g4", help=f"of {', '.join(CASES)}")
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--max-error", default="0.05,0.2", help="what our rounding may cost, one run each")
    parser.add_argument("--repeat", type=int, default=40, help="samples of each")
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for each")
    parser.add_argument("--write", action="store_true", help="also write docs/results/int8_*.md")
    options = parser.parse_args()
    about = (__doc__ or "").strip().split("\n\n    python")[0].split("\n\n", 1)[1].splitlines()
    lines = [
        f"# {MODELS[MODEL].summary} in int8, batch 1, sequence {options.sequence}, 1 thread",
        "",
        *about,
        "",
    ]
    lines += [f"| {' | '.join(COLUMNS)} |", f"|{'|'.join('---' for _ in COLUMNS)}|"]
    pairs = held_out(options.data, options.sequence, options.pairs)
    with pinned(1):
        for case in options.cases.split(","):
            for row in rows(case, options, pairs):
                lines.append(f"| {' | '.join(row)} |")
                print(lines[-1], file=sys.stderr, flush=True)
    machine = this_machine(("tvm-espalier", "apache-tvm", "onnxruntime", "openvino"))
    text = "\n".join([*lines, "", machine.line()]) + "\n"
    print(text)
    if options.write:
        page = ROOT / "docs" / "results" / f"int8_{MODEL}_s{options.sequence}.md"
        page.write_text(text)
        print(f"wrote {page}", file=sys.stderr)


if __name__ == "__main__":
    main()
