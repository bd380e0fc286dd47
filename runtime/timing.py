"""Times of repeated runs and their summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Times:
    """Milliseconds a run, one figure a repetition."""

    milliseconds: tuple[float, ...]

    def to_dict(self) -> dict[str, float]:
        """Mean, median, max, min, standard deviation and 95th percentile, in milliseconds."""
        samples = np.asarray(self.milliseconds)
        return {
            "mean": float(samples.mean()),
            "median": float(np.median(samples)),
            "max": float(samples.max()),
            "min": float(samples.min()),
            "std": float(samples.std()),
            "p95": float(np.percentile(samples, 95)),
        }


def measure(run: Callable[[], object], *, repeat: int, number: int) -> Times:
    """Calls `run` number x repeat times; each repetition's time is the mean of its calls."""
    milliseconds = []
    for _ in range(repeat):
        start = time.perf_counter_ns()
        for _ in range(number):
            run()
        milliseconds.append((time.perf_counter_ns() - start) / number / 1e6)
    return Times(tuple(milliseconds))
