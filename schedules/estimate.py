"""How the time of a kernel is come by when one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from espalier.schedules.linear import LinearKernel

How = Literal["predicted", "measured"]


@dataclass(frozen=True)
class Estimate:
    """A kernel, knobs set, with its time and how that was got."""

    kernel: LinearKernel
    milliseconds: float
    how: How


class Estimator(Protocol):
    """Knows, or predicts, how long kernels take."""

    def estimates(self, bases: Sequence[LinearKernel], m: int, threads: int) -> list[Estimate]:
        """For one layer of m tokens: the kernels to choose from, the best first.

        bases: all kernels that can run the layer; each may come back with other knobs.
        """
        ...


class ByRule:
    """Predictions from the CPU's figures alone, knobs as the kernels set them."""

    def estimates(self, bases: Sequence[LinearKernel], m: int, threads: int) -> list[Estimate]:
        """Every kernel as it is."""
        return ranked([Estimate(base, base.milliseconds(m, threads), "predicted") for base in bases])


PRECISION = 1.05
"""Which of two kernels is faster, predictions do not tell within this factor; measured times do."""


def ranked(estimates: Sequence[Estimate]) -> list[Estimate]:
    """The shortest time first; of equal ones by name, so that the order never varies.

    A dense kernel goes before one that is only predicted to be a little faster.
    """
    order = sorted(estimates, key=lambda one: (one.milliseconds, one.kernel.name))
    dense = next((one for one in order if "dense" in one.kernel.name), None)
    if dense and order[0].how == "predicted" and dense.milliseconds <= PRECISION * order[0].milliseconds:
        order.remove(dense)
        order.insert(0, dense)
    return order
