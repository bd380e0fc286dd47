"""What integers computed at run time can be at most: positions that a model counts from its mask, say."""

from __future__ import annotations

from espalier.passes.frontend import size as sz
from espalier.passes.frontend.size import Dim
from espalier.passes.frontend.values import Broadcast, Constant, Tensor, Value

Interval = tuple[Dim, Dim]
SAME = ("reshape", "permute_dims", "slice", "broadcast_to", "take", "flip")
MAX_DEPTH = 32


def interval(value: Value, depth: int = MAX_DEPTH) -> Interval | None:
    """The least and the greatest an integer or truth value can be, where that follows from how it is made."""
    if isinstance(value, Broadcast):
        return interval(value.base, depth)
    if value.dtype == "bool":
        return 0, 1
    if isinstance(value, Constant) and value.array.dtype.kind in "iu" and value.array.size:
        return int(value.array.min()), int(value.array.max())
    if not isinstance(value, Tensor) or value.op is None or depth == 0 or "int" not in value.dtype:
        return None
    name = value.op.name
    parts = [interval(part, depth - 1) for part in value.op.inputs]
    if name in (*SAME, "cast"):
        return parts[0]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    (low, high), (other_low, other_high) = known[0], known[-1]
    if name == "add":
        return low + other_low, high + other_high
    if name == "subtract":
        return low - other_high, high - other_low
    if name == "multiply" and sz.at_least(low, 0) and sz.at_least(other_low, 0):
        return low * other_low, high * other_high
    if name == "cumsum" and sz.at_least(low, 0):
        axis = value.op.attrs["axis"]
        assert isinstance(axis, int)
        return low, high * value.shape[axis]
    return None
