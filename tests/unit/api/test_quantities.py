"""Counts and durations as people read them."""

import pytest

from edgemodel_api.quantities import counted, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0000004, "0 µs"), (0.00241, "2.41 ms"), (0.5, "500.00 ms"), (1, "1 s"), (1.04, "1.0 s"), (90, "90 s"),
        (90.5, "90.5 s"), (600, "10 min"), (630, "10.5 min"), (631, "10.5 min"),
    ],
)  # fmt: skip
def test_whole_seconds_and_minutes_have_no_point(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [(1, ("row",), "1 row"), (0, ("row",), "0 rows"), (2, ("axis", "axes"), "2 axes"), (1, ("axis", "axes"), "1 axis")],
)
def test_a_count_of_one_is_no_plural(count, words, text):
    assert counted(count, *words) == text
