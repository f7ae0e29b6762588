"""The operator's series beside the objects that they are of; over its death, a rollback and a deletion."""

from __future__ import annotations

import socket
from datetime import timedelta

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgemodel_api.job import JobResult, Outcome

from .conftest import digest_of, remove, wait


class Scraped:
    """The operator's `/metrics`, as it is now."""

    def __init__(self, port: int, namespace: str) -> None:
        self.url, self.namespace = f"http://127.0.0.1:{port}/metrics", namespace

    def read(self, name: str, *by: str, **only: str) -> dict[tuple[str, ...], float]:
        """Values of one series of this namespace's models, by some labels."""
        try:
            text = httpx.get(self.url, timeout=5).text
        except httpx.HTTPError:
            return {}
        return {
            tuple(s.labels[label] for label in by): s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
            if s.name == name
            and s.labels.get("namespace", self.namespace) == self.namespace
            and only.items() <= s.labels.items()
        }

    def value(self, name: str, **only: str) -> float | None:
        found = list(self.read(name, **only).values())
        assert len(found) < 2, found
        return found[0] if found else None


@pytest.fixture
def port(monkeypatch) -> int:
    """The operator takes it from its environment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        found = int(s.getsockname()[1])
    monkeypatch.setenv("EDGEMODEL_METRICS_PORT", str(found))
    return found


@pytest.fixture
def scraped(port, operator, namespace) -> Scraped:
    return Scraped(port, namespace)


def test_a_rollout_in_numbers(scraped, operator, model, agents, cluster):
    model.apply()
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    assert scraped.value("edgemodel_condition", type="Reconciling", reason="Compressing") == 1
    model.finish_job()
    wait(lambda: model.says("Ready"), "Ready", agents=agents)
    status = model.read().status

    def agrees() -> bool:
        return scraped.read("edgemodel_nodes", "state") == {(k,): v for k, v in status.nodes.to_json().items()}

    # The pass that wrote the status may not have told its last number yet.
    finished = "edgemodel_finished_rollout_duration_seconds_count"
    wait(lambda: scraped.value(finished, result="RolledOut") == 1 and agrees(), "the numbers of the rollout")
    assert scraped.value("edgemodel_ready") == 1
    assert scraped.value("edgemodel_rollout_progress_ratio") == 1

    def took() -> bool:
        rollout = model.read().status.rollout
        seconds = (rollout.finished_at - rollout.started_at) / timedelta(seconds=1)
        return scraped.value("edgemodel_rollout_duration_seconds") == pytest.approx(seconds)

    wait(took, "the time that it took")
    jobs = scraped.read("edgemodel_compression_jobs_total", "outcome")
    assert {k for k, v in jobs.items() if v} == {("Succeeded",)}
    assert scraped.value("edgemodel_compression_job_duration_seconds_count", outcome="Succeeded") == 1
    gates = scraped.read("edgemodel_gate_results_total", "gate", "accepted")
    assert gates == {
        ("Compression", "true"): 2, ("Compression", "false"): 0, ("Trial", "true"): 1, ("Trial", "false"): 0,
    }  # fmt: skip
    nodes = scraped.read("edgemodel_node_last_report_timestamp_seconds", "node")
    assert {(a.name,) for a in agents} <= set(nodes)
    codes = scraped.read("edgemodel_operator_api_requests_total", "verb", "code")
    assert codes["POST", "201"] > 0
    assert codes["PATCH", "200"] > 0
    assert scraped.value("edgemodel_operator_passes_total", kind="EdgeModel", result="Done") > 0

    # A new operator counts nothing that has happened before it, and shows what is so.
    operator.kill()
    operator.start()
    wait(agrees, "the numbers of nodes again", agents=agents)
    assert set(scraped.read("edgemodel_compression_jobs_total", "outcome").values()) == {0}
    assert set(scraped.read("edgemodel_gate_results_total", "gate", "accepted").values()) == {0}
    assert scraped.value(finished, result="RolledOut") is None

    # A revision that is bad everywhere.
    model.apply(sha256="b" * 64)
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the second Job", agents=agents)
    for agent in agents:
        agent.bad = {digest_of(f"{model.read().status.revision} int8")}
    model.finish_job()
    wait(lambda: model.says("Stalled", reason="RolledBack"), "the rollback", agents=agents)
    wait(lambda: scraped.value(finished, result="RolledBack") == 1, "its count", agents=agents)
    assert scraped.value("edgemodel_rollbacks_total", reason="TooManyFailures") == 1
    failed = model.read().status.nodes.failed
    assert failed > 0
    assert scraped.value("edgemodel_nodes", state="failed") == failed
    assert scraped.value("edgemodel_failed_nodes", reason="GoldenMismatch") == failed
    wait(lambda: scraped.value("edgemodel_condition", type="RolledOut", reason="RolledBack") == 1, "the condition")

    # It goes, and its series with it.
    remove(cluster, model.path)
    wait(lambda: scraped.value("edgemodel_ready") is None, "the end of its series", agents=agents)
    for name in ("edgemodel_nodes", "edgemodel_rollbacks_total", "edgemodel_gate_results_total", "edgemodel_condition"):
        assert scraped.read(name, "name") == {}


def test_a_job_that_is_refused(scraped, model, agents):
    model.apply()
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    refusal = JobResult(outcome=Outcome.REFUSED, reason="BudgetExceeded", message="top-1 fell by 3.2%, at most 1% may")
    model.end_pod({"exitCode": 1, "message": refusal.model_dump_json(by_alias=True)})
    wait(lambda: model.says("Stalled"), "the refusal", agents=agents)
    wait(lambda: scraped.value("edgemodel_stalled") == 1, "its gauge")
    jobs = scraped.read("edgemodel_compression_jobs_total", "outcome", "reason")
    assert {k: v for k, v in jobs.items() if v} == {("Refused", "BudgetExceeded"): 1}
