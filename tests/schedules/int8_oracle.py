"""The integer kernels in numpy, and the way of a kernel from its work to its result."""

from __future__ import annotations

import numpy as np

from espalier.schedules import LinearWork, Quantization
from espalier.schedules.x86.int8_linear import Int8Linear
from espalier.schedules.x86.int8_pack import quantized_matrix

F32 = np.float32


def tiles(x: np.ndarray, fill: float = 0) -> np.ndarray:
    """`[M, K]` as `[ceil(M/16), K, 16]`; the lanes past M hold `fill`."""
    tokens, features = x.shape
    padded = np.full((-(-tokens // 16) * 16, features), fill, x.dtype)
    padded[:tokens] = x
    return np.ascontiguousarray(padded.reshape(-1, 16, features).transpose(0, 2, 1))


def tokens(y: np.ndarray, count: int) -> np.ndarray:
    return y.transpose(0, 2, 1).reshape(-1, y.shape[1])[:count]


class Built:
    """A kernel compiled for `mcpu` with its constants."""

    def __init__(self, kernel: Int8Linear, weight: np.ndarray, quantization: Quantization, mcpu: str) -> None:
        import tvm

        self.kernel, self.quantization = kernel, quantization.at(kernel.levels)
        self.work: LinearWork = kernel.work
        packed = self.work.structure.pack(weight)
        self.codes, self.scale = quantized_matrix(kernel.shape, packed, quantization)
        self.tensor = tvm.runtime.tensor
        target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu})
        self.library = tvm.compile(kernel.func("linear"), target=target)
        self.constants = kernel.pack(packed, quantization)

    def check(self, count: int, seed: int = 0) -> None:
        """Random integers for `count` tokens give the reference's bits."""
        work, rng = self.work, np.random.default_rng(seed)
        x = rng.integers(0, self.kernel.levels + 1, (count, work.k)).astype(np.uint8)
        x[rng.integers(0, count)] = self.kernel.levels  # the largest sums
        static = work.scaling == "static"
        zero = np.full(count, self.quantization.zero, np.int32)
        scale = np.full(count, self.quantization.scale, np.float32)
        if not static:
            zero = rng.integers(0, self.kernel.levels + 1, count).astype(np.int32)
            scale = np.exp2(rng.integers(-8, 3, count)).astype(np.float32)
        arguments = [tiles(x)]
        if not static:
            arguments += [tiles(each[:, None])[:, 0] for each in (scale, zero)]
        bias, residual = (rng.standard_normal(s).astype(F32) for s in ((work.n,), (count, work.n)))
        arguments += self.constants
        if work.epilogue.bias:
            arguments.append(bias)
        if work.epilogue.residual:
            arguments.append(tiles(residual))
        y = self.tensor(tiles(np.full((count, work.n), np.nan, np.float32)))
        self.library["linear"](*map(self.tensor, arguments), y)
        got = tokens(y.numpy(), count)
        integer = x.astype(np.int64) @ self.codes.T.astype(np.int64)
        integer -= zero[:, None].astype(np.int64) * self.codes.sum(axis=1, dtype=np.int64)
        assert np.abs(integer).max() < 2**31
        factor = self.scale * scale[:, None]
        want = integer.astype(F32) * factor
        if work.epilogue == type(work.epilogue)():
            np.testing.assert_array_equal(got, want)
            return
        exact = want.astype(np.float64) + (bias if work.epilogue.bias else 0)
        exact = np.maximum(exact, 0) if work.epilogue.activation == "relu" else exact
        exact = exact + (residual if work.epilogue.residual else 0)
        np.testing.assert_allclose(got, exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())
