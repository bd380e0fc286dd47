"""From an ONNX file to a plain Relax module: read and check, convert, emit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from espalier.errors import UsageError, unknown
from espalier.passes.frontend import size as sz
from espalier.passes.frontend.convert.graph import convert
from espalier.passes.frontend.emit import Weight, module
from espalier.passes.frontend.read import read_model
from espalier.passes.frontend.values import Plain
from espalier.passes.frontend.weights import LinearWeight, linear_weights

if TYPE_CHECKING:
    import tvm

__all__ = [
    "Imported",
    "Input",
    "LinearWeight",
    "Output",
    "Weight",
    "import_model",
    "linear_weights",
    "read_model",
]


@dataclass(frozen=True)
class Input:
    """A model input. A dimension is an extent or a text over named dimensions; `limits` bounds the names."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    limits: dict[str, int]


@dataclass(frozen=True)
class Output:
    """A model output, under its ONNX name."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class Imported:
    """`mod["main"](inputs..., weights...)`; `weights` by parameter name, in parameter order."""

    mod: tvm.IRModule
    weights: dict[str, Weight]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]


def import_model(
    model: onnx.ModelProto,
    shapes: Mapping[str, Sequence[int]] | None = None,
    max_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Imported:
    """The model as a Relax module.

    `shapes` fixes dimensions of inputs; all others stay symbolic. `max_shapes` bounds them, by input name.
    Raises ModelError for a model that cannot be converted, UsageError for shapes that contradict it.
    """
    plain = convert(model, shapes)
    limits = _limits(plain, max_shapes or {})
    mod, weights = module(plain, limits)
    inputs = tuple(
        Input(
            t.name,
            _text(t.shape),
            t.dtype,
            {n: limits[n] for d in t.shape for n in sz.symbols(d) if n in limits},
        )
        for t in plain.inputs
    )
    outputs = tuple(Output(name, _text(v.shape), v.dtype) for name, v in plain.outputs)
    return Imported(mod, weights, inputs, outputs)


def _text(shape: tuple[sz.Dim, ...]) -> tuple[int | str, ...]:
    return tuple(n if isinstance(n, int) else str(n) for n in shape)


def _limits(plain: Plain, wanted: Mapping[str, Sequence[int]]) -> dict[str, int]:
    inputs = {tensor.name: tensor.shape for tensor in plain.inputs}
    limits = dict(plain.limits)
    for input_name, bounds in wanted.items():
        if input_name not in inputs:
            raise UsageError(
                f"max shape: the model has no input {input_name!r}",
                hint=unknown("an input", input_name, inputs),
            )
        shape = inputs[input_name]
        if len(shape) != len(bounds):
            raise UsageError(
                f"max shape: input {input_name!r} has {len(shape)} dimensions, got {list(bounds)}",
                hint="give one bound for each dimension",
            )
        for axis, (dim, bound) in enumerate(zip(shape, bounds, strict=True)):
            name = sz.name_of(dim)
            if bound < 1:
                raise UsageError(
                    f"max shape: input {input_name!r}, axis {axis}: bound {bound}",
                    hint="bounds are at least 1",
                )
            if name is not None:
                limits[name] = min(bound, limits.get(name, bound))
            elif isinstance(dim, int) and bound < dim:
                raise UsageError(
                    f"max shape: input {input_name!r}, axis {axis} is {dim} in the model, got {bound}",
                    hint=f"give at least {dim} there",
                )
    return limits
