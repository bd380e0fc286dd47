"""Lets a result that is only reshaped go out without a copy.

`RewriteDataflowReshape` turns a kernel that only reshapes into a view, but not where its result leaves the
dataflow block. So that result gets a name inside the block first.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax


def named(mod: Any, _context: Any) -> Any:
    """`mod` with every kernel's result bound inside the dataflow block before it leaves it."""
    for name, function in mod.functions.items():
        if isinstance(function, relax.Function):
            body = function.body
            blocks = [_named(block) for block in body.blocks]
            mod[name] = relax.Function(
                function.params,
                relax.SeqExpr(blocks, body.body),
                function.ret_ty,
                function.is_pure,
                function.attrs,
            )
    return mod


def _named(block: Any) -> Any:
    if not isinstance(block, relax.DataflowBlock):
        return block
    bindings = []
    for binding in block.bindings:
        leaves = not isinstance(binding.var, relax.DataflowVar)
        if leaves and isinstance(binding, relax.VarBinding) and isinstance(binding.value, relax.Call):
            inside = relax.DataflowVar(binding.var.name, binding.var.ty)
            bindings += [relax.VarBinding(inside, binding.value), relax.VarBinding(binding.var, inside)]
        else:
            bindings.append(binding)
    return relax.DataflowBlock(bindings)


named_outputs = tvm.transform.module_pass(named, opt_level=0, name="NameOutputs")
