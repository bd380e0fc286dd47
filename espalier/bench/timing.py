"""Interleaved timing: what is compared is timed in turn, so that a disturbance meets everybody alike."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

SAMPLE_S = 0.002
"""A sample lasts at least this long: the clock's own cost and the call into it stay under 0.1 %."""

WARM_LIMIT_S = 0.1
"""A call longer than this needs no warming before each sample: it evicts its own data anyway."""

LEAST_SAMPLES = 3


@dataclass(frozen=True)
class Times:
    """What one contestant's samples say; milliseconds a call."""

    median: float
    p5: float
    p95: float
    min: float
    samples: int

    def to_dict(self) -> dict[str, float | int]:
        """Rounded to a tenth of a microsecond."""
        return {
            "median": round(self.median, 4),
            "p5": round(self.p5, 4),
            "p95": round(self.p95, 4),
            "min": round(self.min, 4),
            "samples": self.samples,
        }


def summarise(milliseconds: list[float]) -> Times:
    """Median and spread of at least one sample."""
    p5, median, p95 = np.percentile(milliseconds, (5, 50, 95))
    return Times(float(median), float(p5), float(p95), min(milliseconds), len(milliseconds))


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    repeat: int,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Times]:
    """Time each of `runs` up to `repeat` times, one sample each a round, the first of a round changing.

    A contestant that would take more than `budget_s` seconds is sampled only every n-th round (at least three
    times), spread over the whole run. Every contestant is called before the first round and, where that is
    cheap, once before each sample, so that it does not pay for the caches that the one before it filled.
    """
    names = list(runs)
    calls, strides, cheap = {}, {}, {}
    for name in names:
        once = _sample(runs[name], 1, clock)
        if once < WARM_LIMIT_S * 10:
            once = max(_sample(runs[name], 1, clock), 1e-7)
        calls[name] = max(1, math.ceil(SAMPLE_S / once))
        cheap[name] = once < WARM_LIMIT_S
        cost = once * (calls[name] + cheap[name])
        most = max(1, repeat // LEAST_SAMPLES)
        strides[name] = min(most, max(1, math.ceil(cost * repeat / budget_s)))

    samples: dict[str, list[float]] = {name: [] for name in names}
    with _no_collection():
        for turn in range(repeat):
            first = turn % len(names) if names else 0
            for name in names[first:] + names[:first]:
                if turn % strides[name]:
                    continue
                if cheap[name]:
                    runs[name]()
                samples[name].append(_sample(runs[name], calls[name], clock) * 1e3)
            progress(turn + 1, repeat)
    return {name: summarise(samples[name]) for name in names}


def _sample(run: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    """Seconds a call, the mean of `calls` calls."""
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the samples."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keep this thread, and every thread it starts meanwhile, on `threads` cores, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[-threads:]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
