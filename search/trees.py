"""Boosted trees as numbers: what XGBoost learned, read and evaluated without it.

Stored as JSON: {"features": [names], "cores": [names], "least_tokens": number, "trees": [{"feature", "value",
"left", "right"}]}, the last four lists over the nodes of a tree. A leaf has left = -1, and value is what it
adds; other nodes go left where the feature is less than value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Tree:
    """One tree; arrays over its nodes, node 0 the root."""

    feature: np.ndarray
    value: np.ndarray
    left: np.ndarray
    right: np.ndarray

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """f32 `[len(rows)]` for f32 `[.., features]`."""
        node = np.zeros(len(rows), np.int64)
        each = np.arange(len(rows))
        while (inner := self.left[node] >= 0).any():
            less = rows[each, self.feature[node]] < self.value[node]
            node = np.where(inner, np.where(less, self.left[node], self.right[node]), node)
        return self.value[node]


@dataclass(frozen=True, eq=False)
class Trees:
    """features: names of the columns. cores, least_tokens: those that it was learned from."""

    features: tuple[str, ...]
    cores: tuple[str, ...]
    least_tokens: int
    trees: tuple[Tree, ...]

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """f32 `[len(rows)]`: the sum of all trees."""
        total = np.zeros(len(rows), np.float32)
        for tree in self.trees:
            total += tree.predict(rows)
        return total

    def to_json(self) -> str:
        """Numbers to six digits, which is more than measuring gives."""
        trees = [
            {
                "feature": tree.feature.tolist(),
                "value": [float(f"{value:.6g}") for value in tree.value.tolist()],
                "left": tree.left.tolist(),
                "right": tree.right.tolist(),
            }
            for tree in self.trees
        ]
        content = {
            "features": self.features,
            "cores": self.cores,
            "least_tokens": self.least_tokens,
            "trees": trees,
        }
        return json.dumps(content, separators=(",", ":")) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Trees:
        """What `to_json` gave."""
        content: Mapping[str, Any] = json.loads(text)
        trees = tuple(
            tree(one["feature"], one["value"], one["left"], one["right"]) for one in content["trees"]
        )
        return cls(tuple(content["features"]), tuple(content["cores"]), content["least_tokens"], trees)


def tree(feature: Sequence[int], value: Sequence[float], left: Sequence[int], right: Sequence[int]) -> Tree:
    """A tree of plain lists; XGBoost compares in f32."""
    return Tree(
        np.array(feature, np.int64),
        np.array(value, np.float32),
        np.array(left, np.int64),
        np.array(right, np.int64),
    )
