"""`import espalier` is the face of everything and costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import espalier as es

pytestmark = pytest.mark.unit


def test_every_public_name_is_there() -> None:
    for name in es.__all__:
        assert getattr(es, name).__name__ == name
    assert set(es.__all__) <= set(dir(es))
    assert es.__version__.count(".") == 2


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'relay'"):
        _ = es.relay


def test_the_import_loads_nothing_else() -> None:
    code = (
        "import sys, espalier; print(*[n for n in sys.modules if n.startswith('espalier.') or n == 'numpy'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
