"""What the passes hand on from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from espalier.schedules.estimate import ByRule, Estimator

if TYPE_CHECKING:
    import tvm

    from espalier.passes.frontend import Weight
    from espalier.passes.samples import Samples
    from espalier.schedules import LinearKernel, Quantization
    from espalier.schedules.fpga.graph import Part
    from espalier.sparsity import Detection, Packed
    from espalier.targets.cpu import Cpu


@dataclass(frozen=True)
class Layer:
    """A linear layer and what was decided for it."""

    name: str
    weight: str
    """The parameter of `main` that holds its weight."""
    structure: str
    kernel: LinearKernel
    candidates: Mapping[str, float]
    """Kernel to milliseconds."""
    how: str
    """Where the kernel's time comes from: "predicted" or "measured"."""
    tokens: int
    """The number of tokens that the choice was made for."""
    measured: tuple[str, ...] = ()
    """The candidates whose time is measured."""
    rows: tvm.ir.Expr | int = 0
    """The number of tokens in terms of the model's dimensions."""
    quantization: Quantization | None = None
    """How the activations become integers, for a kernel on integers or where the model says so."""


@dataclass(frozen=True)
class State:
    """A module under compilation with the facts found so far."""

    mod: tvm.IRModule
    weights: Mapping[str, Weight]
    """Parameter of `main` to its constant."""
    cpu: Cpu
    threads: int
    dtype: str = "float32"
    """That the user wants products in."""
    packed: Mapping[str, tuple[Detection, Packed]] = field(default_factory=dict)
    """Weight of a linear layer (parameter) to its structure and packed form."""
    layers: Mapping[str, Layer] = field(default_factory=dict)
    samples: Samples | None = None
    """What rounding to integers is tried on, where the user wants integers."""
    error: float | None = None
    """What rounding costs: of the outputs on the samples, root mean square, relative."""
    quantized: Mapping[str, Quantization] = field(default_factory=dict)
    """Linear layers that may be computed on integers, and those whose integers the model gives."""
    bounds: Mapping[str, int] = field(default_factory=dict)
    """Most of every named dimension."""
    estimator: Estimator = field(default_factory=ByRule)
    """Where the times of kernels come from."""
    parts: tuple[Part, ...] = ()
    """What an accelerator runs."""

    def with_mod(self, mod: tvm.IRModule) -> State:
        return replace(self, mod=mod)


@dataclass(frozen=True)
class Pass:
    """A named step. A required one cannot be left out: what follows relies on it."""

    name: str
    run: Callable[[State], State]
    required: bool = False
