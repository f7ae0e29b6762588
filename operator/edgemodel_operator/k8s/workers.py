"""One writer for each object: a task that sleeps until it is woken or its time has come, and runs one pass at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from edgemodel_api.errors import EdgeModelError
from edgemodel_operator.domain.backoff import backoff
from edgemodel_operator.metrics import OperatorMetrics

from .client import ConflictError
from .reconcile import GoneError

log = logging.getLogger(__name__)

#: What happens within this time becomes one pass; after a long pass (a thousand nodes that all report), within twice its time.
SETTLE = timedelta(milliseconds=50)
LONGEST_SETTLE = timedelta(seconds=2)
#: A pass is made at least so often, whatever was or was not seen to change.
LONGEST_SLEEP = timedelta(minutes=10)
RETRY_FIRST = timedelta(seconds=1)
RETRY_LONGEST = timedelta(minutes=2)
#: Every request has a timeout, so a pass that takes longer than this hangs.
STUCK_SECONDS = 900.0


class Workers:
    """Tasks by key. All methods belong to the event loop; passes run in threads, as the client blocks.

    `kind` is what the keys are of, for metrics and logs.
    """

    def __init__(
        self, kind: str, run: Callable[[str], datetime | None], *, threads: int, metrics: OperatorMetrics
    ) -> None:
        self._kind = kind
        self._run = run
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pass")
        self._woken: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._since: dict[str, float] = {}

    def wake(self, key: str) -> None:
        """Have a pass run soon. While one runs, another one follows it."""
        event = self._woken.setdefault(key, asyncio.Event())
        event.set()
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._work(key, event), name=f"worker of {key}")

    def stuck(self) -> list[str]:
        """Keys whose pass does not end."""
        limit = time.monotonic() - STUCK_SECONDS
        return sorted(key for key, since in self._since.items() if since < limit)

    async def close(self) -> None:
        """No further passes; those that run are waited for."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    async def _work(self, key: str, event: asyncio.Event) -> None:
        failures = 0
        sleep, settle = timedelta(0), SETTLE
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), sleep.total_seconds())
                await asyncio.sleep(settle.total_seconds())
                event.clear()
                begin = time.monotonic()
                try:
                    sleep = await self._pass(key)
                    failures = 0
                except GoneError:
                    if not event.is_set():
                        return
                except EdgeModelError as error:
                    failures += 1
                    sleep = self._after(key, error, failures)
                except Exception:  # the rim of the process: an error of ours in one EdgeModel must not stop the others
                    failures += 1
                    sleep = backoff(RETRY_FIRST, failures, RETRY_LONGEST)
                    self._metrics.pass_ended(self._kind, "InternalError")
                    log.exception("a pass over %s %s failed; the next one follows in %s", self._kind, key, sleep)
                settle = min(max(SETTLE, timedelta(seconds=2 * (time.monotonic() - begin))), LONGEST_SETTLE)
        finally:
            del self._tasks[key], self._woken[key]

    async def _pass(self, key: str) -> timedelta:
        loop = asyncio.get_running_loop()
        self._since[key] = begin = time.monotonic()
        try:
            due = await loop.run_in_executor(self._pool, self._run, key)
        finally:
            del self._since[key]
        self._metrics.pass_ended(self._kind, "Done", time.monotonic() - begin)
        if due is None:
            return LONGEST_SLEEP
        return min(max(due - datetime.now(UTC), timedelta(0)), LONGEST_SLEEP)

    def _after(self, key: str, error: EdgeModelError, failures: int) -> timedelta:
        self._metrics.pass_ended(self._kind, error.reason)
        if isinstance(error, ConflictError) and failures < 5:
            # Somebody wrote meanwhile, an agent most likely: look again.
            return timedelta(0)
        sleep = backoff(RETRY_FIRST, failures, RETRY_LONGEST)
        log.warning("a pass over %s %s failed, the next one follows in %s: %s", self._kind, key, sleep, error.message)
        return sleep
