"""The end of a linear kernel: what is done to sums before they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from espalier.schedules.linear import Epilogue
from espalier.schedules.x86 import vmath
from espalier.schedules.x86.build import handle, matched, parameter


@dataclass
class End:
    """An epilogue with its buffers."""

    epilogue: Epilogue
    bias: Any = None
    residual: Any = None

    @classmethod
    def declare(cls, epilogue: Epilogue, n: int) -> End:
        """Declare the parameters: bias f32 `[n]` and residual."""
        return cls(
            epilogue,
            parameter("Bias", (n,)) if epilogue.bias else None,
            handle("residual") if epilogue.residual else None,
        )

    def match(self, shape: tuple[Any, ...]) -> None:
        """Give the residual its shape, y's."""
        if self.residual is not None:
            self.residual = matched("Residual", self.residual, shape)

    def apply(self, sums: Any, bias: Any, residual: list[Any]) -> Any:
        """act(sums + bias) + residual. bias: expression made of `self.bias`; residual: its place."""
        if self.bias is not None:
            sums = sums + bias(self.bias)
        sums = vmath.ACTIVATIONS[self.epilogue.activation](sums)
        return sums if self.residual is None else sums + self.residual[tuple(residual)]
