from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from espalier.pruning.families import BPPPFamily, Family, PPFamily
from espalier.pruning.methods import Gradual
from espalier.pruning.patterns import common_patterns
from espalier.pruning.pruner import Pruner
from espalier.pruning.schedules import Cubic
from espalier.sparsity import BP, BPPP, PP
from espalier.sparsity.block import cut

pytestmark = pytest.mark.unit


def test_the_best_single_pattern_by_brute_force() -> None:
    """m = 1: the cells with most energy over all blocks of all weights, each weight at its own scale."""
    random = np.random.default_rng(0)
    weights = [random.standard_normal((8, 12)), 100 * random.standard_normal((4, 8))]
    patterns = common_patterns([PP(4, 1, 6)] * 2, weights)
    energy = sum((cut(weight**2, 4, 4) / np.mean(weight**2)).sum(axis=(0, 1)) for weight in weights)
    expected = np.zeros(16, bool)
    expected[np.argsort(-energy.reshape(-1))[:6]] = True
    assert np.array_equal(patterns[0].reshape(-1), expected)


def test_patterns_that_were_there_are_found_again() -> None:
    """Weights made of two patterns: one set of two loses nothing."""
    random = np.random.default_rng(1)
    true = np.zeros((2, 16), bool)
    true[0, :5], true[1, 9:14] = True, True
    weights = []
    for rows, columns in ((16, 24), (8, 12)):
        blocks = true[random.integers(2, size=(rows // 4, columns // 4))].reshape(
            rows // 4, columns // 4, 4, 4
        )
        mask = blocks.transpose(0, 2, 1, 3).reshape(rows, columns)
        weights.append(np.where(mask, random.standard_normal((rows, columns)), 0))
    structure = PP(4, 2, 5)
    patterns = common_patterns([structure] * 2, weights)
    for weight in weights:
        assert not weight[~structure.mask(weight, patterns=patterns)].any()


def test_weights_without_a_whole_block_have_no_say_unless_all_are() -> None:
    random = np.random.default_rng(2)
    large, small = random.standard_normal((8, 8)), random.standard_normal((3, 8))
    structure = PP(4, 2, 5)
    assert np.array_equal(
        common_patterns([structure] * 2, [large, small]), common_patterns([structure], [large])
    )
    assert common_patterns([structure], [small]).sum(axis=(1, 2)).tolist() == [5, 5]


def test_a_structure_without_patterns_is_refused() -> None:
    with pytest.raises(ValueError, match="has no patterns"):
        common_patterns([BP(4, 4)], [np.ones((4, 8))])


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 40))


@pytest.mark.parametrize("family", [BPPPFamily(B=8, p=8, m=2), PPFamily(p=8, m=2)])
@pytest.mark.parametrize("method", [None, Gradual(Cubic(0, 4))])
def test_all_layers_take_their_patterns_from_one_set(family: Family, method: Gradual | None) -> None:
    network = model()
    pruner = Pruner(network, family, 0.75, method=method)
    for _ in range(5):
        pruner.step()
    kept = set()
    for layer in pruner.layers:
        structure, weight = pruner.structure(layer), layer.effective().numpy()
        assert np.count_nonzero(weight) == structure.kept_count(layer.shape)
        compact = weight
        if isinstance(structure, BPPP):
            columns = structure.backbone.keep(weight)
            compact = structure.backbone.compact(weight, columns)
        blocks = cut(compact != 0, 8, 8)[:, : compact.shape[1] // 8]
        kept |= {block.tobytes() for row in blocks for block in row}
    assert 1 <= len(kept) <= 2
    pruner.finish()


def test_each_layer_has_its_own_set_where_that_is_asked() -> None:
    network = model()
    pruner = Pruner(network, PPFamily(p=8, m=2, shared=False), 0.75)
    for layer in pruner.layers:
        weight, structure = layer.matrix().numpy(), pruner.structure(layer)
        assert np.array_equal(layer.effective().numpy() != 0, structure.mask(weight))


def test_a_common_set_needs_one_sparsity() -> None:
    with pytest.raises(ValueError, match="needs one sparsity for all layers"):
        Pruner(model(), PPFamily(p=8), {"0.weight": 0.5, "2.weight": 0.75})


def test_patterns_larger_than_the_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"32x32 is too small for patterns of 100x100 at sparsity 0\.9"):
        Pruner(model(), BPPPFamily(p=100), 0.9)
    reports = Pruner(model(), BPPPFamily(B=8, p=8), 0.75).finish()
    assert [report.sparsity for report in reports] == pytest.approx([0.75, 0.75], abs=0.01)
