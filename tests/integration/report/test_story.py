"""From changes to bars, wave borders and the moment of a rollback."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.edgemodel_status import RolloutStatus
from edgemodel_cli.report.story import Phase, counts, tell
from edgemodel_cli.timeline import NodeChange


def phases(row):
    return [bar.phase for bar in row.bars]


def test_bars_follow_each_other_without_gaps(make):
    story = tell(make.life("a", 0, 2.0), make.NEW)
    (row,) = story.rows
    assert phases(row) == [Phase.PENDING, Phase.DOWNLOADING, Phase.DOWNLOADED, Phase.CHECKING, Phase.SERVING]
    assert row.bars[0].start == 0
    assert row.bars[-1].end == story.seconds
    for before, after in zip(row.bars, row.bars[1:], strict=False):
        assert before.end == after.start


def test_rows_by_wave_then_name(make):
    story = tell(
        [*make.life("c", 0, 1), *make.life("a", 1, 5), *make.life("b", 1, 5), make.change(0, "d", "Pending", -1)],
        make.NEW,
    )
    assert [(r.node, r.wave) for r in story.rows] == [("c", 0), ("a", 1), ("b", 1), ("d", None)]


def test_a_wave_begins_when_its_first_node_moves(make):
    """A node that is let in still shows the prefetch's state, with the prefetch's time."""
    let_in = make.change(0.5, "b", "Downloaded", 1)
    changes = [*make.life("a", 0, 1), *make.life("b", 1, 6)[:3], let_in, *make.life("b", 1, 6)[3:]]
    assert [(b.wave, b.at) for b in tell(changes, make.NEW).borders] == [(0, 1.0), (1, 6.0)]


def test_rollback_is_when_the_first_node_is_sent_back(make):
    changes = [
        make.change(-60, "a", "Serving", 0, make.OLD),
        make.change(-60, "b", "Serving", 0, make.OLD),
        *make.life("a", 0, 1),
        *make.life("b", 1, 5)[:4],
        make.change(6, "b", "Failed", 1, reason="GoldenMismatch"),
        make.change(8, "a", "Serving", 0, make.OLD),
        make.change(9, "b", "Serving", 0, make.OLD),
    ]
    back = RolloutStatus(revision=make.NEW, started_at=make.T0, finished_at=make.at(12), rolled_back=True)
    story = tell(changes, make.NEW, back)
    assert story.rolled_back == 8.0
    assert phases(story.rows[0])[-1] is Phase.PREVIOUS
    assert phases(story.rows[1])[-2:] == [Phase.FAILED, Phase.PREVIOUS]
    # The rollback's end belongs to the picture.
    assert story.seconds > 12
    assert tell(changes, make.NEW, back.replace(rolled_back=False)).rolled_back is None


def test_a_rollback_that_no_node_saw_has_the_time_of_the_status(make):
    back = RolloutStatus(revision=make.NEW, started_at=make.T0, finished_at=make.at(12), rolled_back=True)
    assert tell([make.change(0, "a", "Pending")], make.NEW, back).rolled_back == 12.0


def test_an_earlier_rollout_is_another_story(make):
    early = [c.replace(at=c.at - timedelta(hours=5)) for c in make.life("a", 0, 1)]
    rollout = RolloutStatus(revision=make.NEW, started_at=make.T0)
    story = tell([*early, *make.life("a", 0, 1)], make.NEW, rollout)
    assert story.began == make.T0
    assert story.seconds < 10


def test_what_a_node_was_in_before_is_carried_in(make):
    story = tell(
        [
            make.change(-100, "a", "Serving", 0, make.OLD),
            make.change(0, "b", "Pending"),
            make.change(3, "a", "Checking"),
        ],
        make.NEW,
    )
    (a,) = [r for r in story.rows if r.node == "a"]
    assert [(b.phase, b.start) for b in a.bars] == [(Phase.PREVIOUS, 0.0), (Phase.CHECKING, 3.0)]


@pytest.mark.parametrize("revision", ["", "ffffffffffff"])
def test_no_story_of_a_revision_that_never_came(make, revision):
    assert tell(make.life("a", 0, 1), revision) is None


CHANGES = st.lists(
    st.builds(
        lambda s, node, state, wave, revision: (s, node, state, wave, revision),
        st.floats(-100, 100),
        st.sampled_from("abcde"),
        st.sampled_from(["Pending", "Downloading", "Downloaded", "Checking", "Serving", "Failed", "Offline", "New?"]),
        st.integers(-1, 3),
        st.sampled_from(["x", "y", ""]),
    ),
    max_size=40,
)


@given(CHANGES, st.booleans())
def test_whatever_was_noted_every_node_is_in_one_phase(changes, rolled_back):
    from datetime import UTC, datetime

    t0 = datetime(2026, 1, 1, tzinfo=UTC)
    noted = [
        NodeChange(at=t0 + timedelta(seconds=s), node=n, state=state, wave=w, revision=r)
        for s, n, state, w, r in changes
    ]
    story = tell(noted, "x", RolloutStatus(revision="x", rolled_back=rolled_back))
    if story is None:
        assert not any(c.revision == "x" for c in noted)
        return
    for row in story.rows:
        assert row.bars[-1].end == story.seconds
        assert all(0 <= b.start <= b.end for b in row.bars)
        assert all(a.end == b.start for a, b in zip(row.bars, row.bars[1:], strict=False))
    instants, totals = counts(story)
    for i, instant in enumerate(instants[:-1]):
        there = sum(r.bars[0].start <= instant for r in story.rows)
        assert sum(line[i] for line in totals.values()) == there
