"""TVM as shipped: the same import, then TVM's own default pipeline, untuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from espalier.bench.peers import Arrays, Declined, Run
from espalier.errors import ModelError
from espalier.passes.frontend import import_model, read_model
from espalier.runtime.threads import set_threads
from espalier.targets.host import host


def load(model: Path, inputs: Arrays, threads: int) -> Run:
    """Compiled for this CPU with the shapes of `inputs`; raises Declined where the import fails."""
    try:
        imported = import_model(read_model(model), {name: array.shape for name, array in inputs.items()}, {})
    except ModelError as error:
        raise Declined(error.message) from error
    values: Any = {name: weight.array for name, weight in imported.weights.items()}
    cpu: Any = tvm.cpu()
    bound = relax.transform.BindParams("main", values)(imported.mod)
    executable = tvm.compile(bound, target=tvm.target.Target({"kind": "llvm", "mcpu": host().mcpu}))
    set_threads(threads)
    machine = relax.VirtualMachine(executable, cpu)
    main = machine["main"]

    def run() -> dict[str, np.ndarray]:
        got = main(*(tvm.runtime.tensor(inputs[value.name]) for value in imported.inputs))
        tensors = [got] if isinstance(got, tvm.runtime.Tensor) else list(got)
        return {value.name: tensor.numpy() for value, tensor in zip(imported.outputs, tensors, strict=True)}

    return run
