"""PKG.tar: what `compile` writes and `run` reads."""

from __future__ import annotations

from espalier.package.package import Package

__all__ = ["Package"]
