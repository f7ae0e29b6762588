"""Kubernetes events: one for each thing that happened, in the order in which they did."""

from datetime import UTC, datetime, timedelta

import pytest

from edgemodel_api.errors import EdgeModelError
from edgemodel_operator.domain.actions import Event
from edgemodel_operator.k8s import objects
from edgemodel_operator.k8s.client import ConflictError, ForbiddenError
from edgemodel_operator.k8s.event_writer import write_events

NOW = datetime(2026, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)
TOLD = tuple(Event("Normal", f"R{i % 3}", f"message {i}") for i in range(11))


class Server:
    """Keeps what is posted; an event of the same name is a conflict."""

    def __init__(self, error: EdgeModelError | None = None) -> None:
        self.error = error
        self.events: dict[str, dict] = {}

    def create(self, path, body):
        if self.error is not None:
            raise self.error
        if body["metadata"]["name"] in self.events:
            raise ConflictError("it exists")
        self.events[body["metadata"]["name"]] = body
        return body


@pytest.mark.parametrize("name", ["m", "x" * 253, "a." * 126 + "a"])
def test_by_name_they_are_in_their_order(model_body, name):
    server, model = Server(), objects.parse_model(model_body(name))
    write_events(server, model, TOLD[:6], NOW)
    write_events(server, model, TOLD[6:], NOW + timedelta(seconds=1))
    assert [server.events[n]["message"] for n in sorted(server.events)] == [e.message for e in TOLD]
    assert all(len(n) <= 253 for n in server.events)


def test_posted_twice_it_is_one(model_body):
    server, model = Server(), objects.parse_model(model_body())
    for _ in range(2):
        write_events(server, model, TOLD, NOW)
    assert len(server.events) == len(TOLD)


def test_a_namespace_that_takes_none_stops_nothing(model_body):
    write_events(Server(ForbiddenError("it is being terminated")), objects.parse_model(model_body()), TOLD, NOW)
