"""Task `digits`: scikit-learn's 8x8 handwritten digits with a small Vision Transformer. Seconds, no download.

Data: 1,797 images (Alpaydin & Kaynak, UCI, 1998) as scikit-learn carries them, divided by 16. Test: the
first 360 of `numpy.random.RandomState(0).permutation(1797)`; training: the other 1,437.
"""

from __future__ import annotations

import functools
from importlib.resources import as_file, files
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from espalier.errors import UnavailableError
from espalier.pruning.export import load_onnx_weights
from espalier.pruning.tasks.task import Batch, Recipe, Signature, Task, batch_rows

TEST_IMAGES = 360


@functools.cache
def images() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images f32 `[1437, 8, 8]` in 0..1, labels int64 `[1437]`, test images and labels `[360]`."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise UnavailableError(
            "task digits: scikit-learn, which carries the images, is not installed",
            hint='pip install "tvm-espalier[train]"',
        ) from None
    digits: Any = load_digits()
    pixels = (digits.images / 16.0).astype(np.float32)
    labels = digits.target.astype(np.int64)
    order = np.random.RandomState(0).permutation(len(pixels))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return pixels[train], labels[train], pixels[test], labels[test]


class EncoderLayer(nn.Module):
    """A pre-norm Transformer encoder layer over 16 tokens."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        width = x.shape[-1]
        size = width // self.heads
        y = self.attention_norm(x)
        query, key, value = (
            project(y).reshape(-1, 16, self.heads, size).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(-1, -2) * size**-0.5, dim=-1)
        mixed = (weights @ value).transpose(1, 2).reshape(-1, 16, width)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class DigitsTransformer(nn.Module):
    """Images f32 `[batch, 8, 8]` to logits `[batch, 10]`: 16 patches of 2x2, encoder layers, their mean."""

    def __init__(self, width: int = 128, hidden: int = 192, heads: int = 4, layers: int = 3) -> None:
        super().__init__()
        self.patch = nn.Linear(4, width)
        self.position = nn.Parameter(torch.randn(16, width) * 0.02)
        self.layers = nn.ModuleList(EncoderLayer(width, hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = images.reshape(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        x = self.patch(patches) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(dim=1))


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turned by up to 0.2 rad, scaled by up to 10 % and shifted by up to a pixel, each image on its own."""

    def uniform(most: float, *shape: int) -> torch.Tensor:
        return (torch.rand(len(images), *shape, generator=generator) * 2 - 1) * most

    angle, scale, shift = uniform(0.2), 1 + uniform(0.1), uniform(0.25, 2)
    rows = (
        torch.stack([angle.cos() * scale, -angle.sin(), shift[:, 0]], dim=-1),
        torch.stack([angle.sin(), angle.cos() * scale, shift[:, 1]], dim=-1),
    )
    grid = F.affine_grid(torch.stack(rows, dim=1), [len(images), 1, 8, 8], align_corners=False)
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]


class Digits(Task):
    """Handwritten digits, 10 classes, accuracy on 360 test images. The dense model ships with the package."""

    name = "digits"
    metric = "accuracy"
    recipe = Recipe(batch=64, dense_steps=2640, dense_rate=2e-3, steps=200, rate=2e-3, weight_decay=0.05)
    leave = ("patch", "head")
    signature = Signature(("images",), ("logits",), {"images": {0: "batch"}})

    def model(self) -> nn.Module:
        return DigitsTransformer()

    def trained(self) -> nn.Module | None:
        source = files("espalier.demo") / "digits-dense.onnx"
        if not source.is_file():
            return None
        model = DigitsTransformer()
        with as_file(source) as path:
            load_onnx_weights(model, path)
        return model

    def batch(self, step: int, seed: int) -> Batch:
        pixels, labels, _, _ = images()
        rows = batch_rows(len(pixels), self.recipe.batch, step, seed)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        return Batch((augment(torch.from_numpy(pixels[rows]), generator),), torch.from_numpy(labels[rows]))

    def example(self) -> tuple[torch.Tensor, ...]:
        return (torch.from_numpy(images()[2][:2]),)

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, target, label_smoothing=0.1)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        _, _, pixels, labels = images()
        device = next(model.parameters()).device
        training = model.training
        found = model.eval()(torch.from_numpy(pixels).to(device)).argmax(dim=1).cpu().numpy()
        model.train(training)
        return {"accuracy": float((found == labels).mean())}
