"""`inspect` names the structure, parameters and sizes of every structure in every weight form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import weight_models as models

import espalier as es

pytestmark = pytest.mark.unit

CASES = {case.name: case for case in models.cases()}


def inspected(case: models.Case, folder: Path) -> list[dict[str, Any]]:
    onnx.save(case.model, folder / "m.onnx")
    return es.inspect(folder / "m.onnx").to_dict()["weights"]


@pytest.mark.parametrize("name", CASES)
def test_rows_are_what_the_maker_knows(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    rows = inspected(case, tmp_path)
    assert len(rows) == len(case.rows)
    for got, made in zip(rows, case.rows, strict=True):
        wanted = made.to_dict()
        sizes = got.pop("bytes")
        expected = wanted.pop("bytes")
        assert sizes.pop("bcsr") > 0
        assert got.pop("sparsity") == pytest.approx(wanted.pop("sparsity"))
        assert got == wanted
        assert sizes == expected


def test_the_weights_are_as_stated() -> None:
    for case in CASES.values():
        for row in case.rows:
            if not row.remainder:
                assert row.structure.fits(row.matrix)
                kept = row.structure.encode(row.matrix).kept_count()
                assert np.count_nonzero(row.matrix) == kept, case.name
