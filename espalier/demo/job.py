"""`espalier demo`: the main job on the model that ships inside the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from espalier import api
from espalier.bench.compare import Bench, bench
from espalier.demo import data
from espalier.demo.rank import Linear, Ranking, rank
from espalier.errors import UsageError
from espalier.report.render import write_report

BATCH = 32
"""Images in a timed call."""

RUNTIMES = ("espalier", "onnxruntime")


@dataclass(frozen=True)
class Check:
    """The package against ONNX Runtime on the test images; accuracies are fractions."""

    samples: int
    accuracy: float
    reference_accuracy: float
    reference: str
    same_predictions: int
    max_error: float
    """Largest difference of an output, over the largest output."""


@dataclass(frozen=True)
class Demo:
    """What was found; every part is also in `folder` as JSON."""

    folder: Path
    package: Path
    report: Path
    inspection: api.Inspection
    compilation: api.Compilation
    check: Check
    bench: Bench
    ranking: Ranking

    def parts(self) -> dict[str, dict[str, Any]]:
        """Name of the verb to its JSON."""
        return {
            "inspect": self.inspection.to_dict(),
            "compile": _compiled(self.compilation, self.package),
            "check": asdict(self.check),
            "bench": self.bench.to_dict(),
            "rank": self.ranking.to_dict(),
        }

    def to_dict(self) -> dict[str, Any]:
        """The object that `demo --json` prints."""
        return {"package": str(self.package), "report": str(self.report), **self.parts()}


def demo(folder: Path, *, log: Callable[[str], None] = lambda text: None) -> Demo:
    """Inspect, compile for this CPU, run, check against ONNX Runtime, time against dense, rank, report.

    Raises UsageError where `folder` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"output folder {folder}: {error.strerror}", hint="give a folder that can be made and written"
        ) from None
    model, package = data.pruned_model(), folder / "model.tar"
    images, labels = data.test_set()

    log("inspecting the weights")
    inspection = api.inspect(model)

    log("compiling for this CPU")
    compilation = api.compile_model(model, max_shape={data.INPUT: images.shape})
    compilation.package.save(package)

    log("running on the test images")
    check = _check(compilation.package, model, images, labels)

    timed = bench(
        [model, data.dense_model()],
        peers=RUNTIMES,
        input_shapes={data.INPUT: (BATCH, *images.shape[1:])},
        budget_s=2.0,
        log=log,
    )

    log("predicting other devices")
    ranking = _rank(model, timed)

    found = Demo(folder, package, folder / "report.html", inspection, compilation, check, timed, ranking)
    for name, part in found.parts().items():
        (folder / f"{name}.json").write_text(json.dumps(part, indent=1) + "\n")
    write_report(folder, title="Espalier demo: handwritten digits")
    return found


def _check(package: Any, model: Path, images: np.ndarray, labels: np.ndarray) -> Check:
    """The package and ONNX Runtime on the same model, all images at once."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    wanted = np.asarray(session.run([data.OUTPUT], {data.INPUT: images})[0])
    got = package.run({data.INPUT: images})[data.OUTPUT]
    ours, theirs = got.argmax(axis=1), wanted.argmax(axis=1)
    return Check(
        samples=len(labels),
        accuracy=float((ours == labels).mean()),
        reference_accuracy=float((theirs == labels).mean()),
        reference="ONNX Runtime",
        same_predictions=int((ours == theirs).sum()),
        max_error=float(np.abs(got - wanted).max() / np.abs(wanted).max()),
    )


def _rank(model: Path, timed: Bench) -> Ranking:
    """Every device for a constraint of half the time that the dense model takes in ONNX Runtime here."""
    from espalier.passes.frontend import linear_weights, read_model
    from espalier.sparsity import detect
    from espalier.targets.cpu import Cpu
    from espalier.targets.registry import devices

    pruned, dense = data.pruned_model().stem, data.dense_model().stem
    ours, theirs = timed.of(pruned, "espalier"), timed.of(dense, "onnxruntime")
    assert ours and ours.times and theirs and theirs.times
    here_first = [device for device in devices().values() if isinstance(device.target, Cpu)]
    layers = [
        Linear(*matrix.shape, structure=detect(matrix).structure, tokens=BATCH * data.TOKENS)
        for matrix in (weight.matrix for weight in linear_weights(read_model(model)))
    ]
    return rank(layers, here_first, ours.times, float(f"{theirs.times.median / 2:.2g}"))


def _compiled(compilation: api.Compilation, package: Path) -> dict[str, Any]:
    """As `compile --json` prints it."""
    metadata = compilation.package.metadata.model_dump(mode="json")
    return {
        "package": str(package),
        "target": metadata["target"],
        "layers": metadata["layers"],
        "seconds": compilation.seconds,
    }
