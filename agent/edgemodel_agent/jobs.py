"""Work that takes long, in threads, so that the reconcile loop and its heartbeat go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .decide import Work
from .processes import ServerProcess

log = logging.getLogger(__name__)


class CancelledError(Exception):
    """The job was told to stop; its result is of no interest."""


@dataclass(eq=False)
class Job:
    """One piece of work. The worker writes `done_bytes`, `servers`, `result` and `error`; the loop reads them."""

    work: Work
    digest: str
    context: Any = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    done_bytes: int = 0
    servers: list[ServerProcess] = field(default_factory=list)
    result: Any = None
    error: Exception | None = None

    def check_cancelled(self) -> None:
        """Called by the worker between steps.

        Raises:
            CancelledError: the loop no longer wants this job.
        """
        if self.cancelled.is_set():
            raise CancelledError

    def own(self, server: ServerProcess) -> ServerProcess:
        """Note a server that this job started, so that cancelling the job stops it too."""
        self.servers.append(server)
        self.check_cancelled()
        return server


def start(job: Job, body: Callable[[Job], Any], wake: threading.Event) -> Job:
    """Run `body(job)` in a thread of its own; the outcome is in the job when `finished` is set, and `wake` with it."""

    def run() -> None:
        try:
            job.result = body(job)
        except Exception as error:  # the rim of a thread: the loop turns it into a state
            job.error = error
        finally:
            job.finished.set()
            wake.set()

    threading.Thread(target=run, name=f"{job.work}-{job.digest[7:15]}", daemon=True).start()
    return job
