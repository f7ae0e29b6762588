"""How far a node may be from its class's trial."""

import pytest

from edgemodel_agent.checks import RECHECK_FACTOR, RECHECK_FLOOR, Limits, judge_latency, trial_of
from edgemodel_agent.measured import Latency
from edgemodel_api.artifact import Golden

CHECK = {}
RECHECK = {"factor": RECHECK_FACTOR, "floor": RECHECK_FLOOR}


@pytest.mark.parametrize(
    ("told", "median", "how", "slow"),
    [
        ("0.03", 0.03, CHECK, False),
        ("0.03", 0.129, CHECK, False),
        ("0.03", 0.131, CHECK, True),
        ("0.000007", 0.009, CHECK, False),
        ("0.000007", 0.1, CHECK, True),
        ("0.000007", 0.049, RECHECK, False),
        ("0.000007", 0.1, RECHECK, True),
        ("0.03", 0.7, RECHECK, False),
        (None, 100.0, CHECK, False),
        ("nan", 100.0, CHECK, False),
        ("0", 100.0, CHECK, False),
        ("fast", 100.0, CHECK, False),
    ],
)
def test_the_limit_is_a_multiple_of_the_trial_and_a_floor(build, told, median, how, slow):
    target = build.target("A").replace(trial_latency_seconds=told)
    limits = Limits(golden=Golden(cases=1, max_error=1.0), trial=trial_of(target, **how))
    problem = judge_latency(Latency(median, median), limits)
    assert (problem is not None) == slow
    assert problem is None or "of the trial on this class of hardware (limit" in problem
