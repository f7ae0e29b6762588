"""The series of the node's model servers, as they are at this moment, for the agent's own `/metrics`.

What a server says is taken from its control socket, and given the labels that the agent knows it by: `namespace`, `name`,
`revision`. A server that is dead, slow or talks nonsense is left out and counted; it never breaks the scrape.
"""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from .server.control import ControlClient

log = logging.getLogger(__name__)

PREFIX = "edgemodel_server_"
#: For one server; all are asked at once, as many as `PARALLEL`.
SERVER_SECONDS = 1.0
#: For all of them: less than the time that Prometheus waits for a scrape.
ALL_SECONDS = 2.0
PARALLEL = 8
#: A server has some forty.
SAMPLES_LIMIT = 500


@dataclass(frozen=True)
class Served:
    """A model server that answers for a model of this node."""

    namespace: str
    name: str
    revision: str
    control: Path

    @property
    def labels(self) -> dict[str, str]:
        """By which its series are known."""
        return {"namespace": self.namespace, "name": self.name, "revision": self.revision}


class ServersCollector(Collector):
    """Asks the servers at each scrape. `serving` is set by the agent's loop, at once, and read here."""

    def __init__(self, failures: Counter) -> None:
        self.serving: tuple[Served, ...] = ()
        self._failures = failures

    def describe(self) -> Iterable[Metric]:
        """Nothing: no server is asked when this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Series of all servers, by family."""
        serving = self.serving
        if not serving:
            return
        pool = concurrent.futures.ThreadPoolExecutor(min(PARALLEL, len(serving)), thread_name_prefix="scrape")
        asked = {pool.submit(series, server): server for server in serving}
        done, _ = concurrent.futures.wait(asked, ALL_SECONDS)
        pool.shutdown(wait=False, cancel_futures=True)
        families: dict[str, Metric] = {}
        for future, server in asked.items():
            error = future.exception() if future in done else TimeoutError("it did not answer in time")
            if error is not None:
                self._failures.labels(server.namespace, server.name).inc()
                log.debug("%s/%s: its server gives no series: %s", server.namespace, server.name, error)
                continue
            for family in future.result():
                known = families.setdefault(family.name, family)
                if known is not family and known.type == family.type:
                    known.samples += family.samples
        yield from families.values()


def series(server: Served, ask: Callable[[Path], str] | None = None) -> list[Metric]:
    """One server's series, relabelled.

    Raises:
        OSError, EdgeModelError: it does not answer.
        ValueError: what it says cannot be read.
    """
    return relabelled((ask or _ask)(server.control), server.labels)


def _ask(control: Path) -> str:
    with ControlClient(control, timeout=SERVER_SECONDS) as client:
        return client.metrics()


def relabelled(text: str, labels: Mapping[str, str]) -> list[Metric]:
    """Families of the exposition format with these labels beside, or in place of, their own.

    Only `edgemodel_server_*` is taken: whatever else it may say belongs to nobody here.

    Raises:
        ValueError: it cannot be read, or is too much.
    """
    found, count = [], 0
    for family in text_string_to_metric_families(text):
        count += len(family.samples)
        if count > SAMPLES_LIMIT:
            raise ValueError(f"more than {SAMPLES_LIMIT} series")
        if not family.name.startswith(PREFIX):
            continue
        samples = [Sample(s.name, {**s.labels, **labels}, s.value) for s in family.samples]
        metric = Metric(family.name, family.documentation, family.type)
        metric.samples = samples
        found.append(metric)
    return found
