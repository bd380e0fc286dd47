"""Bad programs end in a fault with the instruction's number, in every simulator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fpga_cases import SMALL, needs_verilator, random_case

from espalier.errors import UnavailableError
from espalier.targets.fpga import isa, simulator
from espalier.targets.fpga.isa import Instruction
from espalier.targets.fpga.simulator import Device, FaultError

pytestmark = pytest.mark.unit
KINDS = ["functional", pytest.param("rtl", marks=needs_verilator)]
G = SMALL
START, FINISH = G.start(), Instruction("FINISH")


def one(name, **values):
    return [START, Instruction(name, values), FINISH]


LOAD = {"count": 1, "rows": 1}
LINEAR = {"windows": 1, "tiles": 1, "row_end": 1}
TURN = {"slots": 1, "tiles": 1}
NORM = {"tiles": 1, "count": 1, "shift": 7}
SOFTMAX = {"tiles": 1, "count": 1}
BAD = {
    "no start": ([FINISH], "STREAM", 0),
    "start twice": ([START, START, FINISH], "STREAM", 1),
    "after finish": ([START, FINISH, FINISH], "STREAM", 2),
    "other geometry": ([replace(START, values={**START.values, "pes": 16}), FINISH], "GEOMETRY", 0),
    "other version": ([replace(START, values={**START.values, "version": 9}), FINISH], "GEOMETRY", 0),
    "tokens of start": ([replace(START, values={**START.values, "push_next": 1}), FINISH], "FIELD", 0),
    "empty": ([], "TRUNCATED", 0),
    "no finish": ([START], "TRUNCATED", 1),
    "memory": (one("LOAD", **LOAD, mem=5), "FIELD", 1),
    "no words": (one("LOAD", rows=1), "FIELD", 1),
    "no rows": (one("LOAD", count=1), "FIELD", 1),
    "load has no previous": (one("LOAD", **LOAD, pop_prev=1), "FIELD", 1),
    "store has no next": (one("STORE", **LOAD, push_next=1), "FIELD", 1),
    "store of weights": (one("STORE", **LOAD, mem=1), "FIELD", 1),
    "no windows": (one("LINEAR", **{**LINEAR, "windows": 0}), "FIELD", 1),
    "too many rows": (one("LINEAR", **{**LINEAR, "row_end": 9}), "FIELD", 1),
    "no rows written": (one("LINEAR", **{**LINEAR, "row_end": 0}), "FIELD", 1),
    "activation": (one("LINEAR", **LINEAR, activation=3), "FIELD", 1),
    "too many scales": (one("LINEAR", **{**LINEAR, "tiles": 33}, token_scale=1), "FIELD", 1),
    "turn keys": (one("TURN", **{**TURN, "tiles": 3}), "FIELD", 1),
    "turn values": (one("TURN", **{**TURN, "slots": 3}, kind=1), "FIELD", 1),
    "norm shift": (one("NORM", **{**NORM, "shift": 6}), "FIELD", 1),
    "norm nothing": (one("NORM", **{**NORM, "count": 0}), "FIELD", 1),
    "softmax tiles": (one("SOFTMAX", **{**SOFTMAX, "tiles": 33}), "FIELD", 1),
    "act read": (one("LINEAR", **LINEAR, input=G.act_depth), "ADDRESS", 1),
    "act written": (one("LINEAR", **LINEAR, output=G.act_depth), "ADDRESS", 1),
    "act stride": (one("LINEAR", **{**LINEAR, "tiles": 9}, output_stride=300), "ADDRESS", 1),
    "weights": (one("LINEAR", **{**LINEAR, "windows": 2}, weights=G.wgt_depth - 1), "ADDRESS", 1),
    "params": (one("LINEAR", **LINEAR, params=G.par_depth), "ADDRESS", 1),
    "turn weights": (one("TURN", **TURN, weights=G.wgt_depth - 1, end=1), "ADDRESS", 1),
    "turn input": (one("TURN", **TURN, input=G.act_depth), "ADDRESS", 1),
    "norm input": (one("NORM", **NORM, input=G.act_depth), "ADDRESS", 1),
    "norm residual": (one("NORM", **NORM, residual=G.act_depth), "ADDRESS", 1),
    "norm output": (one("NORM", **NORM, output=G.act_depth), "ADDRESS", 1),
    "norm params": (one("NORM", **NORM, params=G.par_depth - 1), "ADDRESS", 1),
    "softmax input": (one("SOFTMAX", **SOFTMAX, input=G.act_depth), "ADDRESS", 1),
    "softmax output": (one("SOFTMAX", **SOFTMAX, output=G.act_depth), "ADDRESS", 1),
    "load act": (one("LOAD", **LOAD, sram=G.act_depth), "ADDRESS", 1),
    "load table": (one("LOAD", **LOAD, mem=4, sram=2), "ADDRESS", 1),
    "load params": (one("LOAD", **{**LOAD, "count": 4}, mem=3, sram=G.par_depth - 3), "ADDRESS", 1),
    "load outside": (one("LOAD", **LOAD, dram=4096), "MEMORY", 1),
    "load past the end": (one("LOAD", **{**LOAD, "rows": 2}, stride=1 << 20), "MEMORY", 1),
    "empty region": (one("LOAD", **LOAD, region=3), "MEMORY", 1),
    "store outside": (one("STORE", **LOAD, dram=4096), "MEMORY", 1),
    "token never comes": (one("LINEAR", **LINEAR, pop_prev=1), "STUCK", 1),
    "one of many sticks": (
        [START, *one("STORE", **LOAD, pop_prev=1)[1:2], *one("LOAD", **LOAD)[1:]],
        "STUCK",
        1,
    ),
    "too many tokens": ([START, *one("LOAD", **LOAD, push_next=1)[1:2] * 32, FINISH], "TOKEN", 32),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAD)
def test_bad_programs_fault(kind, name):
    program, fault, instruction = BAD[name]
    with Device(kind, G, 1 << 16) as device:
        device.region(0, 0, 1 << 16)
        result = device.try_run(isa.assemble(program), cycles=100_000)
    assert (result.fault, result.instruction) == (fault, instruction)


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_outside_its_tile_faults(kind):
    with Device(kind, G, 1 << 16) as device:
        device.region(0, 0, 1 << 16)
        device.write(0, np.full(1 << 12, 5, np.uint8))
        load = Instruction("LOAD", {"mem": 1, "count": 1, "rows": 1, "push_next": 1})
        use = Instruction("LINEAR", {**LINEAR, "sparse": 1, "input_stride": 5, "output": 99, "pop_prev": 1})
        stream = isa.assemble([START, load, use, FINISH])
        assert (r := device.try_run(stream)).fault == "SLOT" and r.instruction == 2
        with pytest.raises(FaultError, match="fault SLOT at instruction 2"):
            device.run(stream)
        # the next run begins as after reset
        fine = replace(use, values={**use.values, "input_stride": 6})
        device.run(isa.assemble([START, load, fine, FINISH]))


@pytest.mark.parametrize("kind", KINDS)
def test_device_refuses_what_is_outside_memory(kind):
    with Device(kind, G, 256) as device:
        for call in (
            lambda: device.write(250, bytes(7)),
            lambda: device.read(257, 0),
            lambda: device.region(0, 0, 257),
            lambda: device.region(4, 0, 16),
            lambda: device.region(0, 8, 16),
        ):
            with pytest.raises(ValueError, match="outside"):
                call()


def test_absent_tool_names_its_installation(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for kind, tool in (("functional", "g++"), ("rtl", "verilator")):
        with pytest.raises(UnavailableError, match=f"{re.escape(tool)} is not installed") as error:
            simulator.build(kind, G)
        assert f"apt-get install {tool}" in error.value.hint


def test_failing_compiler_says_how_to_see_why(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(simulator, "_functional_command", lambda: ["g++", "--no-such-option"])
    with pytest.raises(UnavailableError, match="did not build") as error:
        simulator.build("functional", G)
    assert "--no-such-option" in error.value.hint


def run_bad_programs_and_noise(kind, streams, cycles):
    """Every bad program, streams of noise and a good one; for the sanitizers."""
    rng = np.random.default_rng(0)
    with Device(kind, G, 1 << 14) as device:
        for region in range(4):
            device.region(region, 1 << 12, 1 << 12)
        for program, _, _ in BAD.values():
            device.try_run(isa.assemble(program), cycles=cycles)
        device.write(0, rng.integers(0, 256, 1 << 14).astype(np.uint8))
        for n in range(streams):
            body = [_noise(rng, small=n % 2 == 0) for _ in range(int(rng.integers(1, 6)))]
            device.try_run(isa.assemble([START, *body, FINISH]), cycles=cycles)
            device.try_run(rng.integers(0, 256, 64).astype(np.uint8).tobytes(), cycles=cycles)
    random_case(1, G).run(kind)


def _noise(rng, *, small):
    form = list(isa.formats().values())[int(rng.integers(0, 6))]
    bits = [min(f.bits, 7 if small else 12) for f in form.fields]
    values = {f.name: int(rng.integers(0, 1 << b)) for f, b in zip(form.fields, bits, strict=True)}
    tokens = dict.fromkeys(("pop_prev", "pop_next", "push_prev", "push_next"), 0)
    return Instruction(form.name, {k: v for k, v in {**values, **tokens}.items() if k != "op"})


SANITIZED = {
    "functional": ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "rtl": [
        *("-CFLAGS", "-O0 -fsanitize=address", "-LDFLAGS", "-fsanitize=address"),
        *("-MAKEFLAGS", "OPT_FAST=-O0 OPT_SLOW=-O0 OPT_GLOBAL=-O0"),
    ],
}
"""Flags that come last. Checks of undefined behaviour in Verilator's code take 15 minutes to build."""


@pytest.mark.parametrize(
    ("kind", "streams", "cycles"),
    [
        ("functional", 3000, 100_000),
        pytest.param("rtl", 20, 2000, marks=needs_verilator),
    ],
)
def test_no_memory_error_and_no_undefined_behaviour(tmp_path, kind, streams, cycles):
    def path(name):
        return subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True
        ).stdout.strip()

    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from espalier.targets.fpga import simulator\n"
        f"plain = simulator._{kind}_command\n"
        f"simulator._{kind}_command = lambda *args: [*plain(*args), *{SANITIZED[kind]}]\n"
        f"import test_faults; test_faults.run_bad_programs_and_noise('{kind}', {streams}, {cycles})\n"
        "print('sound')\n"
    )
    env = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path),
        "LD_PRELOAD": f"{path('libasan.so')} {path('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", script, here], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "sound", done.stderr[-3000:]
