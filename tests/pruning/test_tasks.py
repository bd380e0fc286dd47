from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from espalier.errors import DataError, ModelError, UsageError
from espalier.pruning.layers import prunable_layers
from espalier.pruning.tasks import TASKS, open_task
from espalier.pruning.tasks.digits import Digits, augment, images
from espalier.pruning.tasks.glue import FORMATS, class_figures, read_tsv, score_figures
from espalier.pruning.tasks.text import Words, by_length, pad
from espalier.pruning.tasks.wikitext2 import sinusoids

pytestmark = pytest.mark.unit

SST2 = "sentence\tlabel\n" + "".join(f"a film of {n} good words \t{n % 2}\n" for n in range(40))
STSB = "index\tsentence1\tsentence2\tscore\n" + "".join(
    f"{n}\tthe cat sat {n}\tthe dog sat\t{n % 6}.0\n" for n in range(40)
)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


# digits


def test_digits_split_is_fixed_and_apart() -> None:
    train, train_labels, test, test_labels = images()
    assert train.shape == (1437, 8, 8) and test.shape == (360, 8, 8)
    assert train.dtype == np.float32 and train.min() >= 0.0 and train.max() == 1.0
    assert set(train_labels) == set(test_labels) == set(range(10))
    assert test_labels[:8].tolist() == [2, 8, 2, 6, 6, 7, 1, 9]


def test_digits_batches_depend_on_seed_and_step_alone() -> None:
    task = Digits()
    a, b, c, d = (task.batch(*which) for which in ((3, 0), (3, 0), (4, 0), (3, 1)))
    assert torch.equal(a.inputs[0], b.inputs[0]) and torch.equal(a.target, b.target)
    assert not torch.equal(a.inputs[0], c.inputs[0]) and not torch.equal(a.inputs[0], d.inputs[0])
    assert a.inputs[0].shape == (64, 8, 8)


def test_digits_augmentation_moves_but_keeps_the_ink() -> None:
    pixels = torch.zeros(50, 8, 8)
    pixels[:, 3:5, 3:5] = 1.0
    moved = augment(pixels, torch.Generator().manual_seed(0))
    assert not torch.equal(moved, pixels)
    assert moved.sum((1, 2)).mean().item() == pytest.approx(4.0, rel=0.2)


def test_digits_ship_a_dense_model() -> None:
    task = Digits()
    model = task.trained()
    assert model is not None and task.evaluate(model)["accuracy"] > 0.96
    names = [layer.name for layer in prunable_layers(model, leave=task.leave)]
    assert len(names) == 18 and "patch.weight" not in names and "head.weight" not in names


# GLUE


def test_glue_reads_pads_and_learns_shapes(tmp_path: Path) -> None:
    task = open_task("sst-2", data=write(tmp_path, train_tsv=SST2, dev_tsv=SST2))
    batch = task.batch(0, 0)
    assert [x.shape[0] for x in batch.inputs] == [32, 32, 32] and batch.target.dtype == torch.int64
    assert task.signature.inputs == ("input_ids", "attention_mask", "token_type_ids")
    torch.manual_seed(0)
    model = task.model()
    output = model(*batch.inputs)
    assert output.shape == (32, 2) and torch.isfinite(task.loss(output, batch.target))
    assert set(task.evaluate(model)) == {"accuracy", "f1", "matthews"}
    again = task.batch(0, 0)
    assert torch.equal(again.inputs[0], batch.inputs[0])
    names = [layer.name for layer in prunable_layers(model, leave=task.leave)]
    assert len(names) == 18 and not any("classifier" in name or "pooler" in name for name in names)


def test_padding_does_not_change_the_answer(tmp_path: Path) -> None:
    text = "sentence\tlabel\nshort\t0\na very much longer sentence than that\t1\n"
    task = open_task("sst-2", data=write(tmp_path, train_tsv=text, dev_tsv=text))
    model = task.model().eval()
    both = model(*task.example())
    alone = model(*(x[:1, :3] for x in task.example()))
    assert torch.allclose(both[:1], alone, atol=1e-5)


def test_scores_and_pairs(tmp_path: Path) -> None:
    task = open_task("sts-b", data=write(tmp_path, train_tsv=STSB, dev_tsv=STSB))
    batch = task.batch(0, 0)
    assert batch.target.dtype == torch.float32 and batch.inputs[2].max() == 1
    model = task.model()
    output = model(*batch.inputs)
    assert output.shape == (32, 1) and task.loss(output, batch.target).dim() == 0
    assert task.teaching(output, output).item() == 0.0
    assert set(task.evaluate(model)) == {"pearson", "spearman"}


def test_no_header_and_other_columns(tmp_path: Path) -> None:
    write(tmp_path, train_tsv="gj04\t1\t\tOur friends \"won't buy this.\ngj04\t0\t*\tHim ran.\n")
    texts, targets = read_tsv(tmp_path / "train.tsv", FORMATS["cola"])
    assert texts == [("Our friends \"won't buy this.",), ("Him ran.",)] and targets.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column"),
        ("sentence\tlabel\n", "has no rows"),
        ("text\tgold\nx\t1\n", "has no column 'label'; it has text, gold"),
        ("sentence\tlabel\nfine\t1\nno tab\n", "line 3: 1 columns, expected at least 2"),
        ("sentence\tlabel\nfine\tpositive\n", "line 2: the label is 'positive', expected 0 or 1"),
    ],
)
def test_wrong_tsv(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, train_tsv=text)
    with pytest.raises(DataError) as caught:
        read_tsv(tmp_path / "train.tsv", FORMATS["sst-2"])
    assert message in caught.value.message


def test_wrong_score_and_encoding(tmp_path: Path) -> None:
    write(tmp_path, train_tsv="sentence1\tsentence2\tscore\na\tb\t7\n")
    with pytest.raises(DataError, match="expected a score from 0 to 5"):
        read_tsv(tmp_path / "train.tsv", FORMATS["sts-b"])
    (tmp_path / "train.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_tsv(tmp_path / "train.tsv", FORMATS["sts-b"])


def test_figures_against_their_definitions() -> None:
    random = np.random.default_rng(0)
    logits, expected = random.standard_normal((50, 2)), random.integers(0, 2, 50)
    found = logits.argmax(1)
    figures = class_figures(logits, expected)
    both = ((found == 1) & (expected == 1)).sum()
    precision, recall = both / (found == 1).sum(), both / (expected == 1).sum()
    assert figures["accuracy"] == (found == expected).mean()
    assert figures["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert figures["matthews"] == pytest.approx(np.corrcoef(found, expected)[0, 1])
    scores, gold = random.standard_normal((50, 1)), random.standard_normal(50)
    assert score_figures(scores, gold)["pearson"] == pytest.approx(stats.pearsonr(scores[:, 0], gold)[0])
    assert score_figures(np.ones((5, 1)), gold[:5]) == {"pearson": 0.0, "spearman": 0.0}
    assert class_figures(np.array([[1.0, 0.0]] * 3), np.array([0, 0, 1]))["matthews"] == 0.0


def test_words_and_padding() -> None:
    words = Words([("b a b",), ("c b a",)], size=6)
    assert words.index == {"b": 4, "a": 5} and words.size == 6
    assert words.encode(("B x", "a")) == ([2, 4, 1, 3, 5, 3], [0, 0, 0, 0, 1, 1])
    ids, mask = pad([([7, 8, 9], [0, 0, 0]), ([7], [0])], 5, ("input_ids", "attention_mask"))
    assert ids.tolist() == [[7, 8, 9], [7, 5, 5]] and mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_batches_of_like_lengths_show_every_row_once() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 1000)
    batches = by_length(lengths, 10, seed=0, epoch=0)
    assert sorted(batches.ravel()) == list(range(1000))
    spread = np.ptp(lengths[batches], axis=1).mean()
    assert spread < 5 < np.ptp(lengths[np.arange(1000).reshape(100, 10)], axis=1).mean()
    assert not np.array_equal(batches, by_length(lengths, 10, seed=0, epoch=1))
    assert by_length(lengths[:4], 10, seed=0, epoch=0).shape == (1, 10)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path, train_tsv=SST2, dev_tsv=SST2)
    with pytest.raises(ModelError, match=r"has no config.json"):
        open_task("sst-2", data=tmp_path, model=tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="has no tokenizer that can be read"):
        open_task("sst-2", data=tmp_path, model=tmp_path)


# WikiText-2


def text_of(seed: int) -> str:
    words = np.random.default_rng(seed).choice(["the", "cat", "sat", "mat", "<unk>"], 4000)
    return "\n".join(" ".join(words[i : i + 10]) for i in range(0, 4000, 10))


def test_wikitext_batches_and_figures(tmp_path: Path) -> None:
    task = open_task("wikitext-2-small", data=write(tmp_path, train_txt=text_of(0), valid_txt=text_of(1)))
    batch = task.batch(2, 0)
    (ids,) = batch.inputs
    assert ids.shape == batch.target.shape == (20, 64) and torch.equal(ids[:, 1:], batch.target[:, :-1])
    assert not torch.equal(task.batch(3, 0).inputs[0], ids)
    model = task.model()
    torch.nn.init.zeros_(model.decoder.weight)  # every word equally likely: the perplexity is their number
    figures = task.evaluate(model)
    assert figures["perplexity"] == pytest.approx(6, rel=1e-4) and 0.0 <= figures["accuracy"] <= 1.0
    assert model.training


def test_language_model_does_not_look_ahead(tmp_path: Path) -> None:
    task = open_task("wikitext-2-small", data=write(tmp_path, train_txt=text_of(0), valid_txt=text_of(1)))
    model = task.model().eval()
    ids = task.example()[0].clone()
    before = model(ids)
    ids[:, 9] = (ids[:, 9] + 1) % 6
    after = model(ids)
    assert torch.allclose(before[:, :9], after[:, :9], atol=1e-5) and not torch.allclose(before, after)


def test_sinusoids_follow_their_formula() -> None:
    table = sinusoids(20, 8)
    assert table[7, 4].item() == pytest.approx(math.sin(7 / 10_000 ** (4 / 8)), abs=1e-6)
    assert table[7, 5].item() == pytest.approx(math.cos(7 / 10_000 ** (4 / 8)), abs=1e-6)


def test_empty_and_broken_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.txt is empty"):
        open_task("wikitext-2", data=write(tmp_path, train_txt="", valid_txt="x"))
    (tmp_path / "train.txt").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match="cannot be read"):
        open_task("wikitext-2", data=tmp_path)


# every task


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"digits"}))
def test_missing_data_names_the_file_and_its_source(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        open_task(name, data=tmp_path)
    assert f"{tmp_path / 'train.t'}" in caught.value.message and "https://" in caught.value.hint
    with pytest.raises(DataError, match="no folder was given"):
        open_task(name)


def test_unknown_task_and_needless_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="task 'sst2' is unknown") as caught:
        open_task("sst2")
    assert "sst-2" in caught.value.hint
    with pytest.raises(UsageError, match="takes no --data"):
        open_task("digits", data=tmp_path)
    with pytest.raises(UsageError, match="takes no model"):
        open_task("digits", model=tmp_path)
    with pytest.raises(UsageError, match="takes no model"):
        open_task("wikitext-2", data=tmp_path, model=tmp_path)
