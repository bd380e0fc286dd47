"""Elementary functions of f32 vectors, as TIR expressions.

Each function takes a float32 expression of any number of lanes and returns one of the same type: one
description for SSE4, AVX2 and AVX-512, and for scalars. Nothing calls libm. Intermediate values are bound by
`Let`, so an argument is evaluated once. In TVMScript text they are called like any other expression, if their
names are among the extra variables of the parser:

    from_source(text, extra_vars={"T": T, "gelu": vmath.gelu})    # Y[...] = gelu(acc[T.Ramp(0, 1, 16)])

NaN goes through. Errors below are the largest measured against float64 over the domain (tests/schedules/x86).
Minimum and maximum are written with the variable on the right: x86's minps and maxps return their second
operand where one is NaN, and LLVM keeps that order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

Expr = Any
"""A tvm.ir.Expr of float32; type checkers do not know its operators."""

LOG2E = 1 / math.log(2)
LN2_HIGH = 0.693359375
"""ln 2 to 10 bits: its product with a small integer is exact in f32."""
LN2_LOW = math.log(2) - LN2_HIGH
ROUND = 1.5 * 2**23
"""Adding this to a small f32 rounds it to an integer, which then stands in the low bits."""

# Minimax fit of 2 exp(r) over |r| <= ln 2 / 2 that is exact at 0; error 9.2e-8 of the value
EXP = (2.0, 1.999999413670812, 0.9999829712878487, 0.3333527327444339, 0.08379612828205535,
       0.01658067537632487)  # fmt: skip
# Minimax fits of Phi(-t)^(1/16) with the weight that makes t Phi(-t) uniform, over 0 <= t <= 5.8
GELU = (0.9576056909728159, -0.047779848845628706, -0.01776715014525033, -0.0013962494209031782,
        0.000692238312195164, -4.552055086832038e-05)  # fmt: skip
# The same for sigmoid(-2 sqrt(2 / pi) (t + 0.044715 t^3))
GELU_TANH = (0.9576034291599967, -0.04775280136033169, -0.017878207472238575, -0.0011254741626667978,
             0.00043125800980852266, 0.00018324124785427896, -0.00012242773005481495, 2.5636931105048098e-05,
             -1.8417799924400234e-06)  # fmt: skip
# Rational fits x P(x^2) / Q(x^2), coefficients as in Eigen (MathFunctionsImpl.h) and TVM's topi.fast_tanh and
# fast_erf
TANH_P = (4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08,
          -8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16)  # fmt: skip
TANH_Q = (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)
ERF_P = (-1.60960333262415e-02, -2.95459980854025e-03, -7.34990630326855e-04, -5.69250639462346e-05,
         -2.10102402082508e-06, 2.77068142495902e-08, -2.72614225801306e-10)  # fmt: skip
ERF_Q = (-1.42647390514189e-02, -7.37332916720468e-03, -1.68282697438203e-03, -2.13374055278905e-04,
         -1.45660718464996e-05)  # fmt: skip


def exp(x: Expr) -> Expr:
    """e^x: error 2e-7 of the value; 0 below -87 (-inf too), inf above 88.722."""
    clamped = _min(89.4, _max(-87.6, x))
    return _let(clamped, lambda x: _exp(x, lambda n: x - n * _real(x, LN2_HIGH) - n * _real(x, LN2_LOW)))


def exp_nonpositive(x: Expr) -> Expr:
    """e^x for x <= 0 (softmax): error 2e-7 + 6e-8 |x| of the value, so at most 2e-7 in all; 0 below -87."""
    return _let(_max(-87.6, x), lambda x: _exp(x, lambda n: x - n * _real(x, math.log(2))))


def _exp(x: Expr, rest: Callable[[Expr], Expr]) -> Expr:
    """2^n e^r with r = `rest(n)`, for x from -87.6 to 89.4."""
    # 2^(n-1) times 2 e^r, with n - 1 from -127 (gives exactly 0) to 128 (infinity)
    shift = ROUND + 126
    return _let(
        x * _real(x, LOG2E) + _real(x, shift),
        lambda t: _let(
            t - _real(x, shift),
            lambda n: _let(rest(n), lambda r: _polynomial(r, EXP) * _float(_int(t) << _integer(x, 23))),
        ),
    )


def gelu(x: Expr) -> Expr:
    """x Phi(x), the exact (erf) GELU: absolute error 9e-7 in 12 operations.

    max(x, 0) - t Phi(-t) with t = |x|. Phi(-t)^(1/16) is so smooth that a polynomial of degree 5 does, and
    four squarings cost less than a division or an exponential.
    """
    return _bump(x, GELU, 6.5)


def gelu_tanh(x: Expr) -> Expr:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): absolute error 4e-7, by the method of `gelu`."""
    return _bump(x, GELU_TANH, 5.5)


def erf(x: Expr) -> Expr:
    """erf(x): error 5e-7 of the value."""
    return _let(_clamp(x, 4.0), lambda x: _odd_rational(x, ERF_P, ERF_Q))


def tanh(x: Expr) -> Expr:
    """tanh(x): error 5e-7 of the value."""
    return _let(_clamp(x, 7.90531110763549805), lambda x: _odd_rational(x, TANH_P, TANH_Q))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x): error 4e-7 of the value down to 1e-37."""
    return reciprocal(exp(_real(x, 0.0) - x) + _real(x, 1.0))


def silu(x: Expr) -> Expr:
    """x sigmoid(x): error 4e-7 of the value."""
    return _let(x, lambda x: x / (exp(_real(x, 0.0) - x) + _real(x, 1.0)))


def reciprocal(x: Expr) -> Expr:
    """1 / x, correctly rounded (the division instruction)."""
    return _real(x, 1.0) / x


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "none": lambda x: x,
    "relu": lambda x: _max(0.0, x),
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "silu": silu,
}
"""The activations of a linear layer's epilogue by name."""


def _bump(x: Expr, coefficients: Sequence[float], limit: float) -> Expr:
    """max(x, 0) - t P(t)^16 with t = min(|x|, limit)."""
    magnitude = lambda x: _float(_int(x) & _integer(x, 0x7FFFFFFF))  # noqa: E731
    return _let(
        x,
        lambda x: _let(
            _min(limit, magnitude(x)),
            lambda t: _let(
                _polynomial(t, coefficients),
                lambda p: _let(
                    p * p, lambda p: _let(p * p, lambda p: _let(p * p, lambda p: _max(0.0, x) - t * (p * p)))
                ),
            ),
        ),
    )


def _odd_rational(x: Expr, numerator: Sequence[float], denominator: Sequence[float]) -> Expr:
    return _let(x * x, lambda s: x * _polynomial(s, numerator) / _polynomial(s, denominator))


def _polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Sum of coefficients[i] x^i by Horner's rule (LLVM fuses each step to one FMA where the CPU has it)."""
    total = _real(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + _real(x, c)
    return total


def _let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    if isinstance(value, tirx.Var):
        return body(value)
    var = tirx.Var("v", value.ty)
    return tirx.Let(var, value, body(var))


def _clamp(x: Expr, limit: float) -> Expr:
    return _min(limit, _max(-limit, x))


def _min(limit: float, x: Expr) -> Expr:
    return tirx.min(_real(x, limit), x)


def _max(limit: float, x: Expr) -> Expr:
    return tirx.max(_real(x, limit), x)


def _real(like: Expr, value: float) -> Expr:
    return _broadcast(tirx.FloatImm("float32", value), like)


def _integer(like: Expr, value: int) -> Expr:
    return _broadcast(tirx.IntImm("int32", value), like)


def _broadcast(value: Expr, like: Expr) -> Expr:
    lanes: Any = _lanes(like)
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def _int(x: Expr) -> Expr:
    return tirx.reinterpret(_type("int32", x), x)


def _float(x: Expr) -> Expr:
    return tirx.reinterpret(_type("float32", x), x)


def _type(base: str, like: Expr) -> str:
    lanes = _lanes(like)
    return base if lanes == 1 else f"{base}x{lanes}"


def _lanes(x: Expr) -> int:
    return x.ty.dtype.lanes
