"""Bind: what is left of the weights becomes constants of the module."""

from __future__ import annotations

from tvm import relax

from espalier.passes.graph import bindings, variables
from espalier.passes.state import State


def run(state: State) -> State:
    """Give `main` only the inputs as parameters."""
    used = {var.name for _, value in bindings(state.mod) for var in variables(value)}
    used |= {var.name for var in variables(state.mod["main"].body.body)}
    held = {
        name: weight.array if name in used else weight.array[:0] for name, weight in state.weights.items()
    }
    return state.with_mod(relax.transform.BindParams("main", held)(state.mod))
