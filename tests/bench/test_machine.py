"""The description of the machine."""

from __future__ import annotations

import json
import os

import pytest

from espalier.bench.machine import this_machine

pytestmark = pytest.mark.unit


def test_it_names_the_cpu_and_what_is_installed():
    machine = this_machine(("numpy", "no-such-distribution"))
    assert machine.cpu
    assert machine.cores == os.cpu_count()
    assert list(machine.versions) == ["numpy"]
    assert machine.cpu in machine.line()
    json.dumps(machine.to_dict(), allow_nan=False)
