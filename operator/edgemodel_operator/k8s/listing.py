"""Everything, listed: at the start, before the first pass, and now and then, as a watch may miss something or die."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypeVar

from edgemodel_api.errors import InputError

from . import objects
from .cache import Cache, Shelf, matters
from .client import Body, Cluster
from .jobs import owner_of

log = logging.getLogger(__name__)
T = TypeVar("T")


class Intake:
    """What a watch or a listing says goes into the cache here; each method gives the keys of EdgeModels it concerns."""

    def __init__(self, cache: Cache, offline_after: timedelta) -> None:
        self.cache = cache
        self.offline_after = offline_after

    def model(self, body: Body) -> set[str]:
        """An EdgeModel as it is now."""
        key = objects.key_of(body["metadata"]["namespace"], body["metadata"]["name"])
        try:
            change = self.cache.models.put(key, objects.version_of(body), objects.parse_model(body))
        except InputError as error:
            log.warning("%s", error.message)
            return set()
        return {key} if change.is_new else set()

    def node(self, body: Body) -> set[str]:
        """An EdgeNode as it is now."""
        try:
            node = objects.parse_node(body)
        except InputError as error:
            log.warning("%s", error.message)
            return set()
        before, is_new = self.cache.nodes.put(node.metadata.name, objects.version_of(body), node)
        if not is_new or not matters(before, node, self.offline_after):
            return set()
        return self.cache.concerned(before, node)

    def job(self, body: Body) -> set[str]:
        """A compression Job as it is now."""
        key = objects.key_of(body["metadata"]["namespace"], body["metadata"]["name"])
        change = self.cache.jobs.put(key, objects.version_of(body), body)
        owner = owner_of(body)
        return {owner} if change.is_new and owner is not None else set()


class Listing:
    """Lists all kinds and forgets what is no longer there."""

    def __init__(self, cluster: Cluster, intake: Intake, namespaces: tuple[str, ...]) -> None:
        self.cluster = cluster
        self.intake = intake
        self.cache = intake.cache
        self.namespaces = namespaces or ("",)
        self._version = 0

    def run(self) -> set[str]:
        """Keys of EdgeModels that something new concerns.

        Raises:
            EdgeModelError: a kind cannot be listed (no role, no CRD, no API server).
        """
        woken: set[str] = set()
        cache = self.cache
        nodes = [self.cluster.listed(objects.EDGE_NODES)]
        if nodes[0][1] < self._version:
            log.warning(
                "the API server is back at version %d, after %d: all is listed anew", nodes[0][1], self._version
            )
            cache.clear()  # restored from a backup: what is known is newer than anything that it will say for long
        self._version = nodes[0][1]
        for node in self._take(nodes, cache.nodes, _by_name, self.intake.node, woken).values():
            woken |= cache.concerned(node)
        bodies, version = self.cluster.listed(objects.NODES)
        for body in bodies:
            self._node_labels(body)
        cache.node_labels.keep_only((_by_name(b) for b in bodies), version)
        jobs = [self.cluster.listed(objects.jobs(n), selector=objects.JOBS_SELECTOR) for n in self.namespaces]
        gone = self._take(jobs, cache.jobs, _by_key, self.intake.job, woken)
        woken |= {owner for job in gone.values() if (owner := owner_of(job)) is not None}
        models = [self.cluster.listed(objects.edge_models(n)) for n in self.namespaces]
        woken |= set(self._take(models, cache.models, _by_key, self.intake.model, woken))
        return woken

    def _node_labels(self, body: Body) -> None:
        labels = body["metadata"].get("labels") or {}
        self.cache.node_labels.put(_by_name(body), objects.version_of(body), labels)

    @staticmethod
    def _take(
        lists: Iterable[tuple[list[Body], int]],
        shelf: Shelf[T],
        key: Callable[[Body], str],
        take: Callable[[Body], set[str]],
        woken: set[str],
    ) -> dict[str, T]:
        """Take in what was listed; what is gone, by key."""
        named: set[str] = set()
        oldest: int | None = None
        for bodies, version in lists:
            for body in bodies:
                named.add(key(body))
                woken |= take(body)
            oldest = version if oldest is None else min(oldest, version)
        return shelf.keep_only(named, oldest or 0)


def _by_name(body: Body) -> str:
    return str(body["metadata"]["name"])


def _by_key(body: Body) -> str:
    return objects.key_of(body["metadata"]["namespace"], body["metadata"]["name"])
