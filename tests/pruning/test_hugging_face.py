"""Folders of several model families, tiny and with random weights, from fine-tuning to pruned layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from espalier.errors import ModelError
from espalier.pruning.pipeline import PruneOptions, export_checked, prune_task
from espalier.pruning.tasks import open_task
from espalier.pruning.tasks.glue import Glue

pytestmark = pytest.mark.unit

WORDS = ("<pad>", "<unk>", "<eos>", "a", "film", "of", "good", "bad", "words", *map(str, range(40)))
SMALL = {"vocab_size": len(WORDS), "pad_token_id": 0}
BERT = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, **SMALL,
}  # fmt: skip
FAMILIES = {
    "bert": (transformers.BertConfig(**BERT), 6),
    "roberta": (transformers.RobertaConfig(max_position_embeddings=140, **BERT), 6),
    "electra": (transformers.ElectraConfig(embedding_size=16, **BERT), 7),  # one more from 16 to 32
    "distilbert": (
        transformers.DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, **SMALL),
        6,
    ),
    "gpt2": (
        transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=len(WORDS), eos_token_id=2),
        4,
    ),
}
"""The configuration and how many weights its layers have."""


def folder_of(path: Path, config: Any, **tokens: str) -> Path:
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", model_input_names=["input_ids", "attention_mask"], **tokens
    ).save_pretrained(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("train", "dev"):
        rows = [f"a film of {n % 7} {('bad', 'good')[n % 2]} words\t{n % 2}" for n in range(64)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return tmp_path


@pytest.mark.parametrize("family", FAMILIES)
def test_any_encoder_is_tuned_and_pruned(tmp_path: Path, data: Path, family: str) -> None:
    config, weights = FAMILIES[family]
    tokens = {"eos_token": "<eos>"} if family == "gpt2" else {"pad_token": "<pad>"}
    task = open_task("sst-2", data=data, model=folder_of(tmp_path / family, config, **tokens))
    options = PruneOptions(structure="hp(B=8)", sparsity=0.75, steps=4, dense_steps=4)
    result = prune_task(task, options, tmp_path / "m.onnx", export=False)
    assert len(result.layers) == weights
    for layer in result.layers:
        assert layer.sparsity == pytest.approx(0.75, abs=0.02), layer.name
        assert not any(word in layer.name for word in ("classifier", "score", "pooler", "word_emb"))


def test_embeddings_keep_their_values_unless_they_are_pruned(tmp_path: Path, data: Path) -> None:
    task = open_task(
        "sst-2", data=data, model=folder_of(tmp_path / "bert", FAMILIES["bert"][0], pad_token="<pad>")
    )
    for embeddings in (False, True):
        options = PruneOptions(
            structure="unstructured", sparsity=0.5, steps=3, dense_steps=2, embeddings=embeddings
        )
        result = prune_task(task, options, tmp_path / f"{embeddings}.onnx", export=False)
        names = {layer.name for layer in result.layers}
        assert ("bert.embeddings.word_embeddings.weight" in names) is embeddings


def test_a_decoder_equals_its_onnx_model(tmp_path: Path, data: Path) -> None:
    config, _ = FAMILIES["gpt2"]
    task = open_task("sst-2", data=data, model=folder_of(tmp_path / "gpt2", config, eos_token="<eos>"))
    assert isinstance(task, Glue) and task.padding == 2
    assert export_checked(task.model(), task, tmp_path / "m.onnx") < 1e-5


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path: Path, data: Path) -> None:
    model = folder_of(tmp_path / "bert", FAMILIES["bert"][0])
    with pytest.raises(ModelError, match="neither a padding nor an end token"):
        open_task("sst-2", data=data, model=model)
