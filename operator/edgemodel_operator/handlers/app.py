"""What the handlers share: Kopf hands it to them as `memo`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edgemodel_api.errors import EdgeModelError
from edgemodel_operator.k8s import objects
from edgemodel_operator.k8s.cache import Cache
from edgemodel_operator.k8s.client import Cluster
from edgemodel_operator.k8s.contact import BEAT
from edgemodel_operator.k8s.labels import Labeller
from edgemodel_operator.k8s.listing import Intake, Listing
from edgemodel_operator.k8s.reconcile import Reconciler
from edgemodel_operator.k8s.retire import unretire
from edgemodel_operator.k8s.workers import Workers
from edgemodel_operator.metrics import OperatorMetrics
from edgemodel_operator.prometheus.client import Prometheus
from edgemodel_operator.prometheus.measurer import Measurer
from edgemodel_operator.settings import OperatorSettings

log = logging.getLogger(__name__)


@dataclass
class App:
    """One operator. Made before the event loop, started in it."""

    cluster: Cluster
    settings: OperatorSettings
    metrics: OperatorMetrics
    cache: Cache = field(default_factory=Cache)

    def __post_init__(self) -> None:
        s = self.settings
        self.metrics.watch_nodes(self.cache.nodes.all)
        self.intake = Intake(self.cache, s.offline_after)
        self.listing = Listing(self.cluster, self.intake, s.namespaces)
        token = Path(s.prometheus_token_file) if s.prometheus_token_file else None
        prometheus = Prometheus(s.prometheus_url, token) if s.prometheus_url else None
        self.measurer = Measurer(prometheus, self._measured, self.metrics)
        self.reconciler = Reconciler(self.cluster, self.cache, s, self.metrics, self.measurer)
        labeller = Labeller(self.cluster, self.cache)
        self.workers = Workers("EdgeModel", self.reconciler.run, threads=s.workers, metrics=self.metrics)
        self.labels = Workers("Node", labeller.run, threads=1, metrics=self.metrics)
        self.repeated: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """List everything, then begin to work.

        Raises:
            EdgeModelError: it cannot be listed.
        """
        self.measurer.start()
        self.reconciler.contact.heard()
        await self.look()
        await asyncio.to_thread(unretire, self.cluster)
        self.repeated = [
            asyncio.create_task(self._look_again(), name="relisting"),
            asyncio.create_task(self._listen(), name="contact"),
        ]

    async def look(self) -> None:
        """List everything and wake whom it concerns."""
        keys = await asyncio.to_thread(self.listing.run)
        self.told(keys | self.reconciler.strays())
        for name in self.cache.node_labels.all():
            self.labels.wake(name)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(self.settings.resync)
            try:
                await self.look()
            except EdgeModelError as error:
                log.warning("the listing failed, the next one follows: %s", error.message)

    async def _listen(self) -> None:
        contact = self.reconciler.contact
        while True:
            answers = await asyncio.to_thread(self.cluster.answers, objects.EDGE_NODES)
            contact.heard() if answers else contact.missed()
            await asyncio.sleep(BEAT.total_seconds())

    def told(self, keys: Iterable[str]) -> None:
        """Something was said by the cluster, and concerns these EdgeModels."""
        self.metrics.last_event.set_to_current_time()
        for key in keys:
            self.workers.wake(key)

    def _measured(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.workers.wake(key)

    async def stop(self) -> None:
        """End all work; then let the EdgeModels go, as nobody may come to take our finalizers off."""
        for task in self.repeated:
            task.cancel()
        await self.measurer.close()
        await self.workers.close()
        await self.labels.close()
        await asyncio.to_thread(self._release_all)

    def _release_all(self) -> None:
        for key, model in self.cache.models.all().items():
            try:
                self.reconciler.release(model)
            except EdgeModelError as error:
                log.warning("the finalizer of %s stays: %s", key, error.message)
