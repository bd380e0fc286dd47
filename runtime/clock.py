"""The clock that this core runs at now, which no file tells on a virtual machine."""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
import time
from collections.abc import Callable

CHAIN = 64
TURNS = 20000
SAMPLES = 9

_LOOP = b"\x48\x01\xc0" * CHAIN + b"\x48\xff\xcf"  # add rax, rax; ...; dec rdi
_JUMP = b"\x0f\x85"  # jnz
_CODE = _LOOP + _JUMP + struct.pack("<i", -(len(_LOOP) + len(_JUMP) + 4)) + b"\xc3"
"""void f(long turns) by the System V convention: a chain of additions, each waiting for the one before, which
every x86-64 core does at one a cycle."""


def measured_ghz() -> float | None:
    """Cycles a nanosecond, the most of some samples of half a millisecond; None where code cannot be made."""
    if platform.machine() != "x86_64":
        return None
    try:
        memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:  # a hardened system lets no memory be both written and run
        return None
    memory.write(_CODE)
    chain = ctypes.CFUNCTYPE(None, ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    return max(_ghz(chain) for _ in range(SAMPLES))


def _ghz(chain: Callable[[int], None]) -> float:
    start = time.perf_counter_ns()
    chain(TURNS)
    return CHAIN * TURNS / (time.perf_counter_ns() - start)
