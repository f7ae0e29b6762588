"""Prometheus series of one agent. Names: `edgemodel_agent_*`, base units, labels that are bounded by the assigned models."""

from __future__ import annotations

from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from edgemodel_api.edgenode import EdgeNodeStatus, TargetState


class AgentMetrics:
    """The series, in a registry of their own, so that several agents may live in one process (tests)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._server: WSGIServer | None = None

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"edgemodel_agent_{name}", text, ("namespace", "name", *labels), registry=self.registry)

        self.download_bytes = counter("download_bytes", "Bytes fetched from the registry.")
        self.download_seconds = counter("download_seconds", "Time spent on fetching.")
        self.download_retries = counter("download_retries", "Fetches that broke off and were tried again.")
        self.checks = counter("checks", "Checks before a switch, by their result (Passed, or the reason).", "result")
        self.switches = counter("switches", "Switches to another variant.")
        self.restarts = counter("restarts", "Servers started again after they died.")
        self.rollbacks = counter("rollbacks", "Roll backs that the node did by itself.", "reason")
        self.state = Gauge(
            "edgemodel_agent_model_state",
            "1 for the state that the assigned target is in.",
            ("namespace", "name", "state"),
            registry=self.registry,
        )
        self.serving = Gauge(
            "edgemodel_agent_model_serving",
            "1 while some variant answers requests.",
            ("namespace", "name"),
            registry=self.registry,
        )
        self.disk_free = Gauge("edgemodel_agent_disk_free_bytes", "Free disk space.", registry=self.registry)
        self.reported = Gauge(
            "edgemodel_agent_last_report_timestamp_seconds", "When status was written last.", registry=self.registry
        )

    def observe(self, status: EdgeNodeStatus) -> None:
        """Set the gauges from what is reported, so that both always agree."""
        self.state.clear()
        self.serving.clear()
        for model in status.models:
            for state in TargetState:
                self.state.labels(model.namespace, model.name, state.value).set(model.state is state)
            self.serving.labels(model.namespace, model.name).set(model.running is not None)
        self.disk_free.set(status.disk_free_bytes)
        if status.last_report_time is not None:
            self.reported.set(status.last_report_time.timestamp())

    def serve(self, port: int, address: str) -> None:
        """Answer scrapes at `http://address:port/metrics`, in a daemon thread.

        Raises:
            OSError: the port is taken.
        """
        self._server, _ = start_http_server(port, addr=address, registry=self.registry)

    def close(self) -> None:
        """Let go of the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
