"""A Job on a laptop ends with the command or notebook that began it, also where that was killed and could tell nobody."""

from __future__ import annotations

import os
import signal
import threading
import time

#: Process id of whoever began the Job and waits for it; unset in a cluster.
PARENT_VARIABLE = "EDGEMODEL_PARENT"
POLL_SECONDS = 0.5
#: To tidy up before everything is killed: a long inference does not see a signal.
PATIENCE_SECONDS = 20.0


def end_with_parent() -> None:
    """Watch the parent, if there is one to watch: once it is gone, this process gets SIGTERM."""
    given = os.environ.pop(PARENT_VARIABLE, "")
    if given.isdecimal():
        threading.Thread(target=_watch, args=(int(given),), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE_SECONDS)
    if os.getpgid(0) == os.getpid():  # its own group: its children, too
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
