"""Prometheus decides with the nodes: no wave goes on without a success of its own, and too many failures put it back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from edgemodel_api import reasons as r
from edgemodel_api.edgemodel_status import AnalysisOutcome, RevisionResult
from edgemodel_operator.domain.analysis import STALLED_AFTER

GOOD, BAD, SILENT = AnalysisOutcome.SUCCESS, AnalysisOutcome.FAILURE, AnalysisOutcome.INCONCLUSIVE
ERRORS = {"name": "errors", "query": "e", "successCondition": "value < 0.01", "interval": "5s", "failureLimit": 2}


def analysed(make, *waves, answer=GOOD, analysis=(ERRORS,), nodes=4, old=True):
    """A second revision (or with old=False a first one) on its way, and a Prometheus that says `world.answer`."""
    builder = make.edge_model().with_waves(*(waves or (1, "100%"))).with_rollout(analysis=list(analysis))
    world = make.world(builder, nodes)
    world.answer = GOOD

    def prometheus(probe):
        if probe.revision != world.wanted():
            return GOOD  # the old revision, until the new one's rollout begins
        return world.answer(probe) if callable(world.answer) else world.answer

    world.prometheus = prometheus
    if old:
        world.run(turns=300, until=lambda w: w.finished())
        world.edit(world.builder.with_source("b"))
    world.answer = answer
    return world


def answered_meanwhile(world, *answers):
    """What Prometheus says while the operator looks at nothing; then it looks."""
    for answer in answers:
        world.answer = answer
        world.tick(5)
        world.step_nodes()
        world.measure()
    world.pass_()


def test_waves_go_on_when_the_query_holds(make):
    world = analysed(make)
    world.run(turns=120, until=lambda w: w.wanted() == w.status.revision and w.finished())
    assert len(world.serving()) == 4
    assert world.condition(r.ANALYZED).reason == r.ANALYSIS_SUCCEEDED
    assert "value < 0.01 holds (0.5" in world.message(r.ANALYZED)
    assert world.last.probes
    assert world.last.probes[0].since == world.status.rollout.finished_at


def test_nothing_is_measured_before_the_first_wave(make):
    world = analysed(make, old=False)
    asked = []
    world.answer = lambda probe: asked.append(world.status.rollout.wave_started_at) or GOOD
    world.run(turns=120, until=lambda w: w.finished())
    assert asked
    assert None not in asked


def test_a_success_before_the_wave_was_full_does_not_count(make):
    """It was measured of the nodes before the update."""
    world = analysed(make, (1, "0s"), "100%", old=False)
    world.answer = lambda probe: GOOD if world.status.rollout.wave_complete_at is None else SILENT
    world.run(turns=60, seconds=2)
    assert world.status.rollout.wave == 0
    assert world.status.rollout.wave_complete_at is not None
    assert world.reason(r.RECONCILING) == r.ANALYSIS_INCONCLUSIVE


def test_more_failures_than_the_limit_put_it_back(make):
    world = analysed(make, answer=BAD)
    bad = world.wanted()
    world.run(turns=120, until=lambda w: w.rolled_back())
    rollout = world.status.rollout
    assert (rollout.reason, rollout.wave, rollout.admitted) == (r.ANALYSIS_FAILED, 0, 1)
    assert (
        "query errors failed 3 times in wave 1/2, more than the failureLimit 2: 0.5, and value < 0.01 must hold"
        in rollout.message
    )
    assert "back to revision" in rollout.message
    assert not rollout.message.endswith("; ")
    assert world.status.history[0].result is RevisionResult.ROLLED_BACK
    assert world.status.history[0].reason == r.ANALYSIS_FAILED
    assert world.condition(r.ANALYZED).reason == r.ANALYSIS_FAILED
    assert world.last.probes == ()
    world.run(turns=20)
    assert world.serving(bad) == []
    assert len(world.serving(world.status.history[1].revision)) == 4
    assert [e.reason for e in world.events].count(r.ROLLED_BACK) == 1


def test_what_was_measured_after_the_decision_is_not_counted(make):
    """An operator that was busy, or gone, finds five failures at once: three decide, and it says three."""
    world = analysed(make, (1, "60s"), "100%", answer=BAD)
    world.run(turns=60, until=lambda w: w.status.rollout and any(a.failures == 1 for a in w.status.rollout.analysis))
    answered_meanwhile(world, *[BAD] * 5)
    assert world.rolled_back()
    assert "query errors failed 3 times" in world.status.rollout.message
    assert world.status.rollout.analysis[0].failures == 3


@pytest.mark.parametrize("later", [[GOOD], [SILENT], [SILENT, BAD]], ids=str)
def test_what_comes_after_the_decision_changes_nothing(make, later):
    """Whether it is seen one by one or all at once."""
    world = analysed(make, (1, "60s"), "100%", answer=BAD, analysis=({**ERRORS, "failureLimit": 0},))
    world.run(turns=60, until=lambda w: w.last.probes and w.last.probes[0].revision == w.wanted())
    answered_meanwhile(world, BAD, *later)
    assert world.rolled_back()
    assert "query errors failed once in wave 1/2" in world.status.rollout.message
    assert ": 0.5, and value < 0.01 must hold" in world.status.rollout.message


def test_as_many_failures_as_the_limit_are_put_up_with(make):
    answers = iter([BAD, GOOD, BAD])
    world = analysed(make, (1, "60s"), "100%", answer=lambda probe: next(answers, GOOD))
    world.run(turns=200, until=lambda w: w.wanted() == w.status.revision and w.finished())
    assert not world.rolled_back()
    told = [e.message for e in world.events if e.reason == r.ANALYSIS_FAILED]
    assert any("1 failure, failureLimit 2" in t for t in told)
    assert any("2 failures, failureLimit 2" in t for t in told)


def test_each_wave_counts_its_own_failures(make):
    world = analysed(make, (1, "15s"), (2, "15s"), "100%", old=False)
    per_wave = {}

    def answer(probe):
        per_wave[probe.since] = per_wave.get(probe.since, 0) + 1
        return BAD if per_wave[probe.since] <= 2 else GOOD

    world.answer = answer
    world.run(turns=300, until=lambda w: w.finished() and not w.rolled_back())
    assert len(per_wave) >= 3


def test_without_an_answer_the_wave_waits_and_says_so(make):
    world = analysed(make, answer=SILENT)
    world.run(turns=60, until=lambda w: w.reason(r.RECONCILING) == r.ANALYSIS_INCONCLUSIVE)
    assert "errors is inconclusive: no data (" in world.message(r.RECONCILING)
    world.run(turns=20)
    assert " tries since 2026-01-02" in world.message(r.ANALYZED)
    assert not world.is_true(r.READY)
    warned = [e for e in world.events if e.reason == r.ANALYSIS_INCONCLUSIVE and e.type == "Warning"]
    assert len(warned) == 1
    # Long enough: somebody has to look. It is still asked, and goes on by itself once there is an answer.
    world.run(turns=200, seconds=5, until=lambda w: w.reason(r.STALLED) == r.ANALYSIS_INCONCLUSIVE)
    since = world.status.rollout.analysis[0].inconclusive_since
    assert world.now - since >= STALLED_AFTER
    assert world.condition(r.RECONCILING) is None
    quiet = world.status
    world.run(turns=30, seconds=5)
    assert world.status == quiet
    assert world.status.rollout.wave == 0
    world.answer = GOOD
    world.run(turns=200, until=lambda w: w.wanted() == w.status.revision and w.finished())
    assert world.condition(r.STALLED) is None


def test_nodes_that_fail_put_it_back_without_prometheus(make):
    world = analysed(make, answer=SILENT)
    for node in world.nodes:
        node.bad.update(world.digest(v, revision=world.wanted()) for v in ("int8", "mixed", "source"))
    world.run(turns=60, until=lambda w: w.rolled_back())
    assert world.status.rollout.reason == r.TOO_MANY_FAILURES


def test_in_the_hold_failures_in_a_row_put_it_back(make):
    world = analysed(make)
    world.run(turns=120, until=lambda w: w.wanted() == w.status.revision and w.finished())
    for _ in range(5):
        world.answer = BAD
        world.run(turns=10)
        world.answer = GOOD
        world.run(turns=10)
    assert not world.rolled_back()
    before = world.status
    world.run(turns=50, seconds=5)
    assert world.status == before, "a success after a success is not written down"
    world.answer = SILENT
    world.run(turns=50, seconds=5)
    assert world.reason(r.ANALYZED) == r.ANALYSIS_INCONCLUSIVE
    assert world.is_true(r.READY)
    assert world.condition(r.STALLED) is None
    world.answer = BAD
    world.run(turns=60, until=lambda w: w.rolled_back())
    assert "failed 3 times in a row after the last wave" in world.status.rollout.message


@pytest.mark.parametrize("later", [[GOOD], [SILENT, GOOD], [BAD]], ids=str)
def test_in_the_hold_the_first_failure_too_many_decides_too(make, later):
    """Whether a success after it is seen with it or in the next pass."""
    world = analysed(make)
    world.run(turns=120, until=lambda w: w.wanted() == w.status.revision and w.finished())
    answered_meanwhile(world, BAD, BAD, BAD, *later)
    assert world.rolled_back()
    assert "failed 3 times in a row after the last wave" in world.status.rollout.message


def test_in_the_hold_with_nothing_to_go_back_to_the_last_answer_counts(make):
    world = analysed(make, old=False)
    world.run(turns=120, until=lambda w: w.finished())
    answered_meanwhile(world, BAD, BAD, BAD, GOOD)
    assert world.reason(r.ANALYZED) == r.ANALYSIS_SUCCEEDED
    answered_meanwhile(world, BAD, BAD, BAD)
    assert world.reason(r.ANALYZED) == r.ANALYSIS_FAILED
    assert not world.rolled_back()


def test_in_the_hold_without_a_predecessor_it_goes_on_serving(make):
    world = analysed(make, old=False)
    world.run(turns=120, until=lambda w: w.finished())
    world.answer = BAD
    world.run(turns=60)
    assert not world.rolled_back()
    assert len(world.serving()) == 4
    assert world.reason(r.ANALYZED) == r.ANALYSIS_FAILED
    assert "no earlier revision to go back to" in world.message(r.ANALYZED)
    quiet = world.status
    world.run(turns=30)
    assert world.status == quiet


def test_a_changed_query_begins_anew(make):
    world = analysed(make, (1, "60s"), "100%", answer=BAD)
    world.run(
        turns=120,
        until=lambda w: w.status.rollout is not None and any(a.failures == 2 for a in w.status.rollout.analysis),
    )
    world.answer = GOOD
    world.edit(world.builder.with_rollout(analysis=[{**ERRORS, "successCondition": "value < 0.02"}]))
    world.run(turns=200, until=lambda w: w.finished())
    assert not world.rolled_back()
    assert world.status.rollout.analysis[0].failures == 0


def test_placeholders_are_filled_in(make):
    query = 'x{model="{{namespace}}/{{ name }}", version="{{revision}}"}'
    world = analysed(make, analysis=[{**ERRORS, "query": query}], old=False)
    world.run(turns=120, until=lambda w: w.finished())
    assert world.last.probes[0].query == f'x{{model="default/m", version="{world.status.revision}"}}'


BAD_SPECS = {
    "condition": (
        {"successCondition": "value = 1"},
        "spec.rollout.analysis[0].successCondition: 'value = 1': column 7",
    ),
    "placeholder": ({"query": "x{a='{{node}}'}"}, "spec.rollout.analysis[0].query: {{node}} is not known"),
}


@pytest.mark.parametrize(("change", "words"), BAD_SPECS.values(), ids=BAD_SPECS)
def test_what_is_wrong_is_told_before_any_work(make, change, words):
    world = analysed(make, analysis=[{**ERRORS, **change}], old=False)
    world.run(turns=5)
    assert world.reason(r.STALLED) == r.INVALID_INPUT
    assert words in world.message(r.STALLED)
    assert world.started == []


def test_measured_again_after_a_long_time(make):
    """What is counted is bounded: a wave that waits for a person for days does not fill the status."""
    world = analysed(make, (1, "5s"), "100%", old=False)
    world.edit(world.builder.with_rollout(approval="Manual"))
    world.run(turns=20)
    world.annotate(approved=f"{world.status.revision}/1")
    world.run(turns=60, until=lambda w: w.reason(r.RECONCILING) == r.WAITING_FOR_APPROVAL and bool(w.serving()))
    world.run(turns=3, seconds=5)
    quiet = world.status
    world.run(turns=50, seconds=timedelta(minutes=5).total_seconds() / 5)
    assert world.status == quiet
