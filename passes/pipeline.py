"""The one list of passes, in order, for each kind of target."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tvm
from tvm import relax

from espalier.passes import (
    bind,
    choose,
    detect,
    float_products,
    fuse_activation,
    fuse_attention,
    fuse_cached_attention,
    fuse_linear,
    fuse_norm,
    layout,
    lower,
    partition,
    quantize,
    still_permutes,
    take_integers,
    widen,
)
from espalier.passes.state import Pass, State


def _on_mod(run: Callable[[tvm.IRModule], tvm.IRModule]) -> Callable[[State], State]:
    return lambda state: state.with_mod(run(state.mod))


def _layouts(state: State) -> State:
    chosen = {name: layer.kernel.work.layout for name, layer in state.layers.items()}
    return state.with_mod(layout.run(state.mod, chosen))


FRONT = (
    Pass("widen", widen.run),
    Pass("clean", _on_mod(relax.transform.EliminateCommonSubexpr())),
    Pass("float-products", float_products.run),
    Pass("fuse-activation", _on_mod(fuse_activation.run)),
    Pass("fuse-norm", _on_mod(fuse_norm.run)),
    Pass("fuse-attention", _on_mod(fuse_attention.run)),
    Pass("fuse-cached-attention", _on_mod(fuse_cached_attention.run)),
    Pass("still-permutes", _on_mod(still_permutes.run)),
    Pass("fuse-linear", lambda state: state.with_mod(fuse_linear.run(state.mod, state.weights))),
    Pass("detect", detect.run, required=True),
)
"""Until the model is a few operators of ours whose weights have a known structure."""

CPU = (
    Pass("choose", choose.run, required=True),
    Pass("layout", _layouts, required=True),
    Pass("share", _on_mod(relax.transform.EliminateCommonSubexpr())),
    Pass("lower", lower.run, required=True),
    Pass("bind", bind.run, required=True),
)
"""From there to kernels of the CPU."""

PIPELINES: Mapping[str, tuple[Pass, ...]] = {
    "llvm": (
        *FRONT,
        Pass("take-integers", take_integers.run),
        Pass("quantize", quantize.run),
        *CPU,
    ),
    "fpga": (*FRONT, Pass("partition", partition.run, required=True), *CPU),
}
"""By the kind of target."""
