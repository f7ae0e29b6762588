"""Going back: to what, how fast, for how long, and what it says."""

import pytest

from edgemodel_api import reasons as r
from edgemodel_api.edgemodel_status import HISTORY_LIMIT, HistoryEntry, RevisionResult
from edgemodel_api.hardware import HardwareClass
from edgemodel_operator.domain import history


def bad_everywhere(make, world, kind="bad", names=None):
    for node in world.nodes:
        if names is None or node.name in names:
            digests = {make.digest_of(f"{world.wanted()}/linux/amd64/{v}") for v in ("int8", "mixed", "source")}
            getattr(node, kind).update(digests)


@pytest.fixture
def updated(make):
    """Revision A everywhere; B is wanted, four nodes a wave, and goes bad on n0 when all serve it."""
    builder = make.edge_model().with_waves((2, "0s"), ("100%", "1h")).with_rollout(maxUnavailable=1)
    world = make.world(builder, nodes=4)
    world.run(until=lambda w: w.status.rollout is not None and len(w.serving()) == 4)
    world.run(seconds=600, until=lambda w: w.finished())
    world.first = world.status.revision
    world.edit(world.builder.with_source("b"))
    world.run(until=lambda w: len(w.serving()) == 4 and w.status.revision != w.first)
    return world


def test_all_nodes_go_back_within_the_slots(make, updated):
    world = updated
    bad_everywhere(make, world, "crashing", ["n0"])
    world.run(until=lambda w: w.rolled_back())
    assert (world.reason(r.STALLED), world.reason(r.RECONCILING)) == (r.ROLLED_BACK, r.ROLLING_BACK)
    assert "not yet put back: " in world.message(r.RECONCILING)
    assert not world.is_true(r.READY)
    world.run(until=lambda w: len(w.serving(w.first)) == 4)
    world.run(turns=2)
    assert world.condition(r.RECONCILING) is None
    assert world.is_true(r.STALLED)
    assert (world.is_true(r.READY), world.reason(r.READY)) == (True, r.ROLLED_BACK)
    assert world.message(r.READY).startswith(f"4/4 nodes serve revision {world.first}; 1 of 4 nodes failed in wave 2/2")
    rollout = world.status.rollout
    assert (rollout.rolled_back, rollout.reason, rollout.failed_nodes) == (True, r.TOO_MANY_FAILURES, ("n0",))
    assert [(h.result, h.revision == world.first) for h in world.status.history] == [
        (RevisionResult.ROLLED_BACK, False),
        (RevisionResult.ROLLED_OUT, True),
    ]
    told = [e for e in world.events if e.reason == r.ROLLED_BACK]
    assert len(told) == 1
    assert told[0].type == "Warning"


def test_it_stays_so_until_the_spec_changes(make, updated):
    world = updated
    bad_everywhere(make, world, "bad", ["n0"])
    world.node("n0").running = world.node("n0").previous
    world.run(until=lambda w: w.rolled_back())
    bad = world.status.revision
    world.run(turns=20, seconds=600)
    assert (world.status.revision, len(world.started)) == (bad, 2)
    assert world.serving(world.first) == ["n0", "n1", "n2", "n3"]
    world.edit(world.builder.with_rollout(maxFailures=1))
    world.run(until=lambda w: len(w.serving(bad)) == 3)
    assert not world.rolled_back()
    assert world.condition(r.STALLED) is None
    assert len(world.started) == 2


def test_or_until_somebody_asks(make, updated):
    world = updated
    bad_everywhere(make, world, "bad", ["n0"])
    world.node("n0").running = world.node("n0").previous
    world.run(until=lambda w: w.rolled_back())
    world.run(turns=10)
    world.node("n0").bad = set()
    world.annotate(retry="2026-01-02")
    world.run(until=lambda w: len(w.serving()) == 4)
    assert world.status.retry == "2026-01-02"
    assert len(world.started) == 2


def test_without_an_earlier_revision_it_is_removed(make):
    world = make.world(nodes=3)
    world.run(turns=1)
    bad_everywhere(make, world)
    world.run(until=lambda w: w.rolled_back())
    world.run(turns=3)
    assert all(n.assigned is None and n.running is None for n in world.nodes)
    assert not world.is_true(r.READY)
    assert "no earlier revision to go back to: removed" in world.message(r.STALLED)
    assert world.condition(r.RECONCILING) is None


def test_nodes_that_are_offline_are_told_and_go_back_when_they_return(make, updated):
    world = updated
    world.node("n3").online = False
    world.run(turns=3, seconds=40)
    world.run(until=lambda w: w.rolled_back())  # n3 went silent in its wave: more than none
    world.run(turns=10)
    assert world.condition(r.RECONCILING) is None
    assert world.serving(world.first) == ["n0", "n1", "n2", "n3"]  # n3's agent read its spec on its own


def test_windows_do_not_hold_up_a_rollback(make, updated):
    world = updated
    world.edit(world.builder.with_rollout(windows=[{"schedule": "0 2 29 2 *", "duration": "1h"}]))
    world.run(turns=2)
    bad_everywhere(make, world, "crashing", ["n0"])
    world.run(until=lambda w: len(w.serving(w.first)) == 4)


def test_limits_of_the_new_spec_do_not_hold_a_node_on_what_is_bad(make, updated):
    world = updated
    world.edit(world.builder.with_field("healthCheck", {"maxLatencyP99": "2ms"}))
    world.run(turns=8)
    assert world.node("n1").assigned.health_check.max_latency_p99 == "2ms"
    bad_everywhere(make, world, "crashing", ["n0"])
    world.run(until=lambda w: w.rolled_back() and len(w.serving(w.first)) == 4)
    back = world.node("n1").assigned
    assert back.health_check.max_latency_p99 is None


def test_a_class_that_the_good_revision_has_nothing_for_loses_the_bad_one(make, updated):
    world = updated
    world.nodes.append(make.Node("n9", HardwareClass.AMD64_AVX2))
    world.run(until=lambda w: len(w.serving()) == 5)
    bad_everywhere(make, world, "crashing", ["n0"])
    world.run(until=lambda w: w.rolled_back() and len(w.serving(w.first)) == 4)
    world.run(turns=3)
    assert world.node("n9").assigned is None


def test_a_revision_that_went_bad_after_it_was_rolled_out_is_good_no_longer(make, updated):
    world = updated
    world.run(seconds=600, until=lambda w: w.finished())
    assert world.status.history[0].result is RevisionResult.ROLLED_OUT
    second = world.status.revision
    bad_everywhere(make, world, "crashing", ["n0"])
    world.run(until=lambda w: w.rolled_back() and len(w.serving(w.first)) == 4)
    assert [h.result for h in world.status.history if h.revision == second] == [RevisionResult.ROLLED_BACK]


def test_joiners_get_the_good_one(make, updated):
    world = updated
    bad_everywhere(make, world, "crashing", ["n0"])
    world.run(until=lambda w: w.rolled_back())
    world.nodes.append(make.Node("n9"))
    world.run(until=lambda w: len(w.serving(w.first)) == 5)


def test_superseded_in_the_middle_and_then_rolled_back_leads_to_the_last_good_one(make, updated):
    world = updated
    second = world.status.revision
    world.edit(world.builder.with_source("c"))
    world.run(turns=2)
    assert world.status.history[0].result is RevisionResult.SUPERSEDED
    assert "followed in wave 2/2, with 4 nodes let in" in world.status.history[0].message
    assert any(e.reason == r.SUPERSEDED for e in world.events)
    assert world.serving(second) == ["n0", "n1", "n2", "n3"]
    bad_everywhere(make, world)
    world.run(until=lambda w: w.rolled_back())
    world.run(turns=20)
    assert world.serving(world.first) == ["n0", "n1", "n2", "n3"]


def entry(revision, result, start):
    return HistoryEntry(revision=revision, result=result, finished_at=start)


def test_the_history_is_bounded_and_keeps_the_way_back(make, updated):
    world = updated
    good = next(h for h in world.status.history if h.revision == world.first)
    kept = (good,)
    for i in range(3 * HISTORY_LIMIT):
        kept = history.added(kept, entry(f"r{i}", RevisionResult.ROLLED_BACK, make.start))
    assert len(kept) == HISTORY_LIMIT
    assert kept[0].revision == f"r{3 * HISTORY_LIMIT - 1}"
    assert history.last_good(kept) == good
    assert history.last_good(kept, but=world.first) is None


def test_a_report_from_before_is_no_answer(make, updated):
    """n1 was put back to A and its report is late; told of B again, its old report of B must not count."""
    world = updated
    bad = world.status.revision
    bad_everywhere(make, world, "crashing", ["n0"])
    world.run(until=lambda w: w.node("n1").assigned.target.revision == w.first)
    world.node("n1").report = lambda now: None
    for _ in range(4):
        world.node("n1").step(world.now)
    assert "n1" in world.serving(world.first)
    world.node("n0").crashing = set()
    world.annotate(retry="again")
    world.run(turns=20)
    assert (world.status.revision, world.is_true(r.READY)) == (bad, False), world.message(r.READY)
    assert world.status.nodes.updated == 3
    del world.node("n1").report
    world.run(until=lambda w: w.is_true(r.ROLLED_OUT) or w.status.nodes.updated == 4)
    assert world.serving(bad) == ["n0", "n1", "n2", "n3"]
