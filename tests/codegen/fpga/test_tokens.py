"""Tokens: put in where needed, and every way to get them wrong is found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from espalier.codegen.fpga.tokens import TokenError, check_tokens, with_tokens
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.isa import Instruction

pytestmark = pytest.mark.unit
G = Geometry(16, 4, 8, 8, 4, 16, 8, 4096, 512, 256, 32)


def load(mem, sram, count, region=0, dram=0):
    return Instruction(
        "LOAD", {"mem": mem, "sram": sram, "dram": dram, "count": count, "rows": 1, "region": region}
    )


def linear(weights=0, inp=0, out=100, windows=4):
    return Instruction(
        "LINEAR",
        {"windows": windows, "tiles": 1, "weights": weights, "input": inp, "output": out, "row_end": 16},
    )


def store(sram, count, region=2, dram=0):
    return Instruction("STORE", {"sram": sram, "dram": dram, "count": count, "rows": 1, "region": region})


BODY = [load(0, 0, 10), load(2, 0, 4), load(3, 0, 4), linear(), store(100, 2), load(2, 0, 4), linear(out=100)]


def change(program, at, **values):
    out = list(program)
    out[at] = replace(out[at], values={**out[at].values, **values})
    return out


def test_loads_feed_compute_and_wait_for_what_it_still_reads():
    program = with_tokens(BODY, G)
    check_tokens(program, G)
    got = {
        n: {k for k, v in i.values.items() if v and k.startswith(("pop", "push"))}
        for n, i in enumerate(program)
    }
    assert got[3] == {"push_next"}  # the last load before the first LINEAR
    assert got[4] == {"pop_prev", "push_prev", "push_next"}
    assert got[5] == {"pop_prev", "push_prev"}
    assert got[6] == {"pop_next", "push_next"}  # overwrites the weights that the first LINEAR reads
    assert got[7] == {"pop_prev", "pop_next"}  # new weights; overwrites what the store reads
    assert got[1] == got[2] == got[8] == set()


@pytest.mark.parametrize("at", [3, 4, 5, 6, 7])
def test_a_missing_token_is_found(at):
    program = with_tokens(BODY, G)
    for name in ("pop_prev", "pop_next", "push_prev", "push_next"):
        if program[at][name]:
            with pytest.raises(TokenError):
                check_tokens(change(program, at, **{name: 0}), G)


def test_each_kind_of_mistake_has_its_message():
    program = with_tokens(BODY, G)
    cases = [
        (program[1:], 0, "begins with START"),
        (change(program, 1, pop_next=1), 1, "no instruction above gives"),
        (change(program, 7, push_prev=1), 7, "nobody takes"),
        (change(program, 4, output=0), 4, "among those it reads"),
        (change(program, 8, pop_prev=1), 8, "needs no tokens"),
    ]
    for bad, at, message in cases:
        with pytest.raises(TokenError, match=message) as error:
            check_tokens(bad, G)
        assert error.value.instruction == at


def test_norm_may_work_in_place_but_not_askew():
    values = {"tiles": 2, "count": 20, "shift": 9, "input": 10, "residual": 10, "output": 10}
    strides = dict.fromkeys(("input_stride", "residual_stride", "output_stride"), 3)
    good = Instruction("NORM", {**values, **strides})
    check_tokens(with_tokens([good], G), G)
    with pytest.raises(TokenError, match=r"instruction 1: writes words 11..16 among those it reads"):
        check_tokens(with_tokens([replace(good, values={**good.values, "output": 11})], G), G)


def test_a_race_is_found():
    program = [G.start(), load(2, 0, 4), linear(), Instruction("FINISH")]
    with pytest.raises(TokenError, match=r"instruction 2: conflicts with instruction 1 \(LOAD\)"):
        check_tokens(program, G)


def test_overflow_is_found():
    n = 33
    give = [replace(load(0, 0, 1), values={**load(0, 0, 1).values, "push_next": 1})] * n
    take = [replace(linear(), values={**linear(inp=50).values, "pop_prev": 1})] * n
    with pytest.raises(TokenError, match="instruction 32: push_next: more than 31 tokens"):
        check_tokens([G.start(), *give, *take, Instruction("FINISH")], G)


def test_load_after_store_needs_compute_between():
    with pytest.raises(TokenError, match="gives it no tokens"):
        with_tokens([store(0, 4), load(0, 0, 4)], G)


def test_a_load_waits_for_a_store_through_the_compute_instruction_between_them():
    body = [linear(), store(100, 2), store(102, 2, dram=8), linear(out=300), load(0, 200, 10, region=2)]
    program = with_tokens(body, G)
    check_tokens(program, G)
    assert program[3]["push_prev"] and not program[2]["push_prev"]  # the later of the two stores
    assert program[4]["pop_next"] and program[4]["push_prev"] and program[5]["pop_next"]
    with pytest.raises(TokenError, match="gives it no tokens"):
        with_tokens([*body[:3], body[4]], G)
