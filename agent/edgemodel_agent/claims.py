"""Whose the store is: kernel locks in its folder, which no kill can leave behind.

```
<root>/agent.lock     held by the agent that works; everybody else keeps off the store
<root>/agent.claim    held by an agent that waits for it: the one that works sees it, and may let go (`loop`)
<root>/standby.lock   held by a standby as long as it lives
```
Locks work across pods of one node, as all of them open the same file. Light: the standby loads this and little else.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from edgemodel_api.errors import InputError, RefusedError

LOCK = "agent.lock"
CLAIM = "agent.claim"
STANDBY = "standby.lock"
#: How often somebody who waits looks.
LOOK_SECONDS = 0.05


def try_lock(path: Path) -> IO[str] | None:
    """Hold a file's lock until the handle is closed or the process ends; None: another process holds it.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+")  # noqa: SIM115 - held by the caller
    except OSError as error:
        raise InputError(
            f"--root {path.parent} cannot be used: {error.strerror}; give a folder that can be written"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        return None
    return handle


def held(path: Path) -> bool:
    """Whether some other process (or another handle of this one) holds the lock."""
    try:
        with open(path) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def take(root: Path) -> IO[str]:
    """Hold `root` for this process.

    Raises:
        InputError: the folder cannot be written.
        RefusedError: another agent holds it.
    """
    handle = try_lock(root / LOCK)
    if handle is None:
        raise RefusedError(f"another agent works in {root}: stop it, or give this one its own --root")
    return handle


def claim(root: Path, stopping: Callable[[], bool], waiting: Callable[[], None]) -> tuple[IO[str], bool] | None:
    """Hold `root`, once whoever holds it lets go; and whether that took a wait. None: `stopping` came first.

    `waiting` is called once, when it turns out that there is somebody to wait for.

    Raises:
        InputError: the folder cannot be written.
    """
    mine, waited = try_lock(root / CLAIM), False
    while not stopping():
        if mine is not None and (handle := try_lock(root / LOCK)) is not None:
            mine.close()
            return handle, waited
        if not waited:
            waited = True
            waiting()
        time.sleep(LOOK_SECONDS)
        mine = mine or try_lock(root / CLAIM)
    return None


def claimed(root: Path) -> bool:
    """Whether an agent waits for the store."""
    return held(root / CLAIM)


def standby_lives(root: Path) -> bool:
    """Whether there is a standby on this node."""
    return held(root / STANDBY)
