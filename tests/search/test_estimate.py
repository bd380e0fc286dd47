"""What a kernel's time is taken to be: measured where there is a record, learned, or its own prediction."""

from __future__ import annotations

import numpy as np
import pytest

from espalier.schedules import LinearKernel, LinearWork, linear_candidates
from espalier.schedules.estimate import ByRule
from espalier.search.estimate import ByRecords
from espalier.search.features import kind, known, names
from espalier.search.records import kernel_key
from espalier.search.trees import Trees, tree
from espalier.sparsity import HP
from espalier.targets.x86.classes import core_classes

pytestmark = pytest.mark.unit

CPU = core_classes()["znver1"].cpu
WORK = LinearWork(384, 384, HP(32, 76, 4, 2, 4))
BASES = linear_candidates(WORK, CPU)
DENSE, GROUP, ROW, *_ = BASES


def constant(value: float, kernels: list[LinearKernel]) -> Trees:
    """Trees that know the kinds of `kernels`, and that all of them take e^value times what they predict."""
    return Trees(names(kernels), ("znver1",), 1, (tree([0], [value], [-1], [-1]),))


def key(kernel: LinearKernel, tokens: int = 128, threads: int = 1) -> tuple[object, ...]:
    return kernel_key(kernel, "znver1", tokens, threads)


def test_by_rule_ranks_the_kernels_as_they_are() -> None:
    found = ByRule().estimates(BASES, 128, 1)
    assert {one.kernel for one in found} == set(BASES)
    assert [one.milliseconds for one in found] == sorted(kernel.milliseconds(128, 1) for kernel in BASES)
    assert {one.how for one in found} == {"predicted"}


def test_without_records_it_is_the_rule() -> None:
    assert ByRecords(CPU).estimates(BASES, 128, 1) == ByRule().estimates(BASES, 128, 1)


def test_a_record_decides_whatever_is_predicted() -> None:
    variant = ROW.variants()[7]
    times = {key(variant): 1e-6, key(GROUP): 2.0, key(DENSE): 1.0}
    found = ByRecords(CPU, times, constant(-9.0, BASES)).estimates(BASES, 128, 1)
    assert (found[0].kernel, found[0].milliseconds, found[0].how) == (variant, 1e-6, "measured")
    # of kernels without a record only dense ones are left
    assert {one.kernel for one in found if one.how == "measured"} == {variant, GROUP, DENSE}
    assert all("dense" in one.kernel.name for one in found if one.how == "predicted")


@pytest.mark.parametrize(("tokens", "threads"), [(127, 1), (128, 2)])
def test_a_record_of_other_tokens_or_threads_measures_nothing(tokens: int, threads: int) -> None:
    found = ByRecords(CPU, {key(GROUP): 1e-9}).estimates(BASES, tokens, threads)
    assert {one.how for one in found} == {"predicted"}


def test_dense_stays_where_records_know_sparse_kernels_only() -> None:
    found = ByRecords(CPU, {key(GROUP): 1e9}).estimates(BASES, 128, 1)
    assert "dense" in found[0].kernel.name


def test_what_was_learned_corrects_predictions_of_kinds_it_knows() -> None:
    trees = constant(np.log(2), [GROUP])
    own = np.array([kernel.milliseconds(128, 1) for kernel in (GROUP, ROW)])
    known = ByRecords(CPU, {}, trees)
    np.testing.assert_allclose(known.predict([GROUP], 128, 1), 2 * own[:1])
    # of others it knows no better than that they are off alike
    np.testing.assert_allclose(known.predict([GROUP, ROW], 128, 1), 2 * own)
    np.testing.assert_allclose(known.predict([ROW], 128, 1), own[1:])


def test_another_setting_is_taken_only_where_it_was_measured() -> None:
    other = next(kernel for kernel in GROUP.variants() if kernel != GROUP)
    (predicted,) = ByRecords(CPU, {}, constant(np.log(0.1), [GROUP])).estimates([GROUP], 128, 1)
    assert (predicted.kernel, predicted.how) == (GROUP, "predicted")
    (measured,) = ByRecords(CPU, {key(GROUP): 2.0, key(other): 1.0}).estimates([GROUP], 128, 1)
    assert (measured.kernel, measured.how, measured.milliseconds) == (other, "measured", 1.0)


def test_kinds_are_names_without_knobs() -> None:
    assert {kind(kernel) for kernel in BASES} == {"f32-dense", "f32-group", "f32-row", "f32-raggedrow"}
    assert known(GROUP, names(BASES)) and not known(GROUP, names([ROW]))


def test_nothing_takes_less_than_reading_its_constants_from_memory() -> None:
    predicted = ByRecords(CPU, trees=constant(-9.0, BASES)).predict(BASES, 1, 1)
    read = [kernel.constant_bytes / (CPU.memory_gbps * 1e6) for kernel in BASES]
    np.testing.assert_allclose(predicted, read)
    assert read[BASES.index(DENSE)] > 2 * read[BASES.index(ROW)]
