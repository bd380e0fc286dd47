"""Detect: find the structure of every weight that enters a linear layer, from its zeros alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from espalier.passes import ops
from espalier.passes.graph import bindings, operator
from espalier.passes.state import State
from espalier.sparsity import Unstructured, detect


def run(state: State) -> State:
    """Fill `packed`. The module stays as it is."""
    packed = {}
    for _, value in bindings(state.mod):
        if operator(value) != "espalier.linear":
            continue
        name = ops.linear_args(value)[1].name
        if name not in packed:
            # Relax multiplies by [K, N]; a structure describes [N, K]
            matrix = np.ascontiguousarray(state.weights[name].array.T)
            found = detect(matrix)
            # no kernel adds a remainder to a structure: such a matrix runs as an unstructured one
            structure = Unstructured(int(np.count_nonzero(matrix))) if found.remainder else found.structure
            packed[name] = (found, structure.pack(matrix))
    return replace(state, packed=packed)
