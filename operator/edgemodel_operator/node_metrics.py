"""What the EdgeNodes say of themselves, as series: a node that Prometheus cannot reach is seen here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgemodel_api.edgenode import EdgeNode

#: A node may write anything.
_LONGEST = 64


class NodesCollector(Collector):
    """Reads the nodes at each scrape, so that a node's series end with it."""

    def __init__(self) -> None:
        self.nodes: Callable[[], Mapping[str, EdgeNode]] = dict

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        labels = ("node", "platform", "hardware_class", "agent_version")
        return (
            GaugeMetricFamily(
                "edgemodel_node_last_report_timestamp_seconds",
                "When the node's agent wrote its last report.",
                labels=("node",),
            ),
            GaugeMetricFamily(
                "edgemodel_node_disk_free_bytes", "Free disk space of its last report.", labels=("node",)
            ),
            GaugeMetricFamily("edgemodel_node_info", "The node's hardware, and its agent.", labels=labels),
        )

    def describe(self) -> Iterable[Metric]:
        """The families, without series."""
        return self._families()

    def collect(self) -> Iterator[Metric]:
        """One series a node in each family."""
        reports, disks, infos = self._families()
        for name, node in self.nodes().items():
            s = node.status
            if s.last_report_time is not None:
                reports.add_metric((name,), s.last_report_time.timestamp())
                disks.add_metric((name,), s.disk_free_bytes)
            hardware = s.hardware
            system, kind = (hardware.platform, hardware.hardware_class.value) if hardware is not None else ("", "")
            infos.add_metric((name, system[:_LONGEST], kind, s.agent_version[:_LONGEST]), 1)
        yield from (reports, disks, infos)
