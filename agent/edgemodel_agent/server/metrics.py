"""Prometheus series of one model server. Every label has a bounded set of values: one model, one revision, known codes.

The agent gathers them by the control socket and adds the `namespace`, so one scrape of a node gives all of its servers.
"""

from __future__ import annotations

import time

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

# Twice the series, and nobody asks when a counter was made.
disable_created_metrics()  # type: ignore[no-untyped-call]

#: 0.1 ms to 10 s: from a digit classifier to a language model on a small board.
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ServerMetrics:
    """The series, in a registry of their own; the process's (memory, CPU, descriptors) are among them."""

    def __init__(self, *, model: str, version: str, runtime: str, runtime_version: str, file: str) -> None:
        self.registry = CollectorRegistry()
        # Not `process_*`: those are the agent's own in the scrape that has both.
        ProcessCollector(namespace="edgemodel_server", registry=self.registry)
        names, values = ("name", "revision"), (model, version)
        self._requests = Counter(
            "edgemodel_server_requests_total",
            "Inference requests, by HTTP status code.",
            (*names, "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "edgemodel_server_inference_seconds",
            "Time in the runtime, without HTTP and without waiting.",
            names,
            buckets=BUCKETS,
            registry=self.registry,
        ).labels(*values)
        self._answers = Histogram(
            "edgemodel_server_request_duration_seconds",
            "Time from a request's head to its answer: reading, waiting and inference.",
            names,
            buckets=BUCKETS,
            registry=self.registry,
        ).labels(*values)
        self._in_flight = Gauge(
            "edgemodel_server_in_flight_requests",
            "Inference requests that wait or run.",
            names,
            registry=self.registry,
        ).labels(*values)
        self._load = Gauge(
            "edgemodel_server_model_load_seconds",
            "How long the model took to load.",
            names,
            registry=self.registry,
        ).labels(*values)
        Info(
            "edgemodel_server_model",
            "The model that is served, and by which runtime, such as onnxruntime_onnx or litert_tflite.",
            registry=self.registry,
        ).info(
            {"name": model, "revision": version, "runtime": runtime, "runtime_version": runtime_version, "file": file}
        )
        self._values = values
        for code in (200, 400, 500, 503):
            self.answered(code, 0)  # a rate() over the first requests needs a zero to start from

    def answered(self, code: int, count: int = 1, seconds: float | None = None) -> None:
        """Requests were answered; `seconds`: how long that took."""
        self._requests.labels(*self._values, str(code)).inc(count)
        if seconds is not None:
            self._answers.observe(seconds)

    def inferred(self, seconds: float) -> None:
        """One inference was run."""
        self._seconds.observe(seconds)

    def loaded(self, began: float) -> None:
        """The model was loaded; `began`: `time.monotonic()` before."""
        self._load.set(time.monotonic() - began)

    def in_flight(self, count: int) -> None:
        """So many requests wait or run."""
        self._in_flight.set(count)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
