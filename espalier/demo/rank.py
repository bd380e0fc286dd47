"""Latency of a model on devices that are not here, from one measurement and the kernels' own predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from espalier.bench.timing import Times
from espalier.schedules import Epilogue, LinearWork, linear_candidates
from espalier.sparsity import Structure
from espalier.targets.cpu import Cpu
from espalier.targets.device import Device

KERNEL_ERROR = 1.3
"""How far off a predicted kernel time may be, as a factor either way."""


@dataclass(frozen=True)
class Linear:
    """A linear layer of the model: `[n, k]`, its structure, and the tokens it is applied to."""

    n: int
    k: int
    structure: Structure
    tokens: int


@dataclass(frozen=True)
class Ranked:
    """One device; milliseconds."""

    name: str
    kind: str
    latency_ms: float
    low_ms: float
    high_ms: float
    how: Literal["measured", "predicted"]
    meets_lc: bool

    def to_dict(self) -> dict[str, Any]:
        """A device of `rank --json`. No price is known to the registry yet."""
        return {
            "name": self.name,
            "kind": self.kind,
            "latency_ms": round(self.latency_ms, 4),
            "low_ms": round(self.low_ms, 4),
            "high_ms": round(self.high_ms, 4),
            "how": self.how,
            "cost_usd": None,
            "meets_lc": self.meets_lc,
        }


@dataclass(frozen=True)
class Ranking:
    """All devices, the fastest first, and the one to take."""

    lc_ms: float
    devices: tuple[Ranked, ...]
    best: str | None

    def to_dict(self) -> dict[str, Any]:
        """The object of `rank --json`."""
        return {
            "lc_ms": self.lc_ms,
            "devices": [device.to_dict() for device in self.devices],
            "best": self.best,
        }


def rank(layers: Sequence[Linear], devices: Sequence[Device], measured: Times, lc_ms: float) -> Ranking:
    """Rank `devices` by latency on one thread; the first is this machine, on which `measured` was taken.

    The linear layers take what their kernels predict; the rest of the measured time goes with the peak rate.
    The interval spans that, all of the time going with the kernels, and all of it with the peak rate, widened
    by KERNEL_ERROR. A device meets the constraint if its measured median does, or the upper end of its
    predicted interval. Without prices, the one with the lowest peak rate is taken for the cheapest.
    """
    here = devices[0]
    rows = [_measured(here, measured, lc_ms)]
    rows += [_predicted(layers, here.cpu, device, measured.median, lc_ms) for device in devices[1:]]
    peaks = {device.name: device.cpu.peak_gflops for device in devices}
    meeting = [row.name for row in rows if row.meets_lc]
    best = min(meeting, key=lambda name: (peaks[name], name), default=None)
    return Ranking(lc_ms, tuple(sorted(rows, key=lambda row: (row.latency_ms, row.name))), best)


def _measured(device: Device, times: Times, lc_ms: float) -> Ranked:
    return Ranked(
        device.name, device.kind, times.median, times.p5, times.p95, "measured", times.median <= lc_ms
    )


def _predicted(
    layers: Sequence[Linear], here: Cpu, device: Device, measured_ms: float, lc_ms: float
) -> Ranked:
    at_home, there = linear_ms(layers, here), linear_ms(layers, device.cpu)
    by_peak = here.peak_gflops / device.cpu.peak_gflops
    latency = there + max(measured_ms - at_home, 0.0) * by_peak
    views = (latency, measured_ms * there / at_home, measured_ms * by_peak)
    low, high = min(views) / KERNEL_ERROR, max(views) * KERNEL_ERROR
    return Ranked(device.name, device.kind, latency, low, high, "predicted", high <= lc_ms)


def linear_ms(layers: Sequence[Linear], cpu: Cpu) -> float:
    """Predicted time of all linear layers on one core of `cpu`."""
    return sum(
        min(
            kernel.milliseconds(layer.tokens, 1)
            for kernel in linear_candidates(
                LinearWork(layer.n, layer.k, layer.structure, Epilogue(bias=True)), cpu
            )
        )
        for layer in layers
    )
