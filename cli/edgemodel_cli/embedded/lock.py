"""One `run` per workdir, and a message that says who holds it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from edgemodel_agent.files import read_json, write_json
from edgemodel_api.errors import InputError


@contextmanager
def workdir_lock(root: Path, command: str) -> Iterator[None]:
    """Hold the workdir. The kernel frees it when this process ends, however it ends.

    Raises:
        InputError: another process holds it; names it.
    """
    lock = FileLock(root / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{root} is in use by {_holder(root)}: wait for it, stop it, or give --workdir another folder"
        ) from None
    try:
        holder = {"pid": os.getpid(), "command": command, "since": datetime.now(UTC).isoformat(timespec="seconds")}
        write_json(root / "lock.json", holder)
        yield
    finally:
        (root / "lock.json").unlink(missing_ok=True)
        lock.release()


def _holder(root: Path) -> str:
    found = read_json(root / "lock.json")
    if not isinstance(found, dict):
        return "another edgemodel command"
    return f"edgemodel {found.get('command')} (process {found.get('pid')}, since {found.get('since')})"
