"""One supervised server per model: its process, its listening socket, its deaths; adoption after the agent was killed."""

from __future__ import annotations

import logging
import socket
import time
from datetime import datetime

from edgemodel_api import reasons
from edgemodel_api.errors import EdgeModelError, RefusedError

from .decide import STABLE_AFTER
from .foreign import ForeignServer
from .node import Node
from .processes import BACKLOG, ServerProcess, belongs, bind_listener, port_of
from .server.wire import close_fds
from .state import ModelState

log = logging.getLogger(__name__)

#: How long a port is waited for that a retiring server may still hold.
PORT_SECONDS = 1.0


class ServingSlot:
    """The place from which a model answers: at most one accepting server, and the socket that outlives servers."""

    def __init__(self, node: Node, key: str) -> None:
        self.node = node
        self.key = key
        self.server: ServerProcess | None = None
        self.listener: socket.socket | None = None
        self.parked: list[int] = []
        """Clients' idle connections that wait for the next server (descriptors)."""

    def alive(self) -> bool:
        """Whether a server answers."""
        return self.server is not None and self.server.accepted and self.server.alive()

    def listener_for(self, fixed: int | None, kept: int | None) -> socket.socket:
        """The socket for the wanted port: the one at hand if it fits, else a new one (not the slot's own yet).

        `fixed` is what the user set, `kept` what this node picked earlier; a kept port that somebody else took
        meanwhile is replaced by a free one.

        Raises:
            RefusedError: the fixed port is taken.
        """
        if self.listener is not None and fixed in (None, port_of(self.listener)):
            return self.listener
        deadline = time.monotonic() + PORT_SECONDS
        while True:
            try:
                return bind_listener(self.node.options.bind, fixed or kept)
            except RefusedError:
                # It may be one of our own servers, on its way out.
                if self.node.retiring and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                if fixed is not None:
                    raise
                log.warning("%s: port %s is taken by another program now: picking a free one", self.key, kept)
                return bind_listener(self.node.options.bind, None)

    def borrowed(self) -> bool:
        """Whether what answers is hosted by another agent, and ends with it."""
        return self.server is not None and self.server.borrowed

    def open(self, server: ServerProcess, listener: socket.socket) -> None:
        """Let a checked server answer at the listener.

        Raises:
            OSError, EdgeModelError: it does not answer its control socket.
        """
        listener.listen(BACKLOG)
        with server.client() as client:
            client.accept()
        server.accepted = True

    def install(self, server: ServerProcess | None, listener: socket.socket | None) -> None:
        """Make this server the model's; the former one drains, a former socket closes.

        Idle connections of clients go from the former server to this one; without one, they wait for the next, as
        new connections do in the listening socket's queue; without a listener, nothing follows, and they close.
        """
        old, self.server = self.server, server
        if self.listener is not None and self.listener is not listener:
            self.listener.close()
        self.listener = listener
        if old is not None and old is not server:
            self.parked += self.node.retire(old, hand_over=listener is not None)
        if server is not None and self.parked:
            try:
                with server.client() as client:
                    client.take(self.parked)
            except (OSError, EdgeModelError) as error:
                log.warning("%s: %d idle connections were lost: %s", self.key, len(self.parked), error)
        if server is not None or listener is None:
            close_fds(self.parked)
            self.parked = []

    def release(self, listener: socket.socket | None) -> None:
        """Close a socket that a check did not need in the end."""
        if listener is not None and listener is not self.listener:
            listener.close()

    def close(self) -> None:
        """Drain and give up the port."""
        self.install(None, None)

    def watch(self, state: ModelState, now: datetime) -> ModelState:
        """Notice a death: count it in a row with earlier ones if the server lived less than STABLE_AFTER."""
        server = self.server
        if server is None:
            return state
        stable = time.monotonic() - server.started >= STABLE_AFTER.total_seconds()
        if server.alive():
            return state.replace(crashes=0, last_crash=None) if stable and state.crashes else state
        words = server.last_words()
        log.warning("%s: server %s died, %s", self.key, server.control.stem, words)
        server.control.unlink(missing_ok=True)
        self.server = None
        if server.borrowed:
            return state  # its host ended; that says nothing of the model
        return died(state, words, now, first=stable)

    def adopt(
        self, state: ModelState, candidates: list[ServerProcess], *, handed_over: bool = False
    ) -> ServerProcess | None:
        """Take over the committed variant's server, left running by a killed agent; None: there is none.

        Of several (the agent was killed during a restart), one is taken; the caller drains the others. If it was
        handed over, or runs in another pod, it is borrowed only.
        """
        running = state.running
        if running is None:
            return None
        for server in candidates:
            if not belongs(server.control, self.key, running.target.digest):
                continue
            try:
                with server.client(timeout=5.0) as client:
                    if not client.status().ready:
                        continue
                    listener = socket.socket(fileno=client.listener())
                    if port_of(listener) != running.port:
                        listener.close()
                        continue
                self.open(server, listener)
            except (OSError, EdgeModelError) as error:
                log.info("%s: server %s cannot be adopted: %s", self.key, server.control.stem, error)
                continue
            server.borrowed = handed_over or isinstance(server, ForeignServer)
            server.digest = running.target.digest
            server.started = time.monotonic()
            self.server, self.listener = server, listener
            log.info(
                "%s: server %s goes on serving revision %s", self.key, server.control.stem, running.target.revision
            )
            return server
        return None


def died(state: ModelState, words: str, now: datetime, *, first: bool = False) -> ModelState:
    """The state after a death; `first`: it had been stable before."""
    return state.replace(
        crashes=1 if first else state.crashes + 1,
        last_crash=now,
        trouble=words,
        trouble_reason=reasons.SERVER_CRASHED,
    )
