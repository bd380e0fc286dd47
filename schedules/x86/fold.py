"""From the lanes of a vector to one number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from espalier.schedules.x86.build import LANES


def fold(value: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """All lanes of a vector combined, one half with the other until one is left."""
    held: Any = T.bind(value)
    half = LANES // 2
    while half:
        low, high = (tirx.Shuffle([held], list(range(first, first + half))) for first in (0, half))
        held = T.bind(combine(low, high))
        half //= 2
    return held


def total(value: Any) -> Any:
    """The sum of all lanes."""
    return fold(value, lambda low, high: low + high)


def highest(value: Any) -> Any:
    """The largest of all lanes."""
    return fold(value, tirx.max)
