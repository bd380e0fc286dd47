"""The choice of kernels: the estimator decides, equal layers are asked about once, dense is always there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from onnx_models import encoder

from espalier.passes import choose
from espalier.passes.frontend import import_model, read_model
from espalier.passes.pipeline import PIPELINES
from espalier.passes.state import State
from espalier.schedules import LinearKernel
from espalier.schedules.estimate import PRECISION, ByRule, Estimate, How, ranked
from espalier.sparsity import HP
from espalier.targets.parse import parse_target

pytestmark = pytest.mark.compile

STRUCTURE = HP(B=16, kc=8, v=4, n=2)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> State:
    """A small encoder as far as the choice."""
    model = encoder(
        tmp_path_factory.mktemp("choose") / "m.onnx",
        lambda matrix: np.where(STRUCTURE.mask(matrix), matrix, 0),
    )
    imported = import_model(read_model(model), {"ids": [2, 24]}, None)
    state = State(imported.mod, imported.weights, parse_target("x86-64-v3").host, 1)
    for step in PIPELINES["llvm"]:
        if step.name == "choose":
            break
        state = step.run(state)
    return state


class LongestFirst:
    """Prefers what predicts to take longest, and says it was measured."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[LinearKernel, ...], int, int]] = []

    def estimates(self, bases: Sequence[LinearKernel], m: int, threads: int) -> list[Estimate]:
        self.asked.append((tuple(bases), m, threads))
        return [replace(one, how="measured") for one in reversed(ByRule().estimates(bases, m, threads))]


def test_the_estimator_decides_and_is_asked_once_for_equal_layers(asked: State) -> None:
    estimator = LongestFirst()
    layers = choose.run(replace(asked, estimator=estimator)).layers
    assert len(layers) == 6
    # query, key and value are one work
    assert len(estimator.asked) == len(set(estimator.asked)) == 4
    assert {(m, threads) for _, m, threads in estimator.asked} == {(48, 1)}
    for layer in layers.values():
        assert layer.candidates[layer.kernel.name] == max(layer.candidates.values())
        assert (layer.how, set(layer.measured)) == ("measured", set(layer.candidates))


def test_by_rule_the_least_time_wins_and_dense_is_among_the_candidates(asked: State) -> None:
    for question, layer in zip(choose.questions(asked), choose.run(asked).layers.values(), strict=True):
        assert layer.name == question.name and layer.measured == () and layer.how == "predicted"
        assert layer.candidates == {base.name: base.milliseconds(48, 1) for base in question.bases}
        dense = min(ms for name, ms in layer.candidates.items() if "dense" in name)
        fastest = min(layer.candidates.values())
        assert layer.candidates[layer.kernel.name] == (dense if dense <= PRECISION * fastest else fastest)


def test_equal_times_are_ranked_by_name(asked: State) -> None:
    bases = choose.questions(asked)[0].bases
    level = [Estimate(base, 1.0, "predicted") for base in bases]
    assert ranked(level) == ranked(level[::-1])


@pytest.mark.parametrize(("how", "first"), [("predicted", "dense"), ("measured", "sparse")])
def test_a_prediction_must_beat_dense_by_more_than_it_errs(asked: State, how: How, first: str) -> None:
    bases = choose.questions(asked)[0].bases
    times = {base: 1.0 if "dense" in base.name else 0.97 if base is bases[-1] else 2.0 for base in bases}
    assert "dense" not in bases[-1].name
    found = ranked([Estimate(base, ms, how) for base, ms in times.items()])
    assert ("dense" in found[0].kernel.name) == (first == "dense")


def test_kernels_that_differ_in_what_the_code_does_not_see_share_a_function() -> None:
    from espalier.schedules import LinearWork, linear_candidates
    from espalier.sparsity import Unstructured

    cpu = parse_target("x86-64-v3").host
    for layout in ("tiles", "tokens"):
        works = [LinearWork(384, 384, Unstructured(kept), layout=layout) for kept in (14745, 14700, 30000)]  # type: ignore[arg-type]
        near, same, far = (linear_candidates(work, cpu) for work in works)
        assert [kernel.code for kernel in near] == [kernel.code for kernel in same]
        assert near[-1] != same[-1]
        assert layout == "tokens" or near[-1].code != far[-1].code
        assert len({variant.code for kernel in near for variant in kernel.variants()}) == len(
            {variant.name for kernel in near for variant in kernel.variants()}
        )
