"""What the nodes went through, noted while the loop looks at them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgenode import EdgeNode, Swap
from edgemodel_cli import timeline
from edgemodel_cli.ending import is_offline
from edgemodel_cli.results import OFFLINE
from edgemodel_cli.timeline import NodeChange

log = logging.getLogger(__name__)


def change_of(model: EdgeModel, node: EdgeNode, now: datetime) -> NodeChange | None:
    """How the node is, as a change that happened just now; None: it has nothing of this model."""
    name = node.metadata.name
    assigned = next((m for m in node.spec.models if m.key == model.key), None)
    if assigned is None:
        return None
    wave = assigned.wave if assigned.swap is Swap.ACTIVATE else -1
    if is_offline(node, now):
        return NodeChange(at=now, node=name, wave=wave, state=OFFLINE, revision=assigned.target.revision)
    found = next((m for m in node.status.models if m.key == model.key), None)
    if found is None:
        return None
    return NodeChange(
        at=found.changed_at or now,
        node=name,
        wave=wave,
        state=found.state,
        revision=found.revision,
        variant=found.variant,
        reason=found.reason,
        message=found.message,
    )


class TimelineWriter:
    """Appends to the timeline what is new since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: dict[str, NodeChange] = {}
        for change in timeline.read(path):
            self._last[change.node] = change

    def observe(self, model: EdgeModel, nodes: Iterable[EdgeNode], now: datetime) -> None:
        """Note the nodes that entered another state. A full disk loses a picture, not a rollout."""
        found = [change for node in nodes if (change := change_of(model, node, now)) is not None]
        new = [_dated(c, self._last.get(c.node), now) for c in found if _essence(self._last.get(c.node)) != _essence(c)]
        try:
            timeline.append(self.path, new)
        except OSError as error:
            log.warning("%s cannot be written: %s", self.path, error)
        self._last |= {c.node: c for c in new}


def _dated(change: NodeChange, last: NodeChange | None, now: datetime) -> NodeChange:
    """A node that was only let in did not change its state: what is new happened now, not when that state began."""
    if last is not None and (last.state, last.revision) == (change.state, change.revision):
        return change.replace(at=now)
    return change


def _essence(change: NodeChange | None) -> tuple[object, ...] | None:
    if change is None:
        return None
    return change.wave, change.state, change.revision, change.variant, change.reason
