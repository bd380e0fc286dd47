"""The time of a kernel out of records: measured where one says so, else predicted by what was learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from espalier.schedules import LinearKernel
from espalier.schedules.estimate import ByRule, Estimate, ranked
from espalier.search import features
from espalier.search.records import Record, kernel_key
from espalier.search.trees import Trees
from espalier.targets.cpu import Cpu

LEAST_GAIN = 0.04
"""How much faster another setting must be predicted to replace a kernel's own: predictions err."""


@dataclass(frozen=True)
class ByRecords:
    """measured: key of a record to milliseconds.

    trees: what corrects a kernel's own prediction, if any; not for fewer tokens than it was learned from.
    """

    cpu: Cpu
    measured: Mapping[tuple[object, ...], float] = field(default_factory=dict)
    trees: Trees | None = None

    def estimates(self, bases: Sequence[LinearKernel], m: int, threads: int) -> list[Estimate]:
        """One estimate a base: its best setting. Where records tell of the layer, only they decide.

        Dense kernels stay in any case, so that what is chosen is never slower than they are.
        """
        found = [self._best(base, m, threads) for base in bases]
        if any(one.how == "measured" for one in found):
            found = [one for one in found if one.how == "measured" or "dense" in one.kernel.name]
        return ranked(found)

    def _best(self, base: LinearKernel, m: int, threads: int) -> Estimate:
        variants = list(base.variants())
        core = self.cpu.mcpu
        measured = [
            Estimate(variant, self.measured[key], "measured")
            for variant in variants
            if (key := kernel_key(variant, core, m, threads)) in self.measured
        ]
        if measured:
            return ranked(measured)[0]
        if self.trees is None or m < self.trees.least_tokens or not features.known(base, self.trees.features):
            return ByRule().estimates([base], m, threads)[0]
        times = self.predict(variants, m, threads)
        best = int(np.argmin(times))
        if times[best] > (1 - LEAST_GAIN) * times[0]:
            best = 0
        return Estimate(variants[best], float(times[best]), "predicted")

    def predict(self, kernels: Sequence[LinearKernel], m: int, threads: int) -> np.ndarray:
        """Milliseconds of each kernel by its own prediction and what was learned, f64."""
        own = np.array([kernel.milliseconds(m, threads) for kernel in kernels])
        if self.trees is None or m < self.trees.least_tokens or not kernels:
            return own
        rows = features.features(kernels, list(own), m, threads, self.cpu, self.trees.features)
        learned = np.exp(self.trees.predict(rows).astype(np.float64))
        return own * np.where([features.known(kernel, self.trees.features) for kernel in kernels], learned, 1)


def measured_times(records: Sequence[Record]) -> dict[tuple[object, ...], float]:
    """Milliseconds by key."""
    return {record.key: record.milliseconds for record in records}
