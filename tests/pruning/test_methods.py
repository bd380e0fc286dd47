from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from espalier.pruning.families import BPFamily, Family, HPFamily, NMFamily, UnstructuredFamily
from espalier.pruning.methods import (
    Admm,
    Gradual,
    GroupLasso,
    group_norms,
    lasso_groups,
    one_shot,
    project,
    shrink_groups,
)
from espalier.pruning.pruner import Pruner
from espalier.pruning.schedules import Cubic
from espalier.sparsity import BP, BPPP, HP, NM, Block, Unstructured

pytestmark = pytest.mark.unit


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8))


def weights(network: nn.Sequential) -> list[np.ndarray]:
    return [network[i].weight.detach().numpy().copy() for i in (0, 2)]  # pyright: ignore


def test_one_shot_is_the_structure_of_the_dense_weights() -> None:
    network = model()
    before = weights(network)
    family = HPFamily(B=4, v=4, n=2)
    Pruner(network, family, 0.75)
    for dense, pruned in zip(before, weights(network), strict=True):
        keep = family.at((dense.shape[0], dense.shape[1]), 0.75).mask(dense)
        assert np.array_equal(pruned, np.where(keep, dense, 0))


def test_one_shot_later_waits_for_its_step() -> None:
    network = model()
    pruner = Pruner(network, UnstructuredFamily(), 0.5, method=one_shot(2))
    for expected in (0.0, 0.5, 0.5):
        pruner.step()
        assert (weights(network)[0] == 0).mean() == expected


def test_gradual_follows_the_schedule() -> None:
    network = model()
    pruner = Pruner(network, UnstructuredFamily(), 0.8, method=Gradual(Cubic(0, 8, every=2)))
    seen = []
    for _ in range(10):
        pruner.step()
        seen.append(float((weights(network)[0] == 0).mean()))
    wanted = [0.8 * (1 - (1 - min(step // 2 * 2, 8) / 8) ** 3) for step in range(1, 11)]
    assert seen == pytest.approx(wanted, abs=1 / 192)


# group lasso


def test_proximal_step_solves_its_problem() -> None:
    """argmin_V ½||V - W||² + Σ t_g ||V_g||: the optimality conditions of each group hold."""
    torch.manual_seed(1)
    weight = torch.randn(10, 7, dtype=torch.float64)
    thresholds = torch.rand(3, 7, dtype=torch.float64) * 3
    shrunk = shrink_groups(weight, 4, thresholds)
    for row, (start, stop) in enumerate(((0, 4), (4, 8), (8, 10))):
        for column in range(7):
            w, v, t = weight[start:stop, column], shrunk[start:stop, column], thresholds[row, column]
            if v.norm() == 0:
                assert w.norm() <= t
            else:
                assert torch.allclose(v - w + t * v / v.norm(), torch.zeros_like(v), atol=1e-12)
    assert 0 < int((group_norms(shrunk, 4) == 0).sum()) < 21


def test_proximal_step_against_the_closed_form() -> None:
    weight = torch.tensor([[3.0, 0.3, 0.0], [4.0, 0.4, 0.0]])
    shrunk = shrink_groups(weight, 2, torch.tensor([[1.0, 1.0, 1.0]]))
    assert torch.allclose(shrunk, torch.tensor([[2.4, 0.0, 0.0], [3.2, 0.0, 0.0]]))


@pytest.mark.parametrize("axis", ["columns", "rows"])
def test_lasso_widens_the_gap_and_ends_in_the_structure(axis: str) -> None:
    network = model()
    family = BPFamily(4, axis)  # pyright: ignore[reportArgumentType]
    pruner = Pruner(network, family, 0.5, method=GroupLasso(steps=20, strength=0.9, every=5))
    turned = (lambda w: w) if axis == "columns" else (lambda w: w.T)
    first = group_norms(turned(torch.from_numpy(weights(network)[0])), 4)
    for _ in range(19):
        pruner.step()
    last = group_norms(turned(torch.from_numpy(weights(network)[0])), 4)
    assert (last < first).all()
    weak, strong = first < first.median(), first > first.median()
    assert (last / first)[weak].mean() < 0.7 * (last / first)[strong].mean()
    pruner.step()
    reports = pruner.finish()
    assert [report.sparsity for report in reports] == [0.5, 0.5]
    for weight in weights(network):
        assert family.at((weight.shape[0], weight.shape[1]), 0.5).fits(weight)


def test_lasso_groups_are_those_of_level_1() -> None:
    assert lasso_groups(HP(32, 8, 4, 2)) == (32, False)
    assert lasso_groups(BP(16, 8, "rows")) == (16, True)
    assert lasso_groups(BPPP(8, 8, 4, 2, 8)) == (8, False)
    with pytest.raises(ValueError, match="group lasso prunes whole columns of blocks"):
        Pruner(model(), UnstructuredFamily(), 0.5, method=GroupLasso(10))


# ADMM


def best_by_brute_force(weight: np.ndarray, masks: list[np.ndarray]) -> float:
    return min(float((np.where(mask, 0, weight) ** 2).sum()) for mask in masks)


def masks_of(shape: tuple[int, int], groups: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Every mask that keeps `count` of the groups."""
    return [
        np.any([groups[i] for i in chosen], axis=0)
        for chosen in itertools.combinations(range(len(groups)), count)
    ]


def test_projection_is_the_nearest_matrix() -> None:
    """Against all masks of the structure, on matrices small enough for it."""
    random = np.random.default_rng(0)
    for _ in range(10):
        weight = random.standard_normal((2, 4)).astype(np.float32)
        single = [np.arange(8).reshape(2, 4) == i for i in range(8)]
        columns = [np.broadcast_to(np.arange(4) == i, (2, 4)) for i in range(4)]
        blocks = [
            np.kron(np.arange(2).reshape(1, 2) == i, np.ones((2, 2), bool)).astype(bool) for i in range(2)
        ]
        one_row = masks_of((1, 4), [np.arange(4)[None] == i for i in range(4)], 2)
        cases = (
            (Unstructured(3), masks_of((2, 4), single, 3)),
            (BP(2, 2), masks_of((2, 4), columns, 2)),
            (Block(2, 2, 1), masks_of((2, 4), blocks, 1)),
            (NM(2, 4), [np.concatenate([a, b]) for a in one_row for b in one_row]),
            (HP(2, 4, 4, 2, g=2), [np.concatenate([a, a]) for a in one_row]),
        )
        for structure, masks in cases:
            projected = project(torch.from_numpy(weight), structure).numpy()
            assert structure.fits(projected)
            assert ((weight - projected) ** 2).sum() == pytest.approx(best_by_brute_force(weight, masks))


def test_admm_updates_by_its_formulas() -> None:
    network = nn.Sequential(nn.Linear(4, 2, bias=False))
    admm = Admm(steps=10, rho=0.5, every=1)
    pruner = Pruner(network, NMFamily(), 0.5, method=admm)
    weight = network[0].parametrizations.weight.original  # pyright: ignore
    z = project(weight.detach(), NM(2, 4))
    assert pruner.penalty().item() == pytest.approx(0.25 * ((weight - z) ** 2).sum().item())
    with torch.no_grad():
        weight.add_(0.1)
    pruner.step()
    new_z = project(weight.detach(), NM(2, 4))
    dual = weight.detach() - new_z
    assert torch.allclose(admm.duals["0.weight"], dual)
    pruner.penalty().backward()
    assert torch.allclose(weight.grad, 0.5 * (weight - new_z + dual).detach())


@pytest.mark.parametrize(
    ("family", "sparsity"), [(NMFamily(), 0.5), (HPFamily(B=2, v=4, n=2), 0.75), (UnstructuredFamily(), 0.75)]
)
def test_admm_brings_weights_to_the_structure(family: Family, sparsity: float) -> None:
    """On a quadratic loss the distance to the structure falls to nearly nothing before the masks are hard."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 4, bias=False))
    goal = torch.randn(4, 8)
    pruner = Pruner(network, family, sparsity, method=Admm(steps=400, rho=2.0, every=4))
    weight = network[0].parametrizations.weight.original  # pyright: ignore
    optimizer = torch.optim.SGD([weight], lr=0.15)
    for _ in range(399):
        optimizer.zero_grad()
        (0.5 * ((network[0].weight - goal) ** 2).sum() + pruner.penalty()).backward()
        optimizer.step()
        pruner.step()
    structure = family.at((4, 8), sparsity)
    gap = (weight.detach() - project(weight.detach(), structure)).norm() / weight.detach().norm()
    assert gap < 0.02
    optimizer.step()
    pruner.step()
    assert pruner.penalty().item() == 0.0
    assert structure.fits(network[0].weight.detach().numpy())
