"""Activation functions."""

from __future__ import annotations

from espalier.passes.frontend.build import Builder
from espalier.passes.frontend.convert.registry import MICROSOFT, Node, converts
from espalier.passes.frontend.values import Value

DIRECT = {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid"}


@converts(*DIRECT)
def direct(build: Builder, node: Node, x: Value) -> Value:
    return build(DIRECT[node.op], x)


@converts("Gelu", since=20)
def gelu(build: Builder, node: Node, x: Value) -> Value:
    return build("gelu_tanh" if node.get("approximate", "none") == "tanh" else "gelu", x)


@converts("Swish", since=24)
def swish(build: Builder, node: Node, x: Value) -> Value:
    return scaled_silu(build, x, node.get("alpha", 1.0))


def scaled_silu(build: Builder, x: Value, alpha: float) -> Value:
    """x * sigmoid(alpha * x)."""
    if alpha == 1.0:
        return build("silu", x)
    return build("multiply", x, build("sigmoid", build("multiply", x, build.like(alpha, x))))


@converts("LeakyRelu")
def leaky_relu(build: Builder, node: Node, x: Value) -> Value:
    slope = build("multiply", x, build.like(node.get("alpha", 0.01), x))
    return build("where", build("less", x, build.like(0, x)), slope, x)


@converts("HardSigmoid")
def hard_sigmoid(build: Builder, node: Node, x: Value) -> Value:
    line = build("multiply", x, build.like(node.get("alpha", 0.2), x))
    line = build("add", line, build.like(node.get("beta", 0.5), x))
    return build("minimum", build("maximum", line, build.like(0, x)), build.like(1, x))


@converts("Elu")
def elu(build: Builder, node: Node, x: Value) -> Value:
    low = build("subtract", build("exp", x), build.like(1, x))
    low = build("multiply", low, build.like(node.get("alpha", 1.0), x))
    return build("where", build("less", x, build.like(0, x)), low, x)


@converts("Softplus")
def softplus(build: Builder, node: Node, x: Value) -> Value:
    tail = build("log", build("add", build("exp", build("negative", build("abs", x))), build.like(1, x)))
    return build("add", build("relu", x), tail)


@converts("Selu")
def selu(build: Builder, node: Node, x: Value) -> Value:
    alpha, gamma = node.get("alpha", 1.6732632), node.get("gamma", 1.0507010)
    low = build("multiply", build("subtract", build("exp", x), build.like(1, x)), build.like(alpha, x))
    y = build("where", build("less", x, build.like(0, x)), low, x)
    return build("multiply", y, build.like(gamma, x))


@converts("PRelu", inputs=(2, 2))
def prelu(build: Builder, node: Node, x: Value, slope: Value) -> Value:
    return build("where", build("less", x, build.like(0, x)), build("multiply", x, slope), x)


@converts("HardSwish", since=14)
def hard_swish(build: Builder, node: Node, x: Value) -> Value:
    line = build("add", build("multiply", x, build.like(1 / 6, x)), build.like(0.5, x))
    return build("multiply", x, build("minimum", build("maximum", line, build.like(0, x)), build.like(1, x)))


@converts("Mish", since=18)
def mish(build: Builder, node: Node, x: Value) -> Value:
    return build("multiply", x, build("tanh", softplus(build, node, x)))


@converts("Gelu", domain=MICROSOFT)
def contrib_gelu(build: Builder, node: Node, x: Value) -> Value:
    return build("gelu", x)


@converts("QuickGelu", domain=MICROSOFT)
def quick_gelu(build: Builder, node: Node, x: Value) -> Value:
    return scaled_silu(build, x, node.get("alpha", 1.702))
