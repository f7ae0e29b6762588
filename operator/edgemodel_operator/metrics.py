"""Prometheus series of the operator: prefix `edgemodel_`, base units, labels bounded by the EdgeModels and EdgeNodes that exist.

Gauges say what the statuses say; counters begin at zero with the operator's process, and count what is new in a status
when it was written, so a restart counts nothing twice. All of an EdgeModel's end with it. docs/metrics.md lists them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from edgemodel_api import reasons
from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgemodel_status import EdgeModelStatus, RolloutStatus
from edgemodel_api.edgenode import EdgeNode
from edgemodel_api.meta import get_condition
from edgemodel_api.quantities import parse_duration
from edgemodel_api.reasons import bounded
from edgemodel_operator.domain.choose import number
from edgemodel_operator.domain.failures import Failure
from edgemodel_operator.domain.observed import JobState, JobView
from edgemodel_operator.node_metrics import NodesCollector

# Twice the series, and nobody asks when a counter was made.
disable_created_metrics()  # type: ignore[no-untyped-call]

#: Beside those of `reasons`: how a Job can end without a word, and what the compressor says of itself.
JOB_FAILURES = (
    "OutOfMemory", "OutOfDisk", "Crashed", "DeadlineExceeded", "NoResult", "NotStarted", "Terminated", "InternalError",
    "Unavailable",
)  # fmt: skip
#: How a pass can end, beside those of `reasons`.
PASS_RESULTS = ("Done", "Conflict", "NotFound", "Forbidden", "Rejected", "Unavailable", "InternalError", "Failed")
#: 10 s to 4 h, and 30 s to a week.
JOB_BUCKETS = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0)
ROLLOUT_BUCKETS = (
    30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0, 259200.0, 604800.0,
)  # fmt: skip

_MODEL = ("namespace", "name")
Labels = tuple[str, ...]


class _Replaced:
    """A gauge of which one EdgeModel has several series: they are replaced together, and no scrape sees a gap."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._held: dict[str, set[Labels]] = {}

    def put(self, key: str, values: Mapping[Labels, float]) -> None:
        model = tuple(key.split("/", 1))
        for labels, value in values.items():
            self._gauge.labels(*model, *labels).set(value)
        for labels in self._held.get(key, set()) - set(values):
            self._gauge.remove(*model, *labels)
        self._held[key] = set(values)

    def drop(self, key: str) -> None:
        self.put(key, {})
        self._held.pop(key, None)


class OperatorMetrics:
    """The series, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._of_models: list[Gauge | Counter] = []
        self._replaced: list[_Replaced] = []
        self._known: set[str] = set()
        self._own()
        self._statuses()
        self._counters()

    def _own(self) -> None:
        r = self.registry
        Info("edgemodel_operator_build", "The operator's version.", registry=r).info(
            {"version": _version(), "python": platform.python_version()}
        )
        self.passes = Counter(
            "edgemodel_operator_passes", "Passes over objects, by their result.", ("kind", "result"), registry=r
        )
        self.pass_seconds = Histogram(
            "edgemodel_operator_pass_duration_seconds", "Time for one pass.", ("kind",), registry=r
        )
        self.last_event = Gauge(
            "edgemodel_operator_last_event_timestamp_seconds",
            "When a watch or a listing told something last.",
            registry=r,
        )
        self.requests = Counter(
            "edgemodel_operator_api_requests",
            "Requests to the API server, by HTTP status code; none: there was no answer.",
            ("verb", "code"),
            registry=r,
        )
        self.request_seconds = Histogram(
            "edgemodel_operator_api_request_duration_seconds",
            "Time for one request to the API server.",
            ("verb",),
            registry=r,
        )

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        found = Gauge(f"edgemodel_{name}", text, (*_MODEL, *labels), registry=self.registry)
        self._of_models.append(found)
        return found

    def _many(self, name: str, text: str, *labels: str) -> _Replaced:
        found = _Replaced(Gauge(f"edgemodel_{name}", text, (*_MODEL, *labels), registry=self.registry))
        self._replaced.append(found)
        return found

    def _statuses(self) -> None:
        self.ready = self._gauge("ready", "1 while what is meant to serve does.")
        self.stalled = self._gauge("stalled", "1 while somebody has to change something.")
        self.conditions = self._many("condition", "1 for each condition of the EdgeModel.", "type", "status", "reason")
        self.revision = self._many("revision_info", "The wanted revision, and its artifact.", "revision", "digest")
        self.nodes = self._many("nodes", "Nodes of the pool, by state; a node can be in several.", "state")
        self.failed = self._many("failed_nodes", "Nodes that count as failed, by reason.", "reason")
        self.wave = self._gauge("rollout_wave", "The wave that is under way, counted from 1; 0: none.")
        self.progress = self._gauge("rollout_progress_ratio", "Updated nodes over desired ones.")
        self.began = self._gauge("rollout_start_timestamp_seconds", "When the last rollout began.")
        self.duration = self._gauge("rollout_duration_seconds", "How long the last rollout that ended took.")
        labels = ("hardware_class", "platform", "variant", "digest")
        self.variants = self._many("variant_info", "The variant that was chosen for a hardware class.", *labels)
        self.sizes = self._many("variant_size_bytes", "What a node of the class downloads.", "hardware_class")
        self.latencies = self._many(
            "variant_latency_seconds", "Median of the trial on a node of the class.", "hardware_class"
        )
        self.qualities = self._many(
            "variant_quality", "Quality in the model's own metric, as compression measured it.", "hardware_class"
        )
        self.limits = self._many(
            "latency_limit_seconds", "What the spec allows one inference: its median, its p99.", "statistic"
        )
        self._nodes = NodesCollector()
        self.registry.register(self._nodes)

    def _counters(self) -> None:
        r = self.registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            found = Counter(f"edgemodel_{name}", text, (*_MODEL, *labels), registry=r)
            self._of_models.append(found)
            return found

        self.jobs = counter("compression_jobs", "Ended compression Jobs, by outcome and reason.", "outcome", "reason")
        self.job_seconds = Histogram(
            "edgemodel_compression_job_duration_seconds",
            "Time from a compression Job's start to its end.",
            ("outcome",),
            buckets=JOB_BUCKETS,
            registry=r,
        )
        self.gates = counter(
            "gate_results",
            "Verdicts by reason: of the Compression on a candidate, of the Trial on a hardware class.",
            "gate", "accepted", "reason",
        )  # fmt: skip
        self.rollbacks = counter("rollbacks", "Revisions that were put back, by reason.", "reason")
        self.rollout_seconds = Histogram(
            "edgemodel_finished_rollout_duration_seconds",
            "Time from a rollout's begin to its end, by how it ended (RolledOut, RolledBack).",
            ("result",),
            buckets=ROLLOUT_BUCKETS,
            registry=r,
        )
        self.measurements = counter(
            "analysis_measurements",
            "Answers to the queries of spec.rollout.analysis, by outcome.",
            "analysis",
            "outcome",
        )

    # --- what happened

    def pass_ended(self, kind: str, result: str, seconds: float | None = None) -> None:
        """A pass over an object of this kind ended."""
        self.passes.labels(kind, bounded(result, *PASS_RESULTS)).inc()
        if seconds is not None:
            self.pass_seconds.labels(kind).observe(seconds)

    def requested(self, verb: str, code: int | None, seconds: float) -> None:
        """A request to the API server was answered; None: it was not."""
        self.requests.labels(verb, "none" if code is None else str(code)).inc()
        self.request_seconds.labels(verb).observe(seconds)

    def measured(self, key: str, analysis: str, outcome: str) -> None:
        """A query of an EdgeModel had an answer, or none."""
        self.measurements.labels(*key.split("/", 1), analysis, outcome).inc()

    # --- what is so

    def watch_nodes(self, nodes: Callable[[], Mapping[str, EdgeNode]]) -> None:
        """Where the nodes' series are taken from at each scrape."""
        self._nodes.nodes = nodes

    def observe_model(
        self,
        model: EdgeModel,
        after: EdgeModelStatus,
        *,
        now: datetime,
        job: JobView | None = None,
        failures: Iterable[Failure] = (),
    ) -> None:
        """Set the gauges from the status that was written, and count what is new in it beside the model's."""
        key, before = model.key, model.status
        labels = tuple(key.split("/", 1))
        self._prepare(key, labels)
        for gauge, type_ in ((self.ready, reasons.READY), (self.stalled, reasons.STALLED)):
            found = get_condition(after.conditions, type_)
            gauge.labels(*labels).set(found is not None and found.status == "True")
        self.conditions.put(key, {(c.type, c.status, bounded(c.reason, *JOB_FAILURES)): 1 for c in after.conditions})
        digest = after.artifact.digest if after.artifact is not None else ""
        self.revision.put(key, {(after.revision, digest): 1} if after.revision else {})
        self.nodes.put(key, {(state,): count for state, count in after.nodes.to_json().items()})
        desired = after.nodes.desired
        self.progress.labels(*labels).set(after.nodes.updated / desired if desired else 0)
        self._observe_rollout(key, labels, before.rollout, after.rollout, failures)
        self._observe_variants(key, after)
        self.limits.put(key, _limits(model))
        known = {(v.hardware_class, v.digest, v.reason) for v in before.variants}
        for v in after.variants:
            if v.reason != reasons.TRIALING and (v.hardware_class, v.digest, v.reason) not in known:
                self.gates.labels(*labels, "Trial", str(v.accepted).lower(), bounded(v.reason)).inc()
        if job is not None and job_ended(before, after, job):
            self._count_job(labels, before, after, job, now)

    def _prepare(self, key: str, labels: Labels) -> None:
        """A rate needs a zero to start from: the first rollback would not be seen otherwise."""
        if key in self._known:
            return
        self._known.add(key)
        for reason in (reasons.TOO_MANY_FAILURES, reasons.ANALYSIS_FAILED):
            self.rollbacks.labels(*labels, reason)
        for outcome, reason in (
            ("Succeeded", reasons.COMPRESSION_SUCCEEDED),
            ("Refused", reasons.BUDGET_EXCEEDED),
            ("Lost", ""),
        ):
            self.jobs.labels(*labels, outcome, reason)
        for gate, accepted, reason in (
            ("Compression", "true", reasons.COMPRESSION_SUCCEEDED), ("Compression", "false", reasons.BUDGET_EXCEEDED),
            ("Trial", "true", reasons.TRIAL_SUCCEEDED), ("Trial", "false", reasons.TRIAL_FAILED),
        ):  # fmt: skip
            self.gates.labels(*labels, gate, accepted, reason)

    def _observe_rollout(
        self,
        key: str,
        labels: Labels,
        old: RolloutStatus | None,
        new: RolloutStatus | None,
        failures: Iterable[Failure],
    ) -> None:
        under_way = new is not None and new.wave_started_at is not None and new.finished_at is None
        self.wave.labels(*labels).set(new.wave + 1 if new is not None and under_way else 0)
        by_reason: dict[Labels, float] = {}
        for failure in failures:
            label = (bounded(failure.reason),)
            by_reason[label] = by_reason.get(label, 0) + 1
        same = old is not None and new is not None and old.revision == new.revision
        # What a rollback was for is told by nobody any more once the nodes are given something else.
        if not (same and old is not None and old.rolled_back):
            self.failed.put(key, by_reason)
        if new is None or new.started_at is None:
            return
        self.began.labels(*labels).set(new.started_at.timestamp())
        if new.finished_at is None:
            return
        took = (new.finished_at - new.started_at).total_seconds()
        self.duration.labels(*labels).set(took)
        if new.rolled_back and not (same and old is not None and old.rolled_back):
            self.rollbacks.labels(*labels, bounded(new.reason)).inc()
            self.rollout_seconds.labels(str(reasons.ROLLED_BACK)).observe(took)
        elif not new.rolled_back and not (same and old is not None and old.finished_at is not None):
            self.rollout_seconds.labels(str(reasons.ROLLED_OUT)).observe(took)

    def _observe_variants(self, key: str, after: EdgeModelStatus) -> None:
        chosen = [v for v in after.variants if v.accepted]
        self.variants.put(key, {(v.hardware_class.value, v.platform, v.name, v.digest): 1 for v in chosen})
        self.sizes.put(key, {(v.hardware_class.value,): v.size_bytes for v in chosen})
        for series, text in ((self.latencies, "latency_median_seconds"), (self.qualities, "quality")):
            values = {(v.hardware_class.value,): number(getattr(v, text)) for v in chosen}
            series.put(key, {k: value for k, value in values.items() if value is not None})

    def _count_job(
        self, labels: Labels, before: EdgeModelStatus, after: EdgeModelStatus, job: JobView, now: datetime
    ) -> None:
        result = job.result
        outcome = "Lost" if job.state is JobState.LOST or result is None else str(result.outcome)
        reason = bounded(result.reason, "", *JOB_FAILURES) if result is not None else ""
        self.jobs.labels(*labels, outcome, reason).inc()
        if before.job is not None and before.job.started_at is not None and before.revision == after.revision:
            self.job_seconds.labels(outcome).observe(max(0.0, (now - before.job.started_at).total_seconds()))
        for v in result.variants if result is not None else ():
            why = reasons.COMPRESSION_SUCCEEDED if v.accepted else reasons.BUDGET_EXCEEDED
            self.gates.labels(*labels, "Compression", str(v.accepted).lower(), why).inc()

    def forget_model(self, key: str) -> None:
        """Its series end with it."""
        self._known.discard(key)
        namespace, _, name = key.partition("/")
        for metric in self._of_models:
            metric.remove_by_labels({"namespace": namespace, "name": name})
        for replaced in self._replaced:
            replaced.drop(key)

    def serve(self, port: int) -> None:
        """Answer scrapes at `/metrics`, in a daemon thread.

        Raises:
            OSError: the port is taken.
        """
        start_http_server(port, registry=self.registry)


def job_ended(before: EdgeModelStatus, after: EdgeModelStatus, job: JobView) -> bool:
    """Whether this status is the first that knows how the Job ended."""
    if job.state is JobState.RUNNING or job.revision != after.revision:
        return False
    same = before.revision == after.revision
    old, new = before.job if same else None, after.job
    if after.artifact is not None:
        return not same or before.artifact is None
    if new is None:
        return False
    if new.failed_at is not None:
        return old is None or old.failed_at != new.failed_at
    if new.stalled:
        return old is None or not old.stalled
    # Lost, and started again in the same pass.
    return job.state is JobState.LOST and old is not None and old.failed_at is None and new.tries > old.tries


def _limits(model: EdgeModel) -> dict[Labels, float]:
    median, p99 = model.spec.compression.budget.max_latency, model.spec.health_check.max_latency_p99
    found = (("median", median), ("p99", p99))
    return {(name,): parse_duration(text).total_seconds() for name, text in found if text is not None}


def _version() -> str:
    try:
        return version("edgemodel")
    except PackageNotFoundError:
        return "unknown"
