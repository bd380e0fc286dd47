"""Choose: for each linear layer the kernel with the least time, dense ones among the candidates.

Times come from the state's estimator: measured, or predicted, and then another kernel must be clearly faster
than the dense one. So a layer is never slower than dense, as far as they hold. The number of tokens is the
model's where it is fixed, `NOMINAL_TOKENS` where it is symbolic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import tvm
from tvm import relax

from espalier.passes import ops
from espalier.passes.graph import bindings, dims, operator, product
from espalier.passes.state import Layer, State
from espalier.schedules import Epilogue, LinearKernel, LinearWork, Quantization, linear_candidates
from espalier.schedules.estimate import Estimate
from espalier.schedules.x86.int8_pack import integers
from espalier.sparsity import Packed

NOMINAL_TOKENS = 128


@dataclass(frozen=True)
class Question:
    """A linear layer that wants a kernel: `bases` are those that can run it, knobs as they come.

    rows: the number of tokens in terms of the model's dimensions. tokens: the number to choose for.
    integers: how its activations become integers, where that is allowed.
    """

    name: str
    weight: str
    bases: tuple[LinearKernel, ...]
    rows: tvm.ir.Expr | int
    tokens: int
    integers: Quantization | None


def run(state: State) -> State:
    """Fill `layers`. The module stays as it is."""
    layers = {question.name: _layer(question, estimates, state) for question, estimates in answers(state)}
    return replace(state, layers=layers)


def answers(state: State) -> Iterator[tuple[Question, list[Estimate]]]:
    """What the estimator says to each question, the best first. The same is asked once."""
    known: dict[tuple[tuple[LinearKernel, ...], int], list[Estimate]] = {}
    for question in questions(state):
        same = (question.bases, question.tokens)
        if same not in known:
            known[same] = state.estimator.estimates(*same, state.threads)
        yield question, known[same]


def questions(state: State) -> list[Question]:
    """The linear layers of `main`, in order."""
    values: list[Any] = [value for _, value in bindings(state.mod)]
    return [_question(value, state) for value in values if operator(value) == "espalier.linear"]


def _int8_work(work: LinearWork, quantization: Quantization, packed: Packed) -> LinearWork:
    """The same layer on integers."""
    largest = 0
    if quantization.given:
        found = integers(packed.unpack())
        assert found is not None
        largest = max(1, int(np.abs(found[0]).max(initial=0)))
    scaling = "static" if quantization.mode == "static" else "token"
    return replace(work, dtype="int8", scaling=scaling, largest=largest)


def _question(call: relax.Call, state: State) -> Question:
    x, weight, bias, residual = ops.linear_args(call)
    k, n = cast("list[int]", dims(weight))
    _, packed = state.packed[weight.name]
    rows = product(dims(x)[:-1])
    epilogue = Epilogue(bias is not None, call.attrs["activation"], residual is not None)
    integers = state.quantized.get(call.attrs["layer"])
    works = [LinearWork(n, k, packed.structure, epilogue, layout) for layout in ("tiles", "tokens")]
    if integers is not None:
        # where the model gives integers a kernel on floats reads what they stand for, in tiles
        works = [*(works[:1] if integers.given else works), _int8_work(works[0], integers, packed)]
    return Question(
        name=call.attrs["layer"],
        weight=weight.name,
        bases=tuple(kernel for work in works for kernel in linear_candidates(work, state.cpu)),
        rows=rows,
        tokens=rows if isinstance(rows, int) else NOMINAL_TOKENS,
        integers=integers,
    )


def _layer(question: Question, estimates: list[Estimate], state: State) -> Layer:
    best = estimates[0]
    given = question.integers is not None and question.integers.given
    is_rounded = given or best.kernel.work.dtype == "int8"
    return Layer(
        name=question.name,
        weight=question.weight,
        structure=state.packed[question.weight][0].label(),
        kernel=best.kernel,
        candidates={one.kernel.name: one.milliseconds for one in estimates},
        how=best.how,
        measured=tuple(one.kernel.name for one in estimates if one.how == "measured"),
        tokens=question.tokens,
        rows=question.rows,
        quantization=question.integers if is_rounded else None,
    )
