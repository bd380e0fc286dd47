"""Permutations that only move axes of length 1 become reshapes, which cost nothing."""

from __future__ import annotations

import tvm
from tvm import relax

from espalier.passes.graph import Emit, Scope, dims, rewrite
from espalier.passes.views import moves_nothing


def run(mod: tvm.IRModule) -> tvm.IRModule:
    """Rewrite `main`."""
    return rewrite(mod, _visit)


def _visit(value: relax.Expr, scope: Scope, _emit: Emit) -> relax.Expr | None:
    permute = scope.call(value, "permute_dims")
    if permute is None or not moves_nothing(permute):
        return None
    return relax.op.reshape(permute.args[0], dims(value))
