"""Slowdown from paired rounds."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_agent.pairs import ENOUGH_ROUNDS, MAX_ROUNDS, MIN_ROUNDS, enough, slowdown
from edgemodel_api.slowdown import too_slow

seconds = st.floats(0.1, 10.0)


@given(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=60))
def test_the_value_lies_within_its_interval(pairs):
    found = slowdown(*zip(*pairs, strict=True))
    assert found.low <= found.value <= found.high


@given(st.lists(seconds, min_size=1, max_size=60), st.floats(0.5, 10))
def test_what_slows_both_falls_out(source, factor):
    found = slowdown([s * 1.25 for s in source], source)
    assert found.value == pytest.approx(0.25, abs=1e-3)
    weather = [s * factor for s in source]
    assert slowdown([s * 1.25 for s in weather], weather).value == pytest.approx(0.25, abs=1e-3)


def test_a_burst_of_other_work_spoils_no_verdict():
    rng = random.Random(1)
    source = [1e-3 * rng.gauss(1, 0.02) for _ in range(60)]
    equal = [1e-3 * rng.gauss(1, 0.02) * (5 if 20 <= i < 40 else 1) for i in range(60)]
    found = slowdown(equal, source)
    assert found.value < 0.05
    assert not too_slow(found.value, found.low, 0.0)
    slower = [1.06 * s for s in source]
    found = slowdown(slower, source)
    assert too_slow(found.value, found.low, 0.0)


@pytest.mark.parametrize(
    ("rounds", "spread", "spent", "stop"),
    [(MIN_ROUNDS - 1, 0.0, 99.0, False), (MIN_ROUNDS, 0.0, 99.0, True), (MIN_ROUNDS, 0.0, 0.1, False),
     (ENOUGH_ROUNDS, 0.0, 1.1, True), (ENOUGH_ROUNDS, 0.0, 0.1, False), (ENOUGH_ROUNDS, 0.5, 1.1, False), (MAX_ROUNDS, 0.5, 0.1, True)],
    ids=["too few", "time is up", "goes on", "sure", "too soon", "not sure", "never more"],
)  # fmt: skip
def test_when_to_stop(rounds, spread, spent, stop):
    candidate = [1.0 + spread * (i % 7) for i in range(rounds)]
    assert enough(candidate, [1.0] * rounds, spent=spent, seconds=4.0) is stop


def test_a_fraction_of_a_microsecond_is_no_slowdown():
    found = slowdown([6.4e-6] * 60, [6.0e-6] * 60)
    assert not too_slow(found.value, found.low, 0.0)
    found = slowdown([30e-6] * 60, [6e-6] * 60)
    assert too_slow(found.value, found.low, 0.5)


def test_no_rounds_are_no_slowdown():
    with pytest.raises(ValueError, match="at least one round"):
        slowdown([], [])
