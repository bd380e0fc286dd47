"""The simulators behind one API: functional (any geometry, no time) and cycle-accurate (the RTL itself).

Both are C++ built at first use and kept in `$XDG_CACHE_HOME/espalier/fpga` under a name that is the digest of
their sources and of the command that built them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import astuple, dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np

from espalier.errors import UnavailableError
from espalier.targets.fpga import isa
from espalier.targets.fpga.geometry import Geometry

Kind = Literal["functional", "rtl"]
REGIONS = 4
_COUNTERS = [item["name"] for item in isa.spec()["counter"]]


@dataclass(frozen=True)
class Timing:
    """External memory as the cycle-accurate simulator has it."""

    latency: int = 40
    """Cycles from a request to its data."""
    beats: int = 1
    cycles: int = 1
    """`beats` beats pass every `cycles` cycles, reads and writes together."""

    @property
    def rate(self) -> float:
        """Beats a cycle."""
        return self.beats / self.cycles


@dataclass(frozen=True)
class Result:
    """What a run reports. `fault` is a name of isa.toml; `instruction` the one at fault."""

    fault: str
    instruction: int
    counters: dict[str, int]


class FaultError(RuntimeError):
    """A program that the accelerator refused or could not finish."""

    def __init__(self, result: Result) -> None:
        super().__init__(f"fault {result.fault} at instruction {result.instruction}")
        self.result = result


class _Result(ctypes.Structure):
    _fields_ = (
        ("fault", ctypes.c_uint32),
        ("instruction", ctypes.c_uint32),
        ("counters", ctypes.c_uint64 * len(_COUNTERS)),
    )


def cache_folder() -> Path:
    """Where built simulators lie."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "espalier" / "fpga"


def _tool(name: str, install: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise UnavailableError(
            f"{name} is not installed; the simulator is built with it", hint=f"run: {install}"
        )
    return path


def _functional_command() -> list[str]:
    return [_tool("g++", "apt-get install g++"), "-std=c++17", "-O3", "-fPIC", "-shared"]


def _rtl_command(geometry: Geometry) -> list[str]:
    sizes = [f"-G{name.upper()}={value}" for name, value in vars(geometry).items()]
    return [
        _tool("verilator", "apt-get install verilator"),
        *("--cc", "--exe", "--build", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert"),
        *(
            "-Wno-fatal",
            "-Wno-UNOPTFLAT",
            "-Wno-WIDTH",
            "-CFLAGS",
            "-std=c++17 -O2 -fPIC",
            "-LDFLAGS",
            "-shared",
        ),
        *("-MAKEFLAGS", "OPT_FAST=-O2 OPT_SLOW=-O0 OPT_GLOBAL=-O2"),
        *("--top-module", "core", *sizes),
    ]


def build(kind: Kind, geometry: Geometry) -> Path:
    """The shared library of a simulator, built if the cache lacks it.

    Raises UnavailableError when the compiler or Verilator is absent or fails.
    """
    root = Path(str(resources.files("espalier.hardware")))
    headers = sorted((root / "sim").glob("*.h"))
    if kind == "functional":
        command, sources = _functional_command(), [root / "sim" / "functional.cpp"]
    else:
        rtl = sorted((root / "rtl").glob("*.sv"), key=lambda path: (path.stem != "isa_pkg", path.stem))
        command, sources = _rtl_command(geometry), [*rtl, root / "sim" / "rtl.cpp"]
    digest = hashlib.sha256(repr(command).encode())
    for path in [*headers, *sources]:
        digest.update(path.read_bytes())
    target = cache_folder() / f"{kind}-{digest.hexdigest()[:24]}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / "simulator.so"
        if kind == "functional":
            full = [*command, f"-I{root / 'sim'}", *map(str, sources), "-o", str(made)]
        else:
            full = [
                *command,
                "-CFLAGS",
                f"-I{root / 'sim'}",
                "--Mdir",
                folder,
                "-o",
                str(made),
                *map(str, sources),
            ]
        done = subprocess.run(full, capture_output=True, text=True, check=False)
        if done.returncode or not made.exists():
            last = (done.stderr.strip() or "no output").splitlines()[-1]
            raise UnavailableError(
                f"the {kind} simulator did not build: {last}", hint=f"see what this prints: {' '.join(full)}"
            )
        made.replace(target)
    return target


def _library(path: Path) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(path))
    lib.espalier_open.restype = ctypes.c_void_p
    lib.espalier_open.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    lib.espalier_close.argtypes = [ctypes.c_void_p]
    for name in ("espalier_read", "espalier_write"):
        getattr(lib, name).argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64]
    lib.espalier_region.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint64]
    lib.espalier_timing.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32]
    lib.espalier_run.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_uint64,
        ctypes.c_uint64,
        ctypes.POINTER(_Result),
    ]
    return lib


class Device:
    """One simulated accelerator with `memory` bytes of external memory. Close it, or use it in a `with`."""

    def __init__(self, kind: Kind, geometry: Geometry, memory: int, timing: Timing | None = None) -> None:
        self.geometry = geometry
        self._lib = _library(build(kind, geometry))
        sizes = np.array([isa.spec()["version"], *astuple(geometry)], np.uint32)
        self._handle = self._lib.espalier_open(sizes.ctypes.data, memory)
        if not self._handle:
            raise UnavailableError(
                f"the {kind} simulator cannot have geometry {geometry.label} with {memory} bytes",
                hint="take less memory, or a geometry of `espalier devices`",
            )
        timing = timing or Timing()
        self._lib.espalier_timing(self._handle, timing.latency, timing.beats, timing.cycles)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the device."""
        if self._handle:
            self._lib.espalier_close(self._handle)
            self._handle = None

    def write(self, address: int, data: np.ndarray | bytes) -> None:
        """Copy bytes to external memory. Raises ValueError outside of it."""
        array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.ascontiguousarray(data)
        if self._lib.espalier_write(self._handle, address, array.ctypes.data, array.nbytes):
            raise ValueError(f"{array.nbytes} bytes at {address} are outside external memory")

    def read(self, address: int, count: int) -> np.ndarray:
        """uint8 `[count]` of external memory. Raises ValueError outside of it."""
        array = np.empty(count, np.uint8)
        if self._lib.espalier_read(self._handle, address, array.ctypes.data, count):
            raise ValueError(f"{count} bytes at {address} are outside external memory")
        return array

    def region(self, index: int, address: int, count: int) -> None:
        """Let region `index` be `count` bytes from `address` on. Raises ValueError outside memory."""
        if self._lib.espalier_region(self._handle, index, address, count):
            raise ValueError(
                f"region {index} at {address} of {count} bytes: outside memory or not on whole beats"
            )

    def try_run(self, stream: bytes, cycles: int = 10**9) -> Result:
        """Run a stream and report, also when it faults. At most `cycles` cycles."""
        result = _Result()
        count = len(stream) // isa.WORD_BYTES
        self._lib.espalier_run(self._handle, stream, count, cycles, ctypes.byref(result))
        fault = {value: name for name, value in isa.names("fault").items()}[result.fault]
        return Result(fault, result.instruction, dict(zip(_COUNTERS, map(int, result.counters), strict=True)))

    def run(self, stream: bytes, cycles: int = 10**9) -> Result:
        """Run a stream. Raises FaultError when it faults."""
        result = self.try_run(stream, cycles)
        if result.fault != "NONE":
            raise FaultError(result)
        return result
