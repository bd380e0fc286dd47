"""`espalier bench`: several models and several runtimes, timed in one run and checked against one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espalier.bench.inputs import model_inputs
from espalier.bench.machine import Machine, this_machine
from espalier.bench.peers import PEERS, Arrays, Declined, Peer, Run
from espalier.bench.timing import Times, interleave, pinned
from espalier.errors import EspalierError, UnavailableError, UsageError, unknown
from espalier.shapes import format_shape

COLUMNS = ("model", "runtime", "median ms", "p5", "p95", "x onnxruntime", "x best other f32", "error")

OURS = "espalier"
REFERENCE = "onnxruntime"
"""Whose outputs the others' are compared with."""


@dataclass(frozen=True)
class Entry:
    """One model in one runtime."""

    model: str
    peer: str
    exact: bool
    """Computed in f32."""
    times: Times | None
    error: float | None
    """Largest difference from ONNX Runtime's outputs, over the largest magnitude there."""
    why: str
    """Why there is no time; empty where there is one."""


@dataclass(frozen=True)
class Bench:
    """A finished run."""

    machine: Machine
    threads: int
    shapes: dict[str, dict[str, tuple[int, ...]]]
    """Model to input to shape."""
    entries: tuple[Entry, ...]

    def of(self, model: str, peer: str) -> Entry | None:
        """The entry of that model and peer."""
        return next((one for one in self.entries if (one.model, one.peer) == (model, peer)), None)

    def best_peer(self, model: str) -> Entry | None:
        """The fastest f32 runtime on `model` that is not Espalier."""
        timed = [
            one for one in self.entries if one.model == model and one.peer != OURS and one.exact and one.times
        ]
        return min(timed, key=lambda one: one.times.median if one.times else 0.0, default=None)

    def ratio(self, entry: Entry, other: Entry | None) -> float | None:
        """How many times faster `entry` is than `other`, by medians."""
        if entry.times is None or other is None or other.times is None:
            return None
        return other.times.median / entry.times.median

    def rows(self) -> list[list[str]]:
        """A table for people, as COLUMNS says; without a time a row ends after the name of the runtime."""
        return [self._row(one) for one in self.entries]

    def _row(self, one: Entry) -> list[str]:
        if one.times is None:
            return [one.model, one.peer, *("-" for _ in COLUMNS[2:])]
        ratios = (self.ratio(one, self.of(one.model, REFERENCE)), self.ratio(one, self.best_peer(one.model)))
        return [
            one.model,
            one.peer,
            *(f"{ms:.3f}" for ms in (one.times.median, one.times.p5, one.times.p95)),
            *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
            "-" if one.error is None else f"{one.error:.1e}",
        ]

    def remarks(self) -> list[str]:
        """What a reader must know beside the table: the machine, the shapes, who did not run and why."""
        shapes = [
            f"{model}: {' '.join(f'{name}:{format_shape(shape)}' for name, shape in inputs.items())}"
            for model, inputs in self.shapes.items()
        ]
        absent = [f"{one.peer} did not run {one.model}: {one.why}" for one in self.entries if one.why]
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return [f"{threads} for each; {self.machine.line()}", *shapes, *absent]

    def to_dict(self) -> dict[str, object]:
        """The object that `bench --json` prints."""
        return {
            "machine": self.machine.to_dict(),
            "threads": self.threads,
            "shapes": {
                model: {name: list(shape) for name, shape in shapes.items()}
                for model, shapes in self.shapes.items()
            },
            "entries": [self._entry(one) for one in self.entries],
        }

    def _entry(self, one: Entry) -> dict[str, object]:
        best = self.best_peer(one.model)
        return {
            "model": one.model,
            "peer": one.peer,
            "exact": one.exact,
            "time_ms": one.times.to_dict() if one.times else None,
            "error": one.error,
            "why": one.why,
            "over_onnxruntime": _rounded(self.ratio(one, self.of(one.model, REFERENCE))),
            "over_best_peer": _rounded(self.ratio(one, best)),
            "best_peer": best.peer if best else None,
        }


def choose_peers(names: Sequence[str] | None) -> tuple[Peer, ...]:
    """The peers of those names, or all that are installed.

    Raises UsageError for an unknown name, UnavailableError for one that is not installed.
    """
    if names is None:
        return tuple(peer for peer in PEERS.values() if peer.installed())
    chosen = []
    for name in dict.fromkeys(names):
        if name not in PEERS:
            raise UsageError(f"unknown peer {name!r}", hint=unknown("a peer", name, PEERS))
        if not PEERS[name].installed():
            raise UnavailableError(
                f"peer {name} needs the package {PEERS[name].distribution}, which is not installed",
                hint=f"pip install {PEERS[name].distribution}, or leave {name} out of --peers",
            )
        chosen.append(PEERS[name])
    return tuple(chosen)


def bench(
    models: Sequence[Path],
    *,
    peers: Sequence[str] | None = None,
    threads: int = 1,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    repeat: int = 60,
    budget_s: float = 6.0,
    log: Callable[[str], None] = lambda text: None,
) -> Bench:
    """Time every model in every peer, interleaved.

    `peers` are names of PEERS, by default all that are installed; each gets `threads` threads and about
    `budget_s` seconds a model at most. A peer that cannot run a model, or whose outputs differ from ONNX
    Runtime's in name, shape or finiteness, is listed with the reason.
    """
    from espalier.passes.frontend import read_model

    chosen = choose_peers(peers)
    names = _names(models)
    loaded: dict[tuple[str, str], Run] = {}
    outputs: dict[tuple[str, str], Arrays] = {}
    declined: dict[tuple[str, str], str] = {}
    shapes = {}
    with pinned(threads):
        for name, path in zip(names, models, strict=True):
            inputs = model_inputs(read_model(path), input_shapes or {})
            shapes[name] = {key: array.shape for key, array in inputs.items()}
            for peer in chosen:
                log(f"loading {name} in {peer.name}")
                try:
                    run, first = _load(peer, path, inputs, threads)
                    outputs[name, peer.name] = first
                    loaded[name, peer.name] = run
                except Declined as why:
                    declined[name, peer.name] = _first_line(str(why))
        errors = {}
        for key, got in outputs.items():
            try:
                errors[key] = _error(got, outputs.get((key[0], REFERENCE)))
            except Declined as why:
                declined[key] = str(why)
                del loaded[key]
        times = interleave(
            {"\n".join(key): run for key, run in loaded.items()},
            repeat=repeat,
            budget_s=budget_s,
            progress=lambda done, total: log(f"round {done} of {total}"),
        )
    entries = tuple(
        Entry(
            model=name,
            peer=peer.name,
            exact=peer.exact,
            times=times.get(f"{name}\n{peer.name}"),
            error=errors.get((name, peer.name)),
            why=declined.get((name, peer.name), ""),
        )
        for name in names
        for peer in chosen
    )
    distributions = tuple(dict.fromkeys(peer.distribution for peer in chosen))
    return Bench(this_machine(distributions), threads, shapes, entries)


def _load(peer: Peer, path: Path, inputs: Arrays, threads: int) -> tuple[Run, Arrays]:
    """The model in a runtime, and a copy of its first outputs; raises Declined."""
    try:
        run = peer.load(path, inputs, threads)
        return run, {key: np.array(array) for key, array in run().items()}
    except (Declined, EspalierError):
        raise
    except Exception as error:
        if peer.name == OURS:
            raise
        # whatever another runtime raises is its way to say that it cannot run this model
        raise Declined(f"{type(error).__name__}: {error}") from error


def _names(models: Sequence[Path]) -> list[str]:
    """File names without their suffix, or whole paths where two of them are the same."""
    stems = [path.stem for path in models]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in models]


def _error(got: Arrays, wanted: Arrays | None) -> float | None:
    """The largest difference over all outputs, each over its own scale; None where nothing is `wanted`.

    Raises Declined where the outputs cannot be compared.
    """
    if wanted is None:
        return None
    worst = 0.0
    for name, reference in wanted.items():
        if name not in got or got[name].shape != reference.shape:
            shape = got[name].shape if name in got else "no such output"
            raise Declined(f"output {name}: {REFERENCE} has shape {reference.shape}, got {shape}")
        exact = reference.astype(np.float64)
        difference = float(np.abs(got[name].astype(np.float64) - exact).max(initial=0.0))
        if not np.isfinite(difference):
            raise Declined(f"output {name}: infinities or NaN where {REFERENCE} has none")
        worst = max(worst, difference / max(float(np.abs(exact).max(initial=0.0)), 1e-30))
    return worst


def _first_line(text: str) -> str:
    """The first line with something on it, at most 160 characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
    return line if len(line) <= 160 else f"{line[:157]}..."


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
