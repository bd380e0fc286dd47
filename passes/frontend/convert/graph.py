"""Walks an ONNX graph and converts it node by node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from espalier.errors import ModelError, UsageError, unknown
from espalier.passes.frontend import size as sz
from espalier.passes.frontend.build import Builder, truth
from espalier.passes.frontend.convert.registry import Node, call
from espalier.passes.frontend.plain import EqualDims, ShapeError
from espalier.passes.frontend.size import Dim
from espalier.passes.frontend.values import Constant, Plain, Tensor, Value

MAX_RESTARTS = 64
MAX_CONVERTED = 60_000  # nodes, all restarts together
Shapes = Mapping[str, Sequence[int]]


def convert(model: onnx.ModelProto, shapes: Shapes | None = None) -> Plain:
    """The model as plain operators.

    `shapes` fixes dimensions of inputs. Raises ModelError for a model that cannot be converted, UsageError
    for shapes that contradict it.
    """
    fixed = _fixed(model, shapes or {})
    try:
        return _converted(model, fixed)
    except ModelError as error:
        if not fixed:
            raise
        _converted(model, {})  # raises where the shapes are not to blame
        given = ", ".join(f"{name}:{list(shape)}" for name, shape in (shapes or {}).items())
        raise UsageError(
            f"--input-shapes {given} contradict the model: {error.message}",
            hint="leave the dimension dynamic, or export the model for that shape",
        ) from None


def _converted(model: onnx.ModelProto, fixed: Mapping[str, Dim]) -> Plain:
    """Two symbolic dimensions that the graph forces to be equal become one: the conversion starts again."""
    names = dict(fixed)
    order = _order(model)
    restarts = max(4, min(MAX_RESTARTS, MAX_CONVERTED // max(1, len(model.graph.node))))
    for _ in range(restarts):
        try:
            return _Graph(model, names).run()
        except EqualDims as equality:
            name, value = equality.name, equality.value
            other = sz.name_of(value)
            if other is not None and order.get(other, 0) > order.get(name, 0):
                name, value = other, sz.symbol(name)
            names = {key: _renamed(old, name, value) for key, old in names.items()} | {name: value}
    raise ModelError(
        f"the dimensions of the inputs depend on each other in more than {restarts} ways",
        hint="fix them with --input-shapes",
    )


def _renamed(old: Dim, name: str, value: Dim) -> Dim:
    return sz.replace(old, lambda atom: value if atom == sz.Symbol(name) else sz.of(atom))


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller gives: those without an initializer."""
    known = {tensor.name for tensor in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in known]


def dim_name(value: onnx.ValueInfoProto, axis: int) -> str:
    """The name of a dynamic dimension; an unnamed one is called after its input."""
    return value.type.tensor_type.shape.dim[axis].dim_param or f"{value.name}_{axis}"


def _order(model: onnx.ModelProto) -> dict[str, int]:
    order: dict[str, int] = {}
    for value in graph_inputs(model.graph):
        for axis in range(len(value.type.tensor_type.shape.dim)):
            order.setdefault(dim_name(value, axis), len(order))
    return order


def _fixed(model: onnx.ModelProto, shapes: Shapes) -> dict[str, Dim]:
    """The dimensions that the caller's shapes fix, by name."""
    inputs = {value.name: value for value in graph_inputs(model.graph)}
    fixed: dict[str, Dim] = {}
    for name, wanted in shapes.items():
        if name not in inputs:
            raise UsageError(f"the model has no input {name!r}", hint=unknown("an input", name, inputs))
        have = inputs[name].type.tensor_type.shape.dim
        if len(have) != len(wanted):
            raise UsageError(
                f"input {name!r} has {len(have)} dimensions, got {list(wanted)}",
                hint="give one extent for each dimension",
            )
        for axis, extent in enumerate(wanted):
            if extent < 1:
                raise UsageError(f"input {name!r}: extent {extent}", hint="extents are at least 1")
            if have[axis].HasField("dim_value") and have[axis].dim_value > 0:
                if have[axis].dim_value != extent:
                    raise UsageError(
                        f"input {name!r}: axis {axis} is {have[axis].dim_value} in the model, got {extent}",
                        hint="only dynamic dimensions can be chosen",
                    )
                continue
            key = dim_name(inputs[name], axis)
            if fixed.setdefault(key, extent) != extent:
                raise UsageError(
                    f"input {name!r}: dimension {key!r} is {fixed[key]} elsewhere, got {extent}",
                    hint="dimensions of one name are equal",
                )
    return fixed


class _Graph:
    """One conversion under one naming of dimensions."""

    def __init__(self, model: onnx.ModelProto, names: Mapping[str, Dim]) -> None:
        self.graph = model.graph
        self.names = names
        self.versions = {
            item.domain if item.domain != "ai.onnx" else "": item.version for item in model.opset_import
        }
        self.build = Builder(sum(math.prod(tensor.dims) for tensor in model.graph.initializer))

    def run(self) -> Plain:
        values: dict[str, Value] = {}
        inputs = [self._input(value) for value in graph_inputs(self.graph)]
        for tensor in inputs:
            values[tensor.name] = tensor
        self._graph(self.graph, values)
        outputs = [(out.name, self.build.tensor(values[out.name])) for out in self.graph.output]
        return Plain(inputs, _used(outputs), outputs, self.build.limits)

    def _input(self, value: onnx.ValueInfoProto) -> Tensor:
        kind = value.type.tensor_type
        shape: list[Dim] = []
        for axis, dim in enumerate(kind.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                shape.append(dim.dim_value)
            else:
                name = dim_name(value, axis)
                shape.append(self.names.get(name, sz.symbol(name)))
        dtype = str(np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)))
        return Tensor(tuple(shape), dtype, value.name)

    def _graph(self, graph: onnx.GraphProto, values: dict[str, Value]) -> None:
        for tensor in graph.initializer:
            values[tensor.name] = Constant(numpy_helper.to_array(tensor), tensor.name)
        for node in graph.node:
            self._node(node, values)

    def _node(self, node: onnx.NodeProto, values: dict[str, Value]) -> None:
        build = self.build
        build.node = node.name or (node.output[0] if node.output else node.op_type)
        if node.op_type == "If" and node.domain in ("", "ai.onnx"):
            self._if(node, values)
            return
        domain = "" if node.domain == "ai.onnx" else node.domain
        attrs = {attr.name: _attribute(attr) for attr in node.attribute}
        info = Node(node.op_type, domain, self.versions.get(domain, 1), attrs, tuple(node.output))
        inputs = [values[name] if name else None for name in node.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        try:
            results = call(build, info, inputs)
        except RecursionError:
            raise build.fail("sizes are nested too deep", "the model is damaged: export it again") from None
        except (ShapeError, sz.FormulaError) as error:
            raise build.fail(f"{node.op_type}: {error}", "the model is damaged: export it again") from None
        for name, value in zip(node.output, results, strict=False):
            if name and value is not None:
                values[name] = value
        missing = [name for name in node.output[len(results) :] if name]
        if missing:
            raise build.fail(
                f"output {missing[0]!r} of {node.op_type} is not supported", "use the first output only"
            )

    def _if(self, node: onnx.NodeProto, values: dict[str, Value]) -> None:
        chosen = truth(values[node.input[0]])
        if chosen is None:
            raise self.build.fail(
                "the condition of If depends on the input",
                "only conditions that follow from shapes are supported",
            )
        name = "then_branch" if chosen else "else_branch"
        branch = next(attr.g for attr in node.attribute if attr.name == name)
        inner = dict(values)
        self._graph(branch, inner)
        for outer, result in zip(node.output, branch.output, strict=True):
            values[outer] = inner[result.name]


def _attribute(attr: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attr)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list | tuple) and value and isinstance(value[0], bytes):
        return [item.decode("utf-8", "replace") for item in value]
    return value


def _used(outputs: Sequence[tuple[str, Tensor | Constant]]) -> list[Tensor]:
    """The operators that the outputs need, in an order in which they can run."""
    done: dict[Tensor, None] = {}
    stack: list[tuple[Tensor, bool]] = [(v, False) for _, v in reversed(outputs) if isinstance(v, Tensor)]
    while stack:
        tensor, ready = stack.pop()
        if tensor in done or tensor.op is None:
            continue
        if ready:
            done[tensor] = None
            continue
        stack.append((tensor, True))
        stack.extend((v, False) for v in reversed(tensor.op.inputs) if isinstance(v, Tensor))
    return list(done)
