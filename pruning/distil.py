"""Retraining against a dense teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def distillation(student: torch.Tensor, teacher: torch.Tensor, *, temperature: float = 2.0) -> torch.Tensor:
    """T² · KL(softmax(teacher / T) || softmax(student / T)), mean over all but the last axis.

    student, teacher: logits `[..., classes]`. Source: Hinton, Vinyals & Dean 2015 (arXiv 1503.02531).
    """
    log_student = F.log_softmax(student / temperature, dim=-1).flatten(0, -2)
    log_teacher = F.log_softmax(teacher / temperature, dim=-1).flatten(0, -2)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence
