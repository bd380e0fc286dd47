"""Timing kernels on another machine, by TVM's RPC."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from espalier.errors import UnavailableError, UsageError, unknown
from espalier.schedules import LinearKernel
from espalier.search.measure import ENTRY, arguments_of, build
from espalier.targets.cpu import Cpu

FAST_CORES = 1
"""TVM's affinity mode that takes a number of workers; those that take a list of CPUs cannot be set by RPC."""
CONNECT_S = 10
HINT = "start tvm.exec.rpc_tracker here or there, and tvm.exec.rpc_server on the machine"


@dataclass
class Remote:
    """A machine behind a TVM RPC session. Time is the machine's own clock's, without the calls' way there."""

    cpu: Cpu
    session: Any
    loaded: int = 0

    def load(self, kernel: LinearKernel, tokens: int) -> Callable[[int], float]:
        import tvm

        module, made = self.module(kernel), arguments_of(kernel, tokens)
        with _machine_answers():
            device = self.session.cpu()
            arguments = [
                tvm.runtime.tensor(one, device) if isinstance(one, np.ndarray) else one for one in made
            ]

        def run(count: int) -> float:
            with _machine_answers():
                return module.time_evaluator(ENTRY, device, number=count, repeat=1)(*arguments).mean

        return run

    def module(self, kernel: LinearKernel) -> Any:
        """The kernel over there.

        Each is a file of its own: one that is written over while it is loaded changes the code that runs.
        """
        self.loaded += 1
        name = f"kernel{self.loaded}.so"
        with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
            path = Path(folder) / name
            build(kernel, self.cpu).export_library(str(path))
            with _machine_answers():
                self.session.upload(str(path))
                return self.session.load_module(name)


@contextmanager
def _machine_answers() -> Iterator[None]:
    """Raises UnavailableError where the machine no longer does."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UnavailableError(
            f"the machine behind the RPC tracker failed: {_reason(error)}",
            hint="what was measured is kept; see to the machine, then run the same command again",
        ) from error


def connect(cpu: Cpu, threads: int, tracker: str, key: str) -> Remote:
    """The machine that a tracker ("host:port") hands out for a key; waits for one that is busy.

    Raises UsageError for a tracker that is not written so, UnavailableError where there is none, or none of
    its machines has the key, or that one has fewer threads.
    """
    host, _, port = tracker.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"--rpc-tracker: got {tracker!r}, expected host:port", hint="for example pi:9190")
    try:
        # TVM itself would try for a minute
        socket.create_connection((host, int(port)), CONNECT_S).close()
        from tvm import rpc

        there = rpc.connect_tracker(host, int(port))
        # TVM would wait for a machine with this key to come up
        keys = {server["key"].removeprefix("server:") for server in there.summary()["server_info"]}
        if key not in keys:
            names = ", ".join(sorted(keys)) or "none"
            raise UnavailableError(
                f"no machine {key!r} behind the RPC tracker {tracker}, it has: {names}",
                hint=unknown("a machine", key, keys) if keys else HINT,
            )
        session = there.request(key)
        session.get_function("runtime.config_threadpool")(FAST_CORES, threads)
        most = session.get_function("runtime.NumThreads")()
    except (ImportError, OSError, RuntimeError, TimeoutError) as error:
        raise UnavailableError(
            f"no machine {key!r} behind the RPC tracker {tracker}: {_reason(error)}", hint=HINT
        ) from None
    if most != threads:
        raise UnavailableError(
            f"machine {key!r} behind the RPC tracker {tracker} runs {most} thread(s), expected {threads}",
            hint=f"start its tvm.exec.rpc_server with TVM_NUM_THREADS={threads}, or ask for --threads {most}",
        )
    return Remote(cpu, session)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no answer"])[-1]
