"""The whole compiler: from an ONNX file to a package."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.errors import UsageError, unknown

if TYPE_CHECKING:
    from espalier.api import Compilation
    from espalier.passes.frontend import Imported
    from espalier.passes.state import Pass, State
    from espalier.schedules.estimate import Estimator
    from espalier.targets.cpu import Cpu

MAX_BATCH = 8
MAX_SEQUENCE = 512
"""Bounds of symbolic dimensions that neither the model nor the user bounds: of the first axis, of others."""


def compile_onnx(
    model: Path,
    cpu: Cpu,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None,
    max_shape: Mapping[str, Sequence[int]] | None,
    threads: int,
    dump_code: Sequence[str],
    pass_config: Mapping[str, Any],
    disabled_pass: Sequence[str],
    print_ir_before: Sequence[str],
    print_ir_after: Sequence[str],
    tuning_records: Sequence[Path] = (),
) -> Compilation:
    """See `espalier.api.compile_model`."""
    started = time.perf_counter()
    from espalier.passes.pipeline import PASSES
    from espalier.tuning import estimator

    _check_passes(PASSES, disabled_pass, [*print_ir_before, *print_ir_after])
    seconds: dict[str, float] = {}
    with _timed(seconds, "import"):
        from espalier.passes.frontend import import_model, read_model

        imported = import_model(read_model(model), input_shapes, max_shape)
    state = _run_passes(
        PASSES,
        imported,
        cpu,
        threads,
        estimator(cpu, tuning_records),
        seconds,
        disabled_pass,
        print_ir_before,
        print_ir_after,
    )
    with _timed(seconds, "codegen"):
        from espalier.codegen.llvm import build

        built = build(state.mod, cpu, dump=dump_code, config=pass_config)
    from espalier.api import Compilation
    from espalier.package import Package

    package = Package.build(built.library, **_metadata(imported, state, cpu))
    return Compilation(package, built.dumps, seconds, time.perf_counter() - started)


def _check_passes(passes: Sequence[Pass], disabled: Sequence[str], printed: Sequence[str]) -> None:
    known = {each.name: each for each in passes}
    for name in [*disabled, *printed]:
        if name not in known:
            raise UsageError(f"there is no pass {name!r}", hint=unknown("a pass", name, known))
    for name in disabled:
        if known[name].required:
            optional = [each.name for each in passes if not each.required]
            raise UsageError(
                f"--disabled-pass: {name!r} cannot be left out",
                hint=f"passes that can: {', '.join(optional)}",
            )


def _run_passes(
    passes: Sequence[Pass],
    imported: Imported,
    cpu: Cpu,
    threads: int,
    times: Estimator,
    seconds: dict[str, float],
    disabled: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
) -> State:
    from espalier.passes.state import State

    state = State(imported.mod, imported.weights, cpu, threads, estimator=times)
    for step in passes:
        if step.name in disabled:
            continue
        if step.name in before:
            _print_ir("before", step, state)
        with _timed(seconds, step.name):
            state = step.run(state)
        if step.name in after:
            _print_ir("after", step, state)
    return state


def _print_ir(when: str, step: Pass, state: State) -> None:
    sys.stderr.write(f"# {when} {step.name}\n{state.mod.script(show_meta=False)}\n")


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


def _metadata(imported: Imported, state: State, cpu: Cpu) -> dict[str, Any]:
    from importlib.metadata import version

    import tvm

    from espalier.package.metadata import Bounds, LayerInfo, TargetInfo, TensorInfo

    def tensors(infos: Sequence[Any]) -> tuple[TensorInfo, ...]:
        return tuple(TensorInfo(name=info.name, shape=info.shape, dtype=info.dtype) for info in infos)

    dims: dict[str, Bounds] = {}
    for info in imported.inputs:
        for axis, dim in enumerate(info.shape):
            if isinstance(dim, str) and dim not in dims:
                most = info.limits.get(dim, MAX_SEQUENCE if axis else MAX_BATCH)
                dims[dim] = Bounds(min=1, max=most)
    layers = tuple(
        LayerInfo(
            name=state.weights[layer.weight].name,
            structure=layer.structure,
            kernel=layer.kernel.name,
            candidates=dict(layer.candidates),
            how=layer.how,
            measured=layer.measured,
        )
        for layer in state.layers.values()
    )
    return {
        "producer": f"espalier {version('tvm-espalier')}",
        "tvm_version": tvm.__version__,
        "target": TargetInfo(
            kind="llvm",
            name=cpu.name,
            arch=cpu.arch,
            mcpu=cpu.mcpu,
            isa=cpu.isa,
            features=cpu.features,
            cores=cpu.cores,
        ),
        "inputs": tensors(imported.inputs),
        "outputs": tensors(imported.outputs),
        "dims": dims,
        "layers": layers,
    }
