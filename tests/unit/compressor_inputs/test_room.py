"""How many rows of a step are learned at a time: as many as fit, or a refusal with the numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api import reasons
from edgemodel_api.errors import InputError
from edgemodel_compressor.memory import Limit, Sizes, in_use, predict
from edgemodel_compressor.training import room as module
from edgemodel_compressor.training.room import Room

MIB = 2**20


def room(mebibytes: int) -> Room:
    return Room(
        allowed=Limit(mebibytes * MIB, "the memory limit of the Job's container", "raise job.memory of the chart")
    )


@pytest.fixture(autouse=True)
def held(monkeypatch):
    monkeypatch.setattr(module, "in_use", lambda: 372 * MIB)
    assert module.SPARE_BYTES == 128 * MIB


def test_without_a_limit_nothing_is_asked():
    assert Room().for_step(32, lambda rows: pytest.fail(str(rows))) == 32


@given(
    units=st.integers(1, 200),
    unit=st.integers(1, 4),
    row=st.integers(1, 20),
    common=st.integers(0, 2000),
    left=st.integers(0, 3000),
)
def test_as_many_rows_as_fit(units, unit, row, common, left):
    asked = []

    def needed(rows):
        asked.append(rows)
        return (common + row * rows) * MIB

    try:
        found = room(500 + left).for_step(units * unit, needed, unit=unit)
    except InputError:
        assert needed(unit) > left * MIB
        return
    assert found % unit == 0
    assert 0 < found <= units * unit
    assert needed(found) <= left * MIB
    assert found == units * unit or needed(found + 2 * unit) > left * MIB
    # Compiling takes seconds.
    assert len(asked) <= 6


def test_parts_that_are_as_large_as_the_whole_are_not_tried_for_ever():
    asked = []
    with pytest.raises(InputError):
        room(600).for_step(64, lambda rows: asked.append(rows) or 200 * MIB)
    assert len(asked) <= 3


def test_what_does_not_fit_says_what_to_change():
    with pytest.raises(InputError) as caught:
        room(1000).for_step(32, lambda rows: 125 * rows * MIB, unit=8)
    assert caught.value.reason == reasons.INSUFFICIENT_MEMORY
    assert str(caught.value) == (
        "learning takes about 1000.0 MiB of memory for 8 rows at a time, beside 500.0 MiB that the Job holds already, and 1000.0 MiB"
        " are the memory limit of the Job's container: raise job.memory of the chart to at least 1.5 GiB; or give training data"
        " with smaller inputs"
    )


def test_what_learns_takes_more():
    sizes = Sizes(10**6, 10**5, 10**6)
    assert predict(sizes, None, learns=True).peak - predict(sizes, None).peak == 300 * MIB


def test_in_use_counts_this_process():
    assert 20 * MIB < in_use() < 8192 * MIB
