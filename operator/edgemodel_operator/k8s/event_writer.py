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
    for event in told:
        body = event_body(model, event, now)
        try:
            cluster.create(events(model.metadata.namespace), body)
        except ConflictError:
            continue
        except EdgeModelError as error:
            # A namespace that is being deleted takes none.
            log.info("an event of %s was not posted (%s): %s", model.key, error.message, event.message)


def event_body(model: EdgeModel, event: Event, now: datetime) -> Body:
    """One event (core/v1). Named by its content and time, so that posting it twice makes one."""
    meta = model.metadata
    at = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    digest = hashlib.sha256(f"{meta.uid} {event.reason} {event.message} {at}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta.name[:230].rstrip('.-')}.{digest}", "namespace": meta.namespace},
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
