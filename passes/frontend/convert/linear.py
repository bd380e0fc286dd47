"""Matrix products and convolutions."""

from __future__ import annotations

from espalier.passes.frontend import size as sz
from espalier.passes.frontend.build import Builder
from espalier.passes.frontend.convert.registry import Node, converts
from espalier.passes.frontend.size import Dim
from espalier.passes.frontend.values import Constant, Value


@converts("MatMul", inputs=(2, 2))
def matmul(build: Builder, node: Node, a: Value, b: Value) -> Value:
    return product(build, a, b)


def product(build: Builder, a: Value, b: Value, **attrs: object) -> Value:
    """numpy's matmul, vectors included."""
    row, column = len(a.shape) == 1, len(b.shape) == 1
    if row:
        a = build.reshape(a, (1, *a.shape))
    if column:
        b = build.reshape(b, (*b.shape, 1))
    y = build.matmul(a, b, **attrs)
    if column:
        y = build.reshape(y, y.shape[:-1])
    if row:
        axis = -1 if column else -2
        shape = list(y.shape)
        del shape[axis]
        y = build.reshape(y, shape)
    return y


@converts("Gemm", inputs=(2, 3))
def gemm(build: Builder, node: Node, a: Value, b: Value, c: Value | None) -> Value:
    if node.get("transA", 0):
        a = build.permute(a, (1, 0))
    if node.get("transB", 0):
        b = build.permute(b, (1, 0))
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    scaled_weight = alpha != 1.0 and isinstance(build.tensor(b), Constant)
    if scaled_weight:
        b = build("multiply", b, build.like(alpha, b))
    y = build.matmul(a, b)
    if alpha != 1.0 and not scaled_weight:
        y = build("multiply", y, build.like(alpha, y))
    if c is None or beta == 0.0:
        return y
    return build("add", y, c if beta == 1.0 else build("multiply", c, build.like(beta, c)))


@converts("Einsum", inputs=(1, 2))
def einsum(build: Builder, node: Node, a: Value, b: Value | None) -> Value:
    equation = node.attrs["equation"].replace(" ", "")
    if b is None or "." in equation or "->" not in equation:
        raise build.fail(
            f"Einsum '{equation}' is not supported", "only products of two operands without '...' are"
        )
    left, right = equation.split("->")[0].split(",")
    out = equation.split("->")[1]
    if len(set(left)) != len(left) or len(set(right)) != len(right):
        raise build.fail(f"Einsum '{equation}' is not supported", "a letter may occur once in an operand")
    if len(left) != len(a.shape) or len(right) != len(b.shape):
        raise build.fail(
            f"Einsum '{equation}' on {len(a.shape)} and {len(b.shape)} dimensions", "the model is damaged"
        )
    sizes: dict[str, Dim] = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))
    a, left = _sum_out(build, a, left, right + out)
    b, right = _sum_out(build, b, right, left + out)
    batch = [n for n in left if n in right and n in out]
    inner = [n for n in left if n in right and n not in out]
    rows = [n for n in left if n not in right]
    columns = [n for n in right if n not in left]
    a = build.permute(a, [left.index(n) for n in (*batch, *rows, *inner)])
    b = build.permute(b, [right.index(n) for n in (*batch, *inner, *columns)])
    total = {
        k: sz.product(sizes[n] for n in names) for k, names in (("m", rows), ("k", inner), ("n", columns))
    }
    lead = [sizes[n] for n in batch]
    keep_rows = not batch and len(inner) == 1 and rows  # rows stay apart: a linear layer on [..., K]
    if not keep_rows:
        a = build.reshape(a, [*lead, total["m"], total["k"]])
    b = build.reshape(b, [*lead, total["k"], total["n"]])
    y = build.matmul(a, b) if len(a.shape) > 1 else product(build, a, b)
    names = [*batch, *rows, *columns]
    y = build.reshape(y, [sizes[n] for n in names])
    return build.permute(y, [names.index(n) for n in out])


def _sum_out(build: Builder, x: Value, names: str, used: str) -> tuple[Value, str]:
    axes = tuple(i for i, n in enumerate(names) if n not in used)
    if not axes:
        return x, names
    return build("sum", x, axes=axes, keepdims=False), "".join(n for n in names if n in used)


@converts("Conv", inputs=(2, 3))
def conv(build: Builder, node: Node, x: Value, w: Value, bias: Value | None) -> Value:
    rank = len(x.shape) - 2
    if rank not in (1, 2):
        raise build.fail(f"Conv over {rank} dimensions is not supported", "one or two are")
    strides = tuple(node.get("strides", [1] * rank))
    dilation = tuple(node.get("dilations", [1] * rank))
    groups = node.get("group", 1)
    kernel = [int(n) for n in w.shape[2:]]  # pyright: ignore[reportArgumentType]
    padding = _padding(build, node, x, kernel, strides, dilation)
    if groups == 1 and all(n == 1 for n in kernel) and not any(padding) and set(strides) == {1}:
        y = _pointwise(build, x, w)
    elif groups == 1 and not any(padding) and strides == tuple(kernel) and set(dilation) == {1}:
        y = _patches(build, x, w, kernel)
    else:
        y = build("conv", x, w, strides=strides, padding=padding, dilation=dilation, groups=groups)
    if bias is None:
        return y
    return build("add", y, build.reshape(bias, (*bias.shape, *([1] * rank))))


def _padding(
    build: Builder, node: Node, x: Value, kernel: list[int], strides: tuple, dilation: tuple
) -> tuple[int, ...]:
    rank = len(kernel)
    mode = node.get("auto_pad", "NOTSET")
    if mode == "VALID":
        return (0,) * (2 * rank)
    if mode == "NOTSET":
        return tuple(node.get("pads", [0] * (2 * rank)))
    before, after = [], []
    for i in range(rank):
        extent = x.shape[2 + i]
        if not isinstance(extent, int):
            raise build.fail(f"Conv with auto_pad={mode} on a dynamic extent", "export it with explicit pads")
        out = -(-extent // strides[i])
        room = max(0, (out - 1) * strides[i] + (kernel[i] - 1) * dilation[i] + 1 - extent)
        less, more = room // 2, room - room // 2
        before.append(less if mode == "SAME_UPPER" else more)
        after.append(more if mode == "SAME_UPPER" else less)
    return (*before, *after)


def _pointwise(build: Builder, x: Value, w: Value) -> Value:
    """A convolution by 1 as a linear layer over the channels."""
    rank = len(x.shape)
    weight = build.permute(build.reshape(w, w.shape[:2]), (1, 0))
    tokens = build.permute(x, (0, *range(2, rank), 1))
    return build.permute(build.matmul(tokens, weight), (0, rank - 1, *range(1, rank - 1)))


def _patches(build: Builder, x: Value, w: Value, kernel: list[int]) -> Value:
    """A convolution whose windows tile the input (patch embedding) as a linear layer over the patches."""
    rank = len(kernel)
    batch, channels = x.shape[:2]
    counts = [sz.floordiv(extent, k) for extent, k in zip(x.shape[2:], kernel, strict=True)]
    ends = [count * k for count, k in zip(counts, kernel, strict=True)]
    x = build.slice(x, list(range(2, 2 + rank)), [0] * rank, ends, [1] * rank)
    split = [n for pair in zip(counts, kernel, strict=True) for n in pair]
    x = build.reshape(x, (batch, channels, *split))
    order = (0, *range(2, 2 + 2 * rank, 2), 1, *range(3, 3 + 2 * rank, 2))
    x = build.permute(x, order)
    tokens = build.reshape(x, (batch, *counts, sz.product([channels, *kernel])))
    weight = build.permute(build.reshape(w, (w.shape[0], sz.product(w.shape[1:]))), (1, 0))
    y = build.matmul(tokens, weight)
    return build.permute(y, (0, rank + 1, *range(1, rank + 1)))
