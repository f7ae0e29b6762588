"""When a slowdown is believed."""

import pytest

from edgemodel_agent.measured import Latency
from edgemodel_agent.pairs import Slowdown
from edgemodel_agent.timing import Timing, confirmed, normalised


def timing(value: float | None) -> Timing:
    slow = None if value is None else Slowdown(value, value - 0.005, value + 0.005)
    return Timing(Latency(1e-3, 2e-3), slow)


CASES = {
    "the source itself": ([None], None),
    "equal": ([0.0], 0.0),
    "faster": ([-0.2], -0.2),
    "within what timers tell": ([0.02], 0.02),
    "an unlucky process": ([0.22, 0.0, 0.01], 0.01),
    "an unlucky and a lucky one": ([0.22, -0.1, 0.0], 0.0),
    "slower each time": ([0.3, 0.28, 0.31], 0.3),
    "slower, one lucky process": ([0.3, 0.0, 0.28], 0.28),
}


@pytest.mark.parametrize("name", CASES)
def test_two_of_three_pairs_must_agree_that_it_is_slower(name):
    values, expected = CASES[name]
    left = [timing(v) for v in values]
    found = confirmed(lambda: left.pop(0))
    assert left == []
    assert (found.slowdown.value if found.slowdown else None) == expected


@pytest.mark.parametrize(("value", "pairs"), [(0.5, 1), (1.02, 1), (1.2, 3)])
def test_what_the_budget_allows_is_not_measured_again(value, pairs):
    left = [timing(value)] * 3
    assert confirmed(lambda: left.pop(0), limit=1.0) == timing(value)
    assert len(left) == 3 - pairs


def test_reported_latencies_have_the_ratio_that_was_measured_side_by_side():
    found = normalised(timing(0.5), 2e-3)
    assert found.latency.median == pytest.approx(3e-3)
    assert found.latency.p99 == pytest.approx(6e-3)
    assert normalised(timing(None), None) == timing(None)
