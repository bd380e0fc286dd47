"""Layer and RMS normalisation of tiles: the features of a token lie in one lane, so that lanes never meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier.schedules.x86.script import block, lanes, prim_func
from espalier.targets.cpu import Cpu

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

CHAINS = 4
"""Sums that run side by side: they hide the latency of an addition, and round less than one sum."""
CENTRE, SCALE = f"centre[{lanes()}]", f"scale[{lanes()}]"


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

    Parameters x [T, K, 16], gain [K], bias [K], [residual [T, K, 16]], y [T, K, 16]. The variance is taken
    about the mean, in a pass of its own: the pass before it left the tile in L1.
    """
    x = _first(work)
    body = [
        *_add_up(work, lambda k, total: [*_fetch(work, k), f"{total} = {total} + {x(k)}"]),
        f"{CENTRE} = {_total()} * {_splat(1 / work.features)}",
        *_add_up(work, lambda k, total: [f"d = {x(k)} - {CENTRE}", f"{total} = {total} + d * d"]),
        f"{SCALE} = {_inverse_root(work)}",
        *_each_feature(work, f"({x('k')} - {CENTRE}) * {SCALE} * {_splat('Gain[k]')} + {_splat('Bias[k]')}"),
    ]
    return _function(work, name, ["Gain", "Bias"], body)


def rms_norm(work: NormWork, cpu: Cpu, name: str) -> PrimFunc:
    """x / sqrt(mean(x^2) + epsilon) gain.

    Parameters x [T, K, 16], gain [K], [residual [T, K, 16]], y [T, K, 16].
    """
    x = _first(work)
    body = [
        *_add_up(work, lambda k, total: [*_fetch(work, k), f"{total} = {total} + {x(k)} * {x(k)}"]),
        f"{SCALE} = {_inverse_root(work)}",
        *_each_feature(work, f"{x('k')} * {SCALE} * {_splat('Gain[k]')}"),
    ]
    return _function(work, name, ["Gain"], body)


def _splat(value: str | float) -> str:
    return f"T.Broadcast({value if isinstance(value, str) else f'T.float32({value!r})'}, 16)"


def _first(work: NormWork) -> Callable[[str], str]:
    """Where the input stands once `_fetch` has run."""
    return lambda k: f"{'Y' if work.residual else 'X'}[t, {k}, {lanes()}]"


def _fetch(work: NormWork, k: str) -> list[str]:
    """Add the residual; the result rests in y."""
    return (
        [f"Y[t, {k}, {lanes()}] = X[t, {k}, {lanes()}] + Residual[t, {k}, {lanes()}]"]
        if work.residual
        else []
    )


def _add_up(work: NormWork, step: Callable[[str, str], list[str]]) -> list[str]:
    """Clear the sums, then `step(feature, sum)` for all features, CHAINS at a time."""
    totals = [f"total[{lanes(16 * i)}]" for i in range(CHAINS)]
    lines = [f"{total} = {_splat(0.0)}" for total in totals]
    whole = work.features // CHAINS
    turns = [line for i, total in enumerate(totals) for line in step(f"j * {CHAINS} + {i}", total)]
    lines += block(f"for j in T.serial(T.int64({whole}))", turns) if whole else []
    for i in range(work.features % CHAINS):
        lines += step(str(whole * CHAINS + i), totals[i])
    return lines


def _total() -> str:
    return "(" + " + ".join(f"total[{lanes(16 * i)}]" for i in range(CHAINS)) + ")"


def _inverse_root(work: NormWork) -> str:
    """1 / sqrt(mean + epsilon) of the sums."""
    return f"{_splat(1.0)} / T.sqrt({_total()} * {_splat(1 / work.features)} + {_splat(work.epsilon)})"


def _each_feature(work: NormWork, value: str) -> list[str]:
    return block(f"for k in T.serial(T.int64({work.features}))", [f"Y[t, k, {lanes()}] = {value}"])


def _function(work: NormWork, name: str, vectors: Sequence[str], body: list[str]) -> PrimFunc:
    names = ["X", "Residual", "Y"] if work.residual else ["X", "Y"]
    order = ["X", *vectors, *names[1:]]
    parameters = [
        f'{n}: T.Buffer(({work.features},), "float32")' if n in vectors else f"{n.lower()}: T.handle"
        for n in order
    ]
    # "global" lies on the stack, where LLVM turns it into registers; "local" would be allocated at each turn
    buffers = [
        f'{n} = T.sblock_alloc_buffer(({size},), "float32", scope="global")'
        for n, size in (("total", 16 * CHAINS), ("centre", 16), ("scale", 16))
    ]
    lines = [
        "tiles = T.int64()",
        *(f'{n} = T.match_buffer({n.lower()}, (tiles, {work.features}, 16), "float32")' for n in names),
        *block(
            "for t in T.parallel(tiles)",
            block('with T.sblock("tile")', ["T.reads()", "T.writes()", *buffers, *body]),
        ),
    ]
    return prim_func(name, parameters, lines, {})
