"""The time of a kernel out of records: measured where one says so, else predicted by what was learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from espalier.schedules import LinearKernel
from espalier.schedules.estimate import Estimate, ranked
from espalier.search import features
from espalier.search.records import Record, kernel_key
from espalier.search.trees import Trees
from espalier.targets.cpu import Cpu


@dataclass(frozen=True)
class ByRecords:
    """measured: key of a record to milliseconds.

    trees: what corrects a kernel's own prediction, if any; not for fewer tokens than it was learned from.
    """

    cpu: Cpu
    measured: Mapping[tuple[object, ...], float] = field(default_factory=dict)
    trees: Trees | None = None

    def estimates(self, bases: Sequence[LinearKernel], m: int, threads: int) -> list[Estimate]:
        """One estimate a base. Where records tell of the layer, only they decide.

        Settings of the knobs other than a kernel's own are taken where they were measured, never on a
        prediction: on Zen 1 those cost up to 20 % on layers that the model had not seen. Dense kernels stay
        in any case, so that what is chosen is never slower than they are.
        """
        predicted = self.predict(bases, m, threads)
        found = [
            self._measured(base.variants(), m, threads) or Estimate(base, float(ms), "predicted")
            for base, ms in zip(bases, predicted, strict=True)
        ]
        if any(one.how == "measured" for one in found):
            found = [one for one in found if one.how == "measured" or "dense" in one.kernel.name]
        return ranked(found)

    def _measured(self, space: Sequence[LinearKernel], m: int, threads: int) -> Estimate | None:
        """The fastest of a kernel's settings that there are records of."""
        keys = {kernel_key(kernel, self.cpu.mcpu, m, threads): kernel for kernel in space}
        there = [
            Estimate(kernel, self.measured[key], "measured")
            for key, kernel in keys.items()
            if key in self.measured
        ]
        return ranked(there)[0] if there else None

    def predict(self, kernels: Sequence[LinearKernel], m: int, threads: int) -> np.ndarray:
        """Milliseconds of each kernel in a whole model, f64.

        Records tell of constants that lie in the caches, where those of a whole model do not: reading them
        from memory is the least that anything takes.
        """
        bytes_ms = min(threads, self.cpu.cores) * self.cpu.memory_gbps * 1e6
        return np.maximum(
            self.alone(kernels, m, threads), [kernel.constant_bytes / bytes_ms for kernel in kernels]
        )

    def alone(self, kernels: Sequence[LinearKernel], m: int, threads: int) -> np.ndarray:
        """Milliseconds of each kernel as records time it, over and over, by what was learned, f64.

        Kinds of kernels that nothing was learned of are as far off as the others are in the mean.
        """
        own = np.array([kernel.milliseconds(m, threads) for kernel in kernels])
        if self.trees is None or m < self.trees.least_tokens:
            return own
        names = self.trees.features
        rows = features.features(kernels, list(own), m, threads, self.cpu, names)
        off = self.trees.predict(rows).astype(np.float64)
        known = np.array([features.known(kernel, names) for kernel in kernels], bool)
        return own * np.exp(np.where(known, off, off[known].mean() if known.any() else 0.0))


def measured_times(records: Sequence[Record]) -> dict[tuple[object, ...], float]:
    """Milliseconds by key."""
    return {record.key: record.milliseconds for record in records}
