"""What the latency model says of every operation of a part's program."""

from __future__ import annotations

from dataclasses import replace

from espalier.codegen.fpga.integer import AttentionStep, IntPart, LinearStep
from espalier.codegen.fpga.program import Program
from espalier.targets.fpga import latency
from espalier.targets.fpga.latency import Cost
from espalier.targets.fpga.target import Fpga


def costs(ints: IntPart, program: Program, tokens: int, target: Fpga) -> list[tuple[str, Cost]]:
    """(weight of a linear layer or empty, its cost), in order."""
    g, timing = target.geometry, target.timing
    sections = {name: program.instructions[first:end] for name, first, end in program.sections}
    part, streamed = ints.part, ints.streamed(g, tokens)
    found: list[tuple[str, Cost]] = [
        ("", latency.transfer(f"input {item.name}", "load", tokens, item.features, g, timing))
        for item in part.inputs
    ]
    found += [
        ("", latency.transfer(f"input {name}", "load", tokens, tokens, g, timing)) for name in ints.squares
    ]
    for step in ints.steps:
        if isinstance(step, LinearStep):
            blocks = [i for i in sections[step.name] if i.name == "LINEAR"]
            words, sparse = [i["windows"] for i in blocks], bool(blocks[0]["sparse"])
            macs = step.kept * tokens
            if step is streamed:
                found.append(
                    (step.layer, latency.streamed(step.name, tokens, words, sparse, g, timing, macs))
                )
                return found
            cost = latency.linear(
                step.name, tokens, words, sparse, g, timing, macs, tables=step.ints.table is not None
            )
            found.append((step.layer, cost))
        elif isinstance(step, AttentionStep):
            features = len(ints.scales[step.name])
            found += [("", cost) for cost in latency.attention(step.name, tokens, features, step.heads, g)]
            if step.square:
                hide = latency.norm(f"{step.name}.hide", tokens, tokens, g, stats=False)
                found.append(("", replace(hide, compute=hide.compute * step.heads)))
        else:
            features = len(ints.scales[step.name])
            found.append(("", latency.norm(step.name, tokens, features, g, stats=step.stats)))
    for name in part.outputs:
        features = part.features(name)
        found.append(("", latency.transfer(f"output {name}", "store", tokens, features, g, timing)))
    return found
