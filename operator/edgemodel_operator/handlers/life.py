"""Start, end, and whether all is well."""

# mypy: disable-error-code="untyped-decorator"
# (Kopf is followed no further by mypy, see pyproject.toml.)
from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import kopf

from edgemodel_api import GROUP
from edgemodel_operator.k8s import objects

from .app import App
from .no_diffs import NoDiffs


class Backoffs:
    """Seconds between tries while the API server is away: for ever, as Kopf ends the process when there is no next one.

    Never long: a watch that waits longer would be slower than a person who looks.
    """

    def __iter__(self) -> Iterator[float]:
        """From the beginning, for each request."""
        return itertools.chain((1, 1, 2, 3), itertools.repeat(5))


@kopf.on.startup()
async def begin(settings: kopf.OperatorSettings, memo: App, **_: Any) -> None:
    """Kopf's settings; then everything is listed before the first watch begins."""
    settings.execution.max_workers = 1
    # Never put on anything, as no handler needs it; and not ours, or Kopf would take ours off as needless.
    settings.persistence.finalizer = f"{GROUP}/kopf"
    settings.persistence.diffbase_storage = NoDiffs()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.error_backoffs = Backoffs()
    settings.networking.request_timeout = memo.settings.request_timeout
    settings.watching.label_selectors["batch", "v1", "jobs"] = objects.JOBS_SELECTOR
    await memo.start()


@kopf.on.cleanup()
async def end(memo: App, **_: Any) -> None:
    """Nothing is left half done: a pass that runs is waited for."""
    await memo.stop()


@kopf.on.probe(id="last_event_age_seconds")
async def last_event_age(memo: App, **_: Any) -> int:
    """A watch can die silently: the listings go on, so this is told, not judged."""
    at = float(memo.metrics.last_event._value.get())
    return int(time.time() - at) if at else -1


@kopf.on.probe(id="passes")
async def passes(memo: App, **_: Any) -> str:
    """Not well: a pass that does not end, although all its requests have timeouts."""
    stuck = memo.workers.stuck()
    if stuck:
        raise kopf.PermanentError(f"passes do not end: {', '.join(stuck[:5])}")
    return "ok"
