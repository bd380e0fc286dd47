"""A result that is only reshaped leaves without a copy."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.compile


def test_a_reshaped_result_is_a_view_and_runs_stay_apart() -> None:
    import tvm
    from tvm import relax

    from espalier.codegen.outputs import named_outputs

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([2, 6], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            doubled = builder.emit(relax.op.add(x, x))
            out = builder.emit_output(relax.op.reshape(doubled, [3, 4]))
        builder.emit_func_output(out)
    legal = relax.transform.LegalizeOps()(builder.get())

    def calls(mod: tvm.IRModule) -> list[str]:
        values = [b.value for block in mod["main"].body.blocks for b in block.bindings]
        return [value.op.name for value in values if isinstance(value, relax.Call)]

    rewrite = relax.transform.RewriteDataflowReshape()
    assert calls(rewrite(legal)) == ["relax.call_tir", "relax.call_tir"]
    assert calls(rewrite(named_outputs(legal))) == ["relax.call_tir", "relax.reshape"]

    machine = relax.VirtualMachine(
        tvm.compile(named_outputs(legal), target=tvm.target.Target({"kind": "llvm"})), tvm.cpu()
    )
    one, two = (np.full((2, 6), value, np.float32) for value in (1, 2))
    first = machine["main"](tvm.runtime.tensor(one))
    second = machine["main"](tvm.runtime.tensor(two))
    np.testing.assert_array_equal(first.numpy(), np.full((3, 4), 2, np.float32))
    np.testing.assert_array_equal(second.numpy(), np.full((3, 4), 4, np.float32))
