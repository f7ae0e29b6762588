"""The real registries, each with a series of everything that it can expose."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from edgemodel_agent.metrics import AgentMetrics
from edgemodel_agent.server.metrics import ServerMetrics
from edgemodel_api.edgenode import EdgeNode, EdgeNodeStatus
from edgemodel_api.meta import ObjectMeta
from edgemodel_operator.metrics import OperatorMetrics

ROOT = Path(__file__).parents[3]
#: What the agent adds to each of a server's series.
SERVER_LABELS = ("namespace", "name", "revision")


@dataclass(frozen=True)
class Series:
    """One metric: its name as PromQL writes it (a histogram's without _bucket, _sum, _count)."""

    name: str
    type: str
    labels: tuple[str, ...]
    text: str
    by: str


def filled(registry: CollectorRegistry) -> CollectorRegistry:
    """With one series, at least, of each metric."""
    for collector in list(registry._collector_to_names):
        if isinstance(collector, MetricWrapperBase) and collector._labelnames and not list(collector._samples()):
            collector.labels(*("x" for _ in collector._labelnames))
    return registry


def registries() -> dict[str, CollectorRegistry]:
    agent = AgentMetrics()
    agent.started(version="1", node="n", system="linux/amd64", hardware_class="amd64-vnni", disk=1)
    server = ServerMetrics(model="m", version="r", runtime="onnx", runtime_version="1", file="f")
    operator = OperatorMetrics()
    now = datetime.now(UTC)
    node = EdgeNode(metadata=ObjectMeta(name="n"), status=EdgeNodeStatus(last_report_time=now))
    operator.watch_nodes(lambda: {"n": node})
    return {
        "operator": filled(operator.registry), "agent": filled(agent.registry), "server": filled(server.registry),
    }  # fmt: skip


def series_of(by: str, registry: CollectorRegistry) -> Iterator[Series]:
    for family in registry.collect():
        names = {s.name for s in family.samples}
        plain = {"histogram": family.name, "counter": f"{family.name}_total"}.get(family.type, family.name)
        if family.type == "info":
            plain = f"{family.name}_info"
        assert family.samples, f"{family.name} has no series: fill it"
        assert family.type == "histogram" or names == {plain}
        labels = {label for s in family.samples for label in s.labels} - {"le"}
        if by == "server":
            labels |= set(SERVER_LABELS)
        kind = "gauge" if family.type == "info" else family.type
        yield Series(plain, kind, tuple(sorted(labels, key=_order)), family.documentation, by)


def _order(label: str) -> tuple[int, str]:
    return ("namespace", "name", "revision").index(label) if label in SERVER_LABELS else 3, label


@pytest.fixture(scope="session")
def exposed() -> list[Series]:
    """Everything that is exposed anywhere."""
    return [s for by, registry in registries().items() for s in series_of(by, registry)]


@pytest.fixture(scope="session")
def texts() -> dict[str, bytes]:
    """Each registry in the exposition format."""
    from prometheus_client import generate_latest

    return {by: generate_latest(registry) for by, registry in registries().items()}


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' own judge: the system's, the test bed's, or out of Debian's package."""
    code = "import build; print(build.prometheus() / 'promtool')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "testbed", capture_output=True, text=True, check=False
    )
    if done.returncode == 0 and Path(found := done.stdout.strip()).exists():
        return Path(found)
    message = f"promtool is not there: install Debian's package prometheus; {done.stderr[-300:]}"
    if os.environ.get("EDGEMODEL_REQUIRE_TOOLS") == "1":
        pytest.fail(message)
    pytest.skip(message)
