"""A Node's labels on its EdgeNode, so that `spec.nodePool.selector` selects as people label their nodes."""

from __future__ import annotations

from datetime import datetime

from edgemodel_api import API_VERSION

from . import objects
from .cache import Cache
from .client import Cluster, NotFoundError
from .reconcile import GoneError

#: Of its own, so that a label that goes from the Node goes from the EdgeNode, and the agent's own ones stay.
MANAGER = "edgemodel-operator-labels"


class Labeller:
    """Keeps them equal. Applied once after each start and after each change: what changed meanwhile is put right."""

    def __init__(self, cluster: Cluster, cache: Cache) -> None:
        self.cluster = cluster
        self.cache = cache
        self._applied: dict[str, tuple[str, dict[str, str]]] = {}

    def run(self, name: str) -> datetime | None:
        """One node.

        Raises:
            GoneError: it has no EdgeNode, or no Node.
            EdgeModelError: it could not be written.
        """
        wanted, node = self.cache.node_labels.get(name), self.cache.nodes.get(name)
        if wanted is None or node is None:
            self._applied.pop(name, None)
            raise GoneError(f"there is no Node and EdgeNode {name}")
        there = all(node.metadata.labels.get(k) == v for k, v in wanted.items())
        if there and self._applied.get(name) == (node.metadata.uid, wanted):
            raise GoneError(f"the labels of {name} are as they shall be")
        # With its uid: an EdgeNode that somebody deleted must not come back by this.
        meta = {"name": name, "uid": node.metadata.uid, "labels": wanted}
        body = {"apiVersion": API_VERSION, "kind": "EdgeNode", "metadata": meta}
        try:
            written = self.cluster.apply(f"{objects.EDGE_NODES}/{name}", body, manager=MANAGER)
        except NotFoundError:
            raise GoneError(f"there is no EdgeNode {name}") from None
        self.cache.nodes.put(name, objects.version_of(written), objects.parse_node(written))
        self._applied[name] = (node.metadata.uid, wanted)
        raise GoneError(f"the labels of {name} are written")
