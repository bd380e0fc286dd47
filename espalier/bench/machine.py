"""The machine a figure was taken on."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

FEATURES = (
    "sse4_1",
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "sve",
)
"""What decides a kernel's speed, as Linux spells it."""


@dataclass(frozen=True)
class Machine:
    """What a reader needs to judge a figure."""

    cpu: str
    cores: int
    features: tuple[str, ...]
    memory_gb: float
    system: str
    load: float
    """Processes that wanted a core in the last minute, over the number of cores."""
    versions: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return asdict(self)

    def line(self) -> str:
        """One line for a table's foot."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.cpu}, {self.cores} cores ({', '.join(self.features)}), {self.memory_gb:.0f} GB, "
            f"{self.system}; {versions}; load {self.load:.2f}"
        )


def this_machine(distributions: tuple[str, ...] = ()) -> Machine:
    """Describe this machine and the versions of what is installed of `distributions`."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        features=tuple(name for name in FEATURES if name in flags),
        memory_gb=round(_memory_bytes() / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        load=round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
        versions={name: version for name in distributions if (version := _version(name))},
    )


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo, or nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _memory_bytes() -> int:
    """Physical memory, 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _version(distribution: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
