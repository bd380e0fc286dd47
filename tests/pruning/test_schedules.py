from __future__ import annotations

import pytest

from espalier.pruning.schedules import Cubic, learning_rate

pytestmark = pytest.mark.unit


def test_cubic_follows_its_formula() -> None:
    cubic = Cubic(10, 110, every=20)
    assert cubic.fraction(0) == cubic.fraction(10) == 0.0
    assert cubic.fraction(60) == pytest.approx(1 - 0.5**3)
    assert cubic.fraction(110) == cubic.fraction(500) == 1.0


def test_cubic_is_due_at_its_steps_and_at_the_end() -> None:
    cubic = Cubic(10, 105, every=20)
    assert [step for step in range(200) if cubic.due(step)] == [10, 30, 50, 70, 90, 105]
    assert [step for step in range(10) if Cubic(3, 3).due(step)] == [3]


def test_learning_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [learning_rate(step, 100, 2.0, warm_up=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0) and rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0) and rates[100] == pytest.approx(0.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
