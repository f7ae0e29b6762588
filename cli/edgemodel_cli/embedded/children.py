"""Child processes that outlive us or must not: records of who runs, so that the next command finds them again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from edgemodel_agent.files import read_json, write_json
from edgemodel_api.base import StatusModel

LOG_TAIL = 4000


class ProcessRecord(StatusModel):
    """A process, told from others with the same number by its start time; `options`: what it was started with."""

    pid: int
    created: float
    options: tuple[str, ...] = ()


class Child:
    """One process, started by us or by an earlier command."""

    def __init__(self, record: ProcessRecord, path: Path, process: subprocess.Popen[bytes] | None = None) -> None:
        self.record = record
        self.path = path
        self.process = process

    @classmethod
    def start(cls, command: Sequence[str], *, record: Path, log: Path, options: Sequence[str] = ()) -> Child:
        """Start it in a session of its own: a Ctrl-C at the terminal reaches us alone, and we say what ends when.

        Raises:
            OSError: it cannot be started.
        """
        with open(log, "ab") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        child = cls(
            ProcessRecord(pid=process.pid, created=process_created(process.pid), options=tuple(options)),
            record,
            process,
        )
        write_json(record, child.record.to_json())
        return child

    @classmethod
    def find(cls, record: Path) -> Child | None:
        """The process of an earlier command, if it still runs."""
        document = read_json(record)
        if not isinstance(document, dict):
            return None
        child = cls(ProcessRecord.model_validate(document), record)
        return child if child.alive() else None

    def alive(self) -> bool:
        """Whether it runs; reaps it if it is ours and dead."""
        if self.process is not None:
            return self.process.poll() is None
        try:
            found = psutil.Process(self.record.pid)
            return found.create_time() == self.record.created and found.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def signal(self, number: int) -> None:
        """Send a signal, if it still is the same process."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.record.pid, number)

    def wait(self, seconds: float) -> bool:
        """Until it is gone, at most so long; whether it is."""
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def kill(self) -> None:
        """End it at once, and forget it."""
        self.signal(signal.SIGKILL)
        self.wait(5.0)
        self.forget()

    def forget(self) -> None:
        """Remove the record."""
        self.path.unlink(missing_ok=True)


def process_created(pid: int) -> float:
    """When a process began, seconds since 1970, as psutil says it."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return time.time()


def last_line(log: Path) -> str:
    """The last line of a log that says something; empty if there is none."""
    with contextlib.suppress(OSError), open(log, "rb") as f:
        f.seek(max(0, os.fstat(f.fileno()).st_size - LOG_TAIL))
        lines = f.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""
    return ""
