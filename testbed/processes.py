"""Processes of the test bed: detached, with a pid file and a log each, so that another call can stop them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil


class StartError(Exception):
    """Something did not come up; the message has the end of its log."""


def run(*command: str | Path, check: bool = True, input_text: str | None = None, cwd: Path | None = None) -> str:
    """A command to its end; its standard output.

    Raises:
        StartError: it failed, with what it said.
    """
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, input=input_text, cwd=cwd
    )
    if check and done.returncode != 0:
        raise StartError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    pids: Path,
    logs: Path,
    environment: Mapping[str, str] | None = None,
) -> psutil.Process:
    """Start a daemon."""
    logs.mkdir(parents=True, exist_ok=True)
    pids.mkdir(parents=True, exist_ok=True)
    with open(logs / f"{name}.log", "ab") as log:
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    found = psutil.Process(process.pid)
    (pids / name).write_text(f"{process.pid} {found.create_time()}")
    return found


def running(pids: Path, name: str) -> psutil.Process | None:
    """The daemon, if it still runs (and is not another process with its number)."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        number, created = (pids / name).read_text().split()
        process = psutil.Process(int(number))
        if abs(process.create_time() - float(created)) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def stop(pids: Path, name: str, *, patience: float = 10.0, kill: bool = False) -> None:
    """End a daemon and wait for its end; `kill`: without a chance to tidy up."""
    deadline = time.monotonic() + patience
    number = signal.SIGKILL if kill else signal.SIGTERM
    # Not `Process.wait`: whose parent is gone may stay a zombie for seconds, until the first process notices.
    while (process := running(pids, name)) is not None:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
        time.sleep(0.05)
        if time.monotonic() > deadline:
            number = signal.SIGKILL
    (pids / name).unlink(missing_ok=True)


def wait(
    what: str,
    condition: Callable[[], object],
    *,
    seconds: float = 60.0,
    interval: float = 0.1,
    log: Path | None = None,
) -> None:
    """Until `condition()` is true.

    Raises:
        StartError: it never was.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, StartError):
            if condition():
                return
        time.sleep(interval)
    raise StartError(f"{what}: not within {seconds:.0f} s\n{tail(log, 1500) if log else ''}".rstrip())


def tail(log: Path, length: int) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-length:] if log.exists() else ""
