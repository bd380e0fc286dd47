"""What tasks on text share: files, encoders of Hugging Face folders, padded batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from espalier.errors import DataError, ModelError, UnavailableError

MAX_LENGTH = 128


def data_file(data: Path | None, name: str, *, task: str, source: str) -> Path:
    """`data / name`; DataError that says where the file comes from where it is missing."""
    hint = f"get it from {source} and give its folder with --data"
    if data is None:
        raise DataError(f"task {task} needs {name}, but no folder was given", hint=hint)
    path = data / name
    if not path.is_file():
        raise DataError(f"task {task}: {path} does not exist", hint=hint)
    return path


class Encoder(nn.Module):
    """A Hugging Face classifier called with tensors in the order of `names`; logits `[batch, labels]`."""

    def __init__(self, network: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.network(**dict(zip(self.names, inputs, strict=True))).logits


def transformers() -> Any:
    """The module; UnavailableError with the command that installs it."""
    try:
        import transformers
    except ModuleNotFoundError:
        raise UnavailableError(
            "transformers, which reads Hugging Face folders, is not installed",
            hint='pip install "tvm-espalier[train]"',
        ) from None
    # its progress bars and notes on new heads would stand between a verb's own lines
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def load_encoder(folder: Path, labels: int) -> Encoder:
    """The encoder of a Hugging Face folder with a new head for `labels` outputs; nothing is downloaded."""
    library = transformers()
    _require_folder(folder)
    try:
        network = library.AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=labels, local_files_only=True, attn_implementation="eager"
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model {folder} cannot be read: {error}",
            hint="give the folder of an encoder as saved by transformers",
        ) from None
    tokenizer = load_tokenizer(folder)
    if network.config.pad_token_id is None:  # GPT-2: it looks for the last word that is no padding
        network.config.pad_token_id = tokenizer.pad_token_id
    return Encoder(network, tokenizer.model_input_names)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a Hugging Face folder; one without a padding token pads with its end token."""
    library = transformers()
    _require_folder(folder)
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model {folder} has no tokenizer that can be read: {error}",
            hint="the folder needs tokenizer.json or vocab.txt",
        ) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"model {folder}: its tokenizer has neither a padding nor an end token",
            hint="set pad_token in its tokenizer_config.json",
        )
    return tokenizer


def _require_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model {folder} has no config.json",
            hint="give the folder of an encoder as saved by transformers",
        )


class Words:
    """A tokenizer for models from scratch: lower-case words between spaces, the most frequent ones.

    0: padding, 1: unknown, 2: begins a text, 3: ends a sentence.
    """

    model_input_names = ("input_ids", "attention_mask", "token_type_ids")

    def __init__(self, texts: Sequence[tuple[str, ...]], size: int = 10_000) -> None:
        counts = Counter(word for text in texts for part in text for word in part.lower().split())
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        self.index = {word: i + 4 for i, word in enumerate(ordered[: size - 4])}
        self.size = len(self.index) + 4

    def encode(self, text: tuple[str, ...]) -> tuple[list[int], list[int]]:
        """Token ids and the number of the sentence each belongs to."""
        ids, kinds = [2], [0]
        for kind, part in enumerate(text):
            words = [self.index.get(word, 1) for word in part.lower().split()]
            ids += [*words, 3]
            kinds += [kind] * (len(words) + 1)
        return ids[:MAX_LENGTH], kinds[:MAX_LENGTH]


def small_encoder(vocabulary: int, labels: int) -> Encoder:
    """A BERT of 3 layers, width 192, 4 heads, with random weights."""
    library = transformers()
    config = library.BertConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=768,
        max_position_embeddings=MAX_LENGTH,
        num_labels=labels,
    )
    network = library.AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    return Encoder(network, Words.model_input_names)


def encode_all(tokenizer: Any, texts: Sequence[tuple[str, ...]]) -> list[tuple[list[int], list[int]]]:
    """Token ids and sentence numbers of each text (one or two sentences), cut to 128 tokens."""
    if isinstance(tokenizer, Words):
        return [tokenizer.encode(text) for text in texts]
    parts = [[text[i] for text in texts] for i in range(len(texts[0]))]
    coded = tokenizer(*parts, truncation=True, max_length=MAX_LENGTH)
    ids = coded["input_ids"]
    kinds = coded.get("token_type_ids") or [[0] * len(row) for row in ids]
    return list(zip(ids, kinds, strict=True))


def pad(
    rows: Sequence[tuple[list[int], list[int]]], padding: int, names: Sequence[str]
) -> tuple[torch.Tensor, ...]:
    """int64 `[rows, longest]` for each of the input names `input_ids`, `attention_mask`, `token_type_ids`."""
    longest = max(len(ids) for ids, _ in rows)
    arrays = {
        "input_ids": np.full((len(rows), longest), padding, np.int64),
        "attention_mask": np.zeros((len(rows), longest), np.int64),
        "token_type_ids": np.zeros((len(rows), longest), np.int64),
    }
    for i, (ids, kinds) in enumerate(rows):
        arrays["input_ids"][i, : len(ids)] = ids
        arrays["attention_mask"][i, : len(ids)] = 1
        arrays["token_type_ids"][i, : len(ids)] = kinds
    return tuple(torch.from_numpy(arrays[name]) for name in names)


def by_length(lengths: np.ndarray, batch: int, seed: int, epoch: int, window: int = 50) -> np.ndarray:
    """Rows of each batch of an epoch, int64 `[batches, batch]`: random, but of similar lengths in a batch.

    A random order is cut into windows of `window` batches, each sorted by length; batches are shuffled.
    What does not fill a batch is left out; where there is less than one batch, one with repetition.
    """
    random = np.random.RandomState([seed, epoch])
    order = random.permutation(len(lengths))
    if len(order) < batch:
        return np.resize(order, (1, batch))
    span = window * batch
    parts = [order[i : i + span] for i in range(0, len(order), span)]
    ordered = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    batches = ordered[: len(ordered) // batch * batch].reshape(-1, batch)
    return batches[random.permutation(len(batches))]
