"""The HTML report: complete, self-contained, safe, and clear about what is wrong with its input."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from espalier.errors import DataError, UsageError
from espalier.report.charts import CLIP, LABEL, WIDTH, Bar, bars
from espalier.report.render import write_report
from espalier.report.results import RESULTS

pytestmark = pytest.mark.unit

EXAMPLES: dict[str, dict] = {
    "inspect": {
        "weights": [
            {
                "name": "encoder.<b>0</b>.weight",
                "node": "MatMul_1",
                "shape": [64, 128],
                "structure": "HP",
                "params": {"B": 32, "kc": 32},
                "sparsity": 0.9,
                "bytes": {"dense": 32768, "csr": 9000, "bcsr": 9500, "bitmap": 7000, "hp": 5000},
            }
        ]
    },
    "check": {
        "samples": 360,
        "accuracy": 0.975,
        "reference_accuracy": 0.975,
        "reference": "ONNX Runtime",
        "same_predictions": 360,
        "max_error": 3e-6,
    },
    "bench": {
        "machine": {
            "cpu": "Some CPU",
            "cores": 2,
            "features": ["avx2"],
            "memory_gb": 24.0,
            "system": "Linux 6",
            "load": 0.1,
            "versions": {"onnxruntime": "1.32"},
        },
        "threads": 1,
        "shapes": {"sparse": {"x": [1, 64]}},
        "entries": [
            {
                "model": "sparse",
                "peer": peer,
                "exact": True,
                "time_ms": ms and {"median": ms, "p5": ms * 0.9, "p95": ms * 1.2},
                "error": 1e-6,
                "why": "" if ms else "cannot read it",
                "over_onnxruntime": ms and 2.0 / ms,
                "over_best_peer": ms and 2.0 / ms,
            }
            for peer, ms in (("espalier", 1.0), ("onnxruntime", 2.0), ("tvm", 100.0), ("torch", None))
        ],
    },
    "rank": {
        "lc_ms": 5.0,
        "devices": [
            {
                "name": "host",
                "kind": "llvm",
                "latency_ms": 1.0,
                "low_ms": 0.9,
                "high_ms": 1.2,
                "how": "measured",
                "cost_usd": None,
                "meets_lc": True,
            }
        ],
        "best": "host",
    },
    "compile": {
        "package": "p.tar",
        "layers": [
            {
                "name": "fc1",
                "structure": "HP",
                "kernel": "f32-hp-r4m4",
                "candidates": {"f32-hp-r4m4": 0.1, "f32-dense-r6m1": 0.7},
                "how": "predicted",
            }
        ],
        "seconds": 3.25,
    },
}


class Reader(HTMLParser):
    """Collects headings, text and every reference to something outside."""

    def __init__(self) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.outside: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag == "h2":
            self.sections.append(named["id"] or "")
        if tag in ("script", "link", "img", "iframe"):
            self.outside.append(tag)
        self.outside += [str(named[key]) for key in ("src", "href") if key in named]

    def handle_data(self, data):
        self.text.append(data)


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, result in EXAMPLES.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    return tmp_path


def test_every_result_is_shown_and_nothing_is_loaded_from_outside(folder: Path):
    assert set(EXAMPLES) == set(RESULTS)
    page = read(write_report(folder))
    assert set(page.sections) == set(RESULTS)
    assert page.outside == []
    assert "url(" not in (folder / "report.html").read_text()
    text = " ".join(page.text)
    for shown in ("97.50 %", "HP(B=32,kc=32)", "f32-hp-r4m4", "cannot read it", "Some CPU", "measured"):
        assert shown in text


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_result_alone_makes_a_report(tmp_path: Path, name: str):
    (tmp_path / f"{name}.json").write_text(json.dumps(EXAMPLES[name]))
    assert read(write_report(tmp_path, tmp_path / "elsewhere.html")).sections == [name]


def test_a_name_from_a_model_is_text_never_markup(folder: Path):
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert "<b>0</b>" not in page and "&lt;b&gt;0&lt;/b&gt;" in page


def test_the_same_results_give_the_same_bytes(folder: Path):
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_bars_are_in_proportion_and_a_very_long_one_is_cut():
    svg = bars([Bar("a", 1.0, 0.9, 1.1, ours=True), Bar("b<", 2.0, 2.0, 2.0), Bar("c", 500.0, 499.0, 501.0)])
    widths = [float(width) for width in re.findall(r"<rect[^>]* width=\"([\d.]+)\"", svg)]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert widths[2] == WIDTH == pytest.approx(CLIP * widths[0], abs=2)
    assert "500 ms »" in svg and "b&lt;" in svg
    assert bars([]) == ""


def test_the_limit_is_drawn_where_it_belongs():
    svg = bars([Bar("a", 1.0, 1.0, 1.0)], limit=4.0)
    assert f'x1="{LABEL + WIDTH:.1f}"' in svg


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\xff", "JSON"),
        ("[]", "the whole"),
        ('{"lc_ms": "fast", "devices": [], "best": null}', "lc_ms"),
        ('{"devices": [], "best": null}', "lc_ms"),
    ],
)
def test_a_damaged_result_is_named(tmp_path: Path, content: str, why: str):
    (tmp_path / "rank.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        write_report(tmp_path)
    assert why in caught.value.message and "rank.json" in caught.value.message
    assert not (tmp_path / "report.html").exists()


def test_a_folder_in_place_of_a_result(tmp_path: Path):
    (tmp_path / "rank.json").mkdir()
    with pytest.raises(DataError):
        write_report(tmp_path)


def test_no_folder_and_no_result(tmp_path: Path):
    with pytest.raises(DataError, match="no such folder"):
        write_report(tmp_path / "none")
    with pytest.raises(DataError) as caught:
        write_report(tmp_path)
    assert "bench.json" in caught.value.hint


def test_an_output_that_cannot_be_written(folder: Path):
    with pytest.raises(UsageError):
        write_report(folder, folder / "no" / "such" / "report.html")
