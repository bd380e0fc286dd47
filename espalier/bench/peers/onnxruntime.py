"""ONNX Runtime's CPU provider, all of its graph optimisations on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from espalier.bench.peers import Arrays, Run


def load(model: Path, inputs: Arrays, threads: int) -> Run:
    """A session of `threads` threads."""
    one = session(model, threads)
    names = [output.name for output in one.get_outputs()]
    feed = dict(inputs)
    return lambda: dict(zip(names, map(np.asarray, one.run(names, feed)), strict=True))


def session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    """The model on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
