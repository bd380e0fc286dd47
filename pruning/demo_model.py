"""Makes the models that ship in `espalier/demo`: `python -m espalier.pruning.demo_model espalier/demo`.

Trains the digits Transformer (seed 0, 120 epochs), prunes it to HP 90 % by the gradual schedule with
distillation (60 epochs), and writes both in ONNX with the 360 test images. Some ten minutes on one core;
the same seed and torch version give the same files. Goes on where it stopped.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import torch

from espalier.pruning.pipeline import PruneOptions, dense_model, export_checked, prune_task
from espalier.pruning.tasks.digits import Digits, images
from espalier.pruning.train import Silent

OPTIONS = PruneOptions(
    structure="hp(B=32,v=4,n=2,g=4)", sparsity=0.90625, method="gradual", criterion="magnitude", steps=1320
)
"""Level 2 shared by 4 rows, which x86 runs as fast as BP; kc = 24 of 128 and 36 of 192 columns."""

log = logging.getLogger(__name__)


class FreshDigits(Digits):
    """The digits task before there is a dense model to ship."""

    def trained(self) -> None:
        return None


class Log(Silent):
    def figures(self, stage: str, figures: dict[str, float]) -> None:
        log.info("%s: %s", stage, figures)


def main(folder: Path) -> None:
    """Write digits-dense.onnx, digits-hp90.onnx, its JSON, and digits-test.npz into `folder`."""
    torch.set_num_threads(1)
    task = FreshDigits()
    kept = folder / "digits-dense.pt"
    dense, _ = dense_model(task, task.recipe.dense_steps, 0, kept, torch.device("cpu"), Log(), lambda: False)
    export_checked(dense, task, folder / "digits-dense.onnx")
    prune_task(task, OPTIONS, folder / "digits-hp90.onnx", dense=kept, watch=Log())
    _, _, pixels, labels = images()
    np.savez_compressed(folder / "digits-test.npz", images=pixels, labels=labels)
    kept.unlink()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(Path(sys.argv[1]))
