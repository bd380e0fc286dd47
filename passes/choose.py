"""Choose: for each linear layer the kernel with the least predicted time, dense ones among the candidates.

So a layer is never slower than dense, as far as the prediction holds. The number of tokens is the model's
where it is fixed, and `NOMINAL_TOKENS` where it is symbolic.
"""

from __future__ import annotations

from dataclasses import replace

from tvm import relax

from espalier.passes import ops
from espalier.passes.graph import bindings, dims, operator, product
from espalier.passes.state import Layer, State
from espalier.schedules import Epilogue, LinearKernel, LinearWork, linear_candidates

NOMINAL_TOKENS = 128


def run(state: State) -> State:
    """Fill `layers`. The module stays as it is."""
    layers = {}
    for _, value in bindings(state.mod):
        if operator(value) == "espalier.linear":
            layer = _choose(value, state)
            layers[layer.name] = layer
    return replace(state, layers=layers)


def _choose(call: relax.Call, state: State) -> Layer:
    x, weight, bias, residual = ops.linear_args(call)
    k, n = dims(weight)
    found, packed = state.packed[weight.name]
    tokens = product(dims(x)[:-1])
    tokens = tokens if isinstance(tokens, int) else NOMINAL_TOKENS
    epilogue = Epilogue(bias is not None, call.attrs["activation"], residual is not None)
    times: dict[str, float] = {}
    kernels: dict[str, LinearKernel] = {}
    for layout in ("tiles", "tokens"):
        work = LinearWork(n, k, packed.structure, epilogue, layout)
        for kernel in linear_candidates(work, state.cpu):
            kernels[kernel.name] = kernel
            times[kernel.name] = kernel.milliseconds(tokens, state.threads)
    best = min(times, key=lambda name: (times[name], name))
    return Layer(
        name=call.attrs["layer"],
        weight=weight.name,
        structure=found.label(),
        kernel=kernels[best],
        candidates=dict(sorted(times.items(), key=lambda item: item[1])),
        how="predicted",
        tokens=tokens,
    )
