from __future__ import annotations

import pytest
import torch
from torch import nn

from espalier.pruning.layers import prunable_layers

pytestmark = pytest.mark.unit


class Conv1D(nn.Module):
    """Stores [K, N], as GPT-2's."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.first = nn.Linear(8, 6)
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.again = self.first
        self.gpt = Conv1D(10, 6)
        self.attention = nn.MultiheadAttention(8, 2)
        self.decoder = nn.Linear(8, 11)
        self.norm = nn.LayerNorm(8)


def names(model: nn.Module, **options: object) -> list[str]:
    return [layer.name for layer in prunable_layers(model, **options)]  # pyright: ignore


def test_finds_linear_conv1d_and_attention_weights_once() -> None:
    assert names(Model()) == [
        "first.weight",
        "blocks.0.weight",
        "blocks.1.weight",
        "gpt.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "decoder.weight",
    ]


def test_finds_split_attention_weights() -> None:
    found = names(nn.MultiheadAttention(8, 2, kdim=4, vdim=6))
    assert found == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]


def test_leaves_what_is_named() -> None:
    assert names(Model(), leave=["blocks", "atten*", "decoder.weight"]) == ["first.weight", "gpt.weight"]


def test_tied_decoder_is_left_unless_embeddings_are_pruned() -> None:
    model = Model()
    model.decoder.weight = model.embedding.weight
    assert "decoder.weight" not in names(model)
    found = names(model, embeddings=True)
    assert "embedding.weight" in found and "decoder.weight" not in found


def test_conv1d_is_seen_turned_and_shares_memory() -> None:
    model = Model()
    layer = next(layer for layer in prunable_layers(model) if layer.name == "gpt.weight")
    assert layer.shape == (10, 6)
    layer.matrix()[3, 2] = 42.0
    assert model.gpt.weight[2, 3] == 42.0
