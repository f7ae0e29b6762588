"""Kubernetes events of an EdgeModel. A lost event changes nothing, so none of them may fail a pass."""

from __future__ import annotations

import hashlib
import logging
import socket
from datetime import UTC, datetime

from edgemodel_api import API_VERSION
from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.errors import EdgeModelError
from edgemodel_operator.domain.actions import Event

from .client import FIELD_MANAGER, Body, Cluster, ConflictError
from .objects import events

log = logging.getLogger(__name__)
NOTE_LIMIT = 1000


def write_events(cluster: Cluster, model: EdgeModel, told: tuple[Event, ...], now: datetime) -> None:
    """Post them, in their order."""
    for place, event in enumerate(told):
        body = event_body(model, event, now, place)
        try:
            cluster.create(events(model.metadata.namespace), body)
        except ConflictError:
            continue
        except EdgeModelError as error:
            # A namespace that is being deleted takes none.
            log.info("an event of %s was not posted (%s): %s", model.key, error.message, event.message)


def event_body(model: EdgeModel, event: Event, now: datetime, place: int) -> Body:
    """One event (core/v1), the `place`-th of its pass.

    Named by its time, place and content: so posting it twice makes one, and those of one second are shown in their
    order (`kubectl describe` sorts by seconds, and leaves the rest as it is listed: by name).
    """
    meta = model.metadata
    at = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    digest = hashlib.sha256(f"{meta.uid} {event.reason} {event.message} {at}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{meta.name[:220].rstrip('.-')}.{int(now.timestamp()):08x}{place:02x}{digest}",
            "namespace": meta.namespace,
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": "EdgeModel",
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:NOTE_LIMIT],
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": socket.gethostname(),
    }
