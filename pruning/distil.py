"""Retraining against a dense teacher."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def distillation(student: torch.Tensor, teacher: torch.Tensor, *, temperature: float = 2.0) -> torch.Tensor:
    """T² · KL(softmax(teacher / T) || softmax(student / T)), mean over all but the last axis.

    student, teacher: logits `[..., classes]`. Source: Hinton, Vinyals & Dean 2015 (arXiv 1503.02531).
    """
    log_student = F.log_softmax(student / temperature, dim=-1).flatten(0, -2)
    log_teacher = F.log_softmax(teacher / temperature, dim=-1).flatten(0, -2)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


class Lessons:
    """A teacher's outputs by step. Where `path` is given they are kept there, for runs on the same batches.

    path: a file of f32 `[steps, *output]`, NaN where nothing is known yet; several processes may share it,
    for all would write the same. It must belong to one teacher, one seed and `steps`. Outputs that would take
    more than `most` bytes in all are asked anew each time.
    """

    def __init__(self, path: Path | None = None, steps: int = 0, *, most: int = 1 << 26) -> None:
        self.path, self.steps, self.most = path, steps, most
        self.kept: np.ndarray | None = None

    @torch.no_grad()
    def at(self, step: int, teacher: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """What the teacher says to the batch of a step."""
        if self.kept is None and self.path is not None and self.path.exists():
            self.kept = np.lib.format.open_memmap(self.path, mode="r+")
        if self.kept is not None and not np.isnan(self.kept[step]).any():
            return torch.from_numpy(self.kept[step].copy()).to(inputs[0].device)
        taught = teacher(*inputs)
        if self.path is not None and self.steps * taught.numel() * 4 <= self.most:
            if self.kept is None:
                self.kept = self._create(self.path, tuple(taught.shape))
            self.kept[step] = taught.float().cpu().numpy()
        return taught

    def _create(self, path: Path, shape: tuple[int, ...]) -> np.ndarray:
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        made = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=(self.steps, *shape))
        made[:] = np.nan
        made.flush()
        os.replace(part, path)
        return np.lib.format.open_memmap(path, mode="r+")
