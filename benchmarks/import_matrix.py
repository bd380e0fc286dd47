"""Which exports import: small Transformers of many kinds, both torch exporters, static and dynamic shapes.

Exports what is not yet in the folder, imports each file, compiles it with the default pipeline of TVM and
compares it with ONNX Runtime (not optimising) at several batches and lengths. A line a file, then the table.

    python benchmarks/import_matrix.py -o exports     # about half an hour; --only bert,gpt2 for a part
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SMALL = {
    "vocab_size": 500,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
OPSETS = {"legacy": (14, 17, 20), "dynamo": (18, 20, 23, 24)}
LENGTHS = ((1, 1), (2, 7), (3, 33))
TOLERANCE = 1e-4


def models() -> dict[str, Callable[[], tuple[Any, list[str]]]]:
    """The architectures: a function that makes the module and the names of its inputs."""
    import torch
    import transformers as tf
    from torch import nn

    class First(nn.Module):
        """The first output of a transformers model, its inputs by position."""

        def __init__(self, model: Any, names: list[str]) -> None:
            super().__init__()
            self.model, self.names = model.eval(), names

        def forward(self, *args: Any) -> Any:
            return self.model(**dict(zip(self.names, args, strict=True)))[0]

    class Decoder(nn.Module):
        """nn.TransformerEncoder as a causal language model."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(500, 64)
            layer = nn.TransformerEncoderLayer(64, 4, 40, batch_first=True, dropout=0.0)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(64, 500)
            self.register_buffer("places", torch.randn(128, 64))

        def forward(self, ids: Any) -> Any:
            n = ids.shape[1]
            mask = torch.full((n, n), float("-inf")).triu(1)
            x = self.embed(ids) * 8.0 + self.places[:n]
            return self.head(self.layers(x, mask=mask, is_causal=True))

    def hf(model: Any, config: Any, *names: str) -> Callable[[], tuple[Any, list[str]]]:
        return lambda: (First(model(config), list(names)), list(names))

    ids, mask, kinds = "input_ids", "attention_mask", "token_type_ids"
    distil = tf.DistilBertConfig(
        vocab_size=500, dim=64, n_layers=2, n_heads=4, hidden_dim=128, max_position_embeddings=64
    )
    gpt2 = tf.GPT2Config(vocab_size=500, n_embd=64, n_layer=2, n_head=4, n_positions=64, use_cache=False)
    t5 = tf.T5Config(vocab_size=500, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    vit = tf.ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
    )
    llama = tf.LlamaConfig(num_key_value_heads=2, use_cache=False, **SMALL)
    return {
        "bert": hf(tf.BertModel, tf.BertConfig(**SMALL), ids, mask, kinds),
        "distilbert": hf(tf.DistilBertModel, distil, ids, mask),
        "roberta": hf(tf.RobertaModel, tf.RobertaConfig(**SMALL), ids, mask),
        "albert": hf(tf.AlbertModel, tf.AlbertConfig(embedding_size=32, **SMALL), ids, mask),
        "gpt2": hf(tf.GPT2LMHeadModel, gpt2, ids, mask),
        "t5": hf(tf.T5EncoderModel, t5, ids, mask),
        "vit": hf(tf.ViTModel, vit, "pixel_values"),
        "lm": lambda: (Decoder().eval(), ["ids"]),
        "llama": hf(tf.LlamaForCausalLM, llama, ids, mask),
    }


def export(module: Any, names: list[str], path: Path, exporter: str, opset: int, dynamic: bool) -> None:
    """Writes one file; raises what the exporter raises."""
    import torch

    image = names == ["pixel_values"]
    batch = 2 if dynamic else 1
    first = torch.randn(batch, 3, 32, 32) if image else torch.randint(5, 400, (batch, 32))
    args = tuple(
        torch.ones_like(first) if "mask" in n else first % 2 if "type" in n else first for n in names
    )
    axes = {0: "batch"} if image else {0: "batch", 1: "sequence"}
    more: dict[str, Any] = {}
    if exporter == "legacy":
        more["dynamic_axes"] = {name: axes for name in (*names, "out")} if dynamic else None
    else:
        auto = torch.export.Dim.DYNAMIC
        shapes = tuple({axis: auto for axis in axes} for _ in names)
        more |= {"external_data": False, "verbose": False}
        # a module that takes *args has one parameter, which holds them all
        more["dynamic_shapes"] = (shapes if names == ["ids"] else (shapes,)) if dynamic else None
    torch.onnx.export(
        module,
        args,
        str(path),
        opset_version=opset,
        input_names=names,
        output_names=["out"],
        dynamo=exporter == "dynamo",
        **more,
    )


def feeds(inputs: Any, batch: int, length: int) -> dict[str, np.ndarray]:
    """Random inputs; the last row's mask ends half way."""
    rng = np.random.default_rng(0)
    arrays = {}
    for item in inputs:
        shape = [
            n if isinstance(n, int) else (batch if axis == 0 else length) for axis, n in enumerate(item.shape)
        ]
        if "mask" in item.name:
            array = np.ones(shape)
            array[-1, shape[1] // 2 + 1 :] = 0
        elif item.dtype.startswith("float"):
            array = rng.standard_normal(shape)
        else:
            array = rng.integers(0, 2 if "type" in item.name else 400, shape)
        arrays[item.name] = array.astype(item.dtype)
    return arrays


def check(path: Path) -> tuple[str, str]:
    """A verdict (ok, wrong, refused, exporter) and its detail for one file."""
    import onnxruntime
    import tvm
    from tvm import relax

    from espalier.errors import EspalierError
    from espalier.passes.frontend import import_model, read_model

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    reference = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    try:
        imported = import_model(read_model(path))
    except EspalierError as error:
        return "refused", error.message
    machine = relax.VirtualMachine(tvm.compile(imported.mod, target="llvm"), tvm.cpu())
    weights = [tvm.runtime.tensor(weight.array) for weight in imported.weights.values()]
    worst, tried = 0.0, 0
    for batch, length in LENGTHS:
        arrays = feeds(imported.inputs, batch, length)
        try:
            expected = reference.run(None, arrays)
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument:
            continue
        except onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException:
            continue  # the exporter baked a shape in
        result = machine["main"](*(tvm.runtime.tensor(arrays[i.name]) for i in imported.inputs), *weights)
        got = [result] if hasattr(result, "numpy") else list(result)
        worst = max(worst, *(np.abs(a.numpy() - b).max() for a, b in zip(got, expected, strict=True)))
        tried += 1
    if tried < len(LENGTHS):
        return (
            "exporter",
            f"ONNX Runtime fails at {len(LENGTHS) - tried} of {len(LENGTHS)} lengths, else {worst:.0e}",
        )
    return ("ok" if worst < TOLERANCE else "wrong"), f"{worst:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the exported files")
    parser.add_argument("--only", default="", help="architectures, comma separated")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TVM_NUM_THREADS", "1")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    wanted = set(filter(None, args.only.split(",")))
    counts: Counter[tuple[str, str, str]] = Counter()
    for name, make in models().items():
        if wanted and name not in wanted:
            continue
        module, names = make()
        for exporter, opsets in OPSETS.items():
            for opset in opsets:
                for kind in ("static", "dynamic"):
                    path = args.output / f"{name}-{exporter}{opset}-{kind}.onnx"
                    try:
                        if not path.exists():
                            export(module, names, path, exporter, opset, kind == "dynamic")
                        verdict, detail = check(path)
                    except Exception as error:  # noqa: BLE001 - any failure of an exporter is a row of the table
                        verdict, detail = "not exported", f"{type(error).__name__}: {str(error)[:80]!r}"
                    counts[f"{exporter} {opset}", kind, verdict] += 1
                    print(f"{path.stem:34s} {verdict:13s} {detail}", flush=True)
    print(f"\n{'exporter':12s} {'shapes':8s} verdicts")
    for exporter, kind in sorted({key[:2] for key in counts}):
        row = {verdict: n for (e, k, verdict), n in counts.items() if (e, k) == (exporter, kind)}
        print(f"{exporter:12s} {kind:8s} {', '.join(f'{n} {verdict}' for verdict, n in sorted(row.items()))}")


if __name__ == "__main__":
    main()
