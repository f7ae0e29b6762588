"""What was silent while nobody could hear it, is not said to have been."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from edgemodel_operator.k8s.cache import Cache
from edgemodel_operator.k8s.client import NotFoundError
from edgemodel_operator.k8s.contact import Contact
from edgemodel_operator.k8s.listing import Intake
from edgemodel_operator.k8s.reconcile import Reconciler
from edgemodel_operator.metrics import OperatorMetrics
from edgemodel_operator.prometheus.measurer import Measurer
from edgemodel_operator.settings import parser, settings_of

START = datetime(2026, 1, 2, 12, tzinfo=UTC)
OPTIONS = ["--output", "oci://registry.example.com/models", "--job-image", "registry.example.com/compressor:1"]


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def test_since_when_it_is_heard():
    clock = Clock()
    contact = Contact(clock)
    assert contact.since() == START, "never heard"
    for _ in range(10):
        contact.heard()
        clock.tick(10)
    assert contact.since() == START
    clock.tick(60)  # we stood still
    assert contact.since() == clock.now
    contact.heard()
    begin = clock.now
    clock.tick(5)
    assert contact.since() == begin
    contact.missed()
    clock.tick(5)
    assert contact.since() == clock.now
    contact.heard()
    clock.tick(5)
    assert contact.since() == clock.now - timedelta(seconds=5)


class Server:
    """Of the API server, what is asked of nodes."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict] = {}
        self.asked: list[str] = []

    def get(self, path: str) -> dict:
        self.asked.append(path.rpartition("/")[2])
        if self.asked[-1] not in self.nodes:
            raise NotFoundError(path)
        return self.nodes[self.asked[-1]]

    def listed(self, path: str, *, selector: str = "") -> tuple[list[dict], int]:
        self.asked.append("all")
        return list(self.nodes.values()), 9


@pytest.fixture
def world(model_body, node_body):
    """An EdgeModel, and nodes that the watch heard of last a minute and more ago."""
    server, cache, clock, metrics = Server(), Cache(), Clock(), OperatorMetrics()
    settings = settings_of(parser().parse_args(OPTIONS))
    measurer = Measurer(None, lambda _keys: None, metrics)
    reconciler = Reconciler(server, cache, settings, metrics, measurer, clock)
    intake = Intake(cache, settings.offline_after)
    intake.model(model_body())

    def node(name, seconds_ago, version):
        at = (clock.now - timedelta(seconds=seconds_ago)).isoformat()
        return node_body(name, version=version, lastReportTime=at)

    def add(name, *, heard, written):
        intake.node(node(name, heard, 1))
        if written is not None:
            server.nodes[name] = node(name, written, 2)

    reconciler.add, reconciler.server = add, server
    return reconciler


def ages(world) -> dict[str, float]:
    observed = world.observe(world.cache.models.get("default/m"))
    return {n.metadata.name: (observed.now - n.status.last_report_time).total_seconds() for n in observed.nodes}


def test_a_late_watch_makes_no_node_offline(world):
    world.add("late", heard=90, written=5)
    world.add("silent", heard=90, written=90)
    world.add("gone", heard=90, written=None)
    world.add("well", heard=10, written=10)
    assert ages(world) == {"late": 5, "silent": 90, "well": 10}
    assert sorted(world.server.asked) == ["gone", "late", "silent"]
    world.server.asked.clear()
    assert ages(world) == {"late": 5, "silent": 90, "well": 10}
    assert world.server.asked == [], "silent was asked for already"


def test_many_are_asked_for_at_once(world):
    for i in range(1000):
        world.add(f"n{i}", heard=90, written=3)
    assert set(ages(world).values()) == {3}
    assert world.server.asked == ["all"]
