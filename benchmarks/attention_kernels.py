"""Time what is no linear layer against ONNX Runtime, one thread, interleaved: attention, layer norm, GELU.

Times are of the CPU, not of the wall, so that a busy machine disturbs less; the ratio is of medians. Tiles in
and out for ours, tokens for ONNX Runtime: both hold their activations so between layers.

    python benchmarks/attention_kernels.py --heads 12 --head-dim 32
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ["TVM_NUM_THREADS"] = "1"

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper

from espalier.schedules.x86.attention import AttentionWork, Mask, attention
from espalier.schedules.x86.norm import NormWork, layer_norm
from espalier.schedules.x86.tiles import from_tiles, to_tiles
from espalier.targets.x86.host import host_device

Call = Callable[[], object]
SHAPES = [(1, 32), (1, 128), (4, 128), (1, 384), (4, 100)]


def session(
    nodes: list, inputs: dict[str, list], constants: dict[str, np.ndarray]
) -> onnxruntime.InferenceSession:
    graph = helper.make_graph(
        nodes,
        "kernel",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def peer_attention(heads: int, head_dim: int) -> onnxruntime.InferenceSession:
    """The graph that torch exports, mask added."""
    width = heads * head_dim
    nodes = []
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes.append(helper.make_node("Reshape", [name, "split"], [f"{name}_split"]))
        nodes.append(helper.make_node("Transpose", [f"{name}_split"], [f"{name}_heads"], perm=order))
    nodes += [
        helper.make_node("MatMul", ["q_heads", "k_heads"], ["raw"]),
        helper.make_node("Mul", ["raw", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "v_heads"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["swapped"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["swapped", "merge"], ["y"]),
    ]
    inputs = {name: ["b", "s", width] for name in "qkv"} | {"mask": ["b", 1, 1, "s"]}
    constants = {
        "split": np.array([0, 0, heads, head_dim], np.int64),
        "merge": np.array([0, 0, width], np.int64),
        "scale": np.array(head_dim**-0.5, np.float32),
    }
    return session(nodes, inputs, constants)


def peer_fused(heads: int, head_dim: int) -> onnxruntime.InferenceSession:
    """ONNX Runtime's own operator; without a mask, which it takes in another form."""
    node = helper.make_node(
        "MultiHeadAttention", ["q", "k", "v"], ["y"], domain="com.microsoft", num_heads=heads
    )
    return session([node], {name: ["b", "s", heads * head_dim] for name in "qkv"}, {})


def compiled(make: Callable[[str], tvm.tirx.PrimFunc]) -> Callable:
    target = tvm.target.Target({"kind": "llvm", "mcpu": host_device().cpu.mcpu})
    return tvm.compile(make("kernel"), target=target)["kernel"]


def medians(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """Milliseconds of CPU time."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: 1e3 * float(np.median(values)) for name, values in times.items()}


def tensor(shape: tuple[int, ...], rng: np.random.Generator) -> tvm.runtime.Tensor:
    return tvm.runtime.tensor(rng.standard_normal(shape).astype(np.float32))


def show(what: str, shape: tuple[int, int], ours: float, theirs: dict[str, float]) -> None:
    peers = "  ".join(f"{name} {ms:8.3f} ms {ms / ours:5.2f}x" for name, ms in theirs.items())
    print(f"{what:20} B {shape[0]} S {shape[1]:4}  ours {ours:8.3f} ms  {peers}", flush=True)


class Kernels:
    """Ours and those of ONNX Runtime."""

    def __init__(self, heads: int, head_dim: int, hidden: int) -> None:
        cpu, self.width, self.hidden = host_device().cpu, heads * head_dim, hidden
        mask = Mask("add", batch=True, heads=False, queries=False)
        work = AttentionWork(heads, head_dim, head_dim, head_dim**-0.5, mask)
        self.attention = compiled(lambda name: attention(work, cpu, name))
        self.norm = compiled(lambda name: layer_norm(NormWork(self.width, 1e-12), cpu, name))
        self.gelu = compiled(lambda name: gelu_kernel(hidden, name))
        self.to_tiles = compiled(lambda name: to_tiles(self.width, cpu, name))
        self.from_tiles = compiled(lambda name: from_tiles(self.width, cpu, name))
        self.unfused, self.fused = peer_attention(heads, head_dim), peer_fused(heads, head_dim)
        self.ones = np.ones(self.width, np.float32)
        normal = helper.make_node("LayerNormalization", ["x", "g", "c"], ["y"], epsilon=1e-12)
        self.peer_norm = session([normal], {"x": ["b", "s", self.width]}, {"g": self.ones, "c": self.ones})
        self.peer_gelu = session([helper.make_node("Gelu", ["x"], ["y"])], {"x": ["b", "s", hidden]}, {})

    def calls(self, batch: int, sequence: int) -> dict[str, tuple[Call, dict[str, Call]]]:
        """What is timed: (ours, theirs)."""
        rng, tiles = np.random.default_rng(0), (batch * sequence + 15) // 16
        feed = {n: rng.standard_normal((batch, sequence, self.width)).astype(np.float32) for n in "qkv"}
        mask = np.zeros((batch, 1, 1, sequence), np.float32)
        mask[..., -5:] = -np.inf
        q, k, v, y = (tensor((tiles, self.width, 16), rng) for _ in range(4))
        vector, added = tvm.runtime.tensor(self.ones), tvm.runtime.tensor(mask)
        x = rng.standard_normal((batch, sequence, self.hidden)).astype(np.float32)
        wide, result = (tensor((tiles, self.hidden, 16), rng) for _ in range(2))
        tokens = tensor((batch * sequence, self.width), rng)
        return {
            "attention": (
                lambda: self.attention(q, k, v, added, batch, sequence, y),
                {
                    "unfused": lambda: self.unfused.run(None, {**feed, "mask": mask}),
                    "fused": lambda: self.fused.run(None, feed),
                },
            ),
            f"layer norm {self.width}": (
                lambda: self.norm(q, vector, vector, y),
                {"ORT": lambda: self.peer_norm.run(None, {"x": feed["q"]})},
            ),
            f"GELU {self.hidden}": (
                lambda: self.gelu(wide, result),
                {"ORT": lambda: self.peer_gelu.run(None, {"x": x})},
            ),
            "to tiles": (lambda: self.to_tiles(tokens, y), {"copy": lambda: y.copyfrom(q)}),
            "from tiles": (lambda: self.from_tiles(q, tokens), {"copy": lambda: y.copyfrom(q)}),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=1536, help="width of the GELU")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each line")
    args = parser.parse_args()
    kernels = Kernels(args.heads, args.head_dim, args.hidden)
    for shape in SHAPES:
        for what, (ours, peers) in kernels.calls(*shape).items():
            times = medians({"ours": ours, **peers}, args.seconds)
            show(what, shape, times.pop("ours"), times)


def gelu_kernel(features: int, name: str) -> tvm.tirx.PrimFunc:
    """GELU alone; in a model it is part of a linear layer."""
    from espalier.schedules.x86 import build, vmath

    def emit() -> None:
        x, y = build.handle("x"), build.handle("y")
        shape = (tvm.tirx.Var("tiles", "int64"), features, 16)
        x, y = build.matched("X", x, shape), build.matched("Y", y, shape)
        with (
            build.parallel("tile", shape[0]) as tile,
            build.loop("k", features) as k,
            build.opaque("gelu"),
        ):
            build.store(y, [tile, k, build.vector()], vmath.gelu(x[tile, k, build.vector()]))

    return build.prim_func(name, emit)


if __name__ == "__main__":
    main()
