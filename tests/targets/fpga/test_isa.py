"""The instruction set: what is generated is up to date, encoding is lossless, mistakes are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.targets.fpga import generate, isa
from espalier.targets.fpga.isa import Instruction

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", generate.FILES)
def test_generated_files_are_up_to_date(name):
    assert (ROOT / name).read_text() == generate.FILES[name](), "run python -m espalier.targets.fpga.generate"


def test_main_writes_every_file(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["generate", str(tmp_path)])
    generate.main()
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == set(generate.FILES)


@st.composite
def instructions(draw):
    form = draw(st.sampled_from(list(isa.formats().values())))
    values = {f.name: draw(st.integers(0, (1 << f.bits) - 1)) for f in form.fields if f.name != "op"}
    return Instruction(form.name, {name: value for name, value in values.items() if value})


@given(st.lists(instructions(), max_size=5))
def test_assembly_and_text_are_lossless(program):
    assert isa.disassemble(isa.assemble(program)) == program
    assert [isa.parse(item.text()) for item in program] == program


def test_no_field_overlaps_another():
    for form in isa.formats().values():
        ends = [0, *(f.low + f.bits for f in form.fields)]
        assert [f.low for f in form.fields] == ends[:-1]
        assert ends[-1] <= 128


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="LINEAR has no field 'colour'"):
        Instruction("LINEAR", {"colour": 1}).encode()
    with pytest.raises(ValueError, match=r"LOAD.mem is 8; 3 bits hold 0..7"):
        Instruction("LOAD", {"mem": 8}).encode()
    with pytest.raises(ValueError, match="unknown instruction 'JUMP'"):
        isa.parse("JUMP to=3")
    with pytest.raises(ValueError, match="multiple of 16"):
        isa.disassemble(b"123")


def test_params_hold_their_range_and_refuse_more():
    entry = isa.pack_params("linear", bias=np.array([-1]), mul=np.array([65535]), shift=np.array([47]))
    assert int(entry[0]) == 0xFFFFFFFF | 65535 << 32 | 47 << 48
    with pytest.raises(ValueError, match=r"parameter shift of linear: 48..48 is outside 0..47"):
        isa.pack_params("linear", bias=np.array([0]), mul=np.array([0]), shift=np.array([48]))
    with pytest.raises(ValueError, match="parameter a of norm"):
        isa.pack_params(
            "norm", a=np.array([1 << 15]), b=np.array([0]), gamma=np.array([0]), beta=np.array([0])
        )
