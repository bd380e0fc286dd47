"""From a partitioned module to a package for an FPGA: the host's library, programs and packed weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from espalier.codegen import llvm
from espalier.codegen.fpga.calibration import calibrate
from espalier.codegen.fpga.emit import emit
from espalier.codegen.fpga.integer import IntPart, LinearStep, quantise
from espalier.codegen.fpga.program import Builder, Pool, Program
from espalier.codegen.generator import Product, Request
from espalier.errors import ModelError
from espalier.schedules.fpga.graph import Part
from espalier.schedules.fpga.memory import CapacityError
from espalier.schedules.fpga.plan import Planned, choose
from espalier.targets.fpga import accelerator
from espalier.targets.fpga.target import Fpga

if TYPE_CHECKING:
    from espalier.passes.state import State

DUMPS = (*llvm.DUMPS, "isa")
CALIBRATED = True
SHORTEST = 16
"""Programs are made for this many tokens, twice as many and so on, where a model's sequences may differ."""
NOMINAL = 128
"""Tokens for which the choice of a layer is reported."""


@dataclass(frozen=True)
class _Made:
    """A part with its programs, shortest first."""

    ints: IntPart
    programs: tuple[tuple[int, Program, Planned], ...]
    """With the tokens of a sequence, and what was planned."""
    params: bytes


def generate(state: State, target: Fpga, request: Request) -> Product:
    """The code of an FPGA and its host.

    Raises ModelError where the model does not fit the accelerator, DataError where the samples do not fit it.
    """
    built = llvm.build(
        state.mod,
        target.host,
        dump=[kind for kind in request.dump if kind in llvm.DUMPS],
        config=request.config,
    )
    assert state.samples is not None
    found = calibrate(built.library, state.parts, state.samples)
    made = [
        _make(part, quantise(part, ranges, target.geometry.pes), target, request)
        for part, ranges in zip(state.parts, found, strict=True)
    ]
    stream, params = bytearray(), bytearray()
    parts = [_describe(one, target, stream, params) for one in made]
    dumps = dict(built.dumps)
    if "isa" in request.dump:
        dumps["isa"] = "\n".join(_listing(one) for one in made)
    return Product(
        built.library,
        dumps,
        {"program.bin": bytes(stream), "params.bin": bytes(params)},
        {
            "accelerator": accelerator.Accelerator(
                "fpga", target.geometry, target.board.mhz, target.timing, tuple(parts)
            )
        },
        tuple(layer for one in made for layer in _layers(one, target)),
        _bounds(made),
    )


def _make(part: Part, ints: IntPart, target: Fpga, request: Request) -> _Made:
    """Programs of every length that fits, all of them where the user has chosen the longest."""
    pool = Pool(target.geometry)
    programs: list[tuple[int, Program, Planned]] = []
    for tokens in _lengths(part):
        try:
            model = ints.model(target.geometry, tokens)
            planned = choose(model, target.geometry, target.timing)
            program = emit(ints, model, planned.plan, Builder(target.geometry, pool))
            programs.append((tokens, program, planned))
        except CapacityError as error:
            shorter = programs and part.dimension and part.dimension not in request.bounded
            if not shorter:
                raise ModelError(
                    f"{part.name} of {tokens} tokens does not fit {target.name} "
                    f"({target.geometry.label}): {error}",
                    hint="take a larger board, or shorter sequences with --input-shapes or --max-shape",
                ) from None
            break
    return _Made(ints, tuple(programs), bytes(pool))


def _lengths(part: Part) -> list[int]:
    if part.fixed:
        return [part.tokens]
    steps = [SHORTEST]
    while steps[-1] * 2 < part.tokens:
        steps.append(steps[-1] * 2)
    return [*(step for step in steps if step < part.tokens), part.tokens]


def _bounds(made: Sequence[_Made]) -> dict[str, int]:
    """Named dimensions that count tokens, with the longest program's."""
    found: dict[str, int] = {}
    for one in made:
        name, most = one.ints.part.dimension, one.programs[-1][0]
        if name:
            found[name] = min(most, found.get(name, most))
    return found


def _describe(one: _Made, target: Fpga, stream: bytearray, params: bytearray) -> accelerator.Part:
    part, ints = one.ints.part, one.ints
    handed = part.handed
    programs = []
    for tokens, program, planned in one.programs:
        operations = tuple(
            accelerator.Operation(
                item.name,
                layer,
                item.kind,
                round(item.compute, 1),
                item.beats * target.geometry.bus,
                item.macs,
            )
            for layer, item in planned.items
        )
        span = _append(stream, program.stream)
        programs.append(
            accelerator.Program(
                tokens,
                span,
                program.input_bytes,
                program.output_bytes,
                operations,
                round(planned.cycles, 1),
            )
        )
    return accelerator.Part(
        part.name,
        tuple(_tensor(ints, item.name) for item in part.inputs),
        len(handed),
        tuple(handed.index(name) for name in ints.squares),
        tuple(
            accelerator.Keys(
                handed.index(step.mask) if step.mask in handed else -1,
                step.unit,
                int(step.scores.mul),
                int(step.scores.shift),
            )
            for step in ints.masked
        ),
        tuple(_tensor(ints, name) for name in part.outputs),
        _append(params, one.params),
        tuple(programs),
    )


def _append(image: bytearray, data: bytes) -> accelerator.Span:
    start = len(image)
    image += data
    return accelerator.Span(start, len(data))


def _tensor(ints: IntPart, name: str) -> accelerator.Tensor:
    return accelerator.Tensor(tuple(map(float, ints.scales[name])))


def _layers(one: _Made, target: Fpga) -> list[Mapping[str, Any]]:
    """The linear layers of a part, for the program nearest to NOMINAL tokens."""
    tokens = max((t for t, _, _ in one.programs if t <= NOMINAL), default=one.programs[0][0])
    rows = []
    for step in one.ints.steps:
        if isinstance(step, LinearStep):
            cycles = step.candidates(target.geometry, target.timing, tokens)
            times = {name: target.board.milliseconds(cost) for name, cost in cycles.items()}
            rows.append(
                {
                    "name": step.layer,
                    "structure": step.structure,
                    "kernel": step.kernel(target.geometry),
                    "candidates": times,
                    "how": "predicted",
                }
            )
    return rows


def _listing(one: _Made) -> str:
    """The assembly of every program, by operation."""
    lines = []
    for tokens, program, _ in one.programs:
        lines.append(f"# {one.ints.part.name}, {tokens} tokens, {program.geometry.label}")
        starts = {first: name for name, first, _ in program.sections}
        for number, instruction in enumerate(program.instructions):
            if number in starts:
                lines.append(f"# {starts[number]}")
            lines.append(f"{number:6} {instruction.text()}")
    return "\n".join(lines) + "\n"
