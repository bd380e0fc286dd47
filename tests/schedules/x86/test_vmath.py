"""Vector functions against float64, over their whole domain, at two instruction sets."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
import pytest
import tvm
from tvm.script import from_source
from tvm.script import tirx as T

from espalier.schedules.x86 import vmath

pytestmark = pytest.mark.compile

COUNT = 1 << 16
LIBM = ("expf", "erff", "tanhf", "exp2f", "powf", "fmaf", "roundf")


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(erf)(x)


# name: (reference in float64, bound of the absolute error, bound of the error relative to the value)
FUNCTIONS = {
    "exp": (np.exp, 0.0, 2.5e-7),
    "exp_nonpositive": (np.exp, 2e-7, 0.0),
    "gelu": (lambda x: 0.5 * x * (1 + _erf(x / sqrt(2))), 9e-7, 6e-8),
    "gelu_tanh": (lambda x: x * _sigmoid(2 * sqrt(2 / np.pi) * (x + 0.044715 * x**3)), 4e-7, 6e-8),
    "erf": (_erf, 0.0, 5e-7),
    "tanh": (np.tanh, 0.0, 5e-7),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 0.0, 5e-7),
    "silu": (lambda x: x / (1 + np.exp(-x)), 0.0, 5e-7),
    "reciprocal": (lambda x: 1 / x, 0.0, 6e-8),
}


def _compile(mcpu: str, lanes: int = 16) -> tvm.runtime.Executable:
    index = f"T.Ramp(i * {lanes}, 1, {lanes})" if lanes > 1 else "i"
    functions = {}
    for name in FUNCTIONS:
        source = f"""
@T.prim_func(s_tir=True)
def {name}(X: T.Buffer(({COUNT},), "float32"), Y: T.Buffer(({COUNT},), "float32")):
    T.func_attr({{"tirx.noalias": True, "global_symbol": "{name}"}})
    for i in T.serial({COUNT // lanes}):
        with T.sblock("vector"):
            T.reads()
            T.writes()
            Y[{index}] = f(X[{index}])
"""
        functions[name] = from_source(source, extra_vars={"T": T, "f": getattr(vmath, name)})
    return tvm.compile(tvm.IRModule(functions), target=tvm.target.Target({"kind": "llvm", "mcpu": mcpu}))


@pytest.fixture(scope="module", params=["x86-64-v2", "x86-64-v3"])
def library(request: pytest.FixtureRequest) -> tvm.runtime.Executable:
    return _compile(request.param)


def _run(library: tvm.runtime.Executable, name: str, x: np.ndarray) -> np.ndarray:
    padded = np.zeros(COUNT, np.float32)
    padded[: len(x)] = x
    y = tvm.runtime.tensor(np.zeros(COUNT, np.float32))
    library[name](tvm.runtime.tensor(padded), y)
    return y.numpy()[: len(x)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_is_within_the_bound(library: tvm.runtime.Executable, name: str) -> None:
    reference, absolute, relative = FUNCTIONS[name]
    rng = np.random.default_rng(1)
    quarter = COUNT // 4
    x = np.concatenate(
        [
            np.linspace(-85, 88.7, quarter),
            np.linspace(-8, 8, quarter),
            rng.standard_normal(quarter),
            10.0 ** rng.uniform(-20, 1.5, quarter) * rng.choice([-1, 1], quarter),
        ]
    ).astype(np.float32)
    if name == "exp_nonpositive":
        x = -np.abs(x[np.abs(x) < 85])
    expected = reference(x.astype(np.float64))
    assert np.all(np.abs(_run(library, name, x) - expected) <= absolute + relative * np.abs(expected))


def test_error_of_softmax_powers(library: tvm.runtime.Executable) -> None:
    x = np.linspace(-85, 0, COUNT).astype(np.float32)
    expected = np.exp(x.astype(np.float64))
    error = np.abs(_run(library, "exp_nonpositive", x) - expected)
    assert np.all(error <= (2e-7 + 6e-8 * np.abs(x)) * expected)


def test_limits(library: tvm.runtime.Executable) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([-inf, -1e30, -88, 0, 89, 1e30, inf, nan], np.float32)
    expected = {
        "exp": [0, 0, 0, 1, inf, inf, inf, nan],
        "gelu": [0, 0, 0, 0, 89, 1e30, inf, nan],
        "gelu_tanh": [0, 0, 0, 0, 89, 1e30, inf, nan],
        "erf": [-1, -1, -1, 0, 1, 1, 1, nan],
        "tanh": [-1, -1, -1, 0, 1, 1, 1, nan],
        "sigmoid": [0, 0, 0, 0.5, 1, 1, 1, nan],
        "silu": [nan, 0, 0, 0, 89, 1e30, inf, nan],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(_run(library, name, x), values, rtol=5e-7, atol=1e-8, err_msg=name)
    np.testing.assert_array_equal(
        _run(library, "exp_nonpositive", np.array([-inf, -1e30, 0, nan], np.float32)), [0, 0, 1, nan]
    )


@pytest.mark.parametrize("mcpu", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_no_call_to_libm(mcpu: str) -> None:
    assembly = _compile(mcpu).mod.inspect_source("asm")
    assert not [name for name in LIBM if name in assembly]


def test_scalars_are_allowed() -> None:
    x = np.linspace(-4, 4, 100).astype(np.float32)
    expected = FUNCTIONS["gelu"][0](x.astype(np.float64))
    np.testing.assert_allclose(_run(_compile("x86-64-v2", lanes=1), "gelu", x), expected, atol=9e-7)


def test_activations_are_those_of_the_contract() -> None:
    assert set(vmath.ACTIVATIONS) == {"none", "relu", "gelu", "gelu_tanh", "tanh", "sigmoid", "silu"}
