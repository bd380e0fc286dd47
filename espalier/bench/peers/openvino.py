"""OpenVINO's CPU plug-in: as it comes (bf16 where the CPU has it), and told to compute in f32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino

from espalier.bench.peers import Arrays, Run


def load(model: Path, inputs: Arrays, threads: int) -> Run:
    """As it comes: the plug-in picks the precision."""
    return _load(model, inputs, threads, {})


def load_f32(model: Path, inputs: Arrays, threads: int) -> Run:
    """With the hint that inference is to be done in f32."""
    return _load(model, inputs, threads, {"INFERENCE_PRECISION_HINT": "f32"})


def _load(model: Path, inputs: Arrays, threads: int, extra: dict[str, str]) -> Run:
    request = compiled(model, inputs, threads, extra).create_infer_request()
    # a port may have several names, so outputs are told by their order, which is the file's
    names = [output.name for output in onnx.load(str(model), load_external_data=False).graph.output]
    feed = {name: np.ascontiguousarray(array) for name, array in inputs.items()}

    def run() -> Arrays:
        results = request.infer(feed, share_inputs=True)
        return {name: results[index] for index, name in enumerate(names)}

    return run


def compiled(model: Path, inputs: Arrays, threads: int, extra: dict[str, str]) -> openvino.CompiledModel:
    """One stream of `threads` threads, shapes fixed to those of `inputs`."""
    config = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY", **extra}
    core = openvino.Core()
    read = core.read_model(model)
    read.reshape({name: openvino.PartialShape(list(array.shape)) for name, array in inputs.items()})
    return core.compile_model(read, "CPU", config)
