"""Trials: who measures, what comes of it, and what happens when they cannot."""

import pytest

from edgemodel_api import reasons as r
from edgemodel_api.hardware import HardwareClass


def trying(world):
    return [n.name for n in world.nodes if n.spec.trials]


def until_trial(world):
    return world.run(until=trying)


def test_one_node_of_each_class_and_never_more(make):
    nodes = make.nodes(6)
    for node in nodes[3:]:
        node.hardware_class = HardwareClass.ARM64_BASE
    world = until_trial(make.world(make.edge_model(), nodes))
    assert trying(world) == ["n0", "n3"]
    assert world.reason(r.TRIALED) == r.TRIALING
    assert world.message(r.TRIALED) == (
        "2 hardware classes: amd64-vnni on n0: 0/3 candidates measured, arm64-base on n3: 0/3 candidates measured"
    )
    trial = world.node("n3").spec.trials[0]
    assert [c.variant for c in trial.candidates] == ["source", "int8", "mixed"]
    assert trial.candidates[0].digest == world.digest("source", "linux/arm64")
    world.run(until=lambda w: w.finished())
    assert trying(world) == []
    assert [(v.hardware_class, v.name, v.measured_on, v.quality) for v in world.status.variants] == [
        ("amd64-vnni", "int8", "n0", "0.9"),
        ("arm64-base", "int8", "n3", "0.9"),
    ]
    assert world.status.variants[0].latency_median_seconds == "0.008"


def test_another_node_measures_when_the_first_goes_offline(make):
    world = until_trial(make.world())
    world.node("n0").online = False
    world.run(turns=3, seconds=40)
    assert trying(world) == ["n1"]
    world.node("n0").online = True
    world.step_nodes()
    world.pass_()
    # The one that is at it goes on.
    assert trying(world) == ["n1"]
    world.run(until=lambda w: w.finished())
    assert world.status.variants[0].measured_on == "n1"


def test_a_class_without_an_online_node_blocks_nobody_and_is_tried_when_it_shows_up(make):
    nodes = make.nodes(3)
    nodes[2].hardware_class = HardwareClass.AMD64_AVX2
    world = make.world(make.edge_model(), nodes)
    world.run(turns=1)
    nodes[2].online = False
    world.run(seconds=31, until=lambda w: w.finished())
    assert world.serving() == ["n0", "n1"]
    nodes[2].online = True
    nodes[2].slowdown = {"int8": 0.5}
    world.run(until=lambda w: len(w.serving()) == 3)
    assert world.node("n2").running.variant == "mixed"
    assert len(world.started) == 1


def test_a_class_that_nothing_fits_is_refused_with_numbers_and_the_others_go_on(make):
    nodes = make.nodes(3)
    nodes[1].hardware_class = HardwareClass.AMD64_AVX2
    nodes[1].no_trial = "GoldenMismatch"
    world = make.world(make.edge_model(), nodes)
    world.run(until=lambda w: w.finished())
    assert world.serving() == ["n0", "n2"]
    assert (world.condition(r.TRIALED).status, world.reason(r.TRIALED)) == ("False", r.TRIAL_FAILED)
    assert "none of 3 candidates fits amd64-avx2 (measured on n1): source (GoldenMismatch: sim)" in world.message(
        r.TRIALED
    )
    assert world.message(r.READY) == "2/3 nodes updated, 1 without a fitting variant"
    assert any(e.type == "Warning" and e.reason == r.TRIAL_FAILED for e in world.events)
    nodes[1].no_trial = ""
    world.run(turns=5)
    assert world.serving() == ["n0", "n2"]
    world.annotate(retry="1")
    world.run(until=lambda w: len(w.serving()) == 3)
    assert world.is_true(r.TRIALED)


def test_when_nothing_fits_any_class_it_stalls(make):
    world = make.world(nodes=2)
    for node in world.nodes:
        node.no_trial = "TooSlow"
    world.run(turns=10)
    assert world.reason(r.STALLED) == r.TRIAL_FAILED
    assert world.condition(r.RECONCILING) is None
    assert not world.is_true(r.READY)
    assert world.active() == []


def test_a_full_disk_on_the_node_of_the_trial_is_no_verdict(make):
    world = make.world(nodes=3)
    world.node("n0").no_trial = "DiskFull"
    world.run(until=lambda w: w.finished())
    assert world.status.variants[0].measured_on == "n1"
    assert world.status.variants[0].tried_on == ("n0",)
    assert any("n0 could measure nothing (DiskFull: sim)" in e.message for e in world.events)


def test_when_nobody_can_measure_the_class_is_refused(make):
    world = make.world(nodes=5)
    for node in world.nodes:
        node.no_trial = "DownloadFailed"
    world.run(turns=25)
    assert world.reason(r.STALLED) == r.TRIAL_FAILED
    assert world.status.variants[0].tried_on == ("n0", "n1", "n2")


def test_an_unaccepted_source_is_the_yardstick_and_never_assigned(make):
    def without_source(revision, platforms):
        return make.succeeded(revision, platforms, unaccepted=["source"])

    world = make.world(job_result=without_source)
    world.node("n0").slowdown = {"int8": 0.5, "mixed": 0.5}
    until_trial(world)
    assert world.node("n0").spec.trials[0].candidates[0].variant == "source"
    world.run(turns=10)
    assert world.reason(r.STALLED) == r.TRIAL_FAILED


def test_a_restart_goes_on_from_what_was_measured(make):
    world = until_trial(make.world())
    world.run(until=lambda w: w.status.variants != ())
    world.jobs = {}
    measured = world.status.variants
    world.run(until=lambda w: w.finished())
    assert world.status.variants == measured
    assert len(world.started) == 1


def test_a_node_that_takes_for_ever_hands_over_and_does_not_hold_up_other_classes(make):
    nodes = make.nodes(4)
    nodes[2].hardware_class = nodes[3].hardware_class = HardwareClass.AMD64_AVX2
    world = make.world(make.edge_model(), nodes)
    nodes[2]._step_trial = nodes[3]._step_trial = lambda: None
    world.run(turns=8)
    assert trying(world) == ["n2"]
    assert world.active() == []
    world.run(turns=20, seconds=50)
    assert trying(world) == ["n3"]
    assert any("n2 has measured 0/3 candidates and had 15 minutes for each" in e.message for e in world.events)
    assert world.active() == []
    world.run(turns=25, seconds=50)
    assert world.serving() == ["n0", "n1"]
    assert trying(world) == ["n3"]
    assert "amd64-avx2 on n3: 0/3 candidates measured" in world.message(r.TRIALED)


@pytest.mark.parametrize(
    ("budget", "objective", "check", "told"),
    [
        ({}, "Smallest", {}, "20%"),
        ({}, "Fastest", {}, "0%"),
        ({"maxLatency": "1s"}, "Smallest", {}, "0%"),
        ({}, "Smallest", {"maxLatencyP99": "1s"}, "0%"),
    ],
)
def test_the_node_knows_how_slow_is_too_slow(make, budget, objective, check, told):
    """Where a latency decides by itself, or by less than that, all that seem slower than the source are confirmed."""
    builder = make.edge_model().with_budget(maxSlowdown="20%", **budget).with_objective(objective)
    builder = builder.with_field("healthCheck", check)
    world = until_trial(make.world(builder))
    assert world.node("n0").spec.trials[0].max_slowdown == told
