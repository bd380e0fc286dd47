"""What the latency model says by itself; its agreement with the RTL is in tests/hardware."""

from __future__ import annotations

import pytest

from espalier.targets.fpga import latency
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.simulator import Timing

pytestmark = pytest.mark.unit
G = Geometry(16, 4, 8, 8, 4, 16, 8, 4096, 512, 256, 32)
FAST = Timing(latency=40, beats=100, cycles=1)


def test_compute_bound_layers_speed_up_as_their_density_falls():
    dense = latency.linear("d", 128, [latency.dense_words(320, G)] * 20, False, G, FAST)
    sparse = latency.linear("s", 128, [latency.hp_words(320, 160, 4, G)] * 20, True, G, FAST)
    # half of the columns, half of the weights in a vector: density 1/4
    assert dense.compute / sparse.compute > 0.95 * 4


def test_slow_memory_bounds_a_layer():
    words = [latency.dense_words(320, G)] * 4
    slow = latency.linear("d", 8, words, False, G, Timing(beats=1, cycles=8))
    assert slow.compute >= 4 * words[0] * G.beats("WGT_DENSE") * 8


def test_total_adds_the_fill_of_the_first_layer_only():
    layer = latency.linear("d", 8, [4] * 3, False, G, FAST)
    one, two = latency.total([layer], FAST), latency.total([layer, layer], FAST)
    assert two - one == pytest.approx(layer.compute)
    assert one > layer.compute + layer.fill + 2 * FAST.latency
