"""Prometheus series of one agent. Names: `edgemodel_agent_*`, base units, labels that are bounded by the assigned models.

They begin at zero with the agent's process, and a model's end when it leaves the node. docs/metrics.md lists them all.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from edgemodel_api.edgenode import EdgeNodeStatus, TargetState
from edgemodel_api.reasons import bounded

from .scrape import Served, ServersCollector

# Twice the series, and nobody asks when a counter was made.
disable_created_metrics()  # type: ignore[no-untyped-call]

_MODEL = ("namespace", "name")
Labels = tuple[str, ...]
#: 1 s to an hour: from a digit classifier in the next room to a language model behind a modem.
DOWNLOAD_BUCKETS = (1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0)


class ApiMetrics:
    """What the agent asks of the API server, and how that goes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "edgemodel_agent_api_requests",
            "Requests to the API server, by HTTP status code; none: there was no answer.",
            ("verb", "code"),
            registry=registry,
        )
        self._retries = Counter(
            "edgemodel_agent_api_retries",
            "Tries that follow a failed request or an ended watch, after a pause.",
            registry=registry,
        )
        self._reported = Gauge(
            "edgemodel_agent_last_report_timestamp_seconds", "When status was written last.", registry=registry
        )

    def requested(self, verb: str, code: int | None) -> None:
        """A request was answered; None: it was not."""
        self._requests.labels(verb, "none" if code is None else str(code)).inc()

    def retried(self) -> None:
        """Something is tried again."""
        self._retries.inc()

    def reported(self, status: EdgeNodeStatus) -> None:
        """A status has arrived."""
        if status.last_report_time is not None:
            self._reported.set(status.last_report_time.timestamp())


class AgentMetrics:
    """The series, in a registry of their own, so that several agents may live in one process (tests)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.api = ApiMetrics(self.registry)
        self._info = Info("edgemodel_agent_build", "The agent's version, and its node.", registry=self.registry)
        self._of_models: list[Counter | Gauge | Histogram] = []

        def counter(name: str, text: str, *labels: str) -> Counter:
            found = Counter(f"edgemodel_agent_{name}", text, (*_MODEL, *labels), registry=self.registry)
            self._of_models.append(found)
            return found

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            found = Gauge(f"edgemodel_agent_{name}", text, labels, registry=self.registry)
            if labels[:2] == _MODEL:
                self._of_models.append(found)
            return found

        self.download_bytes = counter("download_bytes", "Bytes fetched from the registry, as they come in.")
        self.download_seconds = counter("download_seconds", "Time spent on fetching, in vain or not.")
        self.download_retries = counter("download_retries", "Fetches that broke off and were tried again.")
        self.downloads = Histogram(
            "edgemodel_agent_download_duration_seconds",
            "Time from the first byte of a variant to its being here, of downloads that ended well in one go.",
            _MODEL,
            buckets=DOWNLOAD_BUCKETS,
            registry=self.registry,
        )
        self._of_models.append(self.downloads)
        self._checks = counter("checks", "Checks before a switch, by their result (Passed, or the reason).", "result")
        self._rechecks = counter(
            "rechecks", "Checks of what serves, by their result (Passed, or the reason).", "result"
        )
        self._trials = counter("trial_results", "Candidates tried, by their result (Passed, or the reason).", "result")
        self.switches = counter("switches", "Switches to another variant.")
        self.restarts = counter("restarts", "Servers started again after they died.")
        self._rollbacks = counter("rollbacks", "Roll backs that the node did by itself.", "reason")
        scrapes = counter("server_scrape_failures", "Model servers that gave no series when this agent was scraped.")
        self.state = gauge("model_state", "1 for the state that the assigned target is in.", *_MODEL, "state")
        self.serving = gauge("model_serving", "1 while some variant answers requests.", *_MODEL)
        self.running = gauge(
            "model_info", "The variant that answers requests.", *_MODEL, "revision", "variant", "digest"
        )
        self.disk_free = gauge("disk_free_bytes", "Free space of the disk that holds the store.")
        self.disk_size = gauge("disk_size_bytes", "Size of the disk that holds the store.")
        self.memory_free = gauge("memory_free_bytes", "Memory of the node that is available.")
        self.turned = gauge("last_pass_timestamp_seconds", "When the agent's loop ended a pass last.")
        self._passes = Counter(
            "edgemodel_agent_passes", "Passes of the agent's loop.", ("result",), registry=self.registry
        )
        for result in ("Done", "Failed"):
            self._passes.labels(result)
        self._servers = ServersCollector(scrapes)
        self.registry.register(self._servers)
        self._known: frozenset[tuple[str, str]] = frozenset()
        self._shown: dict[Gauge, set[Labels]] = {}

    # --- what happened

    def passed(self, *, failed: bool) -> None:
        """The loop ended a pass."""
        self._passes.labels("Failed" if failed else "Done").inc()
        self.turned.set_to_current_time()

    def received(self, labels: tuple[str, str]) -> Callable[[int], None]:
        """Counts bytes of one model's downloads."""
        return self.download_bytes.labels(*labels).inc

    def checked(self, labels: tuple[str, str], result: str) -> None:
        """A check before a switch ended."""
        self._checks.labels(*labels, bounded(result)).inc()

    def rechecked(self, labels: tuple[str, str], result: str) -> None:
        """A check of what serves ended."""
        self._rechecks.labels(*labels, bounded(result)).inc()

    def tried(self, labels: tuple[str, str], result: str) -> None:
        """A candidate was measured."""
        self._trials.labels(*labels, bounded(result)).inc()

    def rolled_back(self, labels: tuple[str, str], reason: str) -> None:
        """The node put itself back."""
        self._rollbacks.labels(*labels, bounded(reason)).inc()

    # --- what is so

    def started(self, *, version: str, node: str, system: str, hardware_class: str, disk: int) -> None:
        """The agent begins."""
        self._info.info(
            {
                "version": version,
                "python": platform.python_version(),
                "node": node,
                "platform": system,
                "hardware_class": hardware_class,
            }
        )
        self.disk_size.set(disk)

    def serves(self, servers: Iterable[Served]) -> None:
        """Which model servers are asked for their series at the next scrape."""
        self._servers.serving = tuple(servers)

    def observe(self, status: EdgeNodeStatus) -> None:
        """Set the gauges from what is reported, so that both always agree."""
        states: dict[Labels, float] = {}
        serving: dict[Labels, float] = {}
        running: dict[Labels, float] = {}
        for m in status.models:
            states |= {(m.namespace, m.name, s.value): m.state is s for s in TargetState}
            serving[m.namespace, m.name] = m.running is not None
            if (r := m.running) is not None:
                running[m.namespace, m.name, r.revision, r.variant, r.digest] = 1
        for gauge, values in ((self.state, states), (self.serving, serving), (self.running, running)):
            self._replace(gauge, values)
        self.disk_free.set(status.disk_free_bytes)
        self.memory_free.set(status.memory_free_bytes)

    def _replace(self, gauge: Gauge, values: dict[Labels, float]) -> None:
        """All series of a gauge, without a moment in which a scrape would find none."""
        for labels, value in values.items():
            gauge.labels(*labels).set(value)
        for labels in self._shown.get(gauge, set()) - set(values):
            gauge.remove(*labels)
        self._shown[gauge] = set(values)

    def only(self, models: Iterable[tuple[str, str]]) -> None:
        """Models and trials that this node knows of: what was counted of others ends, what may be counted begins at 0."""
        known = frozenset(models)
        for namespace, name in self._known - known:
            for metric in self._of_models:
                metric.remove_by_labels({"namespace": namespace, "name": name})
        for labels in known - self._known:
            # A rate needs a zero to start from: the first retry, or restart, would not be seen otherwise.
            for metric in (
                self.download_bytes,
                self.download_seconds,
                self.download_retries,
                self.switches,
                self.restarts,
            ):
                metric.labels(*labels)
        self._known = known

    def text(self) -> bytes:
        """The exposition format, with the series of the model servers."""
        return generate_latest(self.registry)
