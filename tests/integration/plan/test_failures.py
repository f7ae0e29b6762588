"""Nodes that fail, go silent, come back: what counts, what is tried again, what blocks nobody."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from edgemodel_api import reasons as r
from edgemodel_api.edgenode import Swap


def soaking(world):
    return world.run(until=lambda w: w.status.rollout is not None and w.status.rollout.wave_complete_at is not None)


def rolled_out_then(make, builder, nodes=4, letter="b"):
    """A good revision everywhere, and then another one."""
    world = make.world(builder, nodes=nodes)
    world.run(until=lambda w: w.finished())
    world.first = world.status.revision
    world.edit(world.builder.with_source(letter))
    return world


def make_bad(make, world, names, kind="bad"):
    digests = {make.digest_of(f"{world.wanted()}/linux/amd64/{v}") for v in ("int8", "mixed", "source")}
    for name in names:
        getattr(world.node(name), kind).update(digests)


@pytest.mark.parametrize("while_it_soaks", [True, False], ids=["while it soaks", "later"])
def test_a_port_that_cannot_be_had_does_not_take_away_what_serves(make, while_it_soaks):
    world = make.world(make.edge_model().with_waves(("100%", "1m")), nodes=3)
    world.run(until=lambda w: w.status.rollout is not None and w.status.rollout.wave_complete_at is not None)
    if not while_it_soaks:
        world.run(turns=90, until=lambda w: w.finished())
    for node in world.nodes:
        node.no_port = True
    world.edit(world.builder.with_field("serving", {"port": 8001}))
    world.run(turns=600)
    assert not world.rolled_back()
    assert len(world.serving()) == 3
    assert not world.is_true(r.READY)
    assert "n0 (PortUnavailable: 0.5 > 0.1)" in world.message(r.READY)
    for node in world.nodes:
        node.no_port = False
    world.annotate(retry="1")
    world.run(turns=120, until=lambda w: w.is_true(r.READY))


def test_a_port_that_cannot_be_had_counts_where_the_revision_is_new(make):
    world = make.world(make.edge_model().with_field("serving", {"port": 8001}), nodes=3)
    for node in world.nodes:
        node.no_port = True
    world.run(until=lambda w: w.rolled_back())


def test_offline_before_is_no_failure_and_blocks_nobody_and_catches_up(make):
    builder = make.edge_model().with_waves((1, "5s"), ("50%", "5s"), ("100%", "5s"))
    world = make.world(builder, nodes=4)
    world.run(turns=1)
    world.node("n0").online = world.node("n2").online = False
    world.run(seconds=20, until=lambda w: w.finished())
    assert world.serving() == ["n1", "n3"]
    assert world.status.nodes.failed == 0
    assert (world.reason(r.READY), world.message(r.READY)) == (
        r.ROLLED_OUT_TO_QUORUM,
        "2/4 nodes updated, 2 offline",
    )
    assert world.node("n0").assigned is None
    world.node("n0").online = True
    world.run(until=lambda w: len(w.serving()) == 3)
    assert world.is_true(r.READY)


def test_a_wave_is_filled_with_nodes_that_can_be_reached(make):
    world = make.world(make.edge_model().with_waves((1, "1h"), "100%"), nodes=3)
    world.run(turns=1)
    world.node("n0").online = False
    world.run(turns=20, seconds=20)
    assert world.active() == ["n1"]


def test_offline_after_it_was_told_counts_while_it_lasts(make):
    builder = make.edge_model().with_waves((2, "10m"), "100%").with_rollout(maxFailures=1)
    world = soaking(make.world(builder, nodes=4))
    world.node("n1").online = False
    world.run(turns=3, seconds=40)
    assert world.status.rollout.failed_nodes == ("n1",)
    assert "failed: n1 (NodeOffline: offline since it was told to switch)" in world.message(r.READY)
    world.node("n1").online = True
    world.run(turns=2)
    assert world.status.rollout.failed_nodes == ()
    # The soak of its wave over, it may go offline.
    world.run(seconds=60, until=lambda w: w.finished())
    world.node("n1").online = False
    world.run(turns=3, seconds=40)
    assert world.status.nodes.failed == 0
    assert world.is_true(r.READY)


def test_offline_after_beyond_the_limit_rolls_back(make):
    world = soaking(make.world(make.edge_model().with_waves((2, "10m"), "100%"), nodes=4))
    world.node("n1").online = False
    world.run(seconds=30, until=lambda w: w.rolled_back())
    assert "1 of 4 nodes failed in wave 1/2, more than the 0 that maxFailures 0 allows" in world.status.rollout.message


LIMITS = {
    "none may fail": (0, 10, 1),
    "one may": (1, 10, 2),
    "a percentage is rounded down": ("25%", 10, 3),
    "five percent of ten is none": ("5%", 10, 1),
}


@pytest.mark.parametrize(("limit", "total", "needed"), LIMITS.values(), ids=LIMITS)
def test_more_than_max_failures_roll_back(make, limit, total, needed):
    for count in (needed - 1, needed):
        world = rolled_out_then(make, make.edge_model().with_rollout(maxFailures=limit), nodes=total)
        make_bad(make, world, [f"n{i}" for i in range(1, count + 1)])
        world.run(turns=15)
        assert world.rolled_back() == (count == needed)
        if count < needed:
            assert len(world.serving()) == total - count
            assert world.status.nodes.failed == count


def test_a_node_that_failed_keeps_what_it_had_is_named_and_tried_again_a_few_times(make):
    world = rolled_out_then(make, make.edge_model().with_rollout(maxFailures=1), nodes=4)
    make_bad(make, world, ["n2"])
    world.run(turns=15)
    assert world.serving(world.first) == ["n2"]
    assert world.status.rollout.failed_nodes == ("n2",)
    assert world.message(r.READY) == "3/4 nodes updated, 1 failed; failed: n2 (GoldenMismatch: 0.5 > 0.1)"
    attempts = {world.node("n2").assigned.attempt: world.now}
    for _ in range(150):
        world.turn(7)
        attempts.setdefault(world.node("n2").assigned.attempt, world.now)
        # While it is tried again it counts on.
        assert world.status.rollout.failed_nodes == ("n2",)
    assert list(attempts) == [1, 2, 3, 4]
    times = list(attempts.values())
    waits = [(b - a).total_seconds() for a, b in itertools.pairwise(times[1:])]
    assert 120 <= waits[0] <= 150
    assert 240 <= waits[1] <= 270
    world.node("n2").bad = set()
    world.annotate(retry="1")
    world.run(until=lambda w: len(w.serving()) == 4)
    assert world.status.rollout.failed_nodes == ()


def test_a_failed_node_gives_its_place_in_the_wave_to_the_next(make):
    builder = make.edge_model().with_waves((1, "30s"), "100%").with_rollout(maxFailures=1)
    world = rolled_out_then(make, builder, nodes=4)
    make_bad(make, world, ["n0"])
    soaking(world)
    assert world.serving() == ["n1"]
    assert world.status.rollout.wave == 0


def test_a_lost_model_takes_a_slot_until_it_is_served_again(make):
    builder = make.edge_model().with_rollout(maxFailures=3, maxUnavailable=1)
    world = rolled_out_then(make, builder, nodes=4)
    make_bad(make, world, ["n0"], "crashing")
    world.run(turns=20)
    assert world.node("n0").running is None
    # n1 was let in while n0 still served.
    assert world.active() == ["n0", "n1"]
    assert "2 nodes wait as maxUnavailable allows 1 at once (n0)" in world.message(r.READY)
    assert world.serving(world.first) == ["n2", "n3"]
    world.node("n0").crashing = set()
    world.run(turns=100, until=lambda w: w.finished())
    assert len(world.serving()) == 4


def test_when_all_that_can_be_reached_fail_again_and_again_it_goes_back(make):
    world = rolled_out_then(make, make.edge_model().with_rollout(maxFailures="100%"), nodes=2)
    make_bad(make, world, ["n0", "n1"])
    world.run(turns=400, seconds=5, until=lambda w: w.rolled_back())
    assert "2 of 2 nodes failed in wave 1/1, each 4 times, and no other can be reached" in world.status.rollout.message
    assert world.run(turns=5).serving(world.first) == ["n0", "n1"]


def test_a_failed_download_ahead_counts_too(make):
    world = rolled_out_then(make, make.edge_model(), nodes=3)
    world.edit(world.builder.with_waves((1, "1h"), "100%"))
    world.run(turns=12)
    n1 = world.node("n1")
    assert n1.assigned.swap is Swap.PREFETCH
    n1.present.clear()
    n1.slow = 99
    n1.failed = (n1.assigned.target.digest, n1.assigned.attempt, "DiskFull")
    world.run(turns=2)
    assert world.rolled_back()
    assert "n1 (DiskFull" in world.status.rollout.message


def test_the_clock_of_a_node_does_not_hold_back_its_retry(make):
    world = rolled_out_then(make, make.edge_model().with_rollout(maxFailures=1), nodes=2)
    make_bad(make, world, ["n0"])
    world.run(until=lambda w: w.status.nodes.failed == 1)
    world.node("n0").changed_at = world.now + timedelta(days=400)
    world.run(turns=90, until=lambda w: w.node("n0").assigned.attempt == 2)


def test_offline_while_it_only_fetches_is_no_failure(make):
    world = make.world(make.edge_model().with_waves((1, "10m"), "100%"), nodes=3)
    world.node("n1").slow = 99
    world.node("n2").slow = 99
    soaking(world)
    assert world.node("n1").assigned.swap is Swap.PREFETCH
    world.node("n1").online = False
    world.run(turns=4, seconds=40)
    assert world.status.nodes.offline == 1
    assert world.status.rollout.failed_nodes == ()
    assert not world.rolled_back()


def test_a_time_in_which_nobody_could_be_heard_is_no_silence(make):
    """The API server was away for ten minutes: who was told to switch has its minute from then on, and no more."""
    world = make.world(make.edge_model().with_waves((1, "1h"), "100%"), nodes=3)
    world.run(until=lambda w: w.serving() == ["n0"])
    world.run(turns=2)
    for node in world.nodes:
        node.online = False
    world.tick(600)
    world.heard_since = world.now
    world.pass_()
    assert (world.rolled_back(), world.status.nodes.failed, world.status.nodes.offline) == (False, 0, 2)
    assert world.status.rollout.wave == 0
    assert world.last.wake_at <= world.now + timedelta(seconds=61)
    world.node("n1").online = world.node("n2").online = True
    world.run(turns=2, seconds=20)
    assert not world.rolled_back()
    world.run(turns=3, seconds=20)
    assert world.rolled_back(), "n0 is silent indeed"


@pytest.mark.parametrize("year", [1, 9999])
def test_a_clock_that_is_far_off(make, year):
    world = make.world(nodes=2)
    world.run(turns=5)
    node = world.node("n0")
    at = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    node.report = lambda now: setattr(node, "status", node.status.replace(last_report_time=at))
    world.run(turns=3)
    assert world.status.nodes.offline == (year == 1)
