"""The end of an agent that handed its node over: no agent any more, only the parent of servers that still answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from .foreign import ForeignServer
from .node import DRAIN_SECONDS, Node
from .processes import ServerProcess

log = logging.getLogger(__name__)

#: So long a successor may take to start servers of its own (an emulated or a very small CPU needs a minute). A pod's
#: `terminationGracePeriodSeconds` must be longer, by DRAIN_SECONDS.
HOST_SECONDS = 150.0
POLL_SECONDS = 0.1


def host(node: Node, servers: Sequence[ServerProcess], seconds: float = HOST_SECONDS) -> None:
    """Stay until the servers have ended: the successor drains each when it has replaced it. Then drain what is left."""
    ours = [s for s in servers if not isinstance(s, ForeignServer)]
    deadline = time.monotonic() + seconds
    while any(s.alive() for s in ours) and time.monotonic() < deadline:
        node.step_retiring()
        time.sleep(POLL_SECONDS)
    for server in ours:
        if server.alive():
            log.warning("nobody replaced server %s within %g s: drained", server.control.stem, seconds)
            node.retire(server)
    empty(node)


def empty(node: Node, patience: float = DRAIN_SECONDS) -> None:
    """Wait until those that drain are gone; kill those that are not within `patience` seconds."""
    deadline = time.monotonic() + patience
    while node.retiring and time.monotonic() < deadline:
        node.step_retiring()
        time.sleep(0.02)
    for entry in node.retiring:
        entry.server.kill()
