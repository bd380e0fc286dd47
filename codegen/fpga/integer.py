"""A part of a model in int8: its integer reference, and the same on the accelerator.

Every tensor has a scale a feature. Calibration picks them: most are the largest magnitude met over 127; those
of queries and keys are shared out so that their product has one scale; what attention gives has the scales of
its values; what comes out of an activation table has one scale a block of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from espalier.codegen.fpga.program import HIDE
from espalier.codegen.fpga.quantise import (
    IntLinear,
    Linear,
    Norm,
    Tables,
    activation_tables,
    int_add,
    int_linear,
    int_norm,
    multiplier,
)
from espalier.schedules.fpga import graph
from espalier.schedules.fpga.graph import ACTIVATIONS, Part
from espalier.schedules.fpga.memory import CapacityError
from espalier.schedules.fpga.windows import slots_of, sparse_count
from espalier.schedules.fpga.work import AttentionWork, LinearWork, Model, NormWork, Work
from espalier.targets.fpga import isa, latency, semantics
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.semantics import NormParams, Scale
from espalier.targets.fpga.simulator import Timing

_TINY = 1e-12
_LEAST = 1e-5
"""A feature's range is never less than this part of its tensor's largest one."""
_MASKED = -1e3
"""A key with less than this added to its scores is masked out."""
_MOST_STRIDE = (1 << next(f.bits for f in isa.formats()["LINEAR"].fields if f.name == "output_stride")) - 1
"""Words from a token tile of a layer's result to the next, at most."""
_SAMPLED = 32
"""Tokens kept of each sequence to choose the scale before a table."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class LinearStep:
    """A linear layer."""

    name: str
    layer: str
    x: str
    ints: IntLinear
    structure: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names read."""
        return (self.x,)

    def __call__(self, values: Arrays, _masks: Arrays) -> np.ndarray:
        return self.ints(values[self.x])

    @property
    def kept(self) -> int:
        """Weights that are not pruned."""
        return self.ints.weight.size if self.ints.mask is None else int(self.ints.mask.sum())

    def words(self, g: Geometry) -> dict[str, list[int]]:
        """For each way to compute it that fits, the weight words of every block of rows.

        Raises CapacityError where none does.
        """
        weight, mask = self.ints.weight, self.ints.mask
        rows, k = weight.shape
        blocks = range(0, rows, g.pes)
        found = {"int8-dense": [latency.dense_words(k, g)] * len(blocks)}
        if mask is not None and slots_of(k, g) <= 1 << g.slot_bits:
            found["int8-sparse"] = [sparse_count(mask, row, g) for row in blocks]
        fitting = {name: words for name, words in found.items() if max(words) <= g.wgt_depth}
        if not fitting:
            least = min(max(words) for words in found.values())
            raise CapacityError(
                f"layer {self.layer} {list(weight.shape)}: a block of rows takes {least} weight words, and "
                f"the memory holds {g.wgt_depth}"
            )
        return fitting

    def candidates(self, g: Geometry, timing: Timing, tokens: int) -> dict[str, float]:
        """Predicted cycles of each way to compute it. Raises CapacityError where none fits."""
        tables = self.ints.table is not None
        return {
            name: latency.linear(name, tokens, words, name == "int8-sparse", g, timing, tables=tables).compute
            for name, words in self.words(g).items()
        }

    def kernel(self, g: Geometry) -> str:
        """The way with the fewest weight words. Raises CapacityError where none fits."""
        words = self.words(g)
        return min(words, key=lambda name: sum(words[name]))

    def work(self, g: Geometry, *, streamed: bool) -> LinearWork:
        """As the planner sees it. Raises CapacityError where it does not fit."""
        kernel = self.kernel(g)
        return LinearWork(
            self.name,
            self.x,
            len(self.ints.weight),
            tuple(self.words(g)[kernel]),
            kernel == "int8-sparse",
            self.kept,
            self.ints.table is not None,
            self.layer,
            streamed,
        )

    def chosen(self, g: Geometry) -> IntLinear:
        """The layer with the mask left out where it is run dense."""
        dense = self.kernel(g) == "int8-dense"
        return replace(self.ints, mask=None) if dense else self.ints


@dataclass(frozen=True)
class NormStep:
    """A sum, normalised where `stats`."""

    name: str
    x: str
    residual: str
    params: NormParams
    stats: bool

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names read."""
        return (self.x, self.residual)

    def __call__(self, values: Arrays, _masks: Arrays) -> np.ndarray:
        return semantics.norm(values[self.x], values[self.residual], self.params, stats=self.stats)

    @property
    def work(self) -> NormWork:
        """As the planner sees it."""
        return NormWork(self.name, self.x, self.residual, len(self.params.gamma), self.stats)


@dataclass(frozen=True)
class AttentionStep:
    """Attention of all heads.

    With `mask` the host gives the bias of each key; where it is `square`, it gives a tensor of -128 where a
    query must not see a key and 0 elsewhere.
    """

    name: str
    query: str
    key: str
    value: str
    mask: str | None
    heads: int
    scores: Scale
    exponential: np.ndarray
    unit: float
    """Of the float scores, an accumulator's 1."""
    square: bool

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names read."""
        return (self.query, self.key, self.value)

    def __call__(self, values: Arrays, masks: Arrays) -> np.ndarray:
        q, k, v = (values[name] for name in self.inputs)
        size = q.shape[1] // self.heads
        bias = np.zeros(1, np.int64)
        if self.mask is not None and not self.square:
            bias = semantics.key_bias(masks[self.mask], self.unit)
        parts = []
        for head in range(self.heads):
            s = slice(head * size, head * size + size)
            scores = semantics.linear(q[:, s], k[:, s], bias, self.scores)
            if self.mask is not None and self.square:
                scores = semantics.norm(scores, semantics.hidden(masks[self.mask]), HIDE, stats=False)
            e, by_token = semantics.softmax(scores, self.exponential)
            parts.append(semantics.linear(e, v[:, s].T, np.zeros(1, np.int64), by_token))
        return np.concatenate(parts, 1)

    def work(self, features: int) -> AttentionWork:
        """As the planner sees it."""
        hidden = self.mask if self.mask is not None and self.square else ""
        return AttentionWork(self.name, self.query, self.key, self.value, features, self.heads, hidden)


Step = LinearStep | NormStep | AttentionStep


@dataclass(frozen=True)
class IntPart:
    """A part in int8. Calling it is the integer reference."""

    part: Part
    scales: Mapping[str, np.ndarray]
    """Of every tensor, float64 `[features]`."""
    steps: tuple[Step, ...]

    @property
    def masked(self) -> tuple[AttentionStep, ...]:
        """Attentions whose keys get their parameters from the host, in the order of region 1."""
        found = (s for s in self.steps if isinstance(s, AttentionStep))
        return tuple(s for s in found if s.mask is not None and not s.square)

    @property
    def squares(self) -> tuple[str, ...]:
        """Masks over queries and keys, in the order of region 1."""
        found = (s for s in self.steps if isinstance(s, AttentionStep))
        return tuple(dict.fromkeys(s.mask for s in found if s.mask is not None and s.square))

    def __call__(self, inputs: Arrays, masks: Arrays) -> Arrays:
        """One sequence: int8 `[T, K]` a tensor, float `[T]` a mask, to the outputs in int8."""
        values = dict(inputs)
        for step in self.steps:
            values[step.name] = step(values, masks)
        return {name: values[name] for name in self.part.outputs}

    def model(self, g: Geometry, tokens: int) -> Model:
        """What the planner is given. Raises CapacityError where a layer does not fit the geometry."""
        inputs = [(item.name, item.features) for item in self.part.inputs]
        streamed = self._streamed(g, tokens)
        steps: list[Work] = []
        for step in self.steps:
            if isinstance(step, LinearStep):
                steps.append(step.work(g, streamed=step is streamed))
            elif isinstance(step, NormStep):
                steps.append(step.work)
            else:
                steps.append(step.work(len(self.scales[step.name])))
        squares = [(name, tokens) for name in self.squares]
        return Model(tokens, (*inputs, *squares), tuple(steps), self.part.outputs)

    def _streamed(self, g: Geometry, tokens: int) -> LinearStep | None:
        """The last layer, where its result would fill the chip: it is stored while it is computed."""
        step = self.steps[-1]
        if not isinstance(step, LinearStep) or step.ints.activation != "NONE":
            return None
        stride = slots_of(len(step.ints.weight), g)
        is_large = 2 * stride * -(-tokens // g.tokens) > g.act_depth or stride > _MOST_STRIDE
        return step if self.part.outputs == (step.name,) and is_large else None


class Ranges:
    """What calibration has met so far of one part."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.sequences = 0
        self._tokens = 0
        self._most: dict[str, np.ndarray] = {}
        self._sum: dict[str, np.ndarray] = {}
        self._single: dict[str, float] = {}
        self._before: dict[str, list[np.ndarray]] = {}

    def add(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Take in one sequence, its inputs and masks by name; gives every tensor of it, float32."""
        trace = self.part.trace(values)
        self.sequences += 1
        counts = np.ones(len(trace[self.part.inputs[0].name]), bool)
        for mask in self.part.masks:
            if trace[mask].ndim == 1:
                counts &= trace[mask] > _MASKED
        self._tokens += int(counts.sum())
        for item in (*self.part.inputs, *self.part.nodes):
            most = np.abs(trace[item.name][counts]).max(0, initial=0)
            self._most[item.name] = np.maximum(self._most.get(item.name, 0), most)
            total = trace[item.name][counts].sum(0, dtype=np.float64)
            self._sum[item.name] = self._sum.get(item.name, 0) + total
        for node in self.part.nodes:
            if isinstance(node, graph.Linear) and node.activation not in ("none", "relu"):
                before = node.before(trace)[counts]
                self._before.setdefault(node.name, []).append(before[:: max(1, len(before) // _SAMPLED)])
            elif isinstance(node, graph.Norm):
                self._keep(node.name, node.before(trace)[counts])
            elif isinstance(node, graph.Add):
                self._keep(node.name, trace[node.name][counts])
            elif isinstance(node, graph.Attention):
                self._keep(node.name, node.scores(trace)[:, counts].max(-1))
        return trace

    def _keep(self, name: str, values: np.ndarray) -> None:
        self._single[name] = max(self._single.get(name, 0.0), float(np.abs(values).max(initial=0)))

    def most(self, name: str) -> np.ndarray:
        """Largest magnitude of every feature, never 0."""
        found = self._most[name]
        return _rounded(np.maximum(found, max(_LEAST * float(found.max(initial=0)), _TINY)))

    def mean(self, name: str) -> np.ndarray:
        """Mean of every feature, rounded like the rest: to a 64th of the largest magnitude."""
        unit = self.most(name) / 64
        return np.round(self._sum[name] / max(self._tokens, 1) / unit) * unit

    def single(self, name: str) -> float:
        """Largest magnitude: of what a norm or sum adds up to, of the top score of any query."""
        return float(_rounded(np.asarray(max(self._single[name], _TINY))))

    def before(self, name: str) -> np.ndarray:
        """Samples `[M, N]` of what an activation is applied to."""
        return np.concatenate(self._before[name])


def _rounded(most: np.ndarray) -> np.ndarray:
    """Up to eight bits: the last bits of a product differ from machine to machine, packages must not."""
    mantissa, exponent = np.frexp(most.astype(np.float64))
    return np.ldexp(np.ceil(mantissa * 256 - 1 / 16), exponent - 8)


def quantise(part: Part, ranges: Ranges, group: int) -> IntPart:
    """int8 from float; `group` features share an activation table: rows that the array computes at once.

    Raises ValueError where nothing was calibrated on.
    """
    if not ranges.sequences:
        raise ValueError("no sequence to calibrate on")
    scales = {item.name: ranges.most(item.name) / 127 for item in (*part.inputs, *part.nodes)}
    tables: dict[str, Tables] = {}
    products: dict[str, float] = {}
    for node in part.nodes:
        if isinstance(node, graph.Linear) and node.activation not in ("none", "relu"):
            found = activation_tables(ranges.before(node.name), ACTIVATIONS[node.activation], group)
            tables[node.name], scales[node.name] = found, found.after
    for node in part.nodes:
        if isinstance(node, graph.Attention):
            q, k = ranges.most(node.query), ranges.most(node.key)
            products[node.name] = product = float((q * k).max()) / 127**2
            scales[node.query], scales[node.key] = np.sqrt(product * q / k), np.sqrt(product * k / q)
            scales[node.name] = scales[node.value]
    steps = [_step(node, ranges, scales, tables, products) for node in part.nodes]
    return IntPart(part, scales, tuple(steps))


def _step(
    node: graph.Node,
    ranges: Ranges,
    scales: Mapping[str, np.ndarray],
    tables: Mapping[str, Tables],
    products: Mapping[str, float],
) -> Step:
    out = scales[node.name]
    match node:
        case graph.Linear():
            layer = Linear(node.weight.astype(np.float64), node.bias.astype(np.float64), node.mask)
            mean = ranges.mean(node.x)
            if node.name in tables:
                found = tables[node.name]
                ints = int_linear(layer, scales[node.x], found.before, "TABLE", found.table, mean=mean)
            else:
                kind = "RELU" if node.activation == "relu" else "NONE"
                ints = int_linear(layer, scales[node.x], out, kind, mean=mean)
            return LinearStep(node.name, node.layer, node.x, ints, node.structure)
        case graph.Add():
            params = int_add(scales[node.left], scales[node.right], out, ranges.single(node.name))
            return NormStep(node.name, node.left, node.right, params, stats=False)
        case graph.Norm():
            norm = Norm(node.gamma.astype(np.float64), node.beta.astype(np.float64), node.epsilon)
            other = np.zeros(node.features) if node.residual is None else scales[node.residual]
            params = int_norm(norm, scales[node.x], other, out, ranges.single(node.name))
            return NormStep(node.name, node.x, node.residual or node.x, params, stats=True)
        case graph.Attention():
            unit = products[node.name] * node.scale
            score = max(ranges.single(node.name), 1e-3) / 127
            exponential = np.round(127 * np.exp(-np.arange(256) * score)).astype(np.int8)
            return AttentionStep(
                node.name,
                node.query,
                node.key,
                node.value,
                node.mask,
                node.heads,
                multiplier(unit / score),
                exponential,
                unit,
                node.square,
            )
