"""The contestants of `espalier bench`: one file each; this is the only list of them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Arrays: TypeAlias = "Mapping[str, np.ndarray]"
Run: TypeAlias = "Callable[[], Arrays]"
"""One inference from numpy inputs to numpy outputs by name, everything else done beforehand."""


class Declined(Exception):
    """A peer cannot run this model; the message says why."""


@dataclass(frozen=True)
class Peer:
    """A runtime: how it is named, what it needs, where its loader is."""

    name: str
    distribution: str
    """The pip package that must be installed."""
    imported: str
    """The module that package brings."""
    module: str
    """The file beside this one."""
    function: str = "load"
    """`function(model: Path, inputs: Arrays, threads: int) -> Run`; raises Declined."""
    exact: bool = True
    """Computes in f32, so that its time may be compared with ours."""

    def installed(self) -> bool:
        """Whether its package is here."""
        return importlib.util.find_spec(self.imported) is not None

    def load(self, model: Path, inputs: Arrays, threads: int) -> Run:
        """Make the model ready to run on `threads` threads; raises Declined, or what the runtime raises."""
        loader = importlib.import_module(f"{__name__}.{self.module}")
        return getattr(loader, self.function)(model, inputs, threads)


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("espalier", "tvm-espalier", "espalier", "espalier"),
        Peer("onnxruntime", "onnxruntime", "onnxruntime", "onnxruntime"),
        Peer("openvino-f32", "openvino", "openvino", "openvino", "load_f32"),
        Peer("openvino", "openvino", "openvino", "openvino", exact=False),
        Peer("torch", "torch", "torch", "torch"),
        Peer("tvm", "apache-tvm", "tvm", "tvm"),
    )
}
