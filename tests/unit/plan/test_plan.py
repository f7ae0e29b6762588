"""The whole plan: first sight, edits that build nothing, approval, deletion, restarts."""

import dataclasses
from datetime import timedelta

import pytest

from edgemodel_api import reasons as r
from edgemodel_api.edgenode import AssignedModel, AssignedTrial, EdgeNodeSpec
from edgemodel_operator.domain.actions import Assign, AssignTrial, StartJob, Unassign, UnassignTrial
from edgemodel_operator.domain.apply import apply_to_spec


def test_first_sight_is_in_progress(make):
    world = make.world()
    world.step_nodes()
    planned = world.pass_()
    assert world.status.observed_generation == 1
    assert world.is_true(r.RECONCILING)
    assert [type(a) for a in planned.actions] == [StartJob]
    assert [e.reason for e in planned.events] == [r.ACCEPTED, r.COMPRESSING]


def test_an_edit_is_in_progress_at_first_sight(make):
    world = make.world()
    world.run(until=lambda w: w.finished())
    assert world.condition(r.RECONCILING) is None
    world.edit(world.builder.with_source("b"))
    world.pass_()
    assert world.status.observed_generation == 2
    assert world.is_true(r.RECONCILING)
    assert not world.is_true(r.READY)


def test_nothing_to_do_is_nothing_to_do(make):
    world = make.world()
    world.run(until=lambda w: w.finished())
    world.run(turns=3)
    before = world.status
    planned = world.pass_()
    assert planned.actions == ()
    assert planned.events == ()
    assert planned.status == before
    # Only silence can change something now.
    assert planned.wake_at == world.now - timedelta(seconds=1) + timedelta(seconds=60, microseconds=1)


def test_one_event_for_each_thing_that_happens(make):
    world = make.world(make.edge_model().with_waves((1, "0s"), "100%"))
    world.run(until=lambda w: w.finished())
    world.run(turns=5)
    assert [e.reason for e in world.events] == [
        r.ACCEPTED, r.COMPRESSING, r.COMPRESSION_SUCCEEDED, r.TRIAL_SUCCEEDED, r.WAVE_STARTED, r.WAVE_STARTED,
        r.ROLLED_OUT_TO_ALL,
    ]  # fmt: skip
    assert {e.type for e in world.events} == {"Normal"}


# --- edits that build nothing


def test_health_check_and_limits_apply_in_place(make):
    world = make.world(make.edge_model().with_rollout(maxUnavailable=1))
    world.run(until=lambda w: w.finished())
    before = [n.assigned.attempt for n in world.nodes]
    world.edit(world.builder.with_field("healthCheck", {"maxLatencyP99": "7ms"}))
    world.run(turns=1)
    assert {n.assigned.health_check.max_latency_p99 for n in world.nodes} == {"7ms"}
    assert [n.assigned.attempt for n in world.nodes] == before
    assert len(world.started) == 1
    assert world.is_true(r.READY)


def test_another_port_is_a_switch_and_takes_slots(make):
    world = make.world(make.edge_model().with_rollout(maxUnavailable=1))
    world.run(until=lambda w: w.finished())
    world.edit(world.builder.with_field("serving", {"port": 8001}))
    world.run(turns=1)
    assert [n.assigned.serving.port for n in world.nodes] == [8001, None, None]
    world.run(turns=20)
    assert [n.assigned.serving.port for n in world.nodes] == [8001] * 3
    assert [n.serves_with.port for n in world.nodes] == [8001] * 3
    assert len(world.started) == 1


def test_the_same_bytes_under_another_revision_need_no_switch(make):
    def same_bytes(revision, platforms):
        return make.succeeded("always", platforms)

    world = make.world(make.edge_model().with_rollout(maxUnavailable=1), nodes=4, job_result=same_bytes)
    world.run(until=lambda w: w.finished())
    running = [n.running for n in world.nodes]
    world.edit(world.builder.with_source("b"))
    world.run(until=lambda w: w.finished() and len(w.active()) == 4)
    assert [n.running for n in world.nodes] == running
    assert world.reason(r.READY) == r.ROLLED_OUT_TO_ALL


# --- approval


def test_each_wave_waits_for_a_person(make):
    builder = make.edge_model().with_waves((1, "0s"), "100%").with_rollout(approval="Manual")
    world = make.world(builder)
    world.run(turns=15)
    revision = world.status.revision
    assert world.active() == []
    assert world.reason(r.RECONCILING) == r.WAITING_FOR_APPROVAL
    assert f"set the annotation edgemodel.dev/approved={revision}/1" in world.message(r.RECONCILING)
    for wrong in ("yes", f"{revision}", f"{revision}/x", "0123456789ab/2", f"{revision}/-1", f"{revision}/99999999999"):
        world.annotate(approved=wrong)
        world.run(turns=2)
        assert world.active() == []
    world.annotate(approved=f"{revision}/1")
    world.run(turns=10)
    assert world.serving() == ["n0"]
    assert f"wave 2/2 waits for a person: set the annotation edgemodel.dev/approved={revision}/2" in world.message(
        r.RECONCILING
    )
    world.annotate(approved=f"{revision}/2")
    world.run(until=lambda w: w.finished())
    assert [e.reason for e in world.events].count(r.WAITING_FOR_APPROVAL) == 2


# --- deletion


def test_deletion_takes_everything_away(make):
    world = make.world()
    world.run(turns=4)
    assert any(n.spec.trials for n in world.nodes)
    world.run(until=lambda w: w.finished())
    world.builder = dataclasses.replace(world.builder, deleted=world.now, generation=2)
    world.pass_()
    assert all(n.spec == EdgeNodeSpec() for n in world.nodes)
    assert world.reason(r.RECONCILING) == r.TERMINATING
    assert "3 nodes that can be reached still have it: n0, n1, n2" in world.message(r.RECONCILING)
    world.run(turns=2)
    assert world.message(r.RECONCILING) == "0 nodes that can be reached still have it"


def test_other_models_of_a_node_are_left_alone(make):
    other = AssignedModel.model_validate(
        {
            "namespace": "default",
            "name": "other",
            "target": {"revision": "x", "reference": "oci-layout:///r", "digest": "sha256:1", "variant": "v"},
        }
    )
    world = make.world()
    for node in world.nodes:
        node.spec = EdgeNodeSpec(models=(other,))
    world.run(turns=30)
    assert all(other in n.spec.models for n in world.nodes)
    assert all(len(n.spec.models) == 2 for n in world.nodes)


def test_nodes_are_told_what_the_trial_of_their_class_took(make):
    world = make.world()
    world.run(until=lambda w: w.finished())
    took = {v.hardware_class: v.latency_median_seconds for v in world.status.variants}
    assert all(took.values())
    for node in world.nodes:
        (model,) = node.spec.models
        assert model.target.trial_latency_seconds in took.values()


# --- restarts


@pytest.mark.parametrize("status_first", [True, False], ids=["status first", "actions first"])
def test_an_operator_that_dies_after_every_single_write_gets_there_all_the_same(make, status_first):
    builder = make.edge_model().with_waves((1, "2s"), ("50%", "2s"), "100%").with_rollout(maxUnavailable=1)
    world = make.world(builder, nodes=4)
    for _ in range(300):
        world.finish_job()
        world.step_nodes()
        for writes in (1, 2) if status_first else (1, None):
            world.pass_(dies_after=writes, status_first=status_first)
        world.tick()
        if world.finished():
            break
    assert world.finished()
    assert len(world.serving()) == 4


def test_a_rollback_survives_death_after_the_status(make):
    world = make.world(nodes=4)
    world.run(until=lambda w: w.finished())
    first = world.status.revision
    world.edit(world.builder.with_source("b"))
    for node in world.nodes:
        node.bad |= {make.digest_of(f"{world.wanted()}/linux/amd64/{v}") for v in ("int8", "mixed", "source")}
    for _ in range(30):
        world.finish_job()
        world.step_nodes()
        world.pass_(dies_after=2)
        world.tick()
    assert world.rolled_back()
    assert world.run(turns=5).serving(first) == ["n0", "n1", "n2", "n3"]
    assert {n.assigned.target.revision for n in world.nodes} == {first}


# --- apply


def test_apply_keeps_what_is_not_named_and_is_idempotent():
    def model(name, digest):
        return AssignedModel.model_validate(
            {
                "namespace": "default",
                "name": name,
                "target": {"revision": "x", "reference": "oci-layout:///r", "digest": digest, "variant": "v"},
            }
        )

    trial = AssignedTrial(namespace="default", name="m", revision="x", candidates=())
    spec = EdgeNodeSpec(models=(model("m", "1"), model("other", "2")))
    actions = [Assign("n", model("m", "3")), AssignTrial("n", trial)]
    once = apply_to_spec(spec, actions)
    assert once == EdgeNodeSpec(models=(model("m", "3"), model("other", "2")), trials=(trial,))
    assert apply_to_spec(once, actions) == once
    undo = [Unassign("n", "default", "m"), UnassignTrial("n", "default", "m")]
    assert apply_to_spec(once, undo) == EdgeNodeSpec(models=(model("other", "2"),))
    assert apply_to_spec(apply_to_spec(once, undo), undo) == apply_to_spec(once, undo)
