"""Prometheus decides with the nodes: no wave goes on without a success of its own, and too many failures put it back."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

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


#: A world of a hundred passes takes long to make smaller.
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
STEPS = st.sampled_from([GOOD, GOOD, GOOD, BAD, SILENT])
WAVES = st.lists(
    st.tuples(st.sampled_from([1, "25%", "50%"]), st.sampled_from(["0s", "7s", "40s"])), min_size=1, max_size=3
)


@settings(
    max_examples=15,
    deadline=None,
    phases=NO_SHRINKING,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    waves=WAVES,
    limits=st.lists(st.integers(0, 3), min_size=1, max_size=2),
    answers=st.lists(STEPS, min_size=1, max_size=60),
    rng=st.randoms(use_true_random=False),
    seconds=st.sampled_from([1, 3, 20]),
)
def test_whatever_it_answers(make, waves, limits, answers, rng, seconds):
    """No wave is left without a success since it was full and last, for each query; back exactly when too many failed.

    The operator dies now and then after any write, some nodes are offline, and measurements are seen more than once.
    """
    analysis = [{**ERRORS, "name": f"q{i}", "failureLimit": limit} for i, limit in enumerate(limits)]
    world = analysed(make, *waves, "100%", analysis=analysis, nodes=6, old=rng.random() < 0.5)
    left = list(answers)
    world.answer = lambda probe: left.pop() if left else GOOD

    def check(world, observed, planned):
        make.check_pass(world, observed, planned)
        # What a pass saw counts from then on if its status was written; else it died with the operator.
        if passed and world.status is passed[-1][0]:
            recorded.extend(m for m in passed[-1][1] if m not in recorded)
        passed.append((planned.status, observed.measurements))
        history = [*recorded, *(m for m in observed.measurements if m not in recorded)]
        before, after = observed.model.status.rollout, planned.status.rollout
        if before is None or after is None or before.revision != after.revision or before.wave_started_at is None:
            return
        # One of the very moment in which the wave began is not of the wave: two passes could count it twice.
        mine = {a.name: [m for m in history if m.probe.name == a.name and m.probe.since == since(before)
                         and m.probe.revision == before.revision
                         and m.at > since(before)] for a in observed.model.spec.rollout.analysis}  # fmt: skip
        failures = {name: sum(m.outcome is BAD for m in found) for name, found in mine.items()}
        too_many = [a.name for a in observed.model.spec.rollout.analysis if failures[a.name] > a.failure_limit]
        if before.finished_at is None and not before.rolled_back:
            # A node that failed in the same pass is told first.
            assert after.rolled_back if too_many else after.reason != r.ANALYSIS_FAILED, (failures, limits, after)
        went_on = after.wave > before.wave or (after.finished_at is not None and before.finished_at is None)
        if went_on and not after.rolled_back:
            for name, found in mine.items():
                complete = before.wave_complete_at
                assert complete is not None, name
                assert found, f"{name} was not measured in the wave"
                assert found[-1].outcome is GOOD, f"{name} said {found[-1].outcome} last"
                assert found[-1].at > complete

    def since(rollout):
        return rollout.finished_at or rollout.wave_started_at

    passed, recorded = [], []
    world.check = check
    for _ in range(60):
        if rng.random() < 0.1:
            world.nodes[rng.randrange(6)].online ^= True
        if rng.random() < 0.3:
            world.finish_job()
            world.step_nodes()
            world.measure()
            world.pass_(dies_after=rng.randrange(4))
        world.turn(seconds)
    for node in world.nodes:
        node.online = True
    left.clear()
    world.tick(120)
    world.run(
        turns=200, seconds=5, until=lambda w: w.rolled_back() or (w.finished() and w.wanted() == w.status.revision)
    )


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
