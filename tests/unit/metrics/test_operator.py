"""What the operator counts and shows, from one status to the next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from edgemodel_api import reasons
from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgemodel_status import (
    ArtifactRef,
    EdgeModelStatus,
    JobStatus,
    NodeCounts,
    RolloutStatus,
    VariantStatus,
)
from edgemodel_api.edgenode import EdgeNode, EdgeNodeStatus
from edgemodel_api.hardware import Hardware, HardwareClass
from edgemodel_api.job import JobResult, Outcome, VariantSummary
from edgemodel_api.meta import Condition, ObjectMeta
from edgemodel_operator.domain.failures import Failure
from edgemodel_operator.domain.observed import JobState, JobView
from edgemodel_operator.metrics import OperatorMetrics

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
ARTIFACT = ArtifactRef(reference="oci://r/m", digest="sha256:a")
MODEL = {"namespace": "n", "name": "m"}


def model_with(status: EdgeModelStatus, **spec) -> EdgeModel:
    return EdgeModel.model_validate(
        {
            "apiVersion": "edgemodel.dev/v1alpha1", "kind": "EdgeModel", "metadata": {"namespace": "n", "name": "m"},
            "spec": {"source": {"uri": "https://example.com/m.onnx", "sha256": "a" * 64}, **spec}, "status": status,
        }
    )  # fmt: skip


class Watched:
    """The series of one EdgeModel over a history of statuses."""

    def __init__(self) -> None:
        self.metrics = OperatorMetrics()
        self.status = EdgeModelStatus(revision="r1")

    def becomes(self, status: EdgeModelStatus, *, spec=None, **also) -> None:
        model = model_with(self.status, **(spec or {}))
        self.metrics.observe_model(model, status, now=NOW, **also)
        self.status = status

    def value(self, name: str, **labels) -> float | None:
        return self.metrics.registry.get_sample_value(name, {**MODEL, **labels})

    def names(self) -> set[str]:
        return {
            s.name for family in self.metrics.registry.collect() for s in family.samples if s.labels.get("name") == "m"
        }


@pytest.fixture
def watched() -> Watched:
    return Watched()


def job(**fields) -> JobStatus:
    return JobStatus(tries=1, started_at=NOW - timedelta(seconds=90), **fields)


def finished(outcome: Outcome, reason: str = "", **fields) -> JobView:
    return JobView("r1", JobState.FINISHED, JobResult(outcome=outcome, reason=reason, **fields))


RUNNING = EdgeModelStatus(revision="r1", job=job())
DONE = EdgeModelStatus(revision="r1", job=job(), artifact=ARTIFACT)
FAILED = EdgeModelStatus(revision="r1", job=job(failed_at=NOW))
AGAIN = EdgeModelStatus(revision="r1", job=JobStatus(tries=2, started_at=NOW))
REFUSED = EdgeModelStatus(revision="r1", job=job(stalled=True, reason="BudgetExceeded"))
GAVE_UP = EdgeModelStatus(revision="r1", job=job(failed_at=NOW, stalled=True))
SUCCEEDED = finished(
    Outcome.SUCCEEDED,
    reasons.COMPRESSION_SUCCEEDED,
    variants=(
        VariantSummary(platform="linux/amd64", name="source", digest="sha256:s"),
        VariantSummary(platform="linux/amd64", name="int4", accepted=False, reason="quality -3 %, allowed is 1 %"),
    ),
)
CRASH, NO = finished(Outcome.FAILED, "Crashed"), finished(Outcome.REFUSED, reasons.BUDGET_EXCEEDED)
LOST = JobView("r1", JobState.LOST)

JOBS = {
    "succeeds": ([(DONE, SUCCEEDED), (DONE, SUCCEEDED)], ("Succeeded", "CompressionSucceeded"), 1),
    "is refused": ([(REFUSED, NO), (REFUSED, NO)], ("Refused", "BudgetExceeded"), 1),
    "fails, waits, is started again": ([(FAILED, CRASH), (FAILED, CRASH), (AGAIN, CRASH)], ("Failed", "Crashed"), 1),
    "fails for the last time": ([(FAILED, CRASH), (GAVE_UP, CRASH)], ("Failed", "Crashed"), 1),
    "is lost and started at once": ([(AGAIN, LOST)], ("Lost", ""), 1),
    "ends with words of its own": ([(FAILED, finished(Outcome.FAILED, "x" * 99))], ("Failed", "Other"), 1),
    "is of another revision": ([(DONE, JobView("r0", JobState.LOST))], ("Lost", ""), 0),
    "runs": ([(RUNNING, JobView("r1", JobState.RUNNING))], ("Succeeded", "CompressionSucceeded"), 0),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_ends_counts_once(watched, name):
    history, (outcome, reason), count = JOBS[name]
    watched.becomes(RUNNING)
    for status, view in history:
        watched.becomes(status, job=view)
    assert watched.value("edgemodel_compression_jobs_total", outcome=outcome, reason=reason) == count
    seconds = watched.metrics.registry.get_sample_value
    assert seconds("edgemodel_compression_job_duration_seconds_sum", {"outcome": outcome}) == (90 if count else None)


def test_a_job_that_had_ended_before_the_operator_began_does_not_count(watched):
    watched.status = DONE
    watched.becomes(DONE, job=SUCCEEDED)
    assert watched.value("edgemodel_compression_jobs_total", outcome="Succeeded", reason="CompressionSucceeded") == 0


def test_verdicts_of_compression_and_trial(watched):
    variant = VariantStatus(
        hardware_class=HardwareClass.AMD64_VNNI, platform="linux/amd64", name="int8", digest="sha256:v", size_bytes=7,
        quality="0.99", latency_median_seconds="0.004", reason=reasons.TRIAL_SUCCEEDED,
    )  # fmt: skip
    watched.becomes(RUNNING)
    watched.becomes(DONE, job=SUCCEEDED)
    for _ in range(2):
        watched.becomes(DONE.replace(variants=(variant,)))

    def gate(kind: str, accepted: str, reason: str) -> float | None:
        return watched.value("edgemodel_gate_results_total", gate=kind, accepted=accepted, reason=reason)

    assert gate("Compression", "true", "CompressionSucceeded") == 1
    assert gate("Compression", "false", "BudgetExceeded") == 1
    assert gate("Trial", "true", "TrialSucceeded") == 1
    assert gate("Trial", "false", "TrialFailed") == 0
    assert watched.value("edgemodel_variant_size_bytes", hardware_class="amd64-vnni") == 7
    assert watched.value("edgemodel_variant_latency_seconds", hardware_class="amd64-vnni") == 0.004
    assert watched.value("edgemodel_variant_quality", hardware_class="amd64-vnni") == 0.99


def rollout(**fields) -> EdgeModelStatus:
    return DONE.replace(rollout=RolloutStatus(revision="r1", waves=2, started_at=NOW - timedelta(minutes=10), **fields))


UNDER_WAY = rollout(wave=1, wave_started_at=NOW)
ENDED = rollout(wave=1, wave_started_at=NOW, finished_at=NOW)
BACK = rollout(rolled_back=True, reason=reasons.TOO_MANY_FAILURES, wave_started_at=NOW, finished_at=NOW)


def test_a_rollout_that_ends_well(watched):
    watched.becomes(UNDER_WAY.replace(nodes=NodeCounts(desired=4, updated=1)))
    assert watched.value("edgemodel_rollout_wave") == 2
    assert watched.value("edgemodel_rollout_progress_ratio") == 0.25
    assert watched.value("edgemodel_rollout_duration_seconds") is None
    for _ in range(2):
        watched.becomes(ENDED.replace(nodes=NodeCounts(desired=4, updated=4)))
    assert watched.value("edgemodel_rollout_wave") == 0
    assert watched.value("edgemodel_nodes", state="updated") == 4
    assert watched.value("edgemodel_rollout_duration_seconds") == 600
    count = watched.metrics.registry.get_sample_value
    assert count("edgemodel_finished_rollout_duration_seconds_count", {"result": "RolledOut"}) == 1
    assert watched.value("edgemodel_rollbacks_total", reason="TooManyFailures") == 0


def test_a_rollback_counts_once_and_keeps_what_it_was_for(watched):
    failures = (Failure("a", "GoldenMismatch"), Failure("b", "GoldenMismatch"), Failure("c", "what a node made up"))
    watched.becomes(UNDER_WAY, failures=failures)
    assert watched.value("edgemodel_failed_nodes", reason="GoldenMismatch") == 2
    assert watched.value("edgemodel_failed_nodes", reason="Other") == 1
    watched.becomes(BACK, failures=failures)
    for left in (failures[:1], (), ()):
        watched.becomes(BACK, failures=left)
    assert watched.value("edgemodel_rollbacks_total", reason="TooManyFailures") == 1
    assert watched.value("edgemodel_failed_nodes", reason="GoldenMismatch") == 2
    count = watched.metrics.registry.get_sample_value
    assert count("edgemodel_finished_rollout_duration_seconds_count", {"result": "RolledBack"}) == 1
    assert count("edgemodel_finished_rollout_duration_seconds_count", {"result": "RolledOut"}) is None
    watched.becomes(EdgeModelStatus(revision="r2", rollout=RolloutStatus(revision="r2", started_at=NOW)))
    assert watched.value("edgemodel_failed_nodes", reason="GoldenMismatch") is None


def test_a_condition_replaces_the_one_before(watched):
    def with_reason(reason: str) -> EdgeModelStatus:
        condition = Condition(
            type="Ready", status="False", reason=reason, message="", last_transition_time=NOW, observed_generation=1
        )
        return RUNNING.replace(conditions=(condition,))

    watched.becomes(with_reason("Compressing"))
    watched.becomes(with_reason("Trialing"))
    labels = {"type": "Ready", "status": "False"}
    assert watched.value("edgemodel_condition", reason="Trialing", **labels) == 1
    assert watched.value("edgemodel_condition", reason="Compressing", **labels) is None
    assert watched.value("edgemodel_ready") == 0


def test_limits_come_and_go_with_the_spec(watched):
    spec = {"compression": {"budget": {"maxLatency": "50ms"}}, "healthCheck": {"maxLatencyP99": "2s"}}
    watched.becomes(RUNNING, spec=spec)
    assert watched.value("edgemodel_latency_limit_seconds", statistic="median") == 0.05
    assert watched.value("edgemodel_latency_limit_seconds", statistic="p99") == 2
    watched.becomes(RUNNING)
    assert watched.value("edgemodel_latency_limit_seconds", statistic="p99") is None


def test_all_series_of_a_model_end_with_it(watched):
    watched.becomes(UNDER_WAY, failures=(Failure("a", "TooSlow"),), job=SUCCEEDED)
    watched.becomes(BACK)
    watched.metrics.measured("n/m", "errors", "Successful")
    watched.metrics.observe_model(
        model_with(DONE).model_copy(update={"metadata": ObjectMeta(namespace="n", name="other")}), DONE, now=NOW
    )
    assert len(watched.names()) > 10
    watched.metrics.forget_model("n/m")
    assert watched.names() == set()
    assert watched.metrics.registry.get_sample_value("edgemodel_ready", {"namespace": "n", "name": "other"}) == 0
    watched.metrics.forget_model("n/m")
    watched.becomes(DONE)
    assert watched.value("edgemodel_rollbacks_total", reason="TooManyFailures") == 0


def test_nodes_end_with_their_objects(watched):
    hardware = Hardware(platform="linux/arm64", hardware_class=HardwareClass.ARM64_DOTPROD)
    status = EdgeNodeStatus(last_report_time=NOW, disk_free_bytes=5, hardware=hardware, agent_version="1" * 500)
    nodes = {
        "a": EdgeNode(metadata=ObjectMeta(name="a"), status=status),
        "new": EdgeNode(metadata=ObjectMeta(name="new")),
    }
    watched.metrics.watch_nodes(lambda: nodes)
    value = watched.metrics.registry.get_sample_value
    assert value("edgemodel_node_last_report_timestamp_seconds", {"node": "a"}) == NOW.timestamp()
    assert value("edgemodel_node_last_report_timestamp_seconds", {"node": "new"}) is None
    labels = {"node": "a", "platform": "linux/arm64", "hardware_class": "arm64-dotprod", "agent_version": "1" * 64}
    assert value("edgemodel_node_info", labels) == 1
    del nodes["a"]
    assert value("edgemodel_node_last_report_timestamp_seconds", {"node": "a"}) is None


@pytest.mark.parametrize(("result", "shown"), [("Done", "Done"), ("Conflict", "Conflict"), ("whatever", "Other")])
def test_results_of_passes_are_bounded(watched, result, shown):
    watched.metrics.pass_ended("EdgeModel", result)
    value = watched.metrics.registry.get_sample_value
    assert value("edgemodel_operator_passes_total", {"kind": "EdgeModel", "result": shown}) == 1
