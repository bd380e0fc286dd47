"""Which words of which memory an instruction reads and writes."""

from __future__ import annotations

from dataclasses import dataclass

from espalier.targets.fpga import isa
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.isa import Instruction


@dataclass(frozen=True)
class Access:
    """Words `[low, high)` of a memory on chip, or beats of a region ("DRAM0" and so on)."""

    memory: str
    low: int
    high: int
    write: bool


def _tiled(base: int, stride: int, tiles: int, slots: int) -> tuple[int, int]:
    return base, base + (tiles - 1) * stride + slots


def accesses(i: Instruction, geometry: Geometry) -> list[Access]:
    """All of them; a tiled tensor counts as the whole range from its first to its last word."""
    g = geometry

    def act(field: str, slots: int, write: bool) -> Access:
        return Access("ACT", *_tiled(i[field], i[f"{field}_stride"], i["tiles"], slots), write)

    def par(first: int, entries: int) -> Access:
        return Access("PAR", first, first + -(-entries // g.params_per_word), False)

    match i.name:
        case "LOAD" | "STORE":
            memory = {value: name for name, value in isa.names("memory").items()}[i["mem"]]
            chip = Access(
                memory.removesuffix("_DENSE"), i["sram"], i["sram"] + i["count"] * i["rows"], i.name == "LOAD"
            )
            low, high = _tiled(i["dram"], i["stride"], i["rows"], i["count"] * g.beats(memory))
            return [chip, Access(f"DRAM{i['region']}", low, high, i.name == "STORE")]
        case "LINEAR":
            reads = i["input_stride"] if i["sparse"] else -(-i["windows"] // g.passes)
            out = [
                Access("WGT", i["weights"], i["weights"] + i["windows"], False),
                act("input", reads, False),
                act("output", -(-i["row_end"] // g.banks), True),
                par(i["params"], i["row_end"]),
            ]
            return out + _table(i) * (i["activation"] == isa.names("activation")["TABLE"])
        case "TURN":
            words = i["tiles"] * g.tokens // g.lanes if i["kind"] else i["slots"] * g.passes
            return [act("input", i["slots"], False), Access("WGT", i["weights"], i["weights"] + words, True)]
        case "NORM":
            slots = -(-i["count"] // g.banks)
            return [
                act("input", slots, False),
                act("residual", slots, False),
                act("output", slots, True),
                par(i["params"], g.params_per_word + slots * g.banks),
            ]
        case "SOFTMAX":
            slots = -(-i["count"] // g.banks)
            return [act("input", slots, False), act("output", slots, True), *_table(i)]
        case _:
            return []


def _table(i: Instruction) -> list[Access]:
    return [Access("TAB", i["table"], i["table"] + 1, False)]
