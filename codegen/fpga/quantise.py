"""Post-training int8 quantisation of a post-norm encoder layer, and its operations on a Builder.

Scales are per feature wherever the accelerator lets them be: the inputs of linear layers (folded into the
weights), queries and keys (whose ranges are shared so that their product has one scale), values and with them
the context, the terms of a sum before a norm. Scores, and the values around an activation table, have one
scale each; that before the table is the one with the least squared error after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from espalier.codegen.fpga.program import Builder, Tensor
from espalier.targets.fpga import semantics
from espalier.targets.fpga.semantics import Activation, NormParams, Scale

_TINY = 1e-12


@dataclass(frozen=True)
class Linear:
    """Float `weight [N, K]` with `bias [N]`; `mask` bool `[N, K]` of the kept weights, or None when dense."""

    weight: np.ndarray
    bias: np.ndarray
    mask: np.ndarray | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """`[M, K]` to `[M, N]`."""
        return x @ self.weight.T + self.bias


@dataclass(frozen=True)
class Norm:
    """Float layer norm over the last axis."""

    gamma: np.ndarray
    beta: np.ndarray
    eps: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """`[M, K]` to `[M, K]`."""
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.eps) * self.gamma + self.beta


@dataclass(frozen=True)
class Layer:
    """A float encoder layer, post-norm as in BERT."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    norm1: Norm
    hidden: Linear
    back: Linear
    norm2: Norm
    heads: int
    activation: Callable[[np.ndarray], np.ndarray]
    """of one variable"""

    def trace(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Every intermediate of one sequence `x [T, K]` in float64, by name."""
        q, k, v = self.query(x), self.key(x), self.value(x)
        size = x.shape[1] // self.heads
        contexts, tops = [], []
        for head in range(self.heads):
            s = slice(head * size, head * size + size)
            scores = q[:, s] @ k[:, s].T / np.sqrt(size)
            top = scores.max(1, keepdims=True)
            e = np.exp(scores - top)
            contexts.append(e / e.sum(1, keepdims=True) @ v[:, s])
            tops.append(top)
        context = np.concatenate(contexts, 1)
        o = self.output(context)
        n1 = self.norm1(x + o)
        pre = self.hidden(n1)
        y = self.back(self.activation(pre))
        return {
            "x": x, "q": q, "k": k, "v": v, "top": np.concatenate(tops), "o": o, "n1": n1, "pre": pre,
            "h": self.activation(pre), "y": y, "n2": self.norm2(n1 + y),
        }  # fmt: skip


def multiplier(real: np.ndarray | float) -> Scale:
    """Positive reals as `mul / 2^shift` with 16 bits of mul; those below 2^-32 become 0."""
    real = np.asarray(real, np.float64)
    shift = np.clip(15 - np.floor(np.log2(np.maximum(real, _TINY))), 0, 47).astype(np.int64)
    return Scale(np.minimum(np.round(real * 2.0**shift), 65535).astype(np.int64), shift)


@dataclass(frozen=True)
class IntLinear:
    """An int8 linear layer: `semantics.linear` with these arguments."""

    weight: np.ndarray
    mask: np.ndarray | None
    bias: np.ndarray
    scale: Scale
    activation: Activation = "NONE"
    table: np.ndarray | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """int8 `[M, K]` to int8 `[M, N]`."""
        return semantics.linear(x, self.weight, self.bias, self.scale, self.activation, self.table)

    def emit(self, builder: Builder, x: Tensor, name: str) -> Tensor:
        """The same on the accelerator."""
        return builder.linear(
            x, self.weight, self.mask, self.bias, self.scale, self.activation, self.table, name
        )


def int_linear(
    layer: Linear,
    into: np.ndarray,
    out: np.ndarray,
    activation: Activation = "NONE",
    table: np.ndarray | None = None,
) -> IntLinear:
    """Quantise weights for inputs of scales `into [K]` and outputs (before the table) of scales `out [N]`."""
    folded = layer.weight * into
    step = np.maximum(np.abs(folded).max(1), _TINY) / 127
    weight = np.clip(np.round(folded / step[:, None]), -127, 127).astype(np.int8)
    limit = (1 << 31) - 1 - (1 << 14) * weight.shape[1]
    bias = np.clip(np.round(layer.bias / step), -limit, limit).astype(np.int64)
    return IntLinear(weight, layer.mask, bias, multiplier(step / out), activation, table)


def int_norm(norm: Norm, x: np.ndarray, residual: np.ndarray, out: np.ndarray, most: float) -> NormParams:
    """Parameters of NORM: scales of `x`, `residual` and `out`; `most` bounds the sum of the first two."""
    unit = max(most / 30_000, 256 * float(max(x.max(), residual.max())) / 32_000)
    count = len(x)
    ratio = norm.gamma / out
    shift = int(np.clip(10 + np.floor(np.log2(32_767 / max(float(np.abs(ratio).max()), _TINY))), 10, 31))
    return NormParams(
        a=np.round(x / unit * 256).astype(np.int64),
        b=np.round(residual / unit * 256).astype(np.int64),
        gamma=np.clip(np.round(ratio * 2.0 ** (shift - 10)), -32_768, 32_767).astype(np.int64),
        beta=np.clip(np.round(norm.beta / out * 128), -32_768, 32_767).astype(np.int64),
        eps=min(max(1, round(norm.eps * (count / unit) ** 2)), (1 << 56) - 1),
        shift=shift,
    )


def int_add(x: np.ndarray, residual: np.ndarray, out: np.ndarray, most: float) -> NormParams:
    """Parameters of NORM that only adds: scales of `x`, `residual` and `out`; `most` bounds the sum."""
    unit = max(most / 30_000, 256 * float(max(x.max(), residual.max())) / 32_000)
    ratio = unit / out
    shift = int(np.clip(np.floor(np.log2(32_767 / max(float(ratio.max()), _TINY))), 7, 31))
    return NormParams(
        a=np.round(x / unit * 256).astype(np.int64),
        b=np.round(residual / unit * 256).astype(np.int64),
        gamma=np.clip(np.round(ratio * 2.0**shift), -32_768, 32_767).astype(np.int64),
        beta=np.zeros(len(x), np.int64),
        eps=0,
        shift=shift,
    )


@dataclass(frozen=True)
class IntLayer:
    """An int8 encoder layer. Calling it is the integer reference; `emit` is the same on the accelerator."""

    query: IntLinear
    key: IntLinear
    value: IntLinear
    scores: Scale
    exponential: np.ndarray
    output: IntLinear
    norm1: NormParams
    hidden: IntLinear
    back: IntLinear
    norm2: NormParams
    heads: int
    into: np.ndarray
    """Scales of the input's features, float64 `[K]`."""
    out: np.ndarray
    """Scales of the output's features."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """One sequence, int8 `[T, K]` to int8 `[T, K]`."""
        q, k, v = self.query(x), self.key(x), self.value(x)
        size = x.shape[1] // self.heads
        parts = []
        for head in range(self.heads):
            s = slice(head * size, head * size + size)
            scores = semantics.linear(q[:, s], k[:, s], np.zeros(1, np.int64), self.scores)
            e, by_token = semantics.softmax(scores, self.exponential)
            parts.append(semantics.linear(e, v[:, s].T, np.zeros(1, np.int64), by_token))
        o = self.output(np.concatenate(parts, 1))
        n1 = semantics.norm(o, x, self.norm1, stats=True)
        y = self.back(self.hidden(n1))
        return semantics.norm(y, n1, self.norm2, stats=True)

    def emit(self, b: Builder, x: Tensor, name: str) -> Tensor:
        """Append the layer to a program; `x` is given back."""
        q, k, v = (
            layer.emit(b, x, f"{name}.{part}")
            for part, layer in (("query", self.query), ("key", self.key), ("value", self.value))
        )
        context = b.attention(q, k, v, self.heads, self.scores, self.exponential, f"{name}.attention")
        b.free(q, k, v)
        o = self.output.emit(b, context, f"{name}.output")
        n1 = b.norm(o, x, self.norm1, stats=True, name=f"{name}.norm1")
        b.free(x, context, o)
        h = self.hidden.emit(b, n1, f"{name}.hidden")
        y = self.back.emit(b, h, f"{name}.back")
        n2 = b.norm(y, n1, self.norm2, stats=True, name=f"{name}.norm2")
        b.free(n1, h, y)
        return n2


def _most(traces: Sequence[dict[str, np.ndarray]], name: str) -> np.ndarray:
    """Largest magnitude of every feature."""
    return np.maximum(np.max([np.abs(t[name]).max(0) for t in traces], 0), _TINY)


def table_scale(pre: np.ndarray, activation: Callable[[np.ndarray], np.ndarray]) -> float:
    """Scale before an activation table: least squared error of what comes out of samples `pre [n]`."""
    pre = pre[:: max(1, len(pre) // 200_000)]
    expected = activation(pre)
    scales = max(float(np.abs(pre).max()), _TINY) / 127 * np.array([1, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12])
    errors = []
    for scale in scales:
        out = activation(np.clip(np.round(pre / scale), -128, 127) * scale)
        step = max(float(np.abs(out).max()), _TINY) / 127
        errors.append(((np.round(out / step) * step - expected) ** 2).mean())
    return float(scales[int(np.argmin(errors))])


@dataclass(frozen=True)
class Tables:
    """An activation of N features as int8 tables; features of one group share theirs."""

    before: np.ndarray
    """Scales of what the activation is applied to, float64 `[N]`."""
    table: np.ndarray
    """int8 `[N, 256]`"""
    after: np.ndarray
    """Scales of what comes out, float64 `[N]`."""


def activation_tables(pre: np.ndarray, activation: Callable[[np.ndarray], np.ndarray], group: int) -> Tables:
    """Tables for every `group` features, from samples `pre [M, N]` of what the activation is applied to.

    A few features have much larger values than the rest; only those of their groups lose by it.
    """
    features = pre.shape[1]
    codes = np.arange(256).astype(np.uint8).view(np.int8)
    before, after = np.empty(features), np.empty(features)
    table = np.empty((features, 256), np.int8)
    for first in range(0, features, group):
        part = slice(first, first + group)
        scale = table_scale(pre[:, part].reshape(-1), activation)
        step = max(float(np.abs(activation(pre[:, part])).max()), _TINY) / 127
        before[part], after[part] = scale, step
        table[part] = np.clip(np.round(activation(codes * scale) / step), -128, 127)
    return Tables(before, table, after)


def quantise(layers: Sequence[Layer], samples: Sequence[np.ndarray], group: int) -> list[IntLayer]:
    """int8 layers from float ones, calibrated on sequences `[T, K]`.

    The output of each layer has the scales that the next one wants of its input. `group` features share an
    activation table: a multiple of the rows the array computes at once. Raises ValueError without samples.
    """
    if not samples:
        raise ValueError("no sample to calibrate on; expected at least one sequence")
    all_traces: list[list[dict[str, np.ndarray]]] = []
    inputs = [np.asarray(x, np.float64) for x in samples]
    for layer in layers:
        all_traces.append([layer.trace(x) for x in inputs])
        inputs = [t["n2"] for t in all_traces[-1]]
    wanted = [_most(traces, "x") / 127 for traces in all_traces]
    wanted.append(_most(all_traces[-1], "n2") / 127)
    return [_quantise(*args, group) for args in zip(layers, all_traces, wanted, wanted[1:], strict=False)]


def _quantise(
    layer: Layer, traces: list[dict[str, np.ndarray]], into: np.ndarray, out: np.ndarray, group: int
) -> IntLayer:
    q, k = _most(traces, "q"), _most(traces, "k")
    product = float((q * k).max()) / 127**2
    query, key = np.sqrt(product * q / k), np.sqrt(product * k / q)
    value = _most(traces, "v") / 127
    size = len(into) // layer.heads
    score = max(float(_most(traces, "top").max()), 1e-3) / 127
    exponential = np.round(127 * np.exp(-np.arange(256) * score)).astype(np.int8)
    o, y = _most(traces, "o") / 127, _most(traces, "y") / 127
    n1 = _most(traces, "n1") / 127
    tables = activation_tables(np.concatenate([t["pre"] for t in traces]), layer.activation, group)
    sums = [float(max(np.abs(t[a] + t[b]).max() for t in traces)) for a, b in (("x", "o"), ("n1", "y"))]
    return IntLayer(
        query=int_linear(layer.query, into, query),
        key=int_linear(layer.key, into, key),
        value=int_linear(layer.value, into, value),
        scores=multiplier(product / np.sqrt(size) / score),
        exponential=exponential,
        output=int_linear(layer.output, value, o),
        norm1=int_norm(layer.norm1, o, into, n1, sums[0]),
        hidden=int_linear(layer.hidden, n1, tables.before, "TABLE", tables.table),
        back=int_linear(layer.back, tables.after, y),
        norm2=int_norm(layer.norm2, y, n1, out, sums[1]),
        heads=layer.heads,
        into=into,
        out=out,
    )


def to_int8(x: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Float `[M, K]` to int8 of scales `[K]`."""
    return np.clip(np.round(x / scales), -128, 127).astype(np.int8)
