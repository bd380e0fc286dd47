"""Relax's elementary functions and softmax without libm: how they legalise on x86."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import Expr

    Legalize = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def legalizations() -> dict[str, Legalize]:
    """Operator to legalisation, for `relax.transform.LegalizeOps`. Types other than float32 go TVM's way."""
    from espalier.schedules.x86 import vmath

    functions = {
        "exp": vmath.exp,
        "erf": vmath.erf,
        "tanh": vmath.tanh,
        "sigmoid": vmath.sigmoid,
        "nn.gelu": vmath.gelu,
        "nn.gelu_tanh": vmath.gelu_tanh,
        "nn.silu": vmath.silu,
    }
    rules = {f"relax.{name}": _elementwise(f"relax.{name}", function) for name, function in functions.items()}
    return {**rules, "relax.nn.softmax": _float32("relax.nn.softmax", _softmax)}


def _float32(name: str, rule: Legalize) -> Legalize:
    from tvm.ir import Op

    other = Op.get(name).get_attr("FLegalize")
    return lambda builder, call: (rule if call.args[0].ty.dtype == "float32" else other)(builder, call)


def _elementwise(name: str, function: Callable[[Expr], Expr]) -> Legalize:
    def rule(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        from tvm import te

        def compute(x: Any) -> Any:
            return te.compute(x.shape, lambda *i: function(x(*i)), name="value")

        return builder.call_te(compute, call.args[0], primfunc_name_hint=name.rpartition(".")[2])

    return _float32(name, rule)


def _softmax(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    from tvm import te, tirx

    from espalier.schedules.x86 import vmath

    def compute(x: Any) -> Any:
        axis = int(call.attrs.axis) % len(x.shape)
        rest = [*x.shape[:axis], *x.shape[axis + 1 :]]

        def along(value: Callable[[list], Any], reducer: Any, name: str) -> Any:
            k = te.reduce_axis((0, x.shape[axis]), name="k")
            return te.compute(rest, lambda *i: reducer(value([*i[:axis], k, *i[axis:]]), axis=k), name=name)

        def at(row: Any, i: tuple) -> Any:
            return row(*i[:axis], *i[axis + 1 :])

        highest = along(lambda i: x(*i), te.max, "highest")
        # a row of -inf alone gives NaN, as in numpy: its powers and their sum are 0
        powers = te.compute(x.shape, lambda *i: vmath.exp_nonpositive(x(*i) - at(highest, i)), name="powers")
        total = along(lambda i: powers(*i), te.sum, "total")
        return te.compute(
            x.shape, lambda *i: powers(*i) * (tirx.FloatImm("float32", 1.0) / at(total, i)), name="value"
        )

    return builder.call_te(compute, call.args[0], primfunc_name_hint="softmax")
