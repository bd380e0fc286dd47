"""Timing kernels on another machine, by TVM's RPC."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espalier.errors import UnavailableError, UsageError
from espalier.schedules import LinearKernel
from espalier.search.measure import ENTRY, Machine, arguments_of, build
from espalier.targets.cpu import Cpu

SHARE_ALL_CORES = -3
"""TVM's affinity mode in which the number of CPUs named is the number of workers."""


CONNECT_S = 10


@dataclass(frozen=True)
class Remote:
    """A machine behind a TVM RPC session."""

    cpu: Cpu
    session: Any

    def load(self, kernel: LinearKernel, tokens: int) -> Callable[[int], float]:
        import tvm

        with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
            path = Path(folder) / "kernel.so"
            build(kernel, self.cpu).export_library(str(path))
            self.session.upload(str(path))
        module, device = self.session.load_module("kernel.so"), self.session.cpu()
        arguments = arguments_of(kernel, tokens, lambda array: tvm.runtime.tensor(array, device))

        def run(count: int) -> float:
            return module.time_evaluator(ENTRY, device, number=count, repeat=1)(*arguments).mean

        return run


def connect(cpu: Cpu, threads: int, tracker: str, key: str) -> Machine:
    """The machine that a tracker ("host:port") hands out for a key.

    Raises UsageError for a tracker that is not written so, UnavailableError where there is none.
    """
    host, _, port = tracker.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"--rpc-tracker: got {tracker!r}, expected host:port", hint="for example pi:9190")
    try:
        # TVM itself would try for a minute
        socket.create_connection((host, int(port)), CONNECT_S).close()
        from tvm import rpc

        session = rpc.connect_tracker(host, int(port)).request(key, session_timeout=600)
        pool = session.get_function("runtime.config_threadpool")
        pool(SHARE_ALL_CORES, threads, [str(index) for index in range(threads)])
    except (ImportError, OSError, RuntimeError, TimeoutError) as error:
        reason = (str(error).strip().splitlines() or ["no answer"])[-1]
        raise UnavailableError(
            f"no machine {key!r} behind the RPC tracker {tracker}: {reason}",
            hint="start tvm.exec.rpc_tracker here or there, and tvm.exec.rpc_server on the machine",
        ) from None
    return Remote(cpu, session)
