"""Emits the program of a part as it was planned."""

from __future__ import annotations

from collections.abc import Sequence

from espalier.codegen.fpga.integer import AttentionStep, IntPart, LinearStep, NormStep
from espalier.codegen.fpga.program import Builder, KeyParams, Program, Setting
from espalier.schedules.fpga.memory import CapacityError, Outside, Tensor
from espalier.schedules.fpga.walk import Plan, Walk
from espalier.schedules.fpga.work import AttentionWork, LinearWork, Model, NormWork


def emit(ints: IntPart, model: Model, plan: Plan, builder: Builder) -> Program:
    """The program of `ints.model(...)`.

    Region 1 holds the inputs in order, then `squares`, then the parameters of the keys of each of `masked`;
    region 2 the outputs, then what lies outside the chip for a while. Raises CapacityError where something
    does not fit the geometry.
    """
    walk = Walk(model, plan.outside, builder.geometry)
    builder.reserve(walk.places.input_words, walk.places.words)
    emitter = _Emitter(ints, builder, {s.name: builder.key_params(model.tokens) for s in ints.masked})
    walk.begin(emitter)
    for unit in plan.units:
        walk.unit(unit, emitter)
    walk.end(emitter)
    program = builder.finish()
    for instruction in program.instructions:
        try:
            instruction.encode()
        except ValueError as error:
            raise CapacityError(str(error)) from None
    return program


class _Emitter:
    """A machine of `walk` that appends to a program."""

    def __init__(self, ints: IntPart, builder: Builder, keys: dict[str, KeyParams]) -> None:
        self._builder, self._keys = builder, keys
        self._steps = {step.name: step for step in ints.steps}
        self._settings: dict[str, Setting] = {}

    def load(self, name: str, x: Tensor, place: Outside, *, ahead: bool) -> None:
        self._builder.load(x, place, f"input {name}")

    def store(self, name: str, x: Tensor, place: Outside) -> None:
        self._builder.store(x, place, f"output {name}")

    def settle(self, x: Tensor) -> None:
        self._builder.settle(x)

    def compute(self, step: LinearWork | NormWork, inputs: Sequence[Tensor], out: Tensor) -> None:
        found = self._steps[step.name]
        if isinstance(found, NormStep):
            x, residual = inputs
            self._builder.norm(x, residual, found.params, stats=found.stats, name=found.name, out=out)
            return
        ints = self._layer(step)
        try:
            self._builder.linear(
                *(inputs[0], ints.weight, ints.mask, ints.bias, ints.scale, ints.activation, ints.table),
                name=step.name,
                out=out,
            )
        except CapacityError as error:
            raise CapacityError(f"layer {step.layer}: {error}") from None

    def stream(self, step: LinearWork, x: Tensor, parts: Sequence[Tensor], place: Outside) -> None:
        ints = self._layer(step)
        self._builder.linear_stream(x, ints.weight, ints.mask, ints.bias, ints.scale, parts, place, step.name)

    def attend(
        self,
        step: AttentionWork,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        hidden: Tensor | None,
        scores: Tensor,
        out: Tensor,
        heads: int,
    ) -> None:
        found = self._steps[step.name]
        assert isinstance(found, AttentionStep)
        if step.name not in self._settings:
            self._settings[step.name] = self._builder.attention_setting(
                key.tokens,
                found.scores,
                found.exponential,
                step.name,
                self._keys.get(step.name),
                hides=hidden is not None,
            )
        setting = self._settings[step.name]
        self._builder.attend(query, key, value, heads, setting, scores, out, hidden, step.name)

    def _layer(self, step: LinearWork | NormWork):
        found = self._steps[step.name]
        assert isinstance(found, LinearStep)
        return found.chosen(self._builder.geometry)
