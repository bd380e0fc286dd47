"""Records survive their files whole, and a file from elsewhere is believed nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.errors import DataError
from espalier.schedules import Epilogue, LinearWork
from espalier.search.record_file import HEADER, RecordsFile, compact, parse_records, read_records
from espalier.search.records import Place, Record, parse_epilogue, parse_structure
from espalier.sparsity import BP, BPPP, HP, NM, PP, Block, Dense, Structure, Unstructured, Zero

pytestmark = pytest.mark.unit

STRUCTURES: list[Structure] = [
    Dense(),
    Zero(),
    BP(16, 21),
    BP(16, 21, "rows"),
    HP(16, 36, 4, 2),
    HP(32, 40, 4, 2, 4),
    HP(32, 40, 4, 2, 4, banked=True),
    NM(2, 4),
    NM(2, 4, 4),
    PP(20, 4, 160),
    BPPP(16, 40, 20, 4, 100, "rows"),
    Block(16, 1, 180),
    Unstructured(1400),
]
ACTIVATIONS = ["none", "relu", "gelu", "gelu_tanh", "tanh", "sigmoid", "silu"]
epilogues = st.builds(Epilogue, st.booleans(), st.sampled_from(ACTIVATIONS), st.booleans())
works = st.builds(
    LinearWork,
    st.integers(80, 2000),
    st.integers(80, 2000),
    st.sampled_from(STRUCTURES),
    epilogues,
    st.sampled_from(["tiles", "tokens"]),
    st.sampled_from(["float32", "int8"]),
)
records = st.builds(
    Record,
    st.builds(Place, st.sampled_from(["znver1", "skylake-avx512"]), st.just(2.5), st.integers(1, 64)),
    works,
    st.integers(1, 4096),
    st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,12}){0,3}", fullmatch=True),
    st.integers(0, 9),
    st.floats(1e-3, 1e3).map(lambda ms: float(f"{ms:.4g}")),
)
ONE = Record(Place("znver1", 2.0, 1), LinearWork(384, 384, HP(32, 76, 4, 2, 4)), 128, "f32-row-r2m2", 1, 0.5)


def content(*lines: str) -> bytes:
    return "\n".join([HEADER, *lines, ""]).encode()


@given(st.lists(records, max_size=5))
def test_a_file_gives_back_what_was_written(many: list[Record]) -> None:
    by_key = {record.key: record for record in many}
    read = parse_records(compact(many).encode(), "it")
    assert {record.key: record for record in read} == by_key


def test_the_later_of_two_lines_holds_also_across_joined_files() -> None:
    later = replace(ONE, milliseconds=0.25)
    joined = compact([ONE]) + compact([later])
    assert parse_records(joined.encode(), "it") == [later]


@pytest.mark.parametrize("kept", [14745, 14900])
def test_ragged_matrices_share_records_by_density(kept: int) -> None:
    work = replace(ONE.work, structure=Unstructured(kept))
    assert replace(ONE, work=work).key == replace(ONE, work=replace(work, structure=Unstructured(14700))).key
    assert replace(ONE, work=work).key != replace(ONE, work=replace(work, structure=Unstructured(30000))).key


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 0}, {"tokens": 1.5}, {"n": 1 << 21}, {"n": 1 << 20, "k": 1 << 20}, {"ms": 0}, {"ms": -1},
        {"ms": "fast"}, {"threads": 10**6}, {"core": "a b"}, {"core": "x" * 200}, {"structure": "HP(B=0)"},
        {"structure": "HP(B=32,kc=9999,v=4,n=2)"}, {"structure": "Evil(a=1)"}, {"structure": "HP(evil=1)"},
        {"structure": "PP(p=1,m=1,kept=1)", "n": 8000, "k": 8000}, {"structure": "__import__('os')"},
        {"structure": "Unstructured(kept=9999999999)"}, {"epilogue": "gelu+bias"}, {"epilogue": "evil"},
        {"layout": "rows"},
        {"exact": 1}, {"dtype": ["float32"]}, {"unheard": 1}, {"version": -1}, {"kernel": None},
    ],
)  # fmt: skip
def test_a_wrong_line_is_refused_with_its_number(change: dict[str, object]) -> None:
    line = json.dumps({**json.loads(ONE.line()), **change})
    with pytest.raises(DataError, match="it, line 3: "):
        parse_records(content(ONE.line(), line), "it")


@pytest.mark.parametrize(
    "wrong",
    [b"", b"PK\x03\x04", b'{"espalier-records":2}\n', b"\xff" * 99, content("["), content("[" * 900),
     content("1"), content("{}"), content("x" * 5000), content('{"core":"znver1"}')],
)  # fmt: skip
def test_what_is_no_file_of_records_is_refused(wrong: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(wrong)
    with pytest.raises(DataError):
        read_records(path)


def test_a_missing_file_a_folder_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 33)
    for path in (tmp_path / "none", tmp_path, huge):
        with pytest.raises(DataError):
            read_records(path)


def test_texts_of_structures_and_epilogues_say_what_is_wrong() -> None:
    for text in ("HP", "HP(B=32", "HP(B=1,B=2,kc=4,v=4,n=2)x", "HP(B=32,kc=4,v=4,n=9)"):
        with pytest.raises(ValueError, match=r"structure|HP"):
            parse_structure(text)
    with pytest.raises(ValueError, match="unknown epilogue"):
        parse_epilogue("bias+bias")


def test_a_line_that_was_cut_off_is_dropped_and_all_others_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "r"
    other = replace(ONE, tokens=32)
    path.write_bytes(content(ONE.line()) + other.line().encode()[:40])
    file = RecordsFile(path)
    assert file.records == [ONE]
    file.add([other])
    file.close()
    assert read_records(path) == [ONE, other]


def test_another_file_is_never_written_to(tmp_path: Path) -> None:
    path = tmp_path / "thesis"
    path.write_text("dear reader")
    with pytest.raises(DataError, match="no file of records"):
        RecordsFile(path)
    assert path.read_text() == "dear reader"
