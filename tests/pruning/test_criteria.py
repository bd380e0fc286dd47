from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from espalier.pruning.criteria import CRITERIA, Movement, Reconstruction, Wanda, least_squares
from espalier.pruning.families import HPFamily, NMFamily, UnstructuredFamily
from espalier.pruning.layers import prunable_layers
from espalier.pruning.masks import mask_of
from espalier.pruning.methods import one_shot
from espalier.pruning.pruner import Pruner

pytestmark = pytest.mark.unit


def test_wanda_scores_by_weight_times_norm_of_the_input() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3))
    (layer,) = prunable_layers(model)
    wanda = Wanda()
    wanda.start([layer])
    x = torch.randn(2, 7, 5)
    model(x[:1])
    model(x[1:])
    expected = layer.matrix().abs() * x.reshape(-1, 5).norm(dim=0)
    assert torch.allclose(wanda.score(layer), expected)
    wanda.stop()
    model(x)
    assert torch.allclose(wanda.score(layer), expected)


def test_movement_scores_by_weight_times_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3, bias=False)
    pruner = Pruner(model, UnstructuredFamily(), 0.5, method=one_shot(2), criterion=Movement())
    (layer,) = pruner.layers
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    moved = torch.zeros(3, 5)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 5)).square().sum().backward()
        gradient = layer.parameter.grad
        assert gradient is not None
        moved -= layer.parameter.detach() * gradient
        if pruner.steps == 0:
            optimizer.step()
            pruner.step()
    squares = pruner.criterion.score(layer) ** 2
    assert torch.allclose(squares, moved - moved.min(), atol=1e-6)
    pruner.step()
    kept = mask_of(layer)
    assert kept is not None and not kept.dense_gradient
    threshold = moved[kept.mask].min()
    assert (moved[~kept.mask] <= threshold).all()


def test_reconstruction_gives_the_least_squares_answer_of_each_row() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 6, dtype=torch.float64)
    weight = torch.randn(4, 6, dtype=torch.float64)
    keep = torch.tensor(
        [[1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1]], dtype=torch.bool
    )
    solved = least_squares(weight, x.T @ x, keep).numpy()
    for row in range(4):
        columns = keep[row].numpy()
        expected = np.zeros(6)
        if columns.any():
            wanted = (x @ weight[row]).numpy()
            expected[columns] = np.linalg.lstsq(x.numpy()[:, columns], wanted, rcond=None)[0]
        assert np.allclose(solved[row], expected)


def test_reconstruction_score_is_the_loss_of_pruning_one_weight() -> None:
    """w² / [H⁻¹]_jj is exactly twice what the output loses when the other weights make up for w."""
    torch.manual_seed(0)
    model = nn.Linear(6, 1, bias=False)
    (layer,) = prunable_layers(model)
    criterion = Reconstruction(damping=0.0)
    criterion.start([layer])
    x = torch.randn(40, 6)
    model(x)
    score = criterion.score(layer)[0].numpy()
    hessian = criterion.hessian(layer).numpy()
    for column in range(6):
        keep = torch.ones(1, 6, dtype=torch.bool)
        keep[0, column] = False
        solved = least_squares(layer.matrix().double(), criterion.hessian(layer), keep)
        change = (solved - layer.matrix().double()).numpy()
        assert score[column] ** 2 == pytest.approx((change @ hessian @ change.T).item(), rel=1e-4)


@pytest.mark.parametrize("family", [HPFamily(B=4, v=4, n=2), NMFamily()])
def test_reconstruction_beats_magnitude_on_outputs(family: HPFamily | NMFamily) -> None:
    """On inputs that are correlated, as real ones are."""
    torch.manual_seed(0)
    x = torch.randn(256, 4) @ torch.randn(4, 16) + 0.1 * torch.randn(256, 16)
    losses = {}
    for name in ("magnitude", "reconstruction"):
        torch.manual_seed(1)
        model = nn.Linear(16, 8, bias=False)
        with torch.no_grad():
            expected = model(x)
        pruner = Pruner(model, family, 0.5, method=one_shot(1), criterion=CRITERIA[name]())
        with torch.no_grad():
            model(x)
        pruner.step()
        pruner.finish()
        assert family.at((8, 16), 0.5).fits(model.weight.detach().numpy())
        losses[name] = (model(x) - expected).square().mean().item()
    assert losses["reconstruction"] < 0.5 * losses["magnitude"]


@pytest.mark.parametrize("name", ["wanda", "movement", "reconstruction"])
def test_no_score_before_anything_was_seen(name: str) -> None:
    with pytest.raises(ValueError, match=r"nothing has gone through weight yet"):
        Pruner(nn.Linear(8, 8), NMFamily(), 0.5, criterion=CRITERIA[name]())


def test_inputs_of_attention_cannot_be_watched() -> None:
    with pytest.raises(ValueError, match="the inputs of in_proj_weight cannot be watched"):
        Pruner(nn.MultiheadAttention(8, 2), NMFamily(), 0.5, method=one_shot(1), criterion=Wanda())
