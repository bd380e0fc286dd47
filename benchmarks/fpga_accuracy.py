"""What int8 on an FPGA costs in accuracy: a task's figures on its simulator and with ONNX Runtime.

Calibrated on training examples, measured on all held-out ones.

    python benchmarks/fpga_accuracy.py digits espalier/demo/digits-hp90.onnx
    python benchmarks/fpga_accuracy.py sst-2 sst2.onnx --data SST-2 --model MINILM_FOLDER
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

import espalier as es
from espalier.pruning.tasks import open_task
from espalier.pruning.tasks.task import Task

BATCH = 8
"""As large as packages take by default."""
Run = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class Outside(torch.nn.Module):
    """A model that runs elsewhere, as a task evaluates it."""

    def __init__(self, run: Run, names: tuple[str, ...]) -> None:
        super().__init__()
        self.run, self.names = run, names
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The first output."""
        outputs = []
        for start in range(0, len(inputs[0]), BATCH):
            arrays = (x.numpy()[start : start + BATCH] for x in inputs)
            outputs.append(self.run(dict(zip(self.names, arrays, strict=True))))
        return torch.from_numpy(np.concatenate(outputs))


def samples(task: Task, count: int) -> dict[str, np.ndarray]:
    """Inputs of training examples, the shorter ones padded with zeros."""
    found, step = [], 0
    while sum(len(row[0]) for row in found) < count:
        found.append([x.numpy() for x in task.batch(step, 0).inputs])
        step += 1
    columns = []
    for arrays in zip(*found, strict=True):
        shape = np.max([a.shape[1:] for a in arrays], axis=0)
        padded = [
            np.pad(a, [(0, 0), *((0, n - m) for n, m in zip(shape, a.shape[1:], strict=True))])
            for a in arrays
        ]
        columns.append(np.concatenate(padded)[:count])
    return dict(zip(task.signature.inputs, columns, strict=True))


def main() -> None:
    """Print one line a way to run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task")
    parser.add_argument("onnx", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder with the tokenizer")
    parser.add_argument("--target", default="zcu104")
    parser.add_argument("--samples", type=int, default=256, help="to calibrate on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = open_task(args.task, data=args.data, model=args.model)

    import onnxruntime

    session = onnxruntime.InferenceSession(args.onnx, providers=["CPUExecutionProvider"])
    package = es.compile(args.onnx, target=args.target, calibrate=samples(task, args.samples))
    ways: dict[str, Run] = {
        "ONNX Runtime, float32": lambda inputs: session.run(None, dict(inputs))[0],
        f"{args.target}, int8, functional simulator": lambda inputs: next(iter(package.run(inputs).values())),
    }
    for name, run in ways.items():
        start = time.perf_counter()
        figures = task.evaluate(Outside(run, task.signature.inputs))
        shown = " ".join(f"{key} {value:.4f}" for key, value in figures.items())
        print(f"{name:<44}{shown}  ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
