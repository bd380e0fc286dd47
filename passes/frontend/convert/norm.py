"""Normalisations and softmax."""

from __future__ import annotations

from espalier.passes.frontend import size as sz
from espalier.passes.frontend.build import Builder
from espalier.passes.frontend.convert.registry import MICROSOFT, Node, converts
from espalier.passes.frontend.plain import axes_of
from espalier.passes.frontend.size import Dim
from espalier.passes.frontend.values import Value


@converts("LayerNormalization", since=17, inputs=(2, 3))
@converts("LayerNormalization", domain=MICROSOFT, inputs=(2, 3))
def layer_normalization(
    build: Builder, node: Node, x: Value, scale: Value, bias: Value | None
) -> list[Value]:
    (axis,) = axes_of([node.get("axis", -1)], len(x.shape))
    if any(output for output in node.outputs[1:]):
        raise build.fail(
            "the mean and deviation of LayerNormalization are not supported", "use its first output only"
        )
    return [layer_norm(build, x, scale, bias, axis, node.get("epsilon", 1e-5))]


@converts("SimplifiedLayerNormalization", domain=MICROSOFT, inputs=(2, 2))
@converts("RMSNormalization", since=23, inputs=(2, 2))
def rms_normalization(build: Builder, node: Node, x: Value, scale: Value) -> list[Value]:
    (axis,) = axes_of([node.get("axis", -1)], len(x.shape))
    return [rms_norm(build, x, scale, axis, node.get("epsilon", 1e-5))]


def layer_norm(
    build: Builder, x: Value, scale: Value, bias: Value | None, axis: int, epsilon: float
) -> Value:
    """(x - mean) / sqrt(var + epsilon) * scale + bias over the axes from `axis` on."""
    shape = x.shape[axis:]
    if bias is None:
        bias = build.const([0] * int(sz.product(shape)), scale.dtype)  # pyright: ignore[reportArgumentType]
        bias = build.reshape(bias, shape)
    scale, bias = build.broadcast_to(scale, shape), build.broadcast_to(bias, shape)
    if scale.dtype != x.dtype:
        wide = build(
            "layer_norm", build("cast", x, dtype=scale.dtype), scale, bias, axis=axis, epsilon=epsilon
        )
        return build("cast", wide, dtype=x.dtype)
    return build("layer_norm", x, scale, bias, axis=axis, epsilon=epsilon)


def rms_norm(build: Builder, x: Value, scale: Value, axis: int, epsilon: float) -> Value:
    """x / sqrt(mean(x^2) + epsilon) * scale over the axes from `axis` on; float16 is computed in float32."""
    wide = "float32" if x.dtype in ("float16", "bfloat16") else x.dtype
    y = build("cast", x, dtype=wide)
    mean = build("mean", build("multiply", y, y), axes=tuple(range(axis, len(x.shape))), keepdims=True)
    root = build("sqrt", build("add", mean, build.const(epsilon, wide)))
    return build("multiply", build("cast", build("divide", y, root), dtype=x.dtype), scale)


@converts("Softmax", "LogSoftmax")
def softmax(build: Builder, node: Node, x: Value) -> Value:
    (axis,) = axes_of([node.get("axis", -1)], len(x.shape))
    y = build("softmax", x, axis=axis)
    return build("log", y) if node.op == "LogSoftmax" else y


@converts("BatchNormalization", inputs=(5, 5))
def batch_normalization(
    build: Builder, node: Node, x: Value, scale: Value, bias: Value, mean: Value, var: Value
) -> list[Value]:
    if node.get("training_mode", 0):
        raise build.fail("BatchNormalization in training mode", "export the model in evaluation mode")
    tail = (1,) * (len(x.shape) - 2)
    deviation = build("sqrt", build("add", var, build.like(node.get("epsilon", 1e-5), var)))
    factor = build("divide", scale, deviation)
    offset = build("subtract", bias, build("multiply", mean, factor))
    factor, offset = (build.reshape(v, (*v.shape, *tail)) for v in (factor, offset))
    return [build("add", build("multiply", x, factor), offset)]


@converts("InstanceNormalization", inputs=(3, 3))
def instance_normalization(build: Builder, node: Node, x: Value, scale: Value, bias: Value) -> Value:
    return group_norm(build, x, x.shape[1], scale, bias, node.get("epsilon", 1e-5))


@converts("GroupNormalization", since=21, inputs=(3, 3))
def group_normalization(build: Builder, node: Node, x: Value, scale: Value, bias: Value) -> Value:
    return group_norm(build, x, node.attrs["num_groups"], scale, bias, node.get("epsilon", 1e-5))


def group_norm(build: Builder, x: Value, groups: Dim, scale: Value, bias: Value, epsilon: float) -> Value:
    """[B, C, ...] normalised over each group of channels and all further axes."""
    batch, channels, *space = x.shape
    width = sz.floordiv(channels, groups) * sz.product(space)
    y = build.reshape(x, (batch, groups, width))
    centred = build("subtract", y, build("mean", y, axes=(2,), keepdims=True))
    variance = build("mean", build("multiply", centred, centred), axes=(2,), keepdims=True)
    y = build("divide", centred, build("sqrt", build("add", variance, build.like(epsilon, x))))
    tail = (channels, *([1] * len(space)))
    y = build("multiply", build.reshape(y, x.shape), build.reshape(scale, tail))
    return build("add", y, build.reshape(bias, tail))


@converts("LpNormalization")
def lp_normalization(build: Builder, node: Node, x: Value) -> Value:
    if node.get("p", 2) != 2:
        raise build.fail("LpNormalization with p=1 is not supported", "use p=2")
    (axis,) = axes_of([node.get("axis", -1)], len(x.shape))
    total = build("sum", build("multiply", x, x), axes=(axis,), keepdims=True)
    return build("divide", x, build("sqrt", total))
