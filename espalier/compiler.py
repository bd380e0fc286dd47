"""The whole compiler: from an ONNX file to a package."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.errors import UsageError, unknown

if TYPE_CHECKING:
    import numpy as np

    from espalier.api import Compilation
    from espalier.codegen.generator import Product
    from espalier.passes.frontend import Imported
    from espalier.passes.state import Pass, State
    from espalier.runtime.signature import Signature
    from espalier.targets.target import Target

MAX_BATCH = 8
MAX_SEQUENCE = 512
"""Bounds of symbolic dimensions that neither the model nor the user bounds: of the first axis, of others."""


def compile_onnx(
    model: Path,
    target: Target,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None,
    max_shape: Mapping[str, Sequence[int]] | None,
    dtype: str,
    threads: int,
    dump_code: Sequence[str],
    pass_config: Mapping[str, Any],
    disabled_pass: Sequence[str],
    print_ir_before: Sequence[str],
    print_ir_after: Sequence[str],
    calibrate: Mapping[str, np.ndarray] | None = None,
    max_error: float = 0.05,
    tuning_records: Sequence[Path] = (),
) -> Compilation:
    """See `espalier.api.compile_model`."""
    started = time.perf_counter()
    from espalier.codegen.generator import Request, generator
    from espalier.passes.pipeline import PIPELINES
    from espalier.tuning import estimator

    passes, generate = PIPELINES[target.kind], generator(target)
    _check_passes(passes, disabled_pass, [*print_ir_before, *print_ir_after])
    _check_dumps(generate.DUMPS, dump_code, target.kind)
    seconds: dict[str, float] = {}
    with _timed(seconds, "import"):
        from espalier.passes.frontend import import_model, read_model

        imported = import_model(read_model(model), input_shapes, max_shape)
    bounds = _bounds(imported)
    from espalier.passes.state import State

    times = estimator(target.host, tuning_records)
    state = State(imported.mod, imported.weights, target.host, threads, dtype, bounds=bounds, estimator=times)
    if dtype == "int8" or generate.CALIBRATED:
        from espalier.passes.samples import samples

        tried = samples(imported.mod, _signature(imported, bounds), calibrate, max_error)
        state = dataclasses.replace(state, samples=tried)
    state = _run_passes(passes, state, seconds, disabled_pass, print_ir_before, print_ir_after)
    with _timed(seconds, "codegen"):
        request = Request(_signature(imported, bounds), dump_code, pass_config, _chosen(imported, max_shape))
        product = generate.generate(state, target, request)
    from espalier.api import Compilation
    from espalier.package import Package

    metadata = _metadata(imported, state, target, product, bounds)
    package = Package.build(product.library, product.images, **metadata)
    return Compilation(package, product.dumps, seconds, time.perf_counter() - started)


def _check_dumps(known: Sequence[str], asked: Sequence[str], kind: str) -> None:
    for name in asked:
        if name not in known:
            raise UsageError(
                f"--dump-code: a target of kind {kind!r} has no {name!r}", hint=unknown("it", name, known)
            )


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
    state: State,
    seconds: dict[str, float],
    disabled: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
) -> State:
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


def _bounds(imported: Imported) -> dict[str, int]:
    """Most of every named dimension."""
    bounds: dict[str, int] = {}
    for info in imported.inputs:
        for axis, dim in enumerate(info.shape):
            if isinstance(dim, str) and dim not in bounds:
                bounds[dim] = info.limits.get(dim, MAX_SEQUENCE if axis else MAX_BATCH)
    return bounds


def _chosen(imported: Imported, max_shape: Mapping[str, Sequence[int]] | None) -> frozenset[str]:
    """Named dimensions that the user has bounded."""
    shapes = [info.shape for info in imported.inputs if info.name in (max_shape or {})]
    return frozenset(dim for shape in shapes for dim in shape if isinstance(dim, str))


def _signature(imported: Imported, bounds: Mapping[str, int]) -> Signature:
    from espalier.runtime.signature import Signature, Tensor

    def tensors(infos: Sequence[Any]) -> tuple[Tensor, ...]:
        return tuple(Tensor(info.name, info.shape, info.dtype) for info in infos)

    dims = {name: (1, most) for name, most in bounds.items()}
    return Signature(tensors(imported.inputs), tensors(imported.outputs), dims)


def _metadata(
    imported: Imported, state: State, target: Target, product: Product, bounds: Mapping[str, int]
) -> dict[str, Any]:
    from importlib.metadata import version

    import numpy as np
    import tvm

    from espalier.package.metadata import Bounds, LayerInfo, TensorInfo, target_info
    from espalier.passes.graph import factors

    def tensors(infos: Sequence[Any]) -> tuple[TensorInfo, ...]:
        return tuple(TensorInfo(name=info.name, shape=info.shape, dtype=info.dtype) for info in infos)

    layers = [
        LayerInfo(
            name=state.weights[layer.weight].name,
            structure=layer.structure,
            kernel=layer.kernel.name,
            candidates=dict(layer.candidates),
            how=layer.how,
            measured=layer.measured,
            nonzeros=int(np.count_nonzero(state.weights[layer.weight].array)),
            rows=factors(layer.rows, bounds),
        )
        for layer in state.layers.values()
    ]
    layers += [LayerInfo(**layer) for layer in product.layers]
    return {
        "producer": f"espalier {version('tvm-espalier')}",
        "tvm_version": tvm.__version__,
        "target": target_info(target),
        "inputs": tensors(imported.inputs),
        "outputs": tensors(imported.outputs),
        "dims": {name: Bounds(min=1, max=most) for name, most in {**bounds, **product.bounds}.items()},
        "layers": tuple(layers),
        "error": state.error,
        **product.metadata,
    }
