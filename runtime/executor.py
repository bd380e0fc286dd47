"""Runs the compiled module of a package on this machine's CPU."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from espalier.errors import DataError, EspalierError
from espalier.runtime.inputs import check_inputs
from espalier.runtime.library import ffi
from espalier.runtime.signature import Signature
from espalier.runtime.threads import set_threads
from espalier.runtime.timing import Times, measure

DEVICES = ("cpu",)
"""What runs packages of the kind `llvm`."""

ENTRY = "main"
CPU, POOLED = 1, 2
"""DLPack's code of the CPU and TVM's of the allocator that keeps memory between runs."""


@dataclass(frozen=True)
class CallTime:
    """One kernel of one profiled run: its name in the compiled module and its time."""

    kernel: str
    milliseconds: float
    layer: str | None = None
    """The weight of the linear layer it is, where the module's names do not tell."""
    figures: Mapping[str, float | str] = field(default_factory=dict)
    """What else is known of it, by name."""


class Executor:
    """A loaded module. `threads` holds for every run; None means all cores.

    `functions` are what the module calls from outside, by name: inputs first, then the outputs to write.
    """

    how = "measured"
    """Where times come from."""

    def __init__(
        self,
        module: bytes,
        signature: Signature,
        *,
        threads: int | None = None,
        functions: Mapping[str, Callable[..., None]] | None = None,
    ) -> None:
        self.signature = signature
        self.threads = threads
        self._functions = {name: self._guarded(function) for name, function in (functions or {}).items()}
        self._failures: list[EspalierError] = []
        self._library = _load(module)
        self._main = self._new_machine()[ENTRY]

    def with_threads(self, threads: int | None) -> Executor:
        """The same module with another number of threads; nothing is loaded again."""
        other = copy.copy(self)
        other.threads = threads
        return other

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name.

        Raises DataError where the inputs do not fit the signature.
        """
        arrays = self._checked(inputs)
        outputs = self._named(self._call(self._main, _tensors(arrays)))
        # an output that is an input comes back in the caller's own memory
        return {
            name: output.copy() if any(np.may_share_memory(output, array) for array in arrays) else output
            for name, output in outputs.items()
        }

    def benchmark(self, inputs: Mapping[str, np.ndarray], *, repeat: int = 1, number: int = 1) -> Times:
        """Times `repeat` means of `number` runs each, after one run that is not counted."""
        arguments = _tensors(self._checked(inputs))
        self._call(self._main, arguments)
        return measure(lambda: self._main(*arguments), repeat=repeat, number=number)

    def profile(self, inputs: Mapping[str, np.ndarray]) -> list[CallTime]:
        """Every kernel of one run in the order of the calls, after one run that is not counted."""
        arguments = _tensors(self._checked(inputs))
        machine = self._new_machine()
        self._call(machine[ENTRY], arguments)
        calls: list[CallTime] = []
        started = 0

        def observe(_function: Any, name: str, before: bool, _result: Any, *_arguments: Any) -> int:
            nonlocal started
            if before:
                started = time.perf_counter_ns()
            elif not name.startswith("vm."):
                calls.append(CallTime(name, (time.perf_counter_ns() - started) / 1e6))
            return 0

        machine["set_instrument"](ffi().convert(observe))
        machine[ENTRY](*arguments)
        return calls

    def _guarded(self, function: Callable[..., None]) -> Callable[..., None]:
        """A function whose failure is kept, as TVM hands on no more than its text."""

        def call(*arguments: Any) -> None:
            try:
                function(*arguments)
            except EspalierError as error:
                self._failures.append(error)
                raise

        return call

    def _call(self, main: Any, arguments: list[Any]) -> Any:
        try:
            return main(*arguments)
        except RuntimeError:
            if self._failures:
                raise self._failures.pop() from None
            raise

    def _new_machine(self) -> Any:
        # a machine looks up what its module calls from outside when it begins
        for name, function in self._functions.items():
            ffi().register_global_func(name, function, override=True)
        machine = self._library["vm_load_executable"]()
        machine["vm_initialization"](CPU, 0, POOLED)
        return machine

    def _checked(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        set_threads(self.threads)
        return check_inputs(self.signature, inputs)

    def _named(self, result: Any) -> dict[str, np.ndarray]:
        values = [result] if isinstance(result, ffi().Tensor) else list(result)
        names = [tensor.name for tensor in self.signature.outputs]
        if len(values) != len(names):
            raise RuntimeError(f"the module gives {len(values)} outputs, its metadata names {len(names)}")
        return {name: np.from_dlpack(value) for name, value in zip(names, values, strict=True)}


def _tensors(arrays: list[np.ndarray]) -> list[Any]:
    """The arrays as TVM takes them, without a copy."""
    return [ffi().from_dlpack(array) for array in arrays]


def _load(module: bytes) -> Any:
    """A shared library, loaded from a private folder that is then removed."""
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        path = Path(folder) / "mod.so"
        path.write_bytes(module)
        library = ffi()
        try:
            return library.load_module(str(path))
        except RuntimeError as error:
            raise DataError(
                f"mod.so cannot be loaded: {error}", hint="compile the model again on this machine"
            ) from None


def open_package(package: Any, _device: str, threads: int | None) -> Executor:
    """The executor of a package of the kind `llvm`."""
    return Executor(package.module, package.metadata.signature, threads=threads)
