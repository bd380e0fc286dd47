"""Quantise: let the linear layers of a float model be computed on integers, as many as the error allows.

Inputs are rounded to u8 by a scale of their own for each token, or, where samples were given and the error
stays the same, by constants. Before that features are evened out: x[k] is multiplied and W[:, k] divided by
`sqrt(max |W[:, k]| / max |x[k]|)`, so that a few large features do not cost all others their precision
(SmoothQuant, Xiao et al., 2023, with alpha = 1/2). Layers that integers do not make faster stay in float, and
those whose rounding does the most harm for the time it saves, until the model's outputs on the samples are
within the error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from espalier.errors import UsageError
from espalier.passes import choose
from espalier.passes.samples import Samples
from espalier.passes.state import State
from espalier.passes.trial import LinearLayer, Trial, linear_layers
from espalier.schedules import Quantization
from espalier.schedules.estimate import PRECISION
from espalier.schedules.x86.int8_dot import Dot, dots
from espalier.schedules.x86.int8_pack import quantized

TOKENS = 512
"""Tokens of a layer's input, spread over the samples, that errors are estimated with."""
CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Parts of the range seen that are tried as static ranges."""
PROBES = 2
"""Samples that show what rounding one layer does to the outputs."""
TRIES = 5
"""Choices of layers whose error is measured on all samples."""
WORSE = 1.1
"""A static scale may err so much more than one for each token."""


def run(state: State) -> State:
    """Fill `quantized` and `error`. The module stays as it is.

    Raises UsageError where no choice of layers that would be faster meets the error.
    """
    free = any(layer.name not in state.quantized for layer in linear_layers(state))
    if state.samples is None or not free:
        return state
    return _Search(state, state.samples).run()


@dataclass(frozen=True)
class _Plan:
    """How a layer would be quantised (for all levels), and its weight then `[K, N]`."""

    quantization: Quantization
    weight: np.ndarray


def _fit(order: Sequence[str], harm: Mapping[str, float], room: float) -> list[str]:
    """Names, in order, while what they add up to leaves room."""
    kept = []
    for name in order:
        if harm[name] <= room:
            kept.append(name)
            room -= harm[name]
    return kept


class _Search:
    def __init__(self, state: State, samples: Samples) -> None:
        self.state, self.samples = state, samples
        self.dot: Dot = dots(state.cpu, 0)[0]
        self.layers = [layer for layer in linear_layers(state) if layer.name not in state.quantized]
        self.trial = Trial(state, [tensor.name for tensor in samples.signature.inputs], self.dot.levels)
        runs = [self.trial.run(inputs, {}, {}) for inputs in samples]
        self.outputs = [outputs for outputs, _ in runs]
        share = -(-TOKENS // len(runs))
        self.seen = {
            layer.name: np.concatenate([captured[layer.name][:share] for _, captured in runs])
            for layer in self.layers
        }

    def run(self) -> State:
        plans = self._plans()
        saved = self._saved(plans)
        plans = {name: plan for name, plan in plans.items() if saved[name] > 0}
        # errors of layers add up in squares
        harm = {name: self._error({name: plan}, PROBES) ** 2 for name, plan in plans.items()}
        order = sorted(plans, key=lambda name: harm[name] / saved[name])
        kept, error = self._most(order, harm, saved, plans)
        if plans and not kept:
            most = self.samples.max_error
            raise UsageError(
                f"--dtype int8: no linear layer can be rounded within an error of {most:.2%}",
                hint=f"all of them err by {self._error(plans):.2%}; allow that by --max-error",
            )
        chosen = {name: plans[name].quantization for name in kept}
        return replace(self.state, quantized={**chosen, **self.state.quantized}, error=error)

    def _most(
        self,
        order: Sequence[str],
        harm: Mapping[str, float],
        saved: Mapping[str, float],
        plans: Mapping[str, _Plan],
    ) -> tuple[list[str], float]:
        """The layers that save most time of those tried, and their error: always within what is allowed."""
        most = self.samples.max_error
        best: list[str] = []
        best_error = 0.0
        room = most**2
        tried: list[list[str]] = []
        for _ in range(TRIES):
            kept = _fit(order, harm, room)
            if not best and not kept:
                kept = sorted(order, key=lambda name: harm[name])[:1]
            if not kept or kept in tried:
                break
            tried.append(kept)
            error = self._error({name: plans[name] for name in kept})
            if error <= most and sum(saved[name] for name in kept) > sum(saved[name] for name in best):
                best, best_error = kept, error
            # together they come to more, or less, than single layers say
            room = 0.95 * (most / max(error, 1e-9)) ** 2 * sum(harm[name] for name in kept)
        return best, best_error

    def _saved(self, plans: Mapping[str, _Plan]) -> dict[str, float]:
        """Milliseconds by which the fastest kernel on integers is faster than on floats, beyond doubt."""
        quantized = {name: plan.quantization for name, plan in plans.items()}
        saved = {}
        for question, estimates in choose.answers(replace(self.state, quantized=quantized)):
            times = {True: math.inf, False: math.inf}
            for one in estimates:
                is_rounded = one.kernel.work.dtype == "int8"
                times[is_rounded] = min(times[is_rounded], one.milliseconds)
            saved[question.name] = times[False] - PRECISION * times[True]
        return saved

    def _error(self, plans: Mapping[str, _Plan], count: int | None = None) -> float:
        """Root mean square of the outputs' differences over that of the outputs, the worst output's.

        count: of the samples that it is taken on, from the first one.
        """
        settings = {name: plan.quantization.at(self.dot.levels) for name, plan in plans.items()}
        weights = {name: plan.weight for name, plan in plans.items()}
        got = [self.trial.run(inputs, settings, weights)[0] for inputs in islice(self.samples, count)]
        return max(
            _relative(np.concatenate([each[i].ravel() for each in got]),
                      np.concatenate([each[i].ravel() for each in self.outputs[:count]]))
            for i in range(len(self.outputs[0]))
        )  # fmt: skip

    def _plans(self) -> dict[str, _Plan]:
        groups: dict[object, list[LinearLayer]] = {}
        for layer in self.layers:
            groups.setdefault(layer.x, []).append(layer)
        plans = {}
        for group in groups.values():
            x = self.seen[group[0].name]
            weights = [self.state.weights[layer.weight].array for layer in group]
            factors = _factors(x, weights)
            rounded = [self._weight(weight, factors) for weight in weights]
            quantization = self._quantization(x, factors, weights, rounded)
            for layer, near in zip(group, rounded, strict=True):
                plans[layer.name] = _Plan(quantization, near)
        return plans

    def _quantization(
        self, x: np.ndarray, factors: np.ndarray, weights: Sequence[np.ndarray], rounded: Sequence[np.ndarray]
    ) -> Quantization:
        """The same for all layers that read x."""
        by_token = Quantization("token", factors=tuple(factors.tolist()))
        if not self.samples.given:
            return by_token
        low, high = (x * factors).min(), (x * factors).max()
        static = [_static(clip * low, clip * high, by_token) for clip in CLIPS]

        def error(quantization: Quantization) -> float:
            pairs = zip(weights, rounded, strict=True)
            return sum(self._local(x, quantization, *pair) for pair in pairs)

        best = min(static, key=error)
        return best if error(best) <= WORSE**2 * error(by_token) else by_token

    def _weight(self, weight: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """`[K, N]` as the kernel rounds it."""
        inverse = np.divide(1, factors, out=np.zeros_like(factors), where=factors > 0)
        codes, scale = quantized(weight.T * inverse, self.dot)
        return np.ascontiguousarray((codes * scale[:, None]).T * factors[:, None], np.float32)

    def _local(
        self, x: np.ndarray, quantization: Quantization, weight: np.ndarray, rounded: np.ndarray
    ) -> float:
        """Squared error of `x @ weight` over its square."""
        exact = x @ weight
        near = fake(x, quantization.at(self.dot.levels), self.dot.levels) @ rounded
        return float(np.square(near - exact).sum() / max(np.square(exact).sum(), 1e-30))


def fake(x: np.ndarray, quantization: Quantization, levels: int) -> np.ndarray:
    """x `[tokens, K]` as its integers stand for it."""
    factors = np.asarray(quantization.factors or np.ones(x.shape[1]), np.float32)
    value = x * factors
    if quantization.mode == "static":
        scale, zero = np.float32(quantization.scale), np.float32(quantization.zero)
    else:
        low = np.minimum(value.min(axis=1, keepdims=True), 0)
        high = np.maximum(value.max(axis=1, keepdims=True), 0)
        scale = np.maximum((high - low) / levels, 1e-30)
        zero = np.rint(-low / scale)
    whole = np.clip(np.rint(value / scale), -zero, levels - zero)
    return np.divide(whole * scale, factors, out=np.zeros_like(value), where=factors > 0)


def _static(low: float, high: float, like: Quantization) -> Quantization:
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = (high - low) / 255 or 1.0
    return replace(like, mode="static", scale=scale, zero=round(-low / scale))


def _factors(x: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray:
    """f32 `[K]`; 0 for features that no weight reads."""
    inputs = np.abs(x).max(axis=0)
    readers = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    seen = inputs > 1e-3 * inputs.max(initial=0)
    # a feature that the samples hardly show is not blown up
    inputs = np.where(seen, inputs, inputs[seen].min(initial=1.0))
    return np.sqrt(readers / inputs).astype(np.float32)


def _relative(got: np.ndarray, wanted: np.ndarray) -> float:
    difference = got.astype(np.float64) - wanted
    return float(
        np.sqrt(np.square(difference).mean() / max(np.square(wanted.astype(np.float64)).mean(), 1e-30))
    )
