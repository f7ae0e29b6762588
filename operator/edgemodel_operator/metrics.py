"""Prometheus series of the operator: prefix `edgemodel_`, base units, labels bounded by the EdgeModels that exist."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from edgemodel_api import reasons
from edgemodel_api.edgemodel_status import EdgeModelStatus
from edgemodel_api.meta import get_condition
from edgemodel_operator.domain.observed import JobState, JobView

#: Beside those of `reasons`: how a Job can end without a word, and what the compressor says of itself.
JOB_FAILURES = (
    "OutOfMemory", "OutOfDisk", "Crashed", "DeadlineExceeded", "NoResult", "Terminated", "InternalError", "Unavailable",
)  # fmt: skip

_MODEL = ("namespace", "name")
_REASONS = frozenset(value for name, value in vars(reasons).items() if name.isupper())


def bounded(reason: str, *more: str) -> str:
    """A reason as a label: what is no constant of ours came from elsewhere, and could be anything."""
    return reason if reason in _REASONS or reason in more else "Other"


class OperatorMetrics:
    """The series, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
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
        self.jobs = Counter("edgemodel_compression_jobs", "Ended compression Jobs, by outcome and reason.",
                            ("outcome", "reason"), registry=r)  # fmt: skip
        self.ready = Gauge("edgemodel_ready", "1 while what is meant to serve does.", _MODEL, registry=r)
        self.stalled = Gauge("edgemodel_stalled", "1 while somebody has to change something.", _MODEL, registry=r)
        self.nodes = Gauge("edgemodel_nodes", "Nodes of the pool, by state.", (*_MODEL, "state"), registry=r)
        self.wave = Gauge(
            "edgemodel_rollout_wave", "The wave that is under way, counted from 1; 0: none.", _MODEL, registry=r
        )
        self.progress = Gauge(
            "edgemodel_rollout_progress_ratio", "Updated nodes over desired ones.", _MODEL, registry=r
        )
        self.duration = Gauge(
            "edgemodel_rollout_duration_seconds", "How long the last rollout that ended took.", _MODEL, registry=r
        )
        self.rollbacks = Counter(
            "edgemodel_rollbacks", "Revisions that were put back, by reason.", ("reason",), registry=r
        )
        self.gates = Counter("edgemodel_gate_results", "Variants chosen or refused on hardware, by reason.",
                             ("accepted", "reason"), registry=r)  # fmt: skip

        self.measurements = Counter(
            "edgemodel_analysis_measurements",
            "Answers to the queries of spec.rollout.analysis, by outcome.",
            (*_MODEL, "analysis", "outcome"),
            registry=r,
        )

    def measured(self, key: str, analysis: str, outcome: str) -> None:
        """A query of an EdgeModel had an answer, or none."""
        self.measurements.labels(*key.split("/", 1), analysis, outcome).inc()

    def observe_model(self, key: str, before: EdgeModelStatus, after: EdgeModelStatus) -> None:
        """Set the gauges from the status that was written, and count what is new in it."""
        labels = tuple(key.split("/", 1))
        for gauge, type_ in ((self.ready, reasons.READY), (self.stalled, reasons.STALLED)):
            found = get_condition(after.conditions, type_)
            gauge.labels(*labels).set(found is not None and found.status == "True")
        for state, count in after.nodes.to_json().items():
            self.nodes.labels(*labels, state).set(count)
        desired = after.nodes.desired
        self.progress.labels(*labels).set(after.nodes.updated / desired if desired else 0)
        rollout, old = after.rollout, before.rollout
        under_way = rollout is not None and rollout.wave_started_at is not None and rollout.finished_at is None
        self.wave.labels(*labels).set(rollout.wave + 1 if rollout is not None and under_way else 0)
        if rollout is not None and rollout.started_at is not None and rollout.finished_at is not None:
            self.duration.labels(*labels).set((rollout.finished_at - rollout.started_at).total_seconds())
        if (
            rollout is not None
            and rollout.rolled_back
            and not (old is not None and old.rolled_back and old.revision == rollout.revision)
        ):
            self.rollbacks.labels(bounded(rollout.reason)).inc()
        known = {(v.hardware_class, v.digest, v.reason) for v in before.variants}
        for v in after.variants:
            if v.reason != reasons.TRIALING and (v.hardware_class, v.digest, v.reason) not in known:
                self.gates.labels(str(v.accepted).lower(), bounded(v.reason)).inc()

    def job_ended(self, view: JobView) -> None:
        """Count it."""
        result = view.result
        if view.state is JobState.LOST or result is None:
            self.jobs.labels("Lost", "").inc()
        else:
            reason = bounded(result.reason, "", *JOB_FAILURES)
            self.jobs.labels(str(result.outcome), reason).inc()

    def forget_model(self, key: str) -> None:
        """Its series end with it."""
        namespace, _, name = key.partition("/")
        for gauge in (self.ready, self.stalled, self.nodes, self.wave, self.progress, self.duration, self.measurements):
            gauge.remove_by_labels({"namespace": namespace, "name": name})

    def serve(self, port: int) -> None:
        """Answer scrapes at `/metrics`, in a daemon thread.

        Raises:
            OSError: the port is taken.
        """
        start_http_server(port, registry=self.registry)
