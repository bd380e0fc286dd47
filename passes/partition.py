"""Partition: cut out what an accelerator runs and leave a call in its place.

Taken are linear layers, self-attention with a mask that all heads share, layer norms and sums, joined into
parts as large as can be: an op joins a part if nothing it reads needs the part and is not in it. A part that
would do little work for what goes in and out stays on the host, and so do norms and sums at its beginning.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import tvm
from tvm import relax

from espalier.errors import ModelError
from espalier.passes import ops
from espalier.passes.graph import array, bindings, dims, operator, same_dims, substitute, variables
from espalier.passes.state import State
from espalier.schedules.fpga import graph
from espalier.schedules.fpga.graph import ACTIVATIONS, PADDING, Input, Part

LOG = logging.getLogger(__name__)

LEAST_TOKENS = 8
"""A part of shorter sequences stays on the host: the accelerator works on tiles of tokens."""
LEAST_REUSE = 32
"""A part with fewer multiply-adds for each value that goes in or out stays on the host."""


@dataclass
class _Group:
    """Ops that may become a part."""

    lead: list
    """Dimensions before the features, the last one counts the tokens of a sequence."""
    members: list[int] = field(default_factory=list)
    needs: set[int] = field(default_factory=set)
    """Groups that it reads from."""


def run(state: State) -> State:
    """Fill `parts` and rewrite `main`. Raises ModelError where nothing can be taken."""
    work = _Partition(state)
    work.gather()
    groups = [group for group in work.groups if work.keep(group)]
    if not groups:
        raise ModelError(
            f"no part of the model can run on the accelerator: {work.refusal_told}",
            hint="it takes linear layers over at least 8 tokens and self-attention between them; compile for "
            "a CPU, or fix the shapes with --input-shapes",
        )
    parts = tuple(work.part(group, f"part{index}") for index, group in enumerate(groups))
    return replace(state, mod=work.rebuilt(groups, parts), parts=parts)


class _Partition:
    def __init__(self, state: State) -> None:
        self.state = state
        self.pairs = bindings(state.mod)
        self.index: dict[Any, int] = {var: index for index, (var, _) in enumerate(self.pairs)}
        self.groups: list[_Group] = []
        self.refusal_told = "it has no linear layer"
        self._most = 0
        self._of: dict[int, int] = {}
        """Binding to its group."""
        self._reads: dict[int, set[int]] = {}
        """Binding on the host to the groups that it reads from, through others on the host."""
        self._uses: Counter[Any] = Counter(variables(state.mod["main"].body.body))
        for _, value in self.pairs:
            self._uses.update(variables(value))

    # Which ops

    def gather(self) -> None:
        """Give every op that can be taken a group."""
        for index, (_, value) in enumerate(self.pairs):
            name = operator(value)
            refusal = _REFUSALS[name](self, value) if name in _REFUSALS else "not an op of it"
            if not refusal:
                self._join(index, value)
                continue
            if name in _REFUSALS:
                LOG.info("stays on the host: %s", refusal)
            if name in _REFUSALS and self.refusal_told == "it has no linear layer":
                self.refusal_told = refusal
            self._reads[index] = set().union(*(self._groups_read(i) for i in self._inputs(value)))

    def _inputs(self, value: Any) -> list[int]:
        return [self.index[var] for var in variables(value) if var in self.index]

    def _groups_read(self, index: int) -> set[int]:
        return {self._of[index]} if index in self._of else self._reads[index]

    def _closure(self, groups: set[int]) -> set[int]:
        found: set[int] = set()
        waiting = list(groups)
        while waiting:
            group = waiting.pop()
            if group not in found:
                found.add(group)
                waiting.extend(self.groups[group].needs)
        return found

    def _join(self, index: int, value: Any) -> None:
        lead = _dims(value)[:-1]
        inputs = self._inputs(value)
        for number in range(len(self.groups) - 1, -1, -1):
            group = self.groups[number]
            outside = [i for i in inputs if self._of.get(i) != number]
            read = set().union(*(self._groups_read(i) for i in outside))
            if same_dims(group.lead, lead) and number not in self._closure(read):
                break
        else:
            number, group = len(self.groups), _Group(lead)
            read = set().union(*(self._groups_read(i) for i in inputs))
            self.groups.append(group)
        group.members.append(index)
        group.needs |= read
        self._of[index] = number

    def member(self, expr: Any, group: _Group | None = None) -> Any:
        """The op of a group that defines an expression."""
        index = self.index.get(expr) if isinstance(expr, relax.Var) else None
        if index is None or index not in self._of:
            return None
        if group is not None and index not in group.members:
            return None
        return self.pairs[index][1]

    def constant(self, expr: Any) -> np.ndarray | None:
        """The array of a constant or of a weight."""
        if isinstance(expr, relax.Var) and expr.name in self.state.weights:
            return self.state.weights[expr.name].array
        return array(expr)

    def uses(self, expr: Any) -> int:
        """How often a variable is read."""
        return self._uses[expr]

    def group_of(self, expr: Any) -> int | None:
        """The number of the group that defines an expression."""
        return self._of.get(self.index.get(expr, -1)) if isinstance(expr, relax.Var) else None

    # Which groups

    def tokens(self, group: _Group) -> int:
        """Of a sequence, at most."""
        length = group.lead[-1]
        if isinstance(length, int):
            return length
        analyzer = tvm.sym.Analyzer()
        for var in tvm.tirx.analysis.undefined_vars(length):
            analyzer.bind(var, tvm.tirx.IntImm(var.ty.dtype, self.state.bounds[var.name]))
        most: Any = analyzer.simplify(length)
        return int(most)

    def keep(self, group: _Group) -> bool:
        """Whether a group is worth a call; cuts norms and sums off its beginning."""
        trimmed = True
        while trimmed:
            trimmed = False
            for index in group.members:
                value = self.pairs[index][1]
                if operator(value) in ("espalier.layer_norm", "add") and self._stands_alone(index, group):
                    group.members.remove(index)
                    trimmed = True
                    break
        products = sum(
            int(np.prod(_dims(value.args[1])))
            for value in (self.pairs[index][1] for index in group.members)
            if operator(value) == "espalier.linear"
        )
        tokens = self.tokens(group)
        reuse = products / max(1, sum(_dims(var)[-1] for var in (*self.inputs(group), *self.outputs(group))))
        if products > self._most:  # the largest group's reason is told
            self._most = products
            if tokens < LEAST_TOKENS:
                self.refusal_told = f"its sequences have {tokens} tokens, expected at least {LEAST_TOKENS}"
            elif reuse < LEAST_REUSE:
                self.refusal_told = f"its linear layers have {reuse:.0f} multiply-adds a value in or out"
        return bool(group.members) and tokens >= LEAST_TOKENS and reuse >= LEAST_REUSE

    def _stands_alone(self, index: int, group: _Group) -> bool:
        """Whether an op reads nothing of its group, and nobody else of the group reads what it reads."""
        read = {var for var in variables(self.pairs[index][1]) if self.constant(var) is None}
        others = {var for i in group.members if i != index for var in variables(self.pairs[i][1])}
        inside = {self.pairs[i][0] for i in group.members}
        return not read & (others | inside)

    def inputs(self, group: _Group) -> list[Any]:
        """Tensors that a group reads and does not make, masks left out."""
        masks = self.masks(group)
        inside = {self.pairs[index][0] for index in group.members}
        read = (var for index in group.members for var in variables(self.pairs[index][1]))
        outside = (var for var in read if var not in inside and self.constant(var) is None)
        return list(dict.fromkeys(var for var in outside if not any(var.same_as(mask) for mask in masks)))

    def masks(self, group: _Group) -> list[Any]:
        """Masks that a group reads, constant ones too."""
        found: list[Any] = []
        for index in group.members:
            mask = _mask(self.pairs[index][1])
            if mask is not None and not any(mask.same_as(other) for other in found):
                found.append(mask)
        return found

    def outputs(self, group: _Group) -> list[Any]:
        """Tensors of a group that others read."""
        members = set(group.members)
        read = Counter(
            var for i, (_, value) in enumerate(self.pairs) if i in members for var in variables(value)
        )
        made = [self.pairs[index][0] for index in group.members]
        return [var for var in made if self._uses[var] > read[var]]

    # What they become

    def part(self, group: _Group, name: str) -> Part:
        """The nodes of a group."""
        return _Extraction(self, group).part(name)

    def rebuilt(self, groups: Sequence[_Group], parts: Sequence[Part]) -> tvm.IRModule:
        """`main` with a call in the place of each group."""
        where = {index: number for number, group in enumerate(groups) for index in group.members}
        order: TopologicalSorter[tuple[str, int]] = TopologicalSorter()
        for index, (_, value) in enumerate(self.pairs):
            unit = ("part", where[index]) if index in where else ("op", index)
            needs = (("part", where[i]) if i in where else ("op", i) for i in self._inputs(value))
            order.add(unit, *(need for need in needs if need != unit))
        old: Any = self.state.mod["main"]
        builder = relax.BlockBuilder()
        new: dict[Any, Any] = {}
        attrs = {key: value for key, value in (old.attrs or {}).items() if key != "global_symbol"}
        with builder.function("main", list(old.params), attrs=attrs):
            with builder.dataflow():
                for kind, number in order.static_order():
                    if kind == "op":
                        var, value = self.pairs[number]
                        new[var] = builder.emit(substitute(value, new), var.name)
                    else:
                        self._emit_call(groups[number], parts[number], new, builder)
                result = builder.emit_output(builder.normalize(substitute(old.body.body, new)))
            builder.emit_func_output(result)
        done = builder.get()
        for name, function in self.state.mod.functions.items():
            if name.name_hint != "main":
                done[name] = function
        return relax.transform.DeadCodeElimination(["main"])(done)

    def _emit_call(self, group: _Group, part: Part, new: dict[Any, Any], builder: relax.BlockBuilder) -> None:
        args = [substitute(arg, new) for arg in (*self.inputs(group), *self.masks(group))]
        outputs = self.outputs(group)
        types = [relax.TensorType(_dims(var), "float32") for var in outputs]
        call = relax.call_dps_packed(part.symbol, relax.Tuple(args), types if len(types) > 1 else types[0])
        result = builder.emit(call, part.name)
        for index, var in enumerate(outputs):
            new[var] = result if len(outputs) == 1 else builder.emit(relax.TupleGetItem(result, index))


class _Extraction:
    """One group as a part."""

    def __init__(self, partition: _Partition, group: _Group) -> None:
        self.partition, self.group = partition, group
        self.names: dict[Any, str] = {}
        self.sums: dict[Any, tuple[str, str]] = {}
        """A sum to its terms: a norm of it adds them itself."""
        self.nodes: list[graph.Node] = []
        self.masks: list[Any] = []
        self.fixed = isinstance(group.lead[-1], int)

    def part(self, name: str) -> Part:
        work, group = self.partition, self.group
        inputs, masks = work.inputs(group), work.masks(group)
        for number, var in enumerate(inputs):
            self.names[var] = f"input{number}"
        self.masks = masks
        for index in group.members:
            var, value = work.pairs[index]
            self.names[var] = _NODES[operator(value)](self, var, value)
        outputs = tuple(self.names[var] for var in work.outputs(group))
        needed = set(outputs)
        kept: list[graph.Node] = []
        for node in reversed(self.nodes):
            if node.name in needed:
                kept.append(node)
                needed.update(node.inputs)
        padded = any(isinstance(node, graph.Attention) and node.mask == PADDING for node in kept)
        return Part(
            name,
            tuple(Input(self.names[var], _dims(var)[-1]) for var in inputs),
            (*(f"mask{number}" for number in range(len(masks))), *([PADDING] if padded else [])),
            tuple(reversed(kept)),
            outputs,
            work.tokens(group),
            self.fixed,
            group.lead[-1].name if isinstance(group.lead[-1], tvm.tirx.Var) else "",
        )

    def _named(self, kind: str) -> str:
        return f"{kind}{sum(node.name.startswith(kind) for node in self.nodes)}"

    def linear(self, _var: Any, call: Any) -> str:
        x, weight, bias, _ = ops.linear_args(call)
        state = self.partition.state
        matrix = np.ascontiguousarray(state.weights[weight.name].array.T)
        found, _ = state.packed[weight.name]
        given = None if bias is None else self.partition.constant(bias)
        mask = matrix != 0
        name = state.weights[weight.name].name + call.attrs["layer"].removeprefix(weight.name)
        self.nodes.append(
            graph.Linear(
                name,
                state.weights[weight.name].name,
                self.names[x],
                matrix,
                np.zeros(len(matrix), np.float32) if given is None else given,
                None if mask.all() else mask,
                found.label(),
                call.attrs["activation"],
            )
        )
        return name

    def linear_and_residual(self, var: Any, call: Any) -> str:
        product = self.linear(var, call)
        residual = ops.linear_args(call)[3]
        return product if residual is None else self._sum(var, product, self.names[residual])

    def add(self, var: Any, call: Any) -> str:
        left, right = call.args
        return self._sum(var, self.names[left], self.names[right])

    def _sum(self, var: Any, left: str, right: str) -> str:
        name = self._named("sum")
        self.sums[var] = (left, right)
        self.nodes.append(graph.Add(name, left, right, _dims(var)[-1]))
        return name

    def norm(self, _var: Any, call: Any) -> str:
        x, gain, bias = call.args
        name = self._named("norm")
        left, right = self.sums.get(x, (self.names[x], None))
        gamma, beta = self.partition.constant(gain), self.partition.constant(bias)
        assert gamma is not None and beta is not None
        self.nodes.append(graph.Norm(name, left, right, gamma, beta, float(call.attrs["epsilon"])))
        return name

    def attention(self, _var: Any, call: Any) -> str:
        query, key, value = call.args[:3]
        name = self._named("attention")
        given = _mask(call)
        mask = PADDING if not self.fixed else None
        square = given is not None and not _is_one(_dims(given)[2])
        if given is not None:
            mask = f"mask{next(n for n, other in enumerate(self.masks) if other.same_as(given))}"
        heads, scale = int(call.attrs["heads"]), float(call.attrs["scale"])
        q, k, v = (self.names[part] for part in (query, key, value))
        self.nodes.append(graph.Attention(name, q, k, v, mask, heads, scale, _dims(value)[-1], square))
        return name


def _mask(value: Any) -> Any:
    """The mask of an attention that has one."""
    is_masked = operator(value) == "espalier.attention" and value.attrs["mask"]
    return value.args[3] if is_masked else None


def _dims(expr: Any) -> list[Any]:
    """As `dims`; TVM's types do not tell which are known."""
    return dims(expr)


def _is_one(dim: object) -> bool:
    return isinstance(dim, int) and dim == 1


def _refuse_shape(value: Any) -> str:
    if not isinstance(value.ty, relax.TensorType) or value.ty.dtype != "float32":
        return "an op that is not float32"
    if len(_dims(value)) not in (2, 3) or not isinstance(_dims(value)[-1], int):
        return f"a tensor of rank {len(_dims(value))}, expected [batch, sequence, features]"
    return ""


def _refuse_linear(work: _Partition, call: Any) -> str:
    x, weight, bias, _ = ops.linear_args(call)
    where = f"layer {call.attrs['layer']}"
    if bias is not None and work.constant(bias) is None:
        return f"{where}: its bias is not constant"
    if call.attrs["activation"] not in ACTIVATIONS:
        return f"{where}: activation {call.attrs['activation']}"
    if weight.name not in work.state.packed or work.constant(x) is not None:
        return f"{where}: its weight or input is not as expected"
    return _refuse_shape(call)


def _refuse_norm(work: _Partition, call: Any) -> str:
    if any(work.constant(arg) is None for arg in call.args[1:]):
        return "a layer norm whose gain or bias is not constant"
    return _refuse_shape(call)


def _refuse_add(work: _Partition, call: Any) -> str:
    left, right = call.args
    if work.constant(left) is not None or work.constant(right) is not None or left.same_as(right):
        return "a sum with a constant, or of a tensor with itself"
    return _refuse_shape(call) or ("" if same_dims(_dims(left), _dims(right)) else "a sum that broadcasts")


def _refuse_attention(work: _Partition, call: Any) -> str:
    parts = list(call.args[:3])
    makers = [work.member(part) for part in parts]
    groups = {work.group_of(part) for part in parts}
    if any(maker is None or operator(maker) != "espalier.linear" for maker in makers):
        return "attention whose queries, keys or values are not made by linear layers"
    for part, maker in zip(parts[:2], makers[:2], strict=True):
        plain = maker.attrs["activation"] == "none" and not maker.attrs["residual"]
        if not plain or work.uses(part) != 1:
            return "attention whose queries or keys are read elsewhere as well"
    if len(groups) != 1 or _dims(parts[0])[-1] != _dims(parts[2])[-1] or not call.attrs["scale"] > 0:
        return "attention whose queries and values differ in size"
    if call.attrs["mask"]:
        mask = _dims(call.args[3])
        lead = _dims(parts[0])
        over_queries = same_dims(mask[2:3], lead[1:2])
        if (
            not _is_one(mask[1])
            or not (_is_one(mask[2]) or over_queries)
            or not same_dims(mask[3:], lead[1:2])
        ):
            return "attention with a mask that differs from head to head"
    return _refuse_shape(call)


_REFUSALS: Mapping[str | None, Callable[[_Partition, Any], str]] = {
    "espalier.linear": _refuse_linear,
    "espalier.layer_norm": _refuse_norm,
    "espalier.attention": _refuse_attention,
    "add": _refuse_add,
}
"""Why an op cannot be taken; empty where it can."""

_NODES: Mapping[str | None, Callable[[_Extraction, Any, Any], str]] = {
    "espalier.linear": _Extraction.linear_and_residual,
    "espalier.layer_norm": _Extraction.norm,
    "espalier.attention": _Extraction.attention,
    "add": _Extraction.add,
}
"""Appends the nodes of an op; the name of its result."""
