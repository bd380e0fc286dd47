"""Writes what the hardware and its reader need of isa.toml.

`python -m espalier.targets.fpga.generate [ROOT]`
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from espalier.targets.fpga import isa

NOTE = "Generated from targets/fpga/isa.toml by espalier.targets.fpga.generate; do not edit."


def systemverilog() -> str:
    """The package of types and constants."""
    spec = isa.spec()
    lines = [f"// {NOTE}", "package isa_pkg;"]
    lines.append(f"  localparam int unsigned ISA_VERSION = {spec['version']};")
    lines.append(f"  localparam int unsigned TOKEN_LIMIT = {spec['token_limit']};")
    lines.append(f"  localparam int unsigned TABLES = {spec['tables']};")
    for form in isa.formats().values():
        lines.append(f"  localparam logic [2:0] OP_{form.name} = 3'd{form.op};")
    for kind, prefix, bits in (("memory", "MEM", 3), ("activation", "ACTIVATION", 2), ("fault", "FAULT", 4)):
        for name, value in isa.names(kind).items():
            lines.append(f"  localparam logic [{bits - 1}:0] {prefix}_{name} = {bits}'d{value};")
    records = [(form.name.lower(), spec["word_bits"], form.fields) for form in isa.formats().values()]
    records += [(f"{item['name']}_params", 64, isa.param_fields(item["name"])) for item in spec["params"]]
    for name, width, fields in records:
        lines.append("  typedef struct packed {")
        used = fields[-1].low + fields[-1].bits
        if used < width:
            lines.append(f"    logic [{width - used - 1}:0] unused;")
        for item in reversed(fields):
            sign = "signed " if item.signed else ""
            lines.append(f"    logic {sign}[{item.bits - 1}:0] {_word(item.name)};")
        lines.append(f"  }} {name}_t;")
    lines.append("endpackage")
    return "\n".join(lines) + "\n"


def _word(name: str) -> str:
    """A field's name where SystemVerilog has the word for itself."""
    return f"{name}_" if name in {"table", "input", "output", "end"} else name


def header() -> str:
    """The C++ header."""
    spec = isa.spec()
    lines = [f"// {NOTE}", "#pragma once", "#include <cstdint>", "#include <cstring>", "namespace isa {"]
    lines.append(f"constexpr unsigned VERSION = {spec['version']}, TOKEN_LIMIT = {spec['token_limit']}, "
                 f"TABLES = {spec['tables']}, TABLE_ENTRIES = {spec['table_entries']};")  # fmt: skip
    ops = ", ".join(f"OP_{form.name} = {form.op}" for form in isa.formats().values())
    lines.append(f"enum Op : unsigned {{ {ops} }};")
    for kind, prefix, name in (
        ("memory", "MEM", "Memory"),
        ("activation", "ACTIVATION", "Activation"),
        ("fault", "FAULT", "Fault"),
    ):
        values = ", ".join(f"{prefix}_{key} = {value}" for key, value in isa.names(kind).items())
        lines.append(f"enum {name} : unsigned {{ {values} }};")
    counters = ", ".join(f"COUNT_{item['name'].upper()}" for item in spec["counter"])
    lines.append(f"enum Counter : unsigned {{ {counters}, COUNTERS }};")
    lines.append("inline uint32_t bits(const uint8_t* word, unsigned low, unsigned count) {")
    lines.append("  unsigned __int128 w;")
    lines.append("  std::memcpy(&w, word, 16);")
    lines.append("  return static_cast<uint32_t>(w >> low) & (count < 32 ? (1u << count) - 1 : 0xffffffffu);")
    lines.append("}")
    for form in isa.formats().values():
        name = form.name.capitalize()
        lines.append(f"struct {name} {{")
        lines.append("  uint32_t " + ", ".join(item.name for item in form.fields) + ";")
        lines.append(f"  explicit {name}(const uint8_t* w)")
        inits = [f"{item.name}(bits(w, {item.low}, {item.bits}))" for item in form.fields]
        lines.append("      : " + ",\n        ".join(inits) + " {}")
        lines.append("};")
    lines.append("}  // namespace isa")
    return "\n".join(lines) + "\n"


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows),
        "",
    ]


def _bits(fields: tuple[isa.Field, ...]) -> list[str]:
    rows: list[tuple[object, ...]] = [(f"{f.low + f.bits - 1}:{f.low}", f"`{f.name}`", f.doc) for f in fields]
    return _table(("bits", "field", "meaning"), rows)


def document() -> str:
    """docs/isa.md."""
    spec = isa.spec()
    lines = [
        f"<!-- {NOTE} -->",
        "# The instruction set of the FPGA accelerator",
        "",
        f"Version {spec['version']}. An instruction is {spec['word_bits']} bits, little endian, "
        "fields from bit 0 on. "
        "Three queues (load, compute, store) run at the same time, each in order; "
        "tokens between neighbours order them. "
        f"A counter of tokens holds {spec['token_limit']}; one more is a fault, never lost. "
        "Sizes in words and beats depend on the geometry, which START names.",
        "",
        "Activations on chip are tiles of tokens: word `base + tile * stride + slot` holds, in bank b, "
        "feature `slot * banks + b` of the tile's tokens. What an operation writes has the layout it reads.",
        "",
        "`reciprocal(x)`: 0, 0 for x = 0; else with b the bit length of x, "
        "`r = min(2^(15+b) div x, 65535)` and shift `15 + b`.",
        "",
        "## Header",
        "",
        *_bits(next(iter(isa.formats().values())).fields[: len(spec["header"])]),
    ]
    for form in isa.formats().values():
        lines += [f"## {form.name}", "", f"Code {form.op}, queue {form.queue}. {form.doc}", ""]
        if body := form.fields[len(spec["header"]) :]:
            lines += _bits(body)
    for kind, title in (("memory", "Memories"), ("activation", "Activations"), ("fault", "Faults")):
        rows = [(item["value"], f"`{item['name']}`", item["doc"]) for item in spec[kind]]
        lines += [f"## {title}", "", *_table(("value", "name", "meaning"), rows)]
    for item in spec["params"]:
        lines += [f"## Parameters {item['doc']}", "", *_bits(isa.param_fields(item["name"]))]
    rows = [(f"`{item['name']}`", item["doc"]) for item in spec["counter"]]
    lines += ["## Counters", "", *_table(("name", "meaning"), rows)]
    return "\n".join(lines).rstrip() + "\n"


FILES = {
    "hardware/rtl/isa_pkg.sv": systemverilog,
    "hardware/sim/isa.h": header,
    "docs/isa.md": document,
}
"""What is generated, below the root of the tree."""


def main() -> None:
    """Write all files below the root given, or the working folder."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for name, make in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make())


if __name__ == "__main__":
    main()
