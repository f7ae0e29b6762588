"""Labels that do not meet, fronts, axes, and numbers as text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.edgemodel import Budget
from edgemodel_api.report import QualityBasis, QualityKind
from edgemodel_cli.report import numbers
from edgemodel_cli.report.labels import Box, Wish, place
from edgemodel_cli.report.points import Kind, focus, front, paired_latency, points

AREA = Box(0, 0, 400, 200)
WISHES = st.lists(
    st.builds(Wish, st.floats(0, 400), st.floats(0, 200), st.floats(5, 120), st.floats(5, 12)), max_size=25
)


@given(WISHES)
def test_labels_never_meet_each_other_a_point_or_the_rim(wishes):
    taken = [Box(w.x - 3, w.y - 3, w.x + 3, w.y + 3) for w in wishes]
    placed = [spot.box for spot in place(wishes, area=AREA, taken=taken) if spot is not None]
    assert not any(a.meets(b) for a, b in itertools.combinations(placed, 2))
    assert not any(box.meets(t) for box in placed for t in taken)
    assert all(box.within(AREA) for box in placed)


def test_a_label_alone_stands_right_of_its_point_without_a_line():
    (spot,) = place([Wish(100, 100, 40, 10)], area=AREA, taken=[])
    assert spot.box == Box(107, 95, 147, 105)
    assert not spot.leader


def test_a_label_crosses_a_line_only_where_it_must():
    wish, line = Wish(100, 100, 40, 10), Box(0, 99, 400, 101)
    (beside,) = place([wish], area=AREA, taken=[], rather_not=[line])
    assert not beside.box.meets(line)
    (across,) = place([wish], area=AREA, taken=[], rather_not=[AREA])
    assert across is not None


def test_no_room_no_label():
    assert place([Wish(100, 100, 500, 10)], area=AREA, taken=[]) == [None]


PAIRS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=30)


@given(PAIRS, st.booleans())
def test_front_is_what_nothing_beats(pairs, higher):
    found = front(pairs, higher_is_better=higher)
    sign = 1 if higher else -1

    def beaten(p, q):
        return q[0] <= p[0] and sign * q[1] >= sign * p[1] and q != p

    assert set(found) == {p for p in pairs if not any(beaten(p, q) for q in pairs)}
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("values", "around", "reach", "higher", "seen", "beyond"),
    [
        ([0.99, 0.985], [0.994, 0.989], 0.01, True, [0.99, 0.985, 0.994], []),
        ([0.99, 0.41], [0.994, 0.989], 0.01, True, [0.99], [0.41]),
        ([0.001, 0.02, 0.5], [0.02], 0.01, False, [0.001, 0.02], [0.5]),
        ([5.0], [5.0], 0.0, True, [5.0], []),
        ([0.0], [0.0], 0.0, False, [0.0], []),
    ],
    ids=["all near", "one far too bad", "what is far better is seen", "one value", "zero"],
)
def test_focus(values, around, reach, higher, seen, beyond):
    axis = focus(values, around=around, reach=reach, higher_is_better=higher)
    assert axis.low < axis.high
    assert all(axis.low < v < axis.high for v in seen)
    assert all(not axis.low < v < axis.high for v in beyond)


def test_points_chosen_last_and_source_once(make):
    found = points(make.report_of([*make.USUAL, make.candidate("source", 3_000_000)]), frozenset({"int4"}))
    assert [(p.name, p.kind) for p in found] == [
        ("prune-90", Kind.REFUSED), ("int8", Kind.ACCEPTED), ("source", Kind.SOURCE), ("int4", Kind.CHOSEN),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "higher", "quality", "limit", "text"),
    [
        ("Top1", True, 0.9, 0.891, "89.10 %"),
        ("F1", True, 0.5, 0.495, "49.50 %"),
        ("Cosine", True, -0.5, -0.505, "-0.505"),
        ("MeanSquaredError", False, 2.0, 2.02, "2.02"),
    ],
)
def test_quality_limit_and_text(make, metric, higher, quality, limit, text):
    basis = QualityBasis(kind=QualityKind.LABELS, metric=metric, higher_is_better=higher)
    found = numbers.quality_limit(Budget(max_quality_drop="1%"), make.measurement(10, quality), basis)
    assert found == pytest.approx(limit)
    assert numbers.quality(found, basis) == text


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [(0.0123, False, "1.23 %"), (0.0123, True, "+1.23 %"), (-0.5, True, "−50.00 %"), (-1e-9, True, "0.00 %"), (None, True, "–")],
)  # fmt: skip
def test_percent(value, signed, text):
    assert numbers.percent(value, signed=signed) == text


@pytest.mark.parametrize(
    ("slowdown", "source", "expected"),
    [(0.5, 0.004, 0.006), (-0.25, 0.004, 0.003), (None, 0.004, 0.02), (0.5, None, 0.02), (-3.0, 0.004, 0.0)],
    ids=["slower", "faster", "no pairs", "no yardstick", "not possible"],
)
def test_latency_is_drawn_by_what_it_is_judged_by(make, slowdown, source, expected):
    measured = make.measurement(1, latency=0.02).replace(slowdown=slowdown)
    yardstick = make.measurement(1).replace(latency_median_seconds=source)
    assert paired_latency(measured, yardstick) == pytest.approx(expected)
