"""What a person sees while a command works: bars on a terminal, log lines elsewhere; always on standard error."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from edgemodel_api import job
from edgemodel_api.quantities import format_bytes

from .results import UNASSIGNED, NodeRow

#: Nodes with a line of their own; those at rest are left out first.
NODES_SHOWN = 12
#: Lines within which the same headline is not said twice.
REMEMBERED = 20
#: Between two log lines of the same stage and candidate.
LINE_SECONDS = 5.0
STYLES = {"Serving": "green", "Failed": "red", "Checking": "cyan", "Downloading": "cyan", "Offline": "yellow"}


class Reporter(Protocol):
    """Where progress goes. `job` is called from other threads."""

    def say(self, message: str, *, warning: bool = False) -> None:
        """Something happened."""

    def job(self, progress: job.Progress) -> None:
        """The compression went on."""

    def job_ended(self) -> None:
        """The compression is over."""

    def nodes(self, rows: Sequence[NodeRow], headline: str) -> None:
        """How the nodes are; called again and again."""

    def close(self) -> None:
        """Leave the terminal as it should be."""


class LineReporter:
    """A line for each change, for logs and CI."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._at = ("", "")
        self._last_line = 0.0
        self._rows: dict[str, NodeRow] = {}
        self._said: deque[str] = deque(maxlen=REMEMBERED)

    def say(self, message: str, *, warning: bool = False) -> None:
        """`12:00:00 message`."""
        self._said.append(message)
        level = "warning: " if warning else ""
        line = f"{datetime.now().astimezone():%H:%M:%S} {level}{message}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def job(self, progress: job.Progress) -> None:
        """A line when the stage or the candidate changes, and every few seconds while something is counted."""
        now = time.monotonic()
        at = (progress.stage, progress.message)
        if at == self._at and now - self._last_line < LINE_SECONDS:
            return
        self._at, self._last_line = at, now
        self.say(f"compression: {progress_text(progress)}")

    def job_ended(self) -> None:
        """The next Job begins with a line again."""
        self._at = ("", "")

    def nodes(self, rows: Sequence[NodeRow], headline: str) -> None:
        """A line for each node whose state or revision changed; the headline, unless an event said the same."""
        if headline and headline not in self._said:
            self.say(headline)
        for row in rows:
            old = self._rows.get(row.name)
            self._rows[row.name] = row
            if old is None and row.state == UNASSIGNED:
                continue
            if old is None or _essence(old) != _essence(row):
                self.say(f"{row.name}: {node_text(row)}", warning=row.state == "Failed")

    def close(self) -> None:
        """Nothing to tidy up."""


class TerminalReporter:
    """Bars and a table that change in place."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._lock = threading.Lock()
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[message]}", style="dim"),
            console=console,
        )
        self._task: TaskID | None = None
        self._nodes: RenderableType = Text("")
        self._live = Live(self._screen(), console=console, refresh_per_second=8, transient=True, redirect_stdout=False)
        self._live.start()

    def _screen(self) -> RenderableType:
        return Group(self._bars, self._nodes)

    def say(self, message: str, *, warning: bool = False) -> None:
        """Above the bars."""
        self.console.print(Text(message, style="yellow" if warning else ""), soft_wrap=True)

    def job(self, progress: job.Progress) -> None:
        """Move the bar."""
        with self._lock:
            if self._task is None:
                self._task = self._bars.add_task("compression", count="", message="")
            self._bars.update(
                self._task,
                description=f"compression: {progress.stage}",
                completed=progress.done,
                total=progress.total or None,
                count=count_text(progress),
                message=progress.message[:120],
            )

    def job_ended(self) -> None:
        """Remove the bar."""
        with self._lock:
            if self._task is not None:
                self._bars.remove_task(self._task)
                self._task = None

    def nodes(self, rows: Sequence[NodeRow], headline: str) -> None:
        """Draw the nodes."""
        table = Table.grid(padding=(0, 2))
        busy_first = sorted(rows, key=lambda r: (r.state == "Serving" and len(rows) > NODES_SHOWN, r.name))
        for row in busy_first[:NODES_SHOWN]:
            table.add_row(f"  {row.name}", Text(row.state, style=STYLES.get(row.state, "dim")), *node_details(row))
        parts: list[RenderableType] = [Text(headline, style="bold", overflow="ellipsis", no_wrap=True), table]
        if len(rows) > NODES_SHOWN:
            parts.append(Text(f"  … and {len(rows) - NODES_SHOWN} more", style="dim"))
        self._nodes = Group(*parts)
        self._live.update(self._screen())

    def close(self) -> None:
        """Remove the bars; what was said stays."""
        self._live.update(Text(""))
        self._live.stop()


def progress_text(progress: job.Progress) -> str:
    """`stage 3/12: message`."""
    count = count_text(progress)
    head = f"{progress.stage} {count}".strip()
    return f"{head}: {progress.message}" if progress.message else head


def count_text(progress: job.Progress) -> str:
    """`3/12`, or bytes where the numbers are large; empty if nothing is counted."""
    if not progress.total:
        return ""
    if progress.total >= 1 << 20:
        return f"{format_bytes(progress.done)}/{format_bytes(progress.total)}"
    return f"{progress.done}/{progress.total}"


def node_text(row: NodeRow) -> str:
    """State, what runs, and why."""
    runs, why = node_details(row)
    head = f"{row.state} {runs}".strip()
    return f"{head}; {why}" if why else head


def node_details(row: NodeRow) -> tuple[str, str]:
    """(what it works on and what runs, why)."""
    runs = f"{row.variant} of {row.revision}" if row.revision else ""
    if row.target not in ("", row.revision):
        runs = f"{row.target}, serves {runs}"
    why = ": ".join(part for part in (row.reason if row.reason != row.state else "", row.message) if part)
    return runs, why


def _essence(row: NodeRow) -> tuple[str, ...]:
    return row.state, row.revision, row.target, row.reason


class _Handler(logging.Handler):
    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.INFO)
        self.reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self.reporter.say(record.getMessage(), warning=record.levelno >= logging.WARNING)


@contextmanager
def reporting() -> Iterator[Reporter]:
    """A reporter for standard error; log records of this package go to it too."""
    console = Console(stderr=True)
    reporter: Reporter = TerminalReporter(console) if console.is_terminal else LineReporter(console)
    handler = _Handler(reporter)
    logger = logging.getLogger("edgemodel_cli")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield reporter
    finally:
        logger.removeHandler(handler)
        reporter.close()
        sys.stderr.flush()
