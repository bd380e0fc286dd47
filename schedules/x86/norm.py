"""Layer and RMS normalisation.

In tiles the features of a token lie in one lane, so that lanes never meet; in rows they lie side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier.targets.cpu import Cpu

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc


@dataclass(frozen=True)
class NormWork:
    """Normalisation over the features of f32 tiles [T, features, 16] or rows [M, features], for any T or M.

    residual: another tensor of tiles is added to x first; not in rows.
    """

    features: int
    epsilon: float
    residual: bool = False


def layer_norm(work: NormWork, cpu: Cpu, name: str) -> PrimFunc:
    """(x - mean) / sqrt(variance + epsilon) gain + bias.

    Parameters x [T, K, 16], gain [K], bias [K], [residual [T, K, 16]], y [T, K, 16].
    """
    from espalier.schedules.x86.build import prim_func
    from espalier.schedules.x86.norm_body import emit

    return prim_func(name, lambda: emit(work, centred=True))


def rms_norm(work: NormWork, cpu: Cpu, name: str) -> PrimFunc:
    """x / sqrt(mean(x^2) + epsilon) gain.

    Parameters x [T, K, 16], gain [K], [residual [T, K, 16]], y [T, K, 16].
    """
    from espalier.schedules.x86.build import prim_func
    from espalier.schedules.x86.norm_body import emit

    return prim_func(name, lambda: emit(work, centred=False))


def layer_norm_rows(work: NormWork, _cpu: Cpu, name: str) -> PrimFunc:
    """`layer_norm` of tokens as they stand. Parameters x [M, K], gain [K], bias [K], y [M, K]."""
    from espalier.schedules.x86.build import prim_func
    from espalier.schedules.x86.norm_rows_body import emit

    return prim_func(name, lambda: emit(work))
