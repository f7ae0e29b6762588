"""The compression Job: started once, tried again, refused, invalid, lost."""

import itertools
from datetime import timedelta

import pytest

from edgemodel_api import reasons as r
from edgemodel_api.job import JobResult, Outcome
from edgemodel_operator.domain.job import JOB_TRIES
from edgemodel_operator.domain.observed import JobState, JobView


def ended(world, **result):
    """The Job that runs ends like this."""
    for revision, view in world.jobs.items():
        if view.state is JobState.RUNNING:
            world.jobs[revision] = JobView(revision, JobState.FINISHED, JobResult(**result))


@pytest.fixture
def world(make):
    world = make.world()
    world.step_nodes()
    world.pass_()
    return world


def test_it_is_started_with_what_the_spec_says(make, world):
    (job,) = world.started
    assert (job.namespace, job.name, job.revision) == ("default", "m", world.status.revision)
    assert (job.platforms, job.output, job.source.sha256) == (("linux/amd64",), "oci-layout:///registry", "a" * 64)
    assert world.reason(r.COMPRESSED) == r.COMPRESSING
    assert world.condition(r.COMPRESSED).status == "False"
    assert world.reason(r.RECONCILING) == r.COMPRESSING
    world.tick(300)
    world.step_nodes()
    world.pass_()
    assert len(world.started) == 1


def test_a_finished_one_is_not_started_again(make):
    world = make.world()
    world.step_nodes()
    world.accepted = {v.digest for v in make.succeeded(world.wanted(), ["linux/amd64"]).variants}
    world.jobs[world.wanted()] = JobView(
        world.wanted(), JobState.FINISHED, make.succeeded(world.wanted(), ["linux/amd64"])
    )
    world.run(until=lambda w: w.finished())
    assert world.started == []


REFUSALS = {
    "refused by a gate": (Outcome.REFUSED, "BudgetExceeded", "drops by 3.2 %, more than 1 %", "BudgetExceeded"),
    "invalid": (Outcome.INVALID, "InvalidInput", "sha256 is 12…, not 34…", "InvalidInput"),
    "invalid without a reason": (Outcome.INVALID, "", "broken", "InvalidInput"),
    "not supported": (Outcome.INVALID, "NotSupported", "distill is not supported", "NotSupported"),
}


@pytest.mark.parametrize(("outcome", "reason", "message", "expected"), REFUSALS.values(), ids=REFUSALS)
def test_an_answer_that_stays_the_same_is_not_asked_for_again(world, outcome, reason, message, expected):
    ended(world, outcome=outcome, reason=reason, message=message)
    world.run(turns=5, seconds=600)
    assert (world.reason(r.COMPRESSED), world.message(r.COMPRESSED)) == (expected, message)
    assert (world.reason(r.STALLED), world.message(r.STALLED)) == (expected, message)
    assert world.condition(r.RECONCILING) is None
    assert not world.is_true(r.READY)
    assert len(world.started) == 1
    assert [e.message for e in world.events if e.type == "Warning"] == [message]
    # The Job's object is cleared away: the status remembers.
    world.jobs = {}
    world.run(turns=2)
    assert world.message(r.STALLED) == message
    assert len(world.started) == 1


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.INVALID])
def test_a_refusal_is_asked_for_again_on_request(world, outcome):
    ended(world, outcome=outcome, message="no")
    world.run(turns=2)
    world.annotate(retry="please")
    world.pass_()
    assert len(world.started) == 2
    world.run(until=lambda w: w.finished())
    assert len(world.started) == 2


def test_another_rollout_does_not_ask_a_refused_job_again(world):
    ended(world, outcome=Outcome.REFUSED, message="no")
    world.run(turns=2)
    world.edit(world.builder.with_waves(1, "100%"))
    world.run(turns=5)
    assert world.reason(r.STALLED) == r.BUDGET_EXCEEDED
    assert len(world.started) == 1


def test_a_failed_one_is_tried_again_with_growing_waits_and_not_for_ever(world):
    world.job_result = lambda *_: JobResult(outcome=Outcome.FAILED, reason="Unavailable", message="registry: 503")
    starts, at = [0.0], world.now
    for _ in range(2000):
        world.turn(1)
        if len(world.started) > len(starts):
            starts.append((world.now - at).total_seconds())
        if world.condition(r.STALLED):
            break
    assert len(world.started) == JOB_TRIES
    waits = [b - a for a, b in itertools.pairwise(starts)]
    assert [round(w, -1) for w in waits] == [10, 20, 40, 80]
    assert world.message(r.STALLED).startswith("5 tries of 5 failed, the last one: Unavailable: registry: 503;")
    assert "edgemodel.dev/retry" in world.message(r.STALLED)
    world.job_result = world.__class__.job_result
    world.annotate(retry="now")
    world.pass_()
    assert len(world.started) == JOB_TRIES + 1


def test_while_it_waits_it_says_for_what_and_until_when(world):
    world.job_result = lambda *_: JobResult(outcome=Outcome.FAILED, reason="Unavailable", message="registry: 503")
    world.run(turns=2)
    due = world.status.job.failed_at + timedelta(seconds=10)
    assert world.reason(r.RECONCILING) == r.WAITING_FOR_RETRY
    assert world.message(r.RECONCILING) == (
        f"try 1/5 failed: Unavailable: registry: 503; the next one follows at {due:%Y-%m-%d %H:%M:%SZ}"
    )
    assert world.last.wake_at == due


def test_a_lost_one_is_started_again_at_once_and_then_with_waits(world):
    for tries in (2, 2, 3):
        for revision in world.jobs:
            world.jobs[revision] = JobView(revision, JobState.LOST)
        world.step_nodes()
        world.pass_()
        if tries == 3:
            world.tick(25)
            world.step_nodes()
            world.pass_()
        assert len(world.started) == (2 if tries == 2 else 3)


def test_one_that_is_not_visible_yet_gets_time_and_one_that_vanished_is_started_again(world):
    world.jobs = {}
    world.tick(20)
    world.step_nodes()
    assert world.pass_().actions == ()
    world.tick(20)
    world.step_nodes()
    world.pass_()
    assert world.reason(r.RECONCILING) == r.WAITING_FOR_RETRY
    world.run(turns=15)
    assert len(world.started) == 2


@pytest.mark.parametrize(
    "result", [None, JobResult(outcome=Outcome.SUCCEEDED), JobResult(outcome=Outcome.SUCCEEDED, digest="sha256:1")]
)
def test_a_success_without_an_artifact_is_a_failure(world, result):
    for revision in world.jobs:
        world.jobs[revision] = JobView(revision, JobState.FINISHED, result)
    world.step_nodes()
    world.pass_()
    assert world.reason(r.COMPRESSED) == r.WAITING_FOR_RETRY


def test_what_was_rolled_out_goes_on_serving_when_the_next_one_is_refused(make):
    world = make.world()
    world.run(until=lambda w: w.finished())
    first = world.status.revision
    world.edit(world.builder.with_source("b"))
    world.step_nodes()
    world.pass_()
    ended(world, outcome=Outcome.REFUSED, reason="BudgetExceeded", message="12 > 10")
    world.nodes.append(make.Node("n9"))
    world.run(turns=10)
    assert world.status.revision != first
    assert world.serving(first) == ["n0", "n1", "n2", "n9"]
    assert world.is_true(r.READY)
    assert world.message(r.READY) == f"revision {first} goes on serving on 4/4 nodes; 12 > 10"
    assert world.reason(r.STALLED) == r.BUDGET_EXCEEDED


def test_the_same_revision_is_never_built_twice(make):
    world = make.world()
    world.run(until=lambda w: w.finished())
    first = world.builder
    world.edit(first.with_source("b"))
    world.run(until=lambda w: w.finished() and len(w.serving()) == 3)
    world.jobs = {}
    world.edit(first)
    world.run(until=lambda w: w.finished() and len(w.serving()) == 3)
    assert len(world.started) == 2
    assert len(world.status.history) == 2
