"""Trials: candidates measured on this node beside the source."""

import pytest

from edgemodel_api.edgemodel import HealthCheck
from edgemodel_api.edgenode import AssignedTrial
from edgemodel_api.slowdown import too_slow


def trial_of(revision, candidates, **fields) -> AssignedTrial:
    return AssignedTrial(namespace="default", name="m", revision=revision, candidates=tuple(candidates), **fields)


def done(agent):
    status = agent.status()
    return status.trials[0] if status.trials and status.trials[0].done else None


def test_results_beside_the_source(agent, registry):
    candidates = registry.push("r1", (1.0, {"work": 4}), (2.0, {"work": 400}), (3.0, {"off_by": 1.0}))
    agent.start()
    agent.assign(trials=(trial_of("r1", candidates),))
    trial = agent.wait("the trial ends", done)
    source, slow, wrong = trial.results
    assert [r.digest for r in trial.results] == [c.digest for c in candidates]
    assert (source.passed, slow.passed, wrong.passed) == (True, True, False)
    assert wrong.reason == "GoldenMismatch"
    assert float(wrong.measured.golden_error) > 1e-3
    assert float(slow.measured.latency_median_seconds) > 2 * float(source.measured.latency_median_seconds)
    assert float(slow.measured.slowdown) >= float(slow.measured.slowdown_low) > 1
    ratio = float(slow.measured.latency_median_seconds) / float(source.measured.latency_median_seconds)
    assert ratio == pytest.approx(1 + float(slow.measured.slowdown), rel=1e-3), "both say what was measured in turns"
    assert source.measured.slowdown is None
    assert float(source.measured.latency_p99_seconds) >= float(source.measured.latency_median_seconds)
    assert source.measured.peak_memory_bytes > 0
    agent.wait("no server is left", lambda a: a.servers() == [])


def test_equal_models_do_not_count_as_slower(agent, registry):
    candidates = registry.push("r1", (1.0, {"work": 100}), (2.0, {"work": 100}), (3.0, {"work": 100}))
    agent.start()
    agent.assign(trials=(trial_of("r1", candidates),))
    for result in agent.wait("the trial ends", done).results[1:]:
        slowdown, low = float(result.measured.slowdown), float(result.measured.slowdown_low)
        assert not too_slow(slowdown, low, 0.0), f"{slowdown:+.3f}, at least {low:+.3f}"


def test_limits_of_the_health_check_count(agent, registry):
    candidates = registry.push("r1", (1.0, {}))
    agent.start()
    agent.assign(trials=(trial_of("r1", candidates, health_check=HealthCheck(max_memory="1Mi")),))
    (result,) = agent.wait("the trial ends", done).results
    assert (result.passed, result.reason) == (False, "TooMuchMemory")


def test_results_survive_a_kill_and_the_trial_ends_when_unassigned(agent, registry):
    candidates = registry.push("r1", (1.0, {}), (2.0, {}), (3.0, {}))
    agent.start()
    agent.assign(trials=(trial_of("r1", candidates),))
    first = agent.wait("a first result", lambda a: (s := a.status()).trials and s.trials[0].results)[0]
    agent.kill()
    agent.start()
    trial = agent.wait("the trial ends", done, timeout=60)
    assert trial.results[0] == first
    assert all(r.passed for r in trial.results)
    agent.wait("no server is left", lambda a: a.servers() == [])
    agent.assign()
    agent.wait("its files are gone", lambda a: not a.status().trials and not list((a.root / "files/sha256").iterdir()))


def test_a_serving_model_goes_on_and_the_winner_is_switched_to_without_another_download(agent, registry, load):
    served = registry.one("r1", 1.0)
    candidates = registry.push("r2", (2.0, {}), (3.0, {}))
    agent.start()
    agent.assign(served)
    endpoint = agent.wait_serving(served).running.endpoint
    with load(endpoint, clients=2) as clients:
        agent.assign(served, trials=(trial_of("r2", candidates),))
        agent.wait("the trial ends", done)
        agent.assign(candidates[1], trials=(trial_of("r2", candidates),))
        model = agent.wait_serving(candidates[1])
    assert model.downloaded_bytes == 0
    assert clients.failures == []
    assert set(clients.answers) == {1.0, 3.0}


@pytest.mark.parametrize("missing", [0, 1], ids=["the source", "a candidate"])
def test_a_candidate_that_does_not_fit_has_a_result_too(agent, registry, missing):
    candidates = registry.push("r1", (1.0, {}), (2.0, {}))
    candidates[missing] = candidates[missing].replace(size_bytes=10**18)
    agent.start()
    agent.assign(trials=(trial_of("r1", candidates),))
    results = agent.wait("the trial ends", done).results
    assert (results[missing].passed, results[missing].reason) == (False, "DiskFull")
    assert results[1 - missing].passed
