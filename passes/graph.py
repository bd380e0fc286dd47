"""Reading and rewriting the one dataflow block of a module's `main`.

The importer gives `main` as one dataflow block in A-normal form: a list of (variable, value) pairs. A pattern
is found by walking from a use to its definition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence

import numpy as np
import tvm
from tvm import relax


class Scope:
    """The definitions seen so far, and how often each variable is read in the whole function."""

    def __init__(self) -> None:
        self._values: dict[relax.Var, relax.Expr] = {}
        self._uses: Counter[relax.Var] = Counter()

    def define(self, var: relax.Var, value: relax.Expr, uses: int) -> None:
        self._values[var] = value
        self.read(var, uses)

    def read(self, var: relax.Var, uses: int) -> None:
        self._uses[var] += uses

    def value(self, expr: relax.Expr) -> relax.Expr:
        """What defines an expression: the bound value of a variable, through plain aliases; else itself."""
        while isinstance(expr, relax.Var) and expr in self._values:
            expr = self._values[expr]
        return expr

    def call(self, expr: relax.Expr, *names: str) -> relax.Call | None:
        """The call that defines an expression, when its operator is one of `names` (without `relax.`)."""
        value = self.value(expr)
        return value if operator(value) in names else None

    def uses(self, var: relax.Expr) -> int:
        """How often a variable is read; the function's result counts as a read."""
        return self._uses[var]

    def emitter(self, builder: relax.BlockBuilder) -> Callable[[relax.Expr], relax.Expr]:
        def emit(expr: relax.Expr) -> relax.Expr:
            var = builder.emit(expr)
            self.define(var, expr, 1)
            return var

        return emit


Emit = Callable[[relax.Expr], relax.Expr]
Visit = Callable[[relax.Expr, Scope, Emit], relax.Expr | None]


def bindings(mod: tvm.IRModule) -> list[tuple[relax.Var, relax.Expr]]:
    """The (variable, value) pairs of `main`, in order."""
    return [(b.var, b.value) for block in mod["main"].body.blocks for b in block.bindings]


def rewrite(
    mod: tvm.IRModule,
    visit: Visit,
    *,
    builder: relax.BlockBuilder | None = None,
    more: Sequence[relax.Var] = (),
) -> tvm.IRModule:
    """Emit `main` again, with what `visit` returns in place of each binding's value (None: as it is).

    `visit(value, scope, emit)` gets the value over the *new* variables, their definitions, and a way to emit
    further bindings. Bindings that nothing reads any more are dropped. `builder` holds the functions to which
    new calls may refer; what the module has besides `main` is kept. `more` are further parameters.
    """
    old: relax.Function = mod["main"]
    pairs = bindings(mod)
    reads: Counter[relax.Var] = Counter(variables(old.body.body))
    for _, value in pairs:
        reads.update(variables(value))
    if builder is None:
        builder = relax.BlockBuilder()
    scope = Scope()
    emit = scope.emitter(builder)
    new: dict[relax.Var, relax.Expr] = {}
    for param in old.params:
        scope.read(param, reads[param])
    attrs = {key: value for key, value in (old.attrs or {}).items() if key != "global_symbol"}
    with builder.function("main", [*old.params, *more], attrs=attrs):
        with builder.dataflow():
            for var, value in pairs:
                value = builder.normalize(substitute(value, new))
                replaced = visit(value, scope, emit)
                value = value if replaced is None else replaced
                if isinstance(value, relax.Var):
                    new[var] = value
                    scope.read(value, reads[var] - 1)
                else:
                    new[var] = builder.emit(value, var.name)
                    scope.define(new[var], value, reads[var])
            result = builder.emit_output(builder.normalize(substitute(old.body.body, new)))
        builder.emit_func_output(result)
    done = builder.get()
    for name, function in mod.functions.items():
        if name.name_hint != "main":
            done[name] = function
    return relax.transform.DeadCodeElimination(["main"])(done)


def substitute(expr: relax.Expr, new: dict[relax.Var, relax.Expr]) -> relax.Expr:
    """An expression in A-normal form over other variables."""
    if isinstance(expr, relax.Var):
        return new.get(expr, expr)
    if isinstance(expr, relax.Call):
        return relax.Call(expr.op, [substitute(arg, new) for arg in expr.args], expr.attrs, expr.ty_args)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([substitute(field, new) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(substitute(expr.tuple_value, new), expr.index)
    return expr


def variables(expr: relax.Expr) -> Iterator[relax.Var]:
    """The variables that an expression in A-normal form reads, with repeats."""
    if isinstance(expr, relax.Var):
        yield expr
    elif isinstance(expr, relax.Call):
        for arg in expr.args:
            yield from variables(arg)
    elif isinstance(expr, relax.Tuple):
        for field in expr.fields:
            yield from variables(field)
    elif isinstance(expr, relax.TupleGetItem):
        yield from variables(expr.tuple_value)


def operator(expr: relax.Expr) -> str | None:
    """The name of the Relax operator that an expression calls, without `relax.`."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
        return expr.op.name.removeprefix("relax.")
    return None


def array(expr: relax.Expr) -> np.ndarray | None:
    """The array that a Relax constant holds."""
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def scalar(expr: relax.Expr) -> float | None:
    """The number that a Relax constant of one element holds."""
    held = array(expr)
    return float(held.reshape(())) if held is not None and held.size == 1 else None


def is_number(expr: relax.Expr, number: float) -> bool:
    """Whether an expression is a constant of one element that equals `number` (to 1e-3, for float16)."""
    held = scalar(expr)
    return held is not None and abs(held - number) <= 1e-3 * abs(number)


def dims(expr: relax.Expr) -> list[tvm.ir.Expr | int]:
    """The dimensions of a tensor, as Python integers where they are known."""
    values = expr.ty.shape.values if isinstance(expr.ty.shape, relax.ShapeExpr) else expr.ty.shape
    return [int(dim) if isinstance(dim, tvm.tirx.IntImm) else dim for dim in values]


def axes_of(permute: relax.Call) -> list[int]:
    """The axes of a `permute_dims`, counted from the front."""
    rank = len(dims(permute.args[0]))
    if permute.attrs.axes is None:
        return list(range(rank))[::-1]
    return [int(axis) % rank for axis in permute.attrs.axes]


def same_dims(left: Sequence, right: Sequence) -> bool:
    """Whether two shapes are provably equal."""
    analyzer = tvm.sym.Analyzer()
    return len(left) == len(right) and all(
        a is b or bool(analyzer.can_prove_equal(a, b)) for a, b in zip(left, right, strict=True)
    )


def is_single(value: relax.Expr) -> bool:
    """Whether a tensor is one number, of any rank."""
    return all(isinstance(dim, int) and dim == 1 for dim in dims(value))


def product(values: Sequence) -> tvm.ir.Expr | int:
    """The simplified product of dimensions."""
    result: tvm.ir.Expr | int = 1
    for value in values:
        result = result * value if isinstance(value, int) and isinstance(result, int) else value * result
    return result if isinstance(result, int) else tvm.sym.Analyzer().simplify(result)


def factors(size: tvm.ir.Expr | int, names: Container[str]) -> tuple[int | str, ...] | None:
    """Constants and dimensions of `names` whose product `size` is; None where it is something else."""
    if isinstance(size, int | tvm.tirx.IntImm):
        return (int(size),)
    if isinstance(size, tvm.tirx.Var):
        return (size.name,) if size.name in names else None
    if not isinstance(size, tvm.tirx.Mul):
        return None
    left, right = factors(size.a, names), factors(size.b, names)
    return None if left is None or right is None else left + right
