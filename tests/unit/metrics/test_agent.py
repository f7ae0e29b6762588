"""The agent's series: bounded by what the node has, and the servers' beside them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgemodel_agent import scrape
from edgemodel_agent.metrics import AgentMetrics
from edgemodel_agent.scrape import SAMPLES_LIMIT, Served, relabelled
from edgemodel_agent.server.metrics import ServerMetrics
from edgemodel_api.edgenode import EdgeNodeStatus, ModelStatus, RunningModel, TargetState

NOW = datetime(2026, 11, 25, tzinfo=UTC)
M = {"namespace": "n", "name": "m"}


@pytest.fixture
def metrics() -> AgentMetrics:
    return AgentMetrics()


def value(metrics: AgentMetrics, series: str, /, **labels) -> float | None:
    return metrics.registry.get_sample_value(series, labels)


def status_of(state: TargetState, revision: str) -> EdgeNodeStatus:
    running = RunningModel(revision=revision, variant="int8", digest=f"sha256:{revision}", since=NOW)
    model = ModelStatus(namespace="n", name="m", revision=revision, state=state, running=running)
    return EdgeNodeStatus(models=(model,), disk_free_bytes=7, memory_free_bytes=8, last_report_time=NOW)


def test_gauges_say_what_the_report_says(metrics):
    metrics.observe(status_of(TargetState.CHECKING, "r1"))
    metrics.observe(status_of(TargetState.SERVING, "r2"))
    states = {s.value: value(metrics, "edgemodel_agent_model_state", **M, state=s.value) for s in TargetState}
    assert states == {s.value: float(s is TargetState.SERVING) for s in TargetState}
    info = {**M, "variant": "int8"}
    assert value(metrics, "edgemodel_agent_model_info", **info, revision="r2", digest="sha256:r2") == 1
    assert value(metrics, "edgemodel_agent_model_info", **info, revision="r1", digest="sha256:r1") is None
    metrics.observe(EdgeNodeStatus(disk_free_bytes=1, last_report_time=NOW))
    assert value(metrics, "edgemodel_agent_model_serving", **M) is None
    assert value(metrics, "edgemodel_agent_disk_free_bytes") == 1


def test_counters_begin_at_zero_and_end_with_the_model(metrics):
    metrics.only([("n", "m"), ("n", "other")])
    assert value(metrics, "edgemodel_agent_download_retries_total", **M) == 0
    assert value(metrics, "edgemodel_agent_restarts_total", **M) == 0
    metrics.checked(("n", "m"), "GoldenMismatch")
    metrics.rolled_back(("n", "m"), "ServerCrashed")
    metrics.received(("n", "m"))(5)
    metrics.only([("n", "other")])
    left = [s for f in metrics.registry.collect() for s in f.samples if s.labels.get("name") == "m"]
    assert left == []
    assert value(metrics, "edgemodel_agent_restarts_total", namespace="n", name="other") == 0


def test_reasons_are_bounded(metrics):
    metrics.tried(("n", "m"), "no constant of ours")
    assert value(metrics, "edgemodel_agent_trial_results_total", **M, result="Other") == 1


def server_text(**changes: str) -> str:
    found = ServerMetrics(model="m", version="r1", runtime="onnx", runtime_version="1", file="f")
    found.answered(200)
    text = found.text().decode()
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def serves(metrics: AgentMetrics, answers: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(control: Path) -> str:
        answer = answers[control.name]
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(scrape, "_ask", ask)
    metrics.serves(Served("n", name, "r1", Path(name)) for name in answers)


def test_servers_of_several_models_share_families(metrics, monkeypatch):
    serves(metrics, {"a": server_text(), "b": server_text()}, monkeypatch)
    text = metrics.text().decode()
    assert text.count("# TYPE edgemodel_server_requests_total counter") == 1
    for name in ("a", "b"):
        assert f'edgemodel_server_requests_total{{code="200",name="{name}",namespace="n",revision="r1"}} 1.0' in text
        assert f'edgemodel_server_process_open_fds{{name="{name}",namespace="n",revision="r1"}}' in text
    assert text.count("\nprocess_open_fds ") == 1


BAD = {
    "dead": ConnectionRefusedError("nobody"),
    "nonsense": "edgemodel_server_x{ 1 2 3\n}}}",
    "no number": "edgemodel_server_x one\n",
    "too much": "".join(f'edgemodel_server_x{{i="{i}"}} 1\n' for i in range(SAMPLES_LIMIT + 1)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_server_costs_nobody_else_anything(metrics, monkeypatch, name):
    serves(metrics, {"bad": BAD[name], "good": server_text()}, monkeypatch)
    text = metrics.text().decode()
    assert 'edgemodel_server_in_flight_requests{name="good",namespace="n",revision="r1"} 0.0' in text
    assert 'name="bad",namespace="n",revision' not in text
    failures = "edgemodel_agent_server_scrape_failures_total"
    assert value(metrics, failures, namespace="n", name="bad") is not None
    assert value(metrics, failures, namespace="n", name="good") is None


def test_a_server_cannot_speak_for_others():
    text = (
        'edgemodel_server_requests_total{name="other",namespace="kube-system",code="200"} 1\n'
        'edgemodel_agent_rollbacks_total{name="other"} 9\nprocess_open_fds 3\nup 1\n'
    )
    found = relabelled(text, {"namespace": "n", "name": "m", "revision": "r"})
    assert [s.labels for f in found for s in f.samples] == [
        {"namespace": "n", "name": "m", "revision": "r", "code": "200"}
    ]
