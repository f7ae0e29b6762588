"""Whatever Prometheus answers, and whenever the operator dies: what test_analysis.py says holds."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edgemodel_api import reasons as r

from .test_analysis import BAD, ERRORS, GOOD, SILENT, analysed

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
