"""The cluster as it was seen last: watches, listings and our own writes all end up here, the newest wins.

So a pass reads no lists, sees its own writes at once, and an event that arrives late cannot undo what is known.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Generic, NamedTuple, TypeVar

from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgenode import EdgeNode, EdgeNodeStatus

from .client import Body

T = TypeVar("T")


class Change(NamedTuple, Generic[T]):
    """What a `put` came to: what was there before, and whether anything is new."""

    before: T | None
    is_new: bool


class Shelf(Generic[T]):
    """Objects of one kind by key, each with its resource version. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, tuple[int, T]] = {}

    def put(self, key: str, version: int, value: T) -> Change[T]:
        """Note an object, unless something as new is known."""
        with self._lock:
            old = self._held.get(key)
            if old is not None and old[0] >= version:
                return Change(old[1], is_new=False)
            self._held[key] = (version, value)
            return Change(old[1] if old is not None else None, is_new=True)

    def drop(self, key: str) -> T | None:
        """Forget one; what it was."""
        with self._lock:
            old = self._held.pop(key, None)
            return old[1] if old is not None else None

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._held.clear()

    def keep_only(self, keys: Iterable[str], version: int) -> dict[str, T]:
        """Forget what a listing at `version` did not name, unless it is younger than the listing; what went."""
        named = set(keys)
        with self._lock:
            gone = {k: v for k, (seen, v) in self._held.items() if k not in named and seen <= version}
            for key in gone:
                del self._held[key]
            return gone

    def get(self, key: str) -> T | None:
        """One, if it is known."""
        with self._lock:
            found = self._held.get(key)
            return found[1] if found is not None else None

    def all(self) -> Mapping[str, T]:
        """A copy, by key."""
        with self._lock:
            return {k: v for k, (_, v) in self._held.items()}


class Cache:
    """EdgeModels by `namespace/name`, EdgeNodes and their Nodes' labels by name, compression Jobs by `namespace/name`."""

    def __init__(self) -> None:
        self.models: Shelf[EdgeModel] = Shelf()
        self.nodes: Shelf[EdgeNode] = Shelf()
        self.jobs: Shelf[Body] = Shelf()
        self.node_labels: Shelf[dict[str, str]] = Shelf()

    def clear(self) -> None:
        """Forget all."""
        for shelf in (self.models, self.nodes, self.jobs, self.node_labels):
            shelf.clear()

    def concerned(self, *nodes: EdgeNode | None) -> set[str]:
        """Keys of the EdgeModels that select one of these states of a node, or have assigned something to it."""
        known = [n for n in nodes if n is not None]
        found = {key for node in known for key in keys_assigned(node)}
        for key, model in self.models.all().items():
            selector = model.spec.node_pool.selector
            if key not in found and any(selector.matches(n.metadata.labels) for n in known):
                found.add(key)
        return found


def keys_assigned(node: EdgeNode) -> set[str]:
    """EdgeModels of which the node's spec speaks."""
    return {m.key for m in node.spec.models} | {t.key for t in node.spec.trials}


def matters(before: EdgeNode | None, after: EdgeNode, offline_after: timedelta) -> bool:
    """Whether a pass could see the difference: a mere heartbeat of a node that was online is none."""
    if before is None:
        return True
    b, a = before.status.last_report_time, after.status.last_report_time
    if a is not None and (b is None or a - b > offline_after):
        return True
    same_meta = before.metadata.labels == after.metadata.labels and (
        before.metadata.deletion_timestamp == after.metadata.deletion_timestamp
    )
    return not same_meta or before.spec != after.spec or _essence(before.status) != _essence(after.status)


def _essence(status: EdgeNodeStatus) -> EdgeNodeStatus:
    models = tuple(m.replace(downloaded_bytes=0, download_seconds=None) for m in status.models)
    return status.replace(last_report_time=None, disk_free_bytes=0, memory_free_bytes=0, models=models)
