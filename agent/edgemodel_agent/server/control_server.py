"""The server's side of its control socket: a thread that accepts, and one for each connection (few: only the agent's)."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from edgemodel_agent.runtimes.base import Arrays, blank, fixed_rows
from edgemodel_api.errors import EdgeModelError, InputError

from .service import Service
from .wire import ControlError, close_fds, receive, receive_fds, send, send_fds

log = logging.getLogger(__name__)

#: A connection that says nothing for so long is closed.
IDLE_SECONDS = 600.0
LAST_ANSWER_SECONDS = 2.0
MAX_RUNS = 10_000
MAX_TAKEN = 10_000
#: Inputs that are kept for timing.
KEPT_FEEDS = 4


class Switches(Protocol):
    """What the control socket may do to the HTTP side; called from other threads than the event loop's."""

    def accept(self) -> None:
        """Begin to accept; returns when it does.

        Raises:
            ControlError: it drains already.
        """

    def drain(self, *, hand_over: bool) -> list[int]:
        """Stop accepting; returns when it has, with duplicates of the idle connections if they are handed over."""

    def take(self, connections: list[int]) -> None:
        """Serve these connections; their descriptors are the callee's now."""

    def listener(self) -> int:
        """A duplicate of the listening socket's descriptor.

        Raises:
            ControlError: it was told to drain and has given the socket up.
        """

    def accepting(self) -> bool:
        """Whether it accepts."""

    def draining(self) -> bool:
        """Whether it was told to drain."""


class Answer(NamedTuple):
    """What is sent back; `fds` are passed and then closed here."""

    message: dict[str, Any]
    arrays: Arrays | None = None
    fds: Sequence[int] = ()


class ControlServer:
    """Serves `path` from `start` on. The socket is 0600 in the agent's 0700 folder, and each peer's user is checked."""

    def __init__(self, path: Path, service: Service, http: Switches) -> None:
        self._path, self._service, self._http = path, service, http
        self._feeds: list[Arrays] = []
        self._answering = 0
        self._count = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def start(self) -> None:
        """Bind and answer in threads.

        Raises:
            OSError: the path cannot be bound.
        """
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._socket.bind(str(self._path))
        finally:
            os.umask(before)
        self._socket.listen(16)
        threading.Thread(target=self._run, name="control", daemon=True).start()

    def close(self) -> None:
        """Remove the socket, once the answers under way are sent: that to `drain` may hold clients' connections."""
        with self._count:
            self._count.wait_for(lambda: self._answering == 0, LAST_ANSWER_SECONDS)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._talk, args=(connection,), name="control-peer", daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ControlError):
            if not allowed(peer_user(connection)):
                return
            connection.settimeout(IDLE_SECONDS)
            while (found := receive(connection)) is not None:
                message, arrays = found
                with self._count:
                    self._answering += 1
                try:
                    answer = self._do(message, arrays, connection)
                except InputError as error:
                    answer = Answer({"error": error.message, "input": True})
                except (EdgeModelError, OSError, ValueError, TypeError, TimeoutError) as error:
                    answer = Answer({"error": str(error) or type(error).__name__})
                try:
                    send(connection, answer.message, answer.arrays)
                    send_fds(connection, answer.fds)
                finally:
                    close_fds(answer.fds)
                    with self._count:
                        self._answering -= 1
                        self._count.notify_all()

    def _do(self, message: dict[str, Any], arrays: Arrays, connection: socket.socket) -> Answer:
        match message.get("do"):
            case "status":
                return Answer(self._status())
            case "metrics":
                return Answer({"text": self._service.metrics.text().decode()})
            case "accept":
                self._http.accept()
                return Answer({})
            case "drain":
                idle = self._http.drain(hand_over=message.get("hand_over") is True)
                return Answer({"connections": len(idle)}, fds=idle)
            case "take":
                self._http.take(receive_fds(connection, min(int(message.get("connections", 0)), MAX_TAKEN)))
                return Answer({})
            case "listener":
                return Answer({}, fds=[self._http.listener()])
            case "infer":
                feeds = self._typed(arrays)
                self._feeds = [*self._feeds, feeds][-KEPT_FEEDS:]
                return Answer({}, self._service.run(feeds))
            case "latency":
                return Answer(self._latency(message.get("runs")))
        raise ControlError(f"this server cannot {message.get('do')!r}")

    def _status(self) -> dict[str, Any]:
        return {
            "ready": True,
            "accepting": self._http.accepting(),
            "draining": self._http.draining(),
            "rows": fixed_rows(self._service.runtime.inputs),
            "in_flight": self._service.in_flight,
        }

    def _typed(self, arrays: Arrays) -> Arrays:
        """Numpy's text type → objects, which runtimes take."""
        return {n: a.astype(np.object_) if a.dtype.kind == "U" else a for n, a in arrays.items()}

    def _latency(self, runs: Any) -> dict[str, Any]:
        if type(runs) is not int or not 1 <= runs <= MAX_RUNS:
            raise ControlError(f"runs must be from 1 to {MAX_RUNS}, got {runs!r}")
        feeds = self._feeds or [blank(self._service.runtime.inputs)]
        seconds = [timed(self._service.run, feeds[i % len(feeds)]) for i in range(runs)]
        return {
            "median": float(np.median(seconds)),
            "p99": float(np.percentile(seconds, 99)),
            "seconds": [round(s, 9) for s in seconds],
        }


def timed(run: Callable[[Arrays], Arrays], feeds: Arrays) -> float:
    """Seconds of one inference."""
    began = time.perf_counter()
    run(feeds)
    return time.perf_counter() - began


def peer_user(connection: socket.socket) -> int | None:
    """User id of the process at the other end; None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[1])


def allowed(user: int | None) -> bool:
    """The server's own user, and root."""
    return user is None or user in (0, os.getuid())
