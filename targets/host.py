"""This machine as a target, and whether it can run what was compiled for another."""

from __future__ import annotations

import platform

from espalier.targets.cpu import Cpu
from espalier.targets.x86.host import host_device, missing_features


def host() -> Cpu:
    """This machine's CPU.

    Raises UnavailableError where no family knows it.
    """
    return host_device().cpu


def why_not_here(arch: str, features: tuple[str, ...]) -> str:
    """Why code for `arch` that uses `features` cannot run on this machine; empty where it can."""
    if arch != platform.machine():
        return f"it is for {arch} and this machine is {platform.machine()}"
    missing = missing_features(features)
    return f"this machine's CPU lacks {', '.join(missing)}" if missing else ""
