"""Linear layers `y = act(x Wᵀ + bias) + residual`: what is asked for, and the kernels that can do it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from espalier.targets.cpu import Cpu

if TYPE_CHECKING:
    import numpy as np
    from tvm.tirx import PrimFunc

    from espalier.sparsity import Packed, Structure

Activation = Literal["none", "relu", "gelu", "gelu_tanh", "tanh", "sigmoid", "silu"]
Layout = Literal["tiles", "tokens"]


@dataclass(frozen=True)
class Epilogue:
    """What is done to `x Wᵀ` before it is stored: add the bias, apply the activation, add the residual."""

    bias: bool = False
    activation: Activation = "none"
    residual: bool = False


@dataclass(frozen=True)
class Quantization:
    """How the activations of a layer become integers: `clip(round(x / scale) + zero, 0, 255)`.

    mode: "static" by these constants, "token" by the range of each token, "tensor" by the range of the whole
    input, as ONNX's DynamicQuantizeLinear says. factors: of the features, [K], that x is multiplied with
    before and the weights are divided by (empty: none); they even out ranges. given: the model says so, and
    is to be met exactly: weights are integers times a scale. Else kernels may use fewer levels, and choose
    the scales of the weights.
    """

    mode: Literal["static", "token", "tensor"] = "token"
    scale: float = 1.0
    zero: int = 0
    factors: tuple[float, ...] = ()
    given: bool = False

    def at(self, levels: int) -> Quantization:
        """The same range with another largest integer."""
        if levels == LEVELS:
            return self
        ratio = levels / LEVELS
        return replace(self, scale=self.scale / ratio, zero=round(self.zero * ratio))


LEVELS = 255


@dataclass(frozen=True)
class LinearWork:
    """One linear layer for any number of tokens M.

    n, k: outputs and inputs. layout: of x, residual and y: "tiles" is f32 `[ceil(M/16), features, 16]`,
    "tokens" is f32 `[M, features]`.

    dtype: of the products: "float32"; "int8", where x is u8 tiles, quantised as `scaling` says: by constants
    that `pack` folds in, or by a scale f32 and a zero point i32 a token, `[ceil(M/16), 16]` each, that follow
    x among the parameters. largest: of the integers that the model gives as weights, with activations of all
    8 bits; 0 where the kernel chooses.
    """

    n: int
    k: int
    structure: Structure
    epilogue: Epilogue = Epilogue()
    layout: Layout = "tiles"
    dtype: str = "float32"
    scaling: Literal["static", "token"] = "token"
    largest: int = 0


class LinearKernel(ABC):
    """One way to run a linear layer: how the weight is stored, and the function that reads it."""

    version: ClassVar[int] = 1
    """Raised when the code of a kernel changes so much that times measured before no longer hold."""
    counts_tokens: ClassVar[bool] = False
    """The function is told the number of tokens, which its buffers do not show."""

    work: LinearWork

    @property
    @abstractmethod
    def name(self) -> str:
        """Data type, kind and all knobs in one word: `f32-row-r2m4h32c96`."""

    @property
    @abstractmethod
    def knobs(self) -> Mapping[str, int]:
        """What could be set otherwise without changing the result."""

    @property
    def code(self) -> Hashable:
        """What the function depends on: of kernels that agree in it, one function serves all."""
        return self

    def for_tokens(self, m: int) -> LinearKernel:
        """This kernel where there are always m tokens; it may be worth a function of its own."""
        return self

    def variants(self) -> Sequence[LinearKernel]:
        """This kernel under every setting of its knobs that is worth a try, the present one first."""
        return [self]

    @abstractmethod
    def pack(self, packed: Packed) -> tuple[np.ndarray, ...]:
        """The constants that the function reads, in the order of its parameters."""

    @abstractmethod
    def func(self, name: str) -> PrimFunc:
        """The function: parameters x, constants, [bias f32 `[N]`], [residual], [M, an int64, where it
        `counts_tokens`], y; M is symbolic."""

    @property
    @abstractmethod
    def constant_bytes(self) -> float:
        """Bytes of what `pack` gives, about."""

    @abstractmethod
    def milliseconds(self, m: int, threads: int) -> float:
        """Predicted time for m tokens."""


_FAMILIES: dict[type[Any], str] = {Cpu: "espalier.schedules.x86.linear"}
"""Class of device to the module whose `candidates(work, device)` knows its kernels."""


def linear_candidates(work: LinearWork, device: Any) -> list[LinearKernel]:
    """Every kernel that can run `work` on `device`, dense ones always among them."""
    return import_module(_FAMILIES[type(device)]).candidates(work, device)
