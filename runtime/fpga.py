"""Runs packages for an FPGA: the host's code on this CPU, the accelerator's parts on a simulator.

Times are those of the accelerator at its assumed clock: cycles counted by the simulated RTL, or predicted by
the latency model where the functional simulator runs, which has no time. Steps on the host are not in them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from espalier.errors import DataError
from espalier.runtime.executor import CallTime, Executor
from espalier.runtime.timing import Times
from espalier.targets.fpga import isa, semantics
from espalier.targets.fpga.accelerator import Accelerator, Part, Program, Span, symbol
from espalier.targets.fpga.layout import from_tiles, to_tiles
from espalier.targets.fpga.simulator import Device, FaultError, Kind

DEVICES = ("functional", "rtl")
"""What runs packages of the kind `fpga`: the functional simulator, or the RTL by Verilator."""


@dataclass(frozen=True)
class Call:
    """One sequence through one part."""

    part: Part
    program: Program
    counters: Mapping[str, int]


class FpgaExecutor:
    """A loaded package. `threads` holds for the host's code; None means all cores."""

    def __init__(
        self,
        package: Any,
        kind: Kind,
        threads: int | None,
    ) -> None:
        self.signature = package.metadata.signature
        self.accelerator: Accelerator = package.metadata.accelerator
        self.how = "simulated" if kind == "rtl" else "predicted"
        self._kind: Kind = kind
        self._images: Mapping[str, bytes] = package.images
        self._calls: list[Call] = []
        functions = {symbol(part.name): partial(self._call, part) for part in self.accelerator.parts}
        self._host = Executor(package.module, self.signature, threads=threads, functions=functions)

    def with_threads(self, threads: int | None) -> FpgaExecutor:
        """The same package with another number of threads; nothing is loaded again."""
        other = copy.copy(self)
        other._host = self._host.with_threads(threads)
        return other

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name. Raises DataError where the inputs do not fit the signature."""
        self._calls.clear()
        return self._host.run(inputs)

    def benchmark(self, inputs: Mapping[str, np.ndarray], *, repeat: int = 1, number: int = 1) -> Times:
        """The accelerator's time of one run, which is the same each time: `number` changes nothing."""
        self.run(inputs)
        total = sum(self._cycles(call) for call in self._calls)
        return Times((self._milliseconds(total),) * repeat)

    def profile(self, inputs: Mapping[str, np.ndarray]) -> list[CallTime]:
        """Every operation of the accelerator and every kernel of the host, in order.

        Cycles by operation are the latency model's also where the RTL ran; they are stretched there so that
        their sum is what was counted.
        """
        self._calls.clear()
        kernels = self._host.profile(inputs)
        half = len(self._calls) // 2  # the profiled run is the second
        calls = self._calls[half:]
        rows: list[CallTime] = []
        for row in kernels:
            part = next((p for p in self.accelerator.parts if row.kernel == symbol(p.name)), None)
            if part is None:
                rows.append(row)
            else:
                rows += self._operations([call for call in calls if call.part is part])
        return rows

    def _operations(self, calls: Sequence[Call]) -> list[CallTime]:
        rows = []
        program = calls[0].program
        stretch = sum(map(self._cycles, calls)) / (program.cycles * len(calls))
        for item in program.operations:
            cycles = item.cycles * stretch * len(calls)
            most = cycles * self.accelerator.geometry.macs
            figures: dict[str, float | str] = {
                "cycles": round(cycles),
                "bytes": item.bytes * len(calls),
                "utilisation": f"{100 * item.macs * len(calls) / most:.1f} %" if most and item.macs else "",
            }
            name = item.kind if item.layer else item.name
            rows.append(CallTime(name, self._milliseconds(cycles), item.layer or None, figures))
        return rows

    def _cycles(self, call: Call) -> float:
        return call.counters["cycles"] if self._kind == "rtl" else call.program.cycles

    def _milliseconds(self, cycles: float) -> float:
        return cycles / (self.accelerator.mhz * 1e3)

    # One part

    def _call(self, part: Part, *tensors: Any) -> None:
        """Inputs `[batch, tokens, features]` or `[tokens, features]`, masks, then the outputs to write."""
        arrays = [np.from_dlpack(tensor) for tensor in tensors]
        inputs = [_sequences(array) for array in arrays[: len(part.inputs)]]
        masks = arrays[len(part.inputs) : len(part.inputs) + part.masks]
        outputs = [_sequences(array) for array in arrays[len(part.inputs) + part.masks :]]
        batch, tokens = inputs[0].shape[:2]
        program = next(p for p in part.programs if p.tokens >= tokens)
        stream = self._bytes("program.bin", program.stream)
        params = self._bytes("params.bin", part.params)
        g = self.accelerator.geometry
        sizes = [_up(len(params), g.bus), program.input_bytes, program.output_bytes]
        starts = [0, sizes[0], sizes[0] + sizes[1]]
        with Device(self._kind, g, sum(sizes), self.accelerator.timing) as device:
            for index, (start, size) in enumerate(zip(starts, sizes, strict=True)):
                device.region(index, start, size)
            device.write(starts[0], params)
            for sequence in range(batch):
                chosen = [_additive(mask[sequence if len(mask) == batch else 0, 0]) for mask in masks]
                image = self._image(part, program, [x[sequence] for x in inputs], chosen)
                device.write(starts[1], image)
                try:
                    result = device.run(stream)
                except FaultError as error:
                    raise DataError(
                        f"the program of {part.name} stopped: {error}",
                        hint="compile the model again; its package is damaged",
                    ) from None
                self._calls.append(Call(part, program, result.counters))
                self._read(part, program, device, starts[2], [y[sequence] for y in outputs])

    def _bytes(self, member: str, span: Span) -> bytes:
        return self._images[member][span.start : span.start + span.size]

    def _key_entries(self, program: Program) -> int:
        """Entries a list of keys has: whole blocks of rows."""
        return -(-program.tokens // self.accelerator.geometry.pes) * self.accelerator.geometry.pes

    def _image(
        self, part: Part, program: Program, inputs: Sequence[np.ndarray], masks: Sequence[np.ndarray]
    ) -> bytes:
        """Region 1: the inputs in tiles, masks over queries and keys, the parameters of attentions' keys."""
        chunks = []
        for tensor, x in zip(part.inputs, inputs, strict=True):
            ints = np.zeros((program.tokens, x.shape[1]), np.int8)
            ints[: len(x)] = np.clip(np.round(x / np.asarray(tensor.scales)), -128, 127)
            chunks.append(to_tiles(ints, self.accelerator.geometry).tobytes())
        length = len(inputs[0])
        for index in part.squares:
            square = np.full((program.tokens, program.tokens), -128, np.int8)
            square[:length, :length] = _hidden(masks[index])
            chunks.append(to_tiles(square, self.accelerator.geometry).tobytes())
        for keys in part.keys:
            mask = np.full(self._key_entries(program), -np.inf)
            mask[:length] = 0 if keys.mask < 0 else masks[keys.mask][0]
            entries = isa.pack_params(
                "linear",
                bias=semantics.key_bias(mask, keys.unit),
                mul=np.full(len(mask), keys.mul),
                shift=np.full(len(mask), keys.shift),
            )
            chunks.append(entries.tobytes())
        return b"".join(chunks)

    def _read(
        self, part: Part, program: Program, device: Device, start: int, outputs: Sequence[np.ndarray]
    ) -> None:
        g = self.accelerator.geometry
        for tensor, out in zip(part.outputs, outputs, strict=True):
            shape = (-(-program.tokens // g.tokens), -(-len(tensor.scales) // g.banks), g.banks, g.tokens)
            size = int(np.prod(shape))
            tiles = device.read(start, size).view(np.int8).reshape(shape)
            ints = from_tiles(tiles, len(out), len(tensor.scales))
            out[...] = (ints * np.asarray(tensor.scales)).astype(np.float32)
            start += size


def _sequences(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 3 else array[None]


def _additive(mask: np.ndarray) -> np.ndarray:
    """A mask as numbers to add to scores: 0 where a bool keeps a key."""
    return np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask


def _hidden(mask: np.ndarray) -> np.ndarray:
    try:
        return semantics.hidden(mask)
    except ValueError as error:
        raise DataError(
            f"{error}, which the accelerator cannot add to scores", hint="compile the model for a CPU"
        ) from None


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def open_package(package: Any, device: str, threads: int | None) -> FpgaExecutor:
    """The executor of a package of the kind `fpga`."""
    if package.metadata.accelerator is None or set(package.images) != {"program.bin", "params.bin"}:
        raise DataError(
            "the package is for an FPGA and has no accelerator's program", hint="compile the model again"
        )
    return FpgaExecutor(package, cast(Kind, device), threads)
