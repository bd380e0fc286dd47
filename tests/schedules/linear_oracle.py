"""Linear layers in float64, and the way of a kernel from its work to its result."""

from __future__ import annotations

import math

import numpy as np

from espalier.schedules import Epilogue, LinearKernel, LinearWork
from espalier.sparsity import Structure

GUARD = 256
"""A multiple of the 16 numbers that TVM's alignment of 64 bytes holds."""
ACTIVATIONS = {
    "none": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "gelu": lambda z: z * 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2))),
    "gelu_tanh": lambda z: z * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "silu": lambda z: z / (1 + np.exp(-z)),
}


def expected(
    x: np.ndarray, weight: np.ndarray, end: Epilogue, bias: np.ndarray, residual: np.ndarray
) -> np.ndarray:
    """act(x Wᵀ + bias) + residual in float64, `[M, N]`."""
    z = x.astype(np.float64) @ weight.T.astype(np.float64) + (bias if end.bias else 0)
    return ACTIVATIONS[end.activation](z) + (residual if end.residual else 0)


def pruned(structure: Structure, n: int, k: int, seed: int = 0) -> np.ndarray:
    """A random weight `[n, k]` of the structure."""
    weight = np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)
    return np.where(structure.mask(weight), weight, np.float32(0))


def to_tiles(x: np.ndarray) -> np.ndarray:
    """`[M, K]` as `[ceil(M/16), K, 16]`, NaN in the lanes past M: they may not reach another lane."""
    tokens, features = x.shape
    tiles = -(-tokens // 16)
    padded = np.full((tiles * 16, features), np.nan, np.float32)
    padded[:tokens] = x
    return np.ascontiguousarray(padded.reshape(tiles, 16, features).transpose(0, 2, 1))


def from_tiles(y: np.ndarray, tokens: int) -> np.ndarray:
    return y.transpose(0, 2, 1).reshape(-1, y.shape[1])[:tokens]


def between_guards(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(memory, copy of y inside it): GUARD numbers before and after y, which is aligned as TVM asks for."""
    memory = np.full(y.size + 2 * GUARD + 16, 7, np.float32)
    memory = memory[-(memory.ctypes.data // 4) % 16 :][: y.size + 2 * GUARD]
    inside = memory[GUARD : GUARD + y.size].reshape(y.shape)
    inside[...] = y
    return memory, inside


class Built:
    """A kernel compiled for `mcpu` with its constants."""

    def __init__(self, kernel: LinearKernel, weight: np.ndarray, mcpu: str = "x86-64-v3") -> None:
        import tvm

        self.tensor, self.view = tvm.runtime.tensor, tvm.runtime.from_dlpack
        self.work: LinearWork = kernel.work
        self.weight = weight
        self.counts_tokens = kernel.counts_tokens
        target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu})
        self.library = tvm.compile(kernel.func("linear"), target=target)
        self.constants = [self.tensor(array) for array in kernel.pack(self.work.structure.pack(weight))]

    def error(self, tokens: int, seed: int = 0) -> float:
        """Largest difference from the float64 result, relative to the largest result, for random inputs.

        Y lies between guards that must stay as they were.
        """
        work, rng = self.work, np.random.default_rng(seed)
        x, bias, residual = (
            rng.standard_normal(shape).astype(np.float32)
            for shape in ((tokens, work.k), (work.n,), (tokens, work.n))
        )
        layout = to_tiles if work.layout == "tiles" else np.ascontiguousarray
        y = np.full((tokens, work.n), np.nan, np.float32)
        arguments = [self.tensor(layout(x)), *self.constants]
        if work.epilogue.bias:
            arguments.append(self.tensor(bias))
        if work.epilogue.residual:
            arguments.append(self.tensor(layout(residual)))
        if self.counts_tokens:
            arguments.append(tokens)
        guarded, out = between_guards(layout(y))
        self.library["linear"](*arguments, self.view(out))
        assert (guarded[:GUARD] == 7).all()
        assert (guarded[-GUARD:] == 7).all()
        got = out if work.layout == "tokens" else from_tiles(out, tokens)
        want = expected(x, self.weight, work.epilogue, bias, residual)
        assert np.isfinite(got).all()
        return float(np.abs(got - want).max() / max(1.0, np.abs(want).max()))
