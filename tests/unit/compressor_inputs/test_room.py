"""In how many parts a step is learned: the fewest that fit, or a refusal with the numbers."""

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
    monkeypatch.setattr(module, "in_use", lambda: 436 * MIB)
    assert module.SPARE_BYTES == 64 * MIB


def test_without_a_limit_nothing_is_asked():
    assert Room().parts(32, lambda parts: pytest.fail(str(parts))) == 1


@given(
    units=st.integers(1, 200),
    row=st.integers(1, 20),
    common=st.integers(0, 200),
    left=st.integers(0, 3000),
)
def test_the_parts_fit_and_divide_the_rows(units, row, common, left):
    asked = []

    def needed(parts):
        asked.append(parts)
        return (common + row * units // parts) * MIB

    try:
        found = room(500 + left).parts(units, needed)
    except InputError:
        assert needed(units) > left * MIB
        return
    assert units % found == 0
    assert needed(found) <= left * MIB
    # Compiling takes seconds.
    assert len(asked) <= 8
    if common == 0:
        fewer = [d for d in range(1, found) if units % d == 0]
        assert not fewer or needed(fewer[-1]) > left * MIB


def test_what_does_not_fit_says_what_to_change():
    with pytest.raises(InputError) as caught:
        room(1000).parts(4, lambda parts: 4000 * MIB // parts, unit=8)
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
