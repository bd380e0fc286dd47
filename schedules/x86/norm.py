"""Layer and RMS normalisation of tiles: the features of a token lie in one lane, so that lanes never meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier.targets.cpu import Cpu

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc


@dataclass(frozen=True)
class NormWork:
    """Normalisation over the features of f32 tiles [T, features, 16], for any T.

    residual: another tensor of tiles is added to x first.
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
