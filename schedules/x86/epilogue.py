"""The end of a linear kernel in TVMScript: what is done to a vector of sums before it is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from espalier.schedules.linear import Epilogue


def parameters(epilogue: Epilogue, n: int, residual: str) -> list[str]:
    """Function parameters of the epilogue; `residual` declares the residual, whose layout is y's."""
    declared = [f'Bias: T.Buffer(({n},), "float32")'] if epilogue.bias else []
    return declared + ([residual] if epilogue.residual else [])


def result(epilogue: Epilogue, sums: str, bias: str, residual: str) -> str:
    """act(sums + bias) + residual, all of them vector expressions."""
    text = f"{sums} + {bias}" if epilogue.bias else sums
    if epilogue.activation != "none":
        text = f"activation({text})"
    return f"{text} + {residual}" if epilogue.residual else text


def names(epilogue: Epilogue) -> dict[str, Callable[..., Any]]:
    """Names that the text of `result` uses."""
    from espalier.schedules.x86 import vmath

    return {"activation": vmath.ACTIVATIONS[epilogue.activation]}
