"""Pruning and retraining on torch (extra `[train]`): `Pruner` in a training loop of your own, or whole tasks.

    from espalier.pruning import Cubic, Gradual, HPFamily, Pruner

    pruner = Pruner(model, HPFamily(B=32, v=4, n=2), 0.9, method=Gradual(Cubic(0, 1000, every=50)))
    for batch in loader:
        (loss_of(model, batch) + pruner.penalty()).backward()
        optimizer.step(); pruner.step(); optimizer.zero_grad()
    pruner.finish()

Names are imported on first use, so that importing this package needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {
    "Admm": "methods",
    "BPFamily": "families",
    "BPPPFamily": "families",
    "BlockFamily": "families",
    "Cubic": "schedules",
    "Gradual": "methods",
    "GroupLasso": "methods",
    "HPFamily": "families",
    "Magnitude": "criteria",
    "Movement": "criteria",
    "NMFamily": "families",
    "PPFamily": "families",
    "PruneOptions": "pipeline",
    "Pruner": "pruner",
    "Reconstruction": "criteria",
    "UnstructuredFamily": "families",
    "Wanda": "criteria",
    "allocate": "allocation",
    "distillation": "distil",
    "export_onnx": "export",
    "one_shot": "methods",
    "open_task": "tasks",
    "parse_family": "families",
    "prunable_layers": "layers",
    "prune_task": "pipeline",
    "sensitivity": "allocation",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
