"""Model servers in other pods: out of reach of signals and /proc, but not of their control sockets.

A process id says nothing across process namespaces, so such a server is known by its socket alone. It lives as long as
a connection to that socket; it ends when it is told to drain, or with the pod that it runs in.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import psutil

from .processes import ServerProcess, find_servers

CONNECT_SECONDS = 2.0


class ForeignServer(ServerProcess):
    """A server of another process namespace: started, and in the end reaped, by the agent there."""

    _line: socket.socket | None = None

    def alive(self) -> bool:
        """Whether its control socket is answered; the kernel tells at once when the process ends."""
        if self._line is not None and not _closed(self._line):
            return True
        self.let_go()
        self._line = connect(self.control)
        return self._line is not None

    def let_go(self) -> None:
        """Close the connection by which it is watched."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def signal(self, number: int) -> None:
        """It cannot be reached."""

    def kill(self, wait: float = 5.0) -> None:
        """Forget it: its host ends it. Only the socket of a dead one is removed."""
        if not self.alive():
            self.control.unlink(missing_ok=True)
        self.let_go()

    def peak_memory(self) -> int | None:
        """Not known."""
        return None

    def last_words(self) -> str:
        """What can be said."""
        return "it ended with the pod that it ran in"


def connect(control: Path) -> socket.socket | None:
    """A connection to a control socket; None: nobody is behind it."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.settimeout(CONNECT_SECONDS)
    try:
        found.connect(str(control))
    except OSError:
        found.close()
        return None
    return found


def _closed(connection: socket.socket) -> bool:
    """Whether the other side is gone: it never says anything by itself."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def peer_process(connection: socket.socket) -> int:
    """Process id of the other side in our namespace; 0: it has none there."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[0])


def _ours(pid: int) -> bool:
    """Whether a process outlives whatever we outlive: it is in our own process namespace."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    except OSError:
        return False


def find_all(runtime: Path) -> Iterator[ServerProcess]:
    """Every living server whose control socket lies in `runtime`: ours by their processes, the others by their sockets."""
    known = set()
    for server in find_servers(runtime):
        known.add(server.control.name)
        yield server if _ours(server.pid) else ForeignServer(0, 0.0, server.control)
    for control in sorted(runtime.glob("*.sock")):
        if control.name in known or (connection := connect(control)) is None:
            continue
        with connection:
            pid = peer_process(connection)
        if pid and _ours(pid):
            try:
                yield ServerProcess(pid, psutil.Process(pid).create_time(), control)
            except psutil.Error:
                continue
        else:
            yield ForeignServer(0, 0.0, control)
