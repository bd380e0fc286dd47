"""How sparsity and learning rate go over the steps of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cubic:
    """From 0 at `begin` to the final sparsity at `end`, fast first: s·(1 - (1 - (t - b) / (e - b))³).

    Masks are made anew every `every` steps and at `end`. Source: Zhu & Gupta 2017 (arXiv 1710.01878), eq. 1.
    """

    begin: int
    end: int
    every: int = 1

    def fraction(self, step: int) -> float:
        """The share of the final sparsity at a step, 0 to 1."""
        if step >= self.end:
            return 1.0
        left = 1.0 - max(step - self.begin, 0) / (self.end - self.begin)
        return 1.0 - left**3

    def due(self, step: int) -> bool:
        """Whether masks are made anew at this step."""
        return step == self.end or (self.begin <= step < self.end and (step - self.begin) % self.every == 0)


def learning_rate(step: int, steps: int, peak: float, *, warm_up: float = 0.05) -> float:
    """The rate of a step: linear from 0 over the first share `warm_up` of all steps, then half a cosine."""
    warm = max(round(steps * warm_up), 1)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))
