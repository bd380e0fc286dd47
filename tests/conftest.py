"""What every test shares: the tiers are checked, hypothesis is tamed, a missing device skips."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, settings

TIERS = ("unit", "compile", "gpu", "bench")

# Two workers on two cores: a kernel's own threads would only fight the other worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Compiling inside a property takes as long as it takes; a failure on CI must come back on a desk.
settings.register_profile(
    "espalier", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("espalier")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test without a tier (no `make` goal would run it) and skip what needs an absent device."""
    lost = [item.nodeid for item in items if not any(item.get_closest_marker(tier) for tier in TIERS)]
    if lost:
        raise pytest.UsageError(f"no marker of {', '.join(TIERS)} on: {', '.join(lost[:5])}")
    if any(item.get_closest_marker("gpu") for item in items) and not _has_cuda():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


def _has_cuda() -> bool:
    """Whether the NVIDIA driver lists a device."""
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout
