"""Counts, percentages and who is in which wave."""

import doctest
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.edgemodel import Rollout, Wave
from edgemodel_operator.domain import backoff, choose, text, waves, windows


@pytest.mark.parametrize("module", [backoff, choose, text, waves, windows], ids=lambda m: m.__name__.rpartition(".")[2])
def test_the_examples_in_docstrings_are_true(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


LIMITS = {
    "a count": (3, 10, 0, True, 3),
    "a count above the total": (30, 10, 0, True, 10),
    "percent rounded up": ("25%", 10, 1, True, 3),
    "percent rounded down": ("25%", 10, 0, False, 2),
    "at least one": ("1%", 10, 1, False, 1),
    "none may fail": ("5%", 10, 0, False, 0),
    "exact where floats are not": ("7%", 100, 1, True, 7),
    "exact with decimals": ("0.1%", 1000, 0, True, 1),
    "everybody": ("100%", 7, 1, True, 7),
    "an empty pool": ("50%", 0, 1, True, 0),
}


@pytest.mark.parametrize(("value", "total", "least", "up", "expected"), LIMITS.values(), ids=LIMITS)
def test_limit(value, total, least, up, expected):
    assert waves.limit_of(value, total, at_least=least, round_up=up) == expected


MEMBERS = {
    "one, a quarter, all": ([1, "25%", "100%"], "cadb", [["a"], [], ["b", "c", "d"]]),
    "sorted before they are cut": ([2, "100%"], "dcba", [["a", "b"], ["c", "d"]]),
    "never fewer than before": ([3, 1, "100%"], "abcd", [["a", "b", "c"], [], ["d"]]),
    "not everybody": ([1], "ab", [["a"]]),
    "an empty pool": ([1, "100%"], "", [[], []]),
}


@pytest.mark.parametrize(("shares", "names", "expected"), MEMBERS.values(), ids=MEMBERS)
def test_members(shares, names, expected):
    rollout = Rollout(waves=tuple(Wave(nodes=s) for s in shares))
    assert [list(w) for w in waves.wave_members(rollout, list(names))] == expected


@given(
    shares=st.lists(st.one_of(st.integers(1, 50), st.integers(1, 100).map("{}%".format)), min_size=1, max_size=6),
    names=st.sets(st.text("abc", min_size=1, max_size=4), max_size=40),
)
def test_waves_cut_the_pool_without_overlap(shares, names):
    rollout = Rollout(waves=tuple(Wave(nodes=s) for s in [*shares, "100%"]))
    cut = waves.wave_members(rollout, list(names))
    assert [n for w in cut for n in w] == sorted(names)
    counts = waves.wave_counts(rollout, len(names))
    assert list(counts) == sorted(counts)


def test_waves_follow_after_their_soak_in_the_order_of_names(make):
    world = make.world(make.edge_model().with_waves((1, "10s"), ("50%", "20s"), "100%"), nodes=4)
    world.run(until=lambda w: w.status.rollout is not None and w.status.rollout.wave_complete_at is not None)
    first = world.status.rollout.wave_complete_at
    assert world.active() == ["n0"]
    assert world.reason("Reconciling") == "Soaking"
    assert world.message("Reconciling") == (
        f"1/4 nodes updated, wave 1/3, soaking until {first + timedelta(seconds=10):%Y-%m-%d %H:%M:%SZ}"
    )
    assert world.last.wake_at == first + timedelta(seconds=10)
    world.run(until=lambda w: w.status.rollout.wave == 1)
    assert (world.status.rollout.wave_started_at - first).total_seconds() == 10
    second = world.run(until=lambda w: w.status.rollout.wave == 2).status.rollout.wave_started_at
    assert (second - first).total_seconds() >= 30
    world.run(until=lambda w: w.finished())
    assert [n.assigned.wave for n in world.nodes] == [0, 1, 2, 2]


def test_the_last_wave_does_not_end_while_a_server_of_it_is_down(make):
    world = make.world(make.edge_model().with_waves(("100%", "10s")), nodes=3)
    world.run(until=lambda w: w.status.rollout is not None and w.status.rollout.wave_complete_at is not None)
    while world.now <= world.status.rollout.wave_complete_at + timedelta(seconds=10):
        n1 = world.node("n1")
        n1.running, n1.checking = None, False  # died, and is being started again
        world.turn()
    assert not world.finished()
    assert "switching: n1" in world.message("Reconciling")
    assert len(world.run(until=lambda w: w.finished()).serving()) == 3


def test_the_next_wave_fetches_ahead_and_the_one_after_does_not(make):
    world = make.world(make.edge_model().with_waves((1, "60s"), (2, "60s"), "100%"), nodes=4)
    world.run(turns=15)
    assert world.active() == ["n0"]
    assert [n.assigned.swap if n.assigned else None for n in world.nodes] == ["Activate", "Prefetch", None, None]
    assert world.digest() in world.node("n1").present
    assert world.node("n1").running is None


def test_slots_hold_back_switches_and_say_so(make):
    builder = make.edge_model().with_rollout(maxUnavailable=1)
    world = make.world(builder, nodes=3)
    world.run(until=lambda w: any(n.checking for n in w.nodes))
    assert len(world.active()) == 1
    assert "2 nodes wait as maxUnavailable allows 1 at once (n0)" in world.message("Reconciling")
    world.run(until=lambda w: w.finished())


def test_waves_that_are_edited_while_they_run(make):
    world = make.world(make.edge_model().with_waves((1, "1h"), "100%"), nodes=4)
    world.run(turns=15)
    assert world.active() == ["n0"]
    world.edit(world.builder.with_waves("100%"))
    world.run(until=lambda w: w.finished())
    assert len(world.started) == 1
    assert len(world.serving()) == 4


def test_a_finished_rollout_goes_on_when_its_waves_reach_further(make):
    world = make.world(make.edge_model().with_waves(1), nodes=4)
    world.run(until=lambda w: w.finished())
    assert world.run(turns=5).serving() == ["n0"]
    assert world.reason("Ready") == "RolledOutToAll"
    world.edit(world.builder.with_waves((1, "0s"), (2, "30s"), "100%"))
    world.run(until=lambda w: w.status.rollout.wave == 1 and w.status.rollout.wave_complete_at is not None)
    assert world.serving() == ["n0", "n1"]
    world.run(until=lambda w: w.finished() and len(w.serving()) == 4)
