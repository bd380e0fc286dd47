from __future__ import annotations

import pytest
import torch
from torch import nn

from espalier.pruning.families import HPFamily
from espalier.pruning.layers import prunable_layers
from espalier.pruning.pruner import Pruner

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


def test_prunes_gpt2_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=8)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    found = {layer.name: layer for layer in prunable_layers(model)}
    assert {name: layer.shape for name, layer in found.items()} == {
        "transformer.h.0.attn.c_attn.weight": (48, 16),
        "transformer.h.0.attn.c_proj.weight": (16, 16),
        "transformer.h.0.mlp.c_fc.weight": (64, 16),
        "transformer.h.0.mlp.c_proj.weight": (16, 64),
    }
    Pruner(model, HPFamily(B=8), 0.75).finish()
    for name, layer in found.items():
        stored = model.get_parameter(name).detach().numpy()
        assert HPFamily(B=8).at(layer.shape, 0.75).fits(stored.T) and (stored == 0).mean() == 0.75
    assert torch.isfinite(model(torch.arange(6)[None]).logits).all()
