"""PyTorch, eager. It reads no ONNX: `torch.export.save` must have put the same model beside, as MODEL.pt2."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from espalier.bench.peers import Arrays, Declined, Run


def load(model: Path, inputs: Arrays, threads: int) -> Run:
    """The exported program beside `model`, its inputs and outputs in the order of the ONNX file's."""
    beside = model.with_suffix(".pt2")
    if not beside.exists():
        raise Declined(f"torch reads no ONNX, and there is no {beside.name} beside the model")
    module = torch.export.load(beside).module()
    names = [output.name for output in onnx.load(model, load_external_data=False).graph.output]
    feed = [torch.from_numpy(array) for array in inputs.values()]
    torch.set_num_threads(threads)

    @torch.inference_mode()
    def run() -> Arrays:
        got = module(*feed)
        values = list(got.values()) if isinstance(got, dict) else [got] if torch.is_tensor(got) else list(got)
        return {name: value.numpy() for name, value in zip(names, values, strict=True)}

    return run
