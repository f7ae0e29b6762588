"""A real Prometheus decides about a rollout on a real API server: it holds, it fails, it cannot be reached."""

from __future__ import annotations

import time

import pytest

from .conftest import wait

ERRORS = {"name": "errors", "query": 'errors_ratio{model="{{name}}"}', "successCondition": "value < 0.01",
          "interval": "1s", "failureLimit": 1}  # fmt: skip
ROLLOUT = {"waves": [{"nodes": 1}, {"nodes": "100%"}], "analysis": [ERRORS]}


@pytest.fixture
def measuring(operator, real_prometheus):
    """The operator, started with a Prometheus in which the query holds."""
    real_prometheus.expose('errors_ratio{model="m"} 0.001', 'errors_ratio{model="m"}', 0.001)
    restarted(operator, "--prometheus-url", real_prometheus.url)
    return operator


def restarted(operator, *arguments):
    operator.kill()
    operator.more = arguments
    operator.start()


def test_refused_without_prometheus(operator, model, agents):
    model.apply(rollout=ROLLOUT)
    found = wait(lambda: model.says("Stalled", reason="NotSupported"), "the refusal", agents=agents)
    assert "--prometheus-url" in found.message
    assert model.jobs() == []


def test_a_condition_that_is_none(measuring, model, agents):
    model.apply(rollout={**ROLLOUT, "analysis": [{**ERRORS, "successCondition": "value = 1"}]})
    found = wait(lambda: model.says("Stalled", reason="InvalidInput"), "the refusal", agents=agents)
    assert "spec.rollout.analysis[0].successCondition: 'value = 1': column 7" in found.message


def test_waits_then_passes_then_fails(measuring, real_prometheus, model, agents):
    """Unreachable: the wave waits and says so; back: it goes on; bad with the next revision: that is put back."""
    restarted(measuring, "--prometheus-url", "http://127.0.0.1:1")
    model.apply(rollout=ROLLOUT)
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    model.finish_job()
    waiting = wait(lambda: model.says("Reconciling", reason="AnalysisInconclusive"), "the wait", agents=agents)
    assert "cannot be reached" in waiting.message
    assert "1/2 waits for its analysis" in waiting.message
    wait(lambda: "5 tries" in getattr(model.says("Analyzed", "False"), "message", ""), "tries", agents=agents)
    assert model.read().status.rollout.wave == 0
    assert sum(bool(a.running) for a in agents) == 1

    restarted(measuring, "--prometheus-url", real_prometheus.url)
    wait(lambda: model.says("Ready"), "Ready", agents=agents)
    wait(lambda: model.says("Analyzed", reason="AnalysisSucceeded"), "the condition", agents=agents)
    good = model.read().status.revision

    # In the hold, nothing is written while the query holds, although it is asked every second.
    before = wait(lambda: model.read().metadata.resource_version, "the object")
    until = time.monotonic() + 3
    wait(lambda: time.monotonic() > until, "time", agents=agents)
    assert model.read().metadata.resource_version == before

    real_prometheus.expose('errors_ratio{model="m"} 0.2', 'errors_ratio{model="m"}', 0.2)
    model.apply(rollout=ROLLOUT, sha256="b" * 64)
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the second Job", agents=agents)
    model.finish_job()
    stalled = wait(lambda: model.says("Stalled", reason="RolledBack"), "the rollback", 40, agents)
    assert (
        "query errors failed 2 times in wave 1/2, more than the failureLimit 1: 0.2, and value < 0.01 must hold"
        in stalled.message
    )
    assert model.read().status.rollout.reason == "AnalysisFailed"
    wait(lambda: model.says("Reconciling") is None, "all put back", agents=agents)
    assert {run.revision for a in agents for run in a.running.values()} == {good}
    events = [reason for reason, _ in model.events()]
    assert events.count("RolledBack") == 1
    assert "AnalysisInconclusive" in events


def test_killed_while_it_counts(measuring, real_prometheus, model, agents):
    """What was counted is not forgotten, and not counted twice."""
    real_prometheus.expose('errors_ratio{model="m"} 0.2', 'errors_ratio{model="m"}', 0.2)
    model.apply(rollout={**ROLLOUT, "analysis": [{**ERRORS, "failureLimit": 4}]})
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    model.finish_job()

    def failures():
        rollout = model.read().status.rollout
        return [a.failures for a in rollout.analysis] if rollout is not None else []

    seen = []
    for count in (1, 2, 3):
        wait(lambda count=count: failures() and failures()[0] >= count, f"{count} failures", agents=agents)
        seen += failures()
        restarted(measuring, *measuring.more)
    assert seen == sorted(seen)
    back = wait(lambda: model.says("Stalled", reason="RolledBack"), "the rollback", agents=agents)
    assert "failed 5 times" in back.message
