"""Activations to integers over tiles: x f32 `[tiles, K, 16]` -> q u8 `[tiles, K, 16]`.

    q = clip(round(x / scale) + zero, 0, levels), ties to even

static  parameters x, factors f32 [K] of the features (1 / scale among them), zero i32 [1], q
given   the same with the scale f32 [1] itself
token   parameters x, factors f32 [K] of the features, q, scales f32 [tiles, 16], zeros i32 [tiles, 16]: a
        scale for each token, from its own least and largest value (0 among them)
tensor  parameters x, m int64, q, scales, zeros: one scale from all m tokens, the same everywhere

With `back` q is f32: what the integers stand for, `scale * (q - zero)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc


@dataclass(frozen=True)
class QuantizeWork:
    """divide: x / scale as ONNX says, without factors; else x times the reciprocal of scale. back: only with
    divide."""

    features: int
    levels: int
    mode: Literal["static", "token", "tensor"]
    divide: bool = False
    back: bool = False


def quantize_tiles(work: QuantizeWork, name: str) -> PrimFunc:
    """See the module's docstring."""
    from espalier.schedules.x86 import build, int8_quantize_body

    return build.prim_func(name, lambda: int8_quantize_body.emit(work))
