"""x86-64 CPUs with SSE4.2, AVX2 or AVX-512, this machine's own among them."""

from __future__ import annotations

from espalier.targets.x86.family import KIND, OPTIONS, devices, resolve, tags

__all__ = ["KIND", "OPTIONS", "devices", "resolve", "tags"]
