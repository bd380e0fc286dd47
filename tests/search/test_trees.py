"""What XGBoost learned means the same without it."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from espalier.errors import UnavailableError
from espalier.schedules import LinearWork, linear_candidates
from espalier.search import learn as learning
from espalier.search.estimate import ByRecords
from espalier.search.learn import LEAST, Example, examples, learn
from espalier.search.records import Place, Record
from espalier.search.shipped import shipped_records, shipped_trees
from espalier.search.trees import Trees
from espalier.sparsity import HP, Dense
from espalier.targets.x86.classes import core_classes

pytestmark = pytest.mark.unit

CPU = core_classes()["znver1"].cpu
SECRET = {"f32-row": 1.5, "f32-dense": 0.8, "f32-raggedrow": 2.0, "f32-group": 1.0}
"""How much longer than predicted a kind of kernel takes on the made-up machine of these tests."""


def made_up(count: int, core: str = "znver1") -> list[Record]:
    """Records of a machine on which every kind of kernel is off by its own factor."""
    work = LinearWork(384, 384, HP(32, 76, 4, 2, 4))
    kernels = [variant for base in linear_candidates(work, CPU) for variant in base.variants()]
    chosen = [kernels[i] for i in np.random.default_rng(0).choice(len(kernels), count, replace=False)]
    place = Place(core, CPU.clock_ghz, 1)
    return [
        Record(place, work, 128, kernel.name, 1, kernel.milliseconds(128, 1) * factor(kernel.name))
        for kernel in chosen
    ]


def factor(name: str) -> float:
    return next(value for kind, value in SECRET.items() if name.startswith(kind))


def test_the_evaluator_equals_xgboost() -> None:
    xgboost = pytest.importorskip("xgboost")
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 7)).astype(np.float32)
    rows[:, 3] = np.round(rows[:, 3])
    targets = np.sin(rows[:, 0] * 2) + (rows[:, 3] > 0) * rows[:, 1]
    booster = xgboost.train({**learning.SETTINGS, "seed": 0}, xgboost.DMatrix(rows, targets), 40)
    trees = Trees(("a",) * 7, ("znver1",), 32, tuple(learning._trees(booster)))
    others = rng.standard_normal((300, 7)).astype(np.float32)
    for data in (rows, others):
        np.testing.assert_allclose(trees.predict(data), booster.predict(xgboost.DMatrix(data)), atol=1e-5)
    again = Trees.from_json(trees.to_json())
    assert (again.features, again.cores, again.least_tokens) == (("a",) * 7, ("znver1",), 32)
    np.testing.assert_allclose(again.predict(others), trees.predict(others), atol=1e-4)


def test_it_learns_how_far_kinds_of_kernels_are_off() -> None:
    pytest.importorskip("xgboost")
    trees = learn(examples(made_up(200), CPU))
    assert trees is not None
    known = ByRecords(CPU, trees=trees)
    # another shape, another number of tokens
    kernels = linear_candidates(LinearWork(1536, 384, HP(32, 76, 4, 2, 4)), CPU)
    own = np.array([kernel.milliseconds(512, 1) for kernel in kernels])
    wanted = own * [factor(kernel.name) for kernel in kernels]
    np.testing.assert_allclose(known.predict(kernels, 512, 1), wanted, rtol=0.1)
    # what holds for many tokens need not hold for few
    assert list(known.predict(kernels, 127, 1)) == [kernel.milliseconds(127, 1) for kernel in kernels]


def test_the_same_records_teach_the_same() -> None:
    pytest.importorskip("xgboost")
    first, second = (learn(examples(made_up(60), CPU), seed=3) for _ in range(2))
    assert first is not None and second is not None
    assert first.to_json() == second.to_json()


def test_few_records_teach_nothing() -> None:
    assert learn(examples(made_up(LEAST - 1), CPU)) is None


def test_records_of_other_cores_kernels_and_versions_are_no_examples() -> None:
    known = made_up(10)
    assert len(examples(known, CPU)) == 10
    assert examples(made_up(10, "skylake-avx512"), CPU) == []
    for change in ({"version": 99}, {"kernel": "f32-magic-r1"}):
        assert examples([dataclasses.replace(record, **change) for record in known], CPU) == []


def test_without_xgboost_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(UnavailableError, match="XGBoost") as caught:
        learn(examples(made_up(LEAST), CPU))
    assert "tvm-espalier[tune]" in caught.value.hint


def test_an_example_predicts_with_the_clock_of_its_machine() -> None:
    (record,) = made_up(1)
    fast = dataclasses.replace(record, place=Place("znver1", 2 * CPU.clock_ghz, 1))
    slow, quick = (examples([one], CPU)[0] for one in (record, fast))
    assert isinstance(slow, Example)
    assert quick.predicted == pytest.approx(slow.predicted / 2)


def test_what_is_shipped_is_sound_and_of_use() -> None:
    records = shipped_records("znver1")
    trees = shipped_trees("znver1")
    assert trees is not None and trees.cores == ("znver1",)
    known = examples(records, CPU)
    assert len(known) > 0.9 * len(records) > 100
    learned = ByRecords(CPU, trees=trees)
    plain, better = [], []
    for one in known:
        record = one.record
        there = ByRecords(one.cpu, trees=trees)
        ms = there.alone([one.kernel], record.tokens, record.place.threads)[0]
        plain.append(np.log(record.milliseconds / one.predicted))
        better.append(np.log(record.milliseconds / ms))
    assert np.std(better) < 0.5 * np.std(plain)
    assert shipped_trees("nehalem") is None and shipped_records("nehalem") == []
    kernels = linear_candidates(LinearWork(384, 384, Dense()), CPU)
    assert (learned.predict(kernels, 128, 1) > 0).all()


def test_what_is_shipped_is_what_the_records_teach_now() -> None:
    """Where this fails a kernel's own prediction has changed: run benchmarks/shipped_records.py --learn."""
    pytest.importorskip("xgboost")
    known = examples(shipped_records("znver1"), CPU)
    shipped, learned = shipped_trees("znver1"), learn(known)
    assert shipped is not None and learned is not None
    off = []
    for one in known[::3]:
        arguments = ([one.kernel], one.record.tokens, one.record.place.threads)
        there, now = (ByRecords(one.cpu, trees=trees).alone(*arguments)[0] for trees in (shipped, learned))
        off.append(np.log(there / now))
    assert np.sqrt(np.mean(np.square(off))) < 0.02
