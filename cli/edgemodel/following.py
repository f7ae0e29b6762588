"""What is seen of the progress: a bar on a terminal, one line that changes in a notebook, lines in a log."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from edgemodel_api.job import Progress
from edgemodel_cli.progress import LineReporter, TerminalReporter, progress_text

WIDTH = 110


class Follower:
    """Calls a function of the user's from another thread. Once it has raised, it is not called again.

    Attributes:
        error: what it raised.
    """

    def __init__(self, call: Callable[[Progress], object]) -> None:
        self._call = call
        self.error: BaseException | None = None

    def __call__(self, progress: Progress) -> None:
        """Pass it on."""
        if self.error is None:
            try:
                self._call(progress)
            except BaseException as error:
                self.error = error

    def check(self) -> None:
        """Raise what the function raised."""
        if self.error is not None:
            raise self.error


@contextmanager
def following(progress: bool | Callable[[Progress], object] | None) -> Iterator[Follower]:  # noqa: FBT001
    """A follower for what was asked for; what it shows is tidied up at the end.

    Args:
        progress: a function; True: show it on standard error; False or None: nothing.
    """
    if callable(progress):
        yield Follower(progress)
    elif not progress:
        yield Follower(lambda _: None)
    elif "ipykernel" in sys.modules:
        line = _Line()
        try:
            yield Follower(line.job)
        finally:
            line.close()
    else:
        console = Console(stderr=True)
        reporter = TerminalReporter(console) if console.is_terminal else LineReporter(console)
        try:
            yield Follower(reporter.job)
        finally:
            reporter.close()


class _Line:
    """One line that is written over and over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def job(self, progress: Progress) -> None:
        with self._lock:
            print(f"\r{progress_text(progress)[:WIDTH]:<{WIDTH}}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        with self._lock:
            print(f"\r{'':<{WIDTH}}\r", end="", file=sys.stderr, flush=True)
