"""The verbs as functions. The command line is thin over these; heavy modules are imported inside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.errors import UsageError, unknown

if TYPE_CHECKING:
    import numpy as np

    from espalier.package import Package
    from espalier.search.tune import Watch
    from espalier.targets.target import Target
    from espalier.tuning import Tuning


DTYPES = ("float32", "int8")
"""Data types that kernels can be compiled for."""

FORMATS = ("dense", "csr", "bcsr", "bitmap", "hp")
"""What the size of a weight is told in."""


@dataclass(frozen=True)
class WeightReport:
    """What one weight of a linear layer is. `shape` is [N, K] of y = x W^T, whatever ONNX stores."""

    name: str
    nodes: tuple[str, ...]
    shape: tuple[int, int]
    structure: str
    label: str
    """The structure with its parameters, for people."""
    params: Mapping[str, Any]
    sparsity: float
    """Fraction of exact zeros."""
    bytes: Mapping[str, int | None]
    """By format: dense, csr, bcsr, bitmap, hp (None where the matrix is no HP)."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "node": self.nodes[0] if len(self.nodes) == 1 else list(self.nodes),
            "shape": list(self.shape),
            "structure": self.structure,
            "params": dict(self.params),
            "sparsity": self.sparsity,
            "bytes": dict(self.bytes),
        }


@dataclass(frozen=True)
class Inspection:
    """Every weight of a model's linear layers."""

    weights: tuple[WeightReport, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"weights": [weight.to_dict() for weight in self.weights]}


def inspect(model: str | Path) -> Inspection:
    """Detects what each weight of a model is.

    Raises ModelError where the file is no model that can be read.
    """
    from espalier.passes.frontend import linear_weights, read_model
    from espalier.sparsity import detect, sizes

    reports = []
    for weight in linear_weights(read_model(Path(model))):
        found = detect(weight.matrix)
        apart = found.remainder.count if found.remainder else 0
        exact = sizes(weight.matrix, found.structure, apart=apart)
        reports.append(
            WeightReport(
                name=weight.name,
                nodes=tuple(weight.nodes),
                shape=(int(weight.matrix.shape[0]), int(weight.matrix.shape[1])),
                structure=found.name,
                label=found.label(),
                params=found.params(),
                sparsity=float((weight.matrix == 0).mean()) if weight.matrix.size else 0.0,
                bytes={name: exact.get(name) for name in FORMATS},
            )
        )
    return Inspection(tuple(reports))


@dataclass(frozen=True)
class Compilation:
    """A package and how it came about."""

    package: Package
    dumps: Mapping[str, str]
    """Kind of code to its text."""
    pass_seconds: Mapping[str, float]
    seconds: float


def compile(model: str | Path, **options: Any) -> Package:
    """Compiles a model into a package; the options are those of `compile_model`.

    Raises ModelError for a model that cannot be read, UsageError for an option that does not fit it.
    """
    return compile_model(model, **options).package


def compile_model(
    model: str | Path,
    *,
    target: Target | str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    max_shape: Mapping[str, Sequence[int]] | None = None,
    dtype: str = "float32",
    threads: int | None = None,
    dump_code: Sequence[str] = (),
    pass_config: Mapping[str, Any] | None = None,
    disabled_pass: Sequence[str] = (),
    print_ir_before: Sequence[str] = (),
    print_ir_after: Sequence[str] = (),
    calibrate: Mapping[str, np.ndarray] | None = None,
    max_error: float = 0.05,
    tuning_records: Sequence[str | Path] = (),
) -> Compilation:
    """Compiles a model and tells how; `espalier compile` explains the options.

    `calibrate` holds samples of the inputs by name, along their first axis, for int8; `max_error` is what
    rounding to int8 may cost on a CPU: root mean square over the outputs', on the samples.

    `tuning_records` are files that `espalier tune` wrote: what they measured decides.

    Raises ModelError for a model that cannot be read, UsageError for an option that does not fit it,
    DataError and RecordsError for records that are damaged or hold nothing for the target.
    """
    from espalier import cache
    from espalier.runtime.library import without
    from espalier.targets.host import host
    from espalier.targets.parse import parse_target

    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} cannot be compiled", hint=unknown("dtype", dtype, DTYPES))
    device = host() if target is None else parse_target(target) if isinstance(target, str) else target
    started = time.perf_counter()
    records = [Path(file) for file in tuning_records]
    decisive = {
        "input_shapes": input_shapes,
        "max_shape": max_shape,
        "dtype": dtype,
        "threads": threads or device.host.cores,
        "pass_config": pass_config or {},
        "disabled_pass": disabled_pass,
        "calibrate": calibrate,
        "max_error": max_error,
    }
    shown = bool(dump_code or print_ir_before or print_ir_after)
    cached = None if shown else cache.entry(Path(model), device, decisive, records)
    package = None if cached is None else cached.load()
    if package is not None:
        seconds = time.perf_counter() - started
        return Compilation(package, {}, {"cache": seconds}, seconds)
    # TVM imports torch where it is installed, which takes seconds, and needs it for nothing here
    with without("torch"):
        from espalier.compiler import compile_onnx
        from espalier.passes import pipeline  # noqa: F401
    done = compile_onnx(
        Path(model),
        device,
        **decisive,
        dump_code=dump_code,
        print_ir_before=print_ir_before,
        print_ir_after=print_ir_after,
        tuning_records=records,
    )
    if cached is not None:
        cached.store(done.package)
    return done


def tune(
    model: str | Path,
    records: str | Path,
    *,
    target: Target | str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    max_shape: Mapping[str, Sequence[int]] | None = None,
    dtype: str = "float32",
    threads: int | None = None,
    trials: int | None = None,
    minutes: float | None = None,
    tasks: Sequence[int] | None = None,
    seed: int = 0,
    rpc_tracker: str | None = None,
    rpc_key: str | None = None,
    watch: Watch = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Tuning:
    """Measures kernels for the linear layers of a model and adds the times to the file `records`.

    Goes on with what is in the file; `trials` counts what is there. `watch` is told how far it is;
    it ends early when `stop` says so.

    Raises ModelError for a model that cannot be read, UsageError for an option that does not fit it,
    DataError for a file that holds something else, UnavailableError without XGBoost or where the target
    cannot be reached, StoppedError where it is interrupted.
    """
    from espalier.runtime.library import without

    with without("torch"):
        from espalier.passes import pipeline  # noqa: F401
        from espalier.tuning import cpu_of, machine_for, tune_onnx
    cpu = cpu_of(target, rpc_tracker)
    count = threads or cpu.cores
    return tune_onnx(
        Path(model),
        cpu,
        Path(records),
        machine_for(cpu, count, rpc_tracker, rpc_key),
        input_shapes=input_shapes,
        max_shape=max_shape,
        dtype=dtype,
        threads=count,
        trials=trials,
        minutes=minutes,
        only=tasks,
        seed=seed,
        watch=watch,
        stop=stop,
    )


def tuning_tasks(
    model: str | Path,
    *,
    target: Target | str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    max_shape: Mapping[str, Sequence[int]] | None = None,
    dtype: str = "float32",
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """What `tune` would tune: each distinct linear layer with its number and how many kernels there are.

    Raises as `tune` does.
    """
    from espalier.runtime.library import without

    with without("torch"):
        from espalier.passes import pipeline  # noqa: F401
        from espalier.tuning import cpu_of, model_tasks
    cpu = cpu_of(target, None)
    tasks = model_tasks(Path(model), cpu, input_shapes, max_shape, dtype, threads or cpu.cores)
    return [{"task": number, **task.to_dict()} for number, task in enumerate(tasks)]
