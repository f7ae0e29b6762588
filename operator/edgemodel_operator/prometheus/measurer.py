"""Measures what plans ask for, in the background: a task a probe, so that a slow server holds no pass back.

Nothing of it outlives the process. What a plan made of a measurement is in the status, and after a restart the next
plan asks again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from edgemodel_api.edgemodel_status import AnalysisOutcome
from edgemodel_operator.domain.analysis import Measurement, Probe
from edgemodel_operator.domain.analysis_judge import judged, unanswered
from edgemodel_operator.metrics import OperatorMetrics

from .client import Prometheus, QueryError

log = logging.getLogger(__name__)
#: Kept for each probe, until a pass has looked: more can only come while the API server is away.
KEPT = 32


class Measurer:
    """The probes of all EdgeModels. `want` and `measurements` may be called by any thread, the rest by the event loop.

    `told`: called in the event loop with the key of an EdgeModel of which something new was measured.
    """

    def __init__(
        self, prometheus: Prometheus | None, told: Callable[[set[str]], None], metrics: OperatorMetrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self.prometheus = prometheus
        self._told = told
        self._metrics = metrics
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._wanted: dict[str, tuple[Probe, ...]] = {}
        self._found: dict[str, dict[Probe, deque[Measurement]]] = {}
        self._tasks: dict[tuple[str, Probe], asyncio.Task[None]] = {}

    @property
    def can_measure(self) -> bool:
        """Whether there is anybody to ask."""
        return self.prometheus is not None

    def start(self) -> None:
        """From within the event loop."""
        self._loop = asyncio.get_running_loop()

    def want(self, key: str, probes: tuple[Probe, ...]) -> None:
        """Measure these for an EdgeModel from now on, and nothing else for it."""
        with self._lock:
            if self._wanted.get(key, ()) == probes:
                return
            if probes:
                self._wanted[key] = probes
            else:
                del self._wanted[key]
            found = self._found.get(key, {})
            self._found[key] = {p: found.get(p, deque(maxlen=KEPT)) for p in probes}
            if not probes:
                del self._found[key]
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._settle, key)

    def measurements(self, key: str) -> tuple[Measurement, ...]:
        """What was measured lately, of what is wanted."""
        with self._lock:
            return tuple(m for found in self._found.get(key, {}).values() for m in found)

    async def close(self) -> None:
        """No further measurements."""
        self._loop = None
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.prometheus is not None:
            await self.prometheus.close()

    def _settle(self, key: str) -> None:
        with self._lock:
            wanted = set(self._wanted.get(key, ()))
        for known, probe in [k for k in self._tasks if k[0] == key]:
            if probe not in wanted:
                self._tasks.pop((known, probe)).cancel()
        for probe in wanted:
            if (key, probe) not in self._tasks and self.prometheus is not None:
                work = self._work(key, probe, self.prometheus)
                self._tasks[key, probe] = asyncio.create_task(work, name=f"{probe.name} of {key}")

    async def _work(self, key: str, probe: Probe, prometheus: Prometheus) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begin = loop.time()
            try:
                self._keep(key, await self._measure(probe, prometheus))
            except Exception:  # the rim of the task: an error of ours in one query must not end the measuring of it
                log.exception("the query %s of EdgeModel %s was not measured", probe.name, key)
            await asyncio.sleep(max(0.1, begin + probe.interval.total_seconds() - loop.time()))

    async def _measure(self, probe: Probe, prometheus: Prometheus) -> Measurement:
        try:
            values = await prometheus.query(probe.query)
        except QueryError as error:
            return unanswered(probe, self._clock(), error.message)
        return judged(probe, self._clock(), values)

    def _keep(self, key: str, found: Measurement) -> None:
        with self._lock:
            shelf = self._found.get(key, {}).get(found.probe)
            if shelf is None:
                return
            shelf.append(found)
        if found.outcome is AnalysisOutcome.INCONCLUSIVE:
            log.debug("query %s of EdgeModel %s is inconclusive: %s", found.probe.name, key, found.message)
        self._metrics.measured(key, found.probe.name, str(found.outcome))
        self._told({key})
