"""Task `wikitext-2`: a causal Transformer language model on words.

Data: WikiText-2, word level, v1 (Merity et al. 2016, arXiv 1609.07843): train.txt, valid.txt; figures are of
valid.txt. Model of the HP and RT3 papers: 2 encoder layers, width 800, feed-forward 200, 4 heads, and a
linear decoder. `wikitext-2-small` is the same at width 200 on the 10,000 most frequent words, for machines
without a GPU; its perplexity is not comparable.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from espalier.errors import DataError
from espalier.pruning.tasks.task import Batch, Recipe, Signature, Task
from espalier.pruning.tasks.text import data_file

SOURCE = "https://huggingface.co/datasets/Salesforce/wikitext (wikitext-2-v1, as train.txt and valid.txt)"
END = "<eos>"
UNKNOWN = "<unk>"


class DecoderLayer(nn.Module):
    """A post-norm Transformer layer with causal attention."""

    def __init__(self, width: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        size = width // self.heads
        query, key, value = (
            project(x).reshape(batch, length, self.heads, size).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(-1, -2) * size**-0.5 + mask, dim=-1)
        mixed = (self.dropout(weights) @ value).transpose(1, 2).reshape(batch, length, width)
        x = self.attention_norm(x + self.dropout(self.out(mixed)))
        return self.mlp_norm(x + self.dropout(self.down(self.dropout(F.relu(self.up(x))))))


class LanguageModel(nn.Module):
    """Word ids int64 `[batch, length]`, length <= 512, to logits of next words `[batch, length, words]`."""

    position: torch.Tensor

    def __init__(
        self, words: int, width: int, hidden: int, heads: int = 4, layers: int = 2, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.scale = math.sqrt(width)
        self.embedding = nn.Embedding(words, width)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.register_buffer("position", sinusoids(512, width), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(DecoderLayer(width, hidden, heads, dropout) for _ in range(layers))
        self.decoder = nn.Linear(width, words)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        length = ids.shape[1]
        place = torch.arange(length, device=ids.device)
        mask = torch.where(place[:, None] >= place[None, :], 0.0, -1e9)
        x = self.dropout(self.embedding(ids) * self.scale + self.position[:length])
        for layer in self.layers:
            x = layer(x, mask)
        return self.decoder(x)


def sinusoids(length: int, width: int) -> torch.Tensor:
    """f32 `[length, width]`, sines in even and cosines in odd columns (Vaswani et al. 2017, section 3.5)."""
    place = torch.arange(length)[:, None]
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    return torch.stack([torch.sin(place * rate), torch.cos(place * rate)], dim=-1).reshape(length, width)


def read_words(path: Path) -> list[str]:
    """The words of a file, each line ended by `<eos>`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint=f"get it anew from {SOURCE}") from None
    words = [word for line in text.splitlines() for word in (*line.split(), END)]
    if not words:
        raise DataError(f"{path} is empty", hint=f"get it anew from {SOURCE}")
    return words


class WikiText2(Task):
    """Next-word accuracy and perplexity on valid.txt. data: the folder of train.txt and valid.txt."""

    name = "wikitext-2"
    metric = "accuracy"
    recipe = Recipe(batch=20, dense_steps=16_000, dense_rate=5e-4, steps=16_000, rate=5e-4, weight_decay=0.1)
    signature = Signature(("ids",), ("logits",), {"ids": {0: "batch", 1: "sequence"}})
    width, hidden = 800, 200
    most_words: ClassVar[int | None] = None
    length = 64

    def __init__(self, data: Path | None) -> None:
        train, valid = (
            read_words(data_file(data, name, task=self.name, source=SOURCE))
            for name in ("train.txt", "valid.txt")
        )
        counts = Counter(train)
        ordered = sorted(counts, key=lambda word: (-counts[word], word))[: self.most_words]
        self.vocabulary = sorted({*ordered, UNKNOWN, END})
        index = {word: i for i, word in enumerate(self.vocabulary)}
        unknown = index[UNKNOWN]
        self.train, self.valid = (
            np.array([index.get(word, unknown) for word in words], np.int64) for words in (train, valid)
        )

    def model(self) -> nn.Module:
        return LanguageModel(len(self.vocabulary), self.width, self.hidden)

    def batch(self, step: int, seed: int) -> Batch:
        """Windows of the text, ids `[20, 64]`; an epoch shifts all windows by a common random offset."""
        window, size = self.length, self.recipe.batch
        count = max((len(self.train) - 1) // window - 1, 1)
        epoch, index = divmod(step, max(count // size, 1))
        random = np.random.RandomState([seed, epoch])
        offset = int(random.randint(window))
        starts = offset + random.permutation(count)[index * size : (index + 1) * size] * window
        text = self.train[starts[:, None] + np.arange(window + 1)]
        return Batch((torch.from_numpy(text[:, :-1].copy()),), torch.from_numpy(text[:, 1:].copy()))

    def example(self) -> tuple[torch.Tensor, ...]:
        return (torch.from_numpy(self.valid[:32].reshape(2, 16).copy()),)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Windows of 64 words; the first words of a window have little to go by, as in training."""
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        count = (len(self.valid) - 1) // self.length * self.length
        inputs = torch.from_numpy(self.valid[:count].reshape(-1, self.length))
        targets = torch.from_numpy(self.valid[1 : count + 1].reshape(-1, self.length))
        loss, right = 0.0, 0
        for x, y in zip(inputs.split(16), targets.split(16), strict=True):
            logits = model(x.to(device)).flatten(0, 1)
            expected = y.to(device).flatten()
            loss += F.cross_entropy(logits, expected, reduction="sum").item()
            right += int((logits.argmax(dim=1) == expected).sum())
        model.train(training)
        return {"accuracy": right / count, "perplexity": math.exp(min(loss / count, 50.0))}


class WikiText2Small(WikiText2):
    """Width 200, hidden 400, 10,000 words."""

    name = "wikitext-2-small"
    width, hidden = 200, 400
    most_words = 10_000
