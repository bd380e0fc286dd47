"""Learning from records how far kernels are off what they predict of themselves (XGBoost)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from espalier.errors import UnavailableError
from espalier.schedules import LinearKernel, LinearWork, linear_candidates
from espalier.search import features
from espalier.search.records import Record
from espalier.search.trees import Tree, Trees, tree
from espalier.targets.cpu import Cpu

LEAST = 24
"""Records below which the kernels' own predictions are not touched."""
ROUNDS = 120
SETTINGS = {
    "objective": "reg:squarederror",
    "base_score": 0.0,
    "tree_method": "exact",
    "max_depth": 5,
    "eta": 0.12,
    "min_child_weight": 2,
    "lambda": 1.0,
    "nthread": 1,
}


@dataclass(frozen=True)
class Example:
    """A record with the kernel that it is of, and the CPU as it was assumed then."""

    record: Record
    kernel: LinearKernel
    cpu: Cpu

    @property
    def predicted(self) -> float:
        """Milliseconds by the kernel's own prediction."""
        return self.kernel.milliseconds(self.record.tokens, self.record.place.threads)


def examples(records: Iterable[Record], cpu: Cpu) -> list[Example]:
    """The records of this core whose kernel there still is, as it was."""
    found = []
    for record in records:
        if record.place.core != cpu.mcpu:
            continue
        there = replace(cpu, clock_ghz=record.place.ghz)
        kernel = kernels_of(record.work, there).get(record.kernel)
        if kernel is not None and kernel.version == record.version:
            found.append(Example(record, kernel, there))
    return found


@lru_cache(maxsize=1024)
def kernels_of(work: LinearWork, cpu: Cpu) -> Mapping[str, LinearKernel]:
    """Every kernel for a layer under every setting, by name."""
    return {variant.name: variant for base in linear_candidates(work, cpu) for variant in base.variants()}


def learn(known: Sequence[Example], *, seed: int = 0) -> Trees | None:
    """What the examples teach; None where they are fewer than LEAST.

    The same examples and seed give the same trees. Raises UnavailableError without XGBoost.
    """
    if len(known) < LEAST:
        return None
    xgboost = _xgboost()
    names = features.names(example.kernel for example in known)
    rows = np.concatenate([_features(example, names) for example in known])
    targets = np.array(
        [math.log(example.record.milliseconds / example.predicted) for example in known], np.float32
    )
    booster = xgboost.train({**SETTINGS, "seed": seed}, xgboost.DMatrix(rows, targets), ROUNDS)
    cores = sorted({example.record.place.core for example in known})
    least = min(example.record.tokens for example in known)
    return Trees(names, tuple(cores), least, tuple(_trees(booster)))


def _features(example: Example, names: Sequence[str]) -> np.ndarray:
    record = example.record
    return features.features(
        [example.kernel], [example.predicted], record.tokens, record.place.threads, example.cpu, names
    )


def _trees(booster: Any) -> Iterator[Tree]:
    model = json.loads(booster.save_raw("json").decode())["learner"]["gradient_booster"]["model"]
    for one in model["trees"]:
        yield tree(one["split_indices"], one["split_conditions"], one["left_children"], one["right_children"])


def _xgboost() -> Any:
    try:
        import xgboost
    except ModuleNotFoundError:
        raise UnavailableError(
            "XGBoost, which learns from tuning records, is not installed",
            hint='pip install "tvm-espalier[tune]"',
        ) from None
    return xgboost
