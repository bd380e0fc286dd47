"""GLUE tasks in their tsv form: `sst-2`, `sts-b`, `cola`, `mrpc`, `qqp`, `mnli`, `qnli`, `rte`.

An encoder (a Hugging Face folder, or a small one from scratch) is fine-tuned on one or a pair of sentences.
Data: https://gluebenchmark.com/tasks (Wang et al. 2019), one folder a task; figures are of the dev set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from espalier.errors import DataError
from espalier.pruning.tasks.task import Batch, Recipe, Signature, Task
from espalier.pruning.tasks.text import (
    Words,
    by_length,
    data_file,
    encode_all,
    load_encoder,
    load_tokenizer,
    pad,
    small_encoder,
)

SOURCE = "https://gluebenchmark.com/tasks"


@dataclass(frozen=True)
class Format:
    """How a task's files look.

    sentences: for each sentence the names its column may have, or its number where the file has no header.
    labels: the classes in order; empty for a score (regression).
    """

    name: str
    sentences: tuple[tuple[str | int, ...], ...]
    label: tuple[str | int, ...]
    labels: tuple[str, ...]
    metric: str
    dev: str = "dev.tsv"

    @property
    def header(self) -> bool:
        return isinstance(self.label[0], str)


PAIR = (("sentence1",), ("sentence2",))
TWO = ("0", "1")
ENTAILS = ("entailment", "not_entailment")
FORMATS = {
    form.name: form
    for form in (
        Format("sst-2", (("sentence", "text"),), ("label",), TWO, "accuracy"),
        Format("sts-b", PAIR, ("score",), (), "pearson"),
        Format("cola", ((3,),), (1,), TWO, "matthews"),
        Format("mrpc", (("#1 String",), ("#2 String",)), ("Quality",), TWO, "f1"),
        Format("qqp", (("question1",), ("question2",)), ("is_duplicate",), TWO, "f1"),
        Format(
            "mnli", PAIR, ("gold_label",), ("entailment", "neutral", "contradiction"), "accuracy",
            "dev_matched.tsv",
        ),
        Format("qnli", (("question",), ("sentence",)), ("label",), ENTAILS, "accuracy"),
        Format("rte", PAIR, ("label",), ENTAILS, "accuracy"),
    )
}  # fmt: skip


def read_tsv(path: Path, form: Format) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """Texts (one or two sentences) and targets: int64 classes, or f32 scores.

    GLUE's files are not quoted: a tab ends a column and a line end a row. DataError for a missing column or a
    label that is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint=f"get it anew from {SOURCE}") from None
    rows = [line.rstrip("\r").split("\t") for line in lines if line.strip()]
    names: list[Any] = rows.pop(0) if form.header and rows else list(range(len(rows[0]) if rows else 0))
    columns = [_column(path, names, options) for options in (*form.sentences, form.label)]
    texts: list[tuple[str, ...]] = []
    targets: list[float] = []
    for number, row in enumerate(rows, start=2 if form.header else 1):
        if len(row) <= max(columns):
            raise DataError(
                f"{path}, line {number}: {len(row)} columns, expected at least {max(columns) + 1}",
                hint=f"the file is damaged; get it anew from {SOURCE}",
            )
        texts.append(tuple(row[column].strip() for column in columns[:-1]))
        targets.append(_target(path, number, row[columns[-1]].strip(), form))
    if not texts:
        raise DataError(f"{path} has no rows", hint=f"get it anew from {SOURCE}")
    return texts, np.array(targets, np.int64 if form.labels else np.float32)


def _column(path: Path, names: Sequence[Any], options: Sequence[str | int]) -> int:
    for option in options:
        if option in names:
            return names.index(option)
    raise DataError(
        f"{path} has no column {' or '.join(map(repr, options))}; it has {', '.join(map(str, names))[:200]}",
        hint=f"get the tsv form of the task from {SOURCE}",
    )


def _target(path: Path, number: int, text: str, form: Format) -> float:
    if form.labels:
        if text in form.labels:
            return form.labels.index(text)
        expected = " or ".join(form.labels)
    else:
        try:
            score = float(text)
        except ValueError:
            score = float("nan")
        if 0.0 <= score <= 5.0:
            return score
        expected = "a score from 0 to 5"
    raise DataError(
        f"{path}, line {number}: the label is {text[:40]!r}, expected {expected}",
        hint=f"use the labelled files of {SOURCE} (its test files have no labels)",
    )


class Glue(Task):
    """One task of GLUE. data: its folder. folder: a Hugging Face encoder; None: a small one from scratch."""

    leave = ("*classifier*", "*pooler*", "*score*")
    prefix = "network."

    def __init__(self, form: Format, data: Path | None, folder: Path | None) -> None:
        self.form, self.folder = form, folder
        self.name, self.metric = form.name, form.metric  # pyright: ignore[reportAttributeAccessIssue]
        source = f"{SOURCE} ({form.name})"
        self.files = [
            data_file(data, file, task=form.name, source=source) for file in ("train.tsv", form.dev)
        ]
        texts, self.targets = read_tsv(self.files[0], form)
        dev_texts, self.dev_targets = read_tsv(self.files[1], form)
        self.tokenizer: Any = Words(texts) if folder is None else load_tokenizer(folder)
        self.padding = 0 if folder is None else self.tokenizer.pad_token_id
        self.rows = encode_all(self.tokenizer, texts)
        self.dev_rows = encode_all(self.tokenizer, dev_texts)
        self.lengths = np.array([len(ids) for ids, _ in self.rows])
        self.order: tuple[int, int, np.ndarray] | None = None
        inputs = tuple(self.tokenizer.model_input_names)
        self.signature = Signature(  # pyright: ignore[reportAttributeAccessIssue]
            inputs, ("logits",), {name: {0: "batch", 1: "sequence"} for name in inputs}
        )
        batches = max(len(self.rows) // 32, 1)
        fresh = Recipe(batch=32, dense_steps=5 * batches, dense_rate=5e-4, steps=5 * batches, rate=5e-4)
        # a tuned encoder's embeddings are half of its parameters, and gain nothing in a few epochs
        tuned = replace(fresh, dense_steps=3 * batches, dense_rate=1e-4, frozen=("*.embeddings.*",))
        self.recipe = fresh if folder is None else tuned  # pyright: ignore[reportAttributeAccessIssue]

    def model(self) -> nn.Module:
        labels = len(self.form.labels) or 1
        if self.folder is None:
            return small_encoder(self.tokenizer.size, labels)
        return load_encoder(self.folder, labels)

    def batch(self, step: int, seed: int) -> Batch:
        size = self.recipe.batch
        epoch, index = divmod(step, max(len(self.rows) // size, 1))
        if self.order is None or self.order[:2] != (seed, epoch):
            self.order = (seed, epoch, by_length(self.lengths, size, seed, epoch))
        return self._batch(self.rows, self.targets, self.order[2][index])

    def _batch(self, rows: Sequence[Any], targets: np.ndarray, chosen: np.ndarray) -> Batch:
        inputs = pad([rows[i] for i in chosen], self.padding, self.signature.inputs)
        return Batch(inputs, torch.from_numpy(targets[chosen]))

    def example(self) -> tuple[torch.Tensor, ...]:
        return self._batch(self.dev_rows, self.dev_targets, np.arange(min(len(self.dev_rows), 3))).inputs

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.form.labels:
            return F.cross_entropy(output, target)
        return F.mse_loss(output.squeeze(-1), target)

    def teaching(self, output: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        if self.form.labels:
            return super().teaching(output, teacher)
        return F.mse_loss(output, teacher)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        order = np.argsort([len(ids) for ids, _ in self.dev_rows], kind="stable")
        outputs = [
            model(*self._batch(self.dev_rows, self.dev_targets, chosen).to(device).inputs).cpu()
            for chosen in np.array_split(order, max(len(order) // 64, 1))
        ]
        model.train(training)
        found, expected = torch.cat(outputs).numpy(), self.dev_targets[order]
        return score_figures(found, expected) if not self.form.labels else class_figures(found, expected)


def class_figures(logits: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Accuracy; for two classes also F1 of class 1 and Matthews' correlation."""
    found = logits.argmax(axis=1)
    figures = {"accuracy": float((found == expected).mean())}
    if logits.shape[1] == 2:
        both, one, other = (
            float(((found == a) & (expected == b)).sum()) for a, b in ((1, 1), (1, 0), (0, 1))
        )
        neither = len(found) - both - one - other
        figures["f1"] = 2 * both / max(2 * both + one + other, 1.0)
        scale = np.sqrt((both + one) * (both + other) * (neither + one) * (neither + other))
        figures["matthews"] = float((both * neither - one * other) / scale) if scale else 0.0
    return figures


def score_figures(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Pearson's and Spearman's correlation."""
    from scipy import stats

    found = found.squeeze(-1)
    if np.ptp(found) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(np.corrcoef(found, expected)[0, 1]),
        "spearman": float(stats.spearmanr(found, expected).statistic),  # pyright: ignore
    }
