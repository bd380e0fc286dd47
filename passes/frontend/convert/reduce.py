"""Reductions along axes."""

from __future__ import annotations

from espalier.passes.frontend.build import Builder
from espalier.passes.frontend.convert.registry import Node, converts
from espalier.passes.frontend.plain import axes_of
from espalier.passes.frontend.values import Value

REDUCE = {
    "ReduceSum": "sum",
    "ReduceMean": "mean",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "prod",
}


@converts(*REDUCE, "ReduceSumSquare", "ReduceL2", "ReduceL1", inputs=(1, 2))
def reduce(build: Builder, node: Node, x: Value, axes: Value | None) -> Value:
    chosen = node.get("axes") if axes is None else build.array(axes, "the axes of a reduction").tolist()
    if not chosen:
        if node.get("noop_with_empty_axes", 0):
            return x
        chosen = range(len(x.shape))
    if node.op in ("ReduceSumSquare", "ReduceL2"):
        x = build("multiply", x, x)
    if node.op == "ReduceL1":
        x = build("abs", x)
    name = REDUCE.get(node.op, "sum")
    y = build(name, x, axes=axes_of(list(chosen), len(x.shape)), keepdims=bool(node.get("keepdims", 1)))
    return build("sqrt", y) if node.op == "ReduceL2" else y


@converts("GlobalAveragePool")
def global_average_pool(build: Builder, node: Node, x: Value) -> Value:
    return build("mean", x, axes=tuple(range(2, len(x.shape))), keepdims=True)


@converts("ArgMax", "ArgMin")
def arg(build: Builder, node: Node, x: Value) -> Value:
    if node.get("select_last_index", 0):
        raise build.fail("select_last_index=1 is not supported", "use select_last_index=0")
    (axis,) = axes_of([node.get("axis", 0)], len(x.shape))
    return build(node.op.lower(), x, axis=axis, keepdims=bool(node.get("keepdims", 1)))


@converts("CumSum", inputs=(2, 2))
def cumsum(build: Builder, node: Node, x: Value, axis: Value) -> Value:
    if node.get("exclusive", 0) or node.get("reverse", 0):
        raise build.fail("CumSum with exclusive or reverse is not supported", "use a plain CumSum")
    (along,) = axes_of([int(build.array(axis, "the axis of CumSum").reshape(-1)[0])], len(x.shape))
    return build("cumsum", x, axis=along)
