"""Prune the linear layers of an ONNX model by magnitude in one shot: for timing, not for accuracy.

A weight with a side under 64 stays dense. The result is an ordinary ONNX file, with zeros where weights were.

    python benchmarks/prune_onnx.py minilm.onnx -o minilm-hp90.onnx --structure hp --sparsity 0.9 --share 4
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from espalier.passes.frontend import linear_weights, read_model
from espalier.sparsity import BP, HP, NM, Structure, Unstructured

LEAST_SIDE = 64

STRUCTURES: dict[str, Callable[[tuple[int, int], float, int], Structure]] = {
    "hp": lambda shape, sparsity, share: HP.for_sparsity(shape, sparsity, B=32, v=4, n=2, g=share),
    "bp": lambda shape, sparsity, share: BP.for_sparsity(shape, sparsity, B=32),
    "nm": lambda shape, sparsity, share: NM.for_sparsity(shape, sparsity, v=4, g=share),
    "unstructured": lambda shape, sparsity, share: Unstructured(round((1 - sparsity) * shape[0] * shape[1])),
}
"""Name to the structure for a shape [N, K], a sparsity and the rows that share level 2."""


def prune(source: Path, path: Path, structure: str, sparsity: float, share: int = 1) -> float:
    """Write the pruned model to `path`; returns the sparsity of all linear weights together."""
    model = read_model(source)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    zeros = total = 0
    for weight in linear_weights(model):
        matrix, tensor = weight.matrix, tensors[weight.name]
        total += matrix.size
        if min(matrix.shape) < LEAST_SIDE:
            continue
        mask = STRUCTURES[structure](matrix.shape, sparsity, share).mask(matrix)
        zeros += int((~mask).sum())
        stored = numpy_helper.to_array(tensor)
        turned = stored.shape != matrix.shape or not np.array_equal(stored, matrix)
        kept = np.where(mask.T if turned else mask, stored, np.zeros((), stored.dtype))
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(kept), tensor.name))
    onnx.save(model, path)
    return zeros / total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--structure", choices=STRUCTURES, default="hp")
    parser.add_argument("--sparsity", type=float, default=0.9, help="0.5 to 0.95 for hp")
    parser.add_argument("--share", type=int, default=1, metavar="G", help="rows that share level 2 of hp")
    options = parser.parse_args()
    reached = prune(options.model, options.output, options.structure, options.sparsity, options.share)
    print(f"{options.output}: {100 * reached:.2f} % of the linear weights are zeros")


if __name__ == "__main__":
    main()
