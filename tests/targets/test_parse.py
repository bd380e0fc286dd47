"""Every way to write a target."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from espalier.errors import EspalierError, UnavailableError, UsageError
from espalier.targets import registry
from espalier.targets.host import host
from espalier.targets.parse import parse_target
from espalier.targets.registry import devices, find_device, kinds
from espalier.targets.x86.classes import core_classes

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("text", ["llvm", "host", '{"kind": "llvm"}', "llvm -mcpu=native", "  host "])
def test_this_machine(text: str) -> None:
    assert parse_target(text) == host()


@pytest.mark.parametrize(
    "text",
    [
        "llvm -mcpu=cascadelake -num-cores=2",
        "llvm --mcpu cascadelake -num-cores 2",
        "llvm  -num-cores=2  -mcpu='cascadelake'",
        "llvm -mcpu=cascadelake -num-cores=2 -mtriple=x86_64-linux-gnu",
        '{"kind": "llvm", "mcpu": "cascadelake", "num-cores": 2}',
        '{"kind": "llvm", "mcpu": "cascadelake", "num-cores": 2, "keys": ["x86", "cpu"], "tag": ""}',
    ],
)
def test_a_class_with_its_cores(text: str) -> None:
    cpu = parse_target(text)
    assert (cpu.mcpu, cpu.isa, cpu.cores, cpu.vnni, cpu.bf16) == ("cascadelake", "avx512", 2, True, False)
    assert cpu.l2_bytes == 1 << 20


def test_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "board"
    path.write_text(json.dumps({"kind": "llvm", "mcpu": "znver5", "clock_ghz": 4.29, "num-cores": 2}))
    cpu = parse_target(str(path))
    assert (cpu.mcpu, cpu.clock_ghz, cpu.cores, cpu.peak_gflops) == ("znver5", 4.29, 2, 4.29 * 64)


def test_a_tag_and_an_alias() -> None:
    assert (parse_target("aws/cpu/c5.xlarge").mcpu, parse_target("aws/cpu/c5.xlarge").cores) == (
        "skylake-avx512",
        2,
    )
    assert parse_target("llvm -mcpu=core-avx2").mcpu == "haswell"


REFUSED = [
    ("", UsageError, "the target is empty", "leave --target out"),
    ("lvm", UsageError, "unknown target 'lvm'", "did you mean llvm"),
    ("cascadelak", UsageError, "unknown target 'cascadelak'", "did you mean cascadelake"),
    ("llvm -mcpu=cascadelak", UsageError, "unknown mcpu 'cascadelak'", "cascadelake"),
    ("llvm -mcpu=", UsageError, "mcpu: expected a name", "mcpu"),
    ("llvm -mcpu", UsageError, "option -mcpu has no value", "-mcpu=value"),
    ("llvm -mcqu=znver1", UsageError, "no option 'mcqu'", "did you mean mcpu"),
    ("llvm mcpu=znver1", UsageError, "'mcpu=znver1' is no option", "-name=value"),
    ("llvm -num-cores=0", UsageError, "num-cores: expected a whole number from 1", "num-cores"),
    ("llvm -num-cores=2.5", UsageError, "num-cores: expected a whole number from 1", "num-cores"),
    ("llvm -num-cores=²", UsageError, "num-cores: expected a whole number from 1", "num-cores"),
    ("llvm -num-cores=2 -num-cores=3", UsageError, "option -num-cores is given twice", "once"),
    ("llvm -mcpu='znver1", UsageError, "No closing quotation", "llvm -mcpu"),
    ("-mcpu=znver1", UsageError, "does not begin with a kind", "llvm -mcpu=znver1"),
    ("llvm -mtriple=aarch64-linux-gnu", UnavailableError, "no back end for aarch64-linux-gnu", "devices"),
    ("cuda", UnavailableError, "'cuda' (NVIDIA GPUs) has no back end", "llvm"),
    ("cuda -arch=sm_90", UnavailableError, "'cuda'", "llvm"),
    ("cuta -arch=sm_90", UsageError, "unknown target kind 'cuta'", "did you mean cuda"),
    ("{", UsageError, "the target is not JSON", '"kind"'),
    ("{}", UsageError, "has no target kind", '"kind"'),
    ('{"kind": 3}', UsageError, "has no target kind", '"kind"'),
    ('{"kind": "llvm", "num-cores": true}', UsageError, "num-cores", "num-cores"),
    ('{"kind": "llvm", "mcpu": 5}', UsageError, "mcpu: expected a name", "mcpu"),
    (
        '{"kind": "llvm", "clock_ghz": "fast"}',
        UsageError,
        "clock_ghz: expected a positive number",
        "clock_ghz",
    ),
    ('{"kind": "llvm", "clock_ghz": -1}', UsageError, "clock_ghz: expected a positive number", "clock_ghz"),
    ('{"kind": "llvm", "clock": 1}', UsageError, "no option 'clock'", "clock_ghz"),
    ("absent.json", UsageError, "target file absent.json: No such file", "JSON file"),
]


@pytest.mark.parametrize(
    ("text", "error", "message", "hint"), REFUSED, ids=[row[0] or "empty" for row in REFUSED]
)
def test_refused(text: str, error: type[EspalierError], message: str, hint: str) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        parse_target(text)
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("content", ["", "[1]", '"llvm"', "\xff", "[" * 100_000])
def test_files_that_are_no_target(tmp_path: Path, content: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match=re.escape(str(path))):
        parse_target(str(path))


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(UsageError, match="larger than"):
        parse_target(str(path))


def test_every_device_is_a_target_and_its_figures_have_sources() -> None:
    assert next(iter(devices())) == "host"
    for name, device in devices().items():
        assert parse_target(name) == device.target
        assert device.name == device.target.name == name
        figures = {figure.name: figure for figure in device.figures}
        assert all(figure.source for figure in device.figures)
        assert figures["clock_ghz"].value == device.target.clock_ghz
        assert json.loads(json.dumps(device.to_dict()))["name"] == name


def test_this_machine_held_back() -> None:
    cpu = parse_target("host-sse4")
    assert (cpu.mcpu, cpu.isa, cpu.features) == ("x86-64-v2", "sse4", core_classes()["x86-64-v2"].features)
    assert (cpu.cores, cpu.l2_bytes, cpu.clock_ghz) == (host().cores, host().l2_bytes, host().clock_ghz)
    assert cpu.flops_per_cycle == 8 and devices()["host-sse4"].present
    assert ("host-avx2" in devices()) == (host().isa != "sse4")


def test_a_part_of_a_name() -> None:
    assert find_device("sapphire").name == "sapphirerapids"
    with pytest.raises(UsageError, match="'znver' is ambiguous: znver5, znver4"):
        find_device("znver")
    with pytest.raises(UsageError, match="unknown device 'znver9'") as caught:
        find_device("znver9")
    assert "znver" in caught.value.hint
    with pytest.raises(UsageError, match="unknown device ''"):
        find_device("")


def test_the_table_of_classes_is_sound() -> None:
    for name, core in core_classes().items():
        cpu = core.cpu
        assert cpu.mcpu == name and cpu.features == core.features
        assert 8 << 10 <= cpu.l1_bytes < cpu.l2_bytes < cpu.l3_bytes, name
        assert cpu.flops_per_cycle % (2 * 4) == 0 and cpu.cores >= 1 and cpu.memory_gbps > 0, name
    assert kinds() == ("llvm", "fpga")


@pytest.mark.compile
def test_llvm_knows_every_class_and_gives_it_those_instructions() -> None:
    import tvm
    from tvm.target import codegen

    names = {"pni": "sse3", "abm": "lzcnt", "bmi1": "bmi", "lahf_lm": "sahf", "avx_vnni": "avxvnni"}
    for name, core in core_classes().items():
        target = tvm.target.Target({"kind": "llvm", "mcpu": name, "mtriple": "x86_64-linux-gnu"})
        known = {str(feature) for feature in codegen.llvm_get_cpu_features(target)}
        assert "sse2" in known, name
        wanted = {
            names.get(one, one.replace("sse4_", "sse4.").replace("avx512_", "avx512"))
            for one in core.features
        }
        assert wanted <= known, (name, wanted - known)


def test_two_families_with_one_name_are_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    family = registry.families()[0]
    monkeypatch.setattr(registry, "families", lambda: (family, family))
    with pytest.raises(RuntimeError, match="two families know a device host"):
        registry.devices.__wrapped__()
