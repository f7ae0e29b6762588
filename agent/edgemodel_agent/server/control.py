"""The agent's side of a server's control socket: is it ready, answer these, how fast, begin, stop, give me the listener."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from edgemodel_agent.runtimes.base import Array, Arrays
from edgemodel_api.errors import InputError

from .wire import ControlError, receive, receive_fds, send, send_fds


@dataclass(frozen=True)
class Status:
    """What a server says of itself. `rows`: the batch that its model insists on, else 1."""

    ready: bool
    accepting: bool
    draining: bool
    rows: int
    in_flight: int


@dataclass(frozen=True)
class Timed:
    """Seconds of one inference in the server, without HTTP; and each single one, in the order in which they ran."""

    median: float
    p99: float
    seconds: tuple[float, ...] = ()


class ControlClient:
    """One connection; use it as a context manager. All calls together have `timeout` seconds.

    Raises (every call):
        OSError: the server is gone, was never there, or the time is over.
        ControlError: it does not speak this protocol, or refuses what is asked.
        InputError: its model does not accept the arrays.
    """

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self.path = path
        self._deadline = time.monotonic() + timeout
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(max(timeout, 0.001))

    def __enter__(self) -> Self:
        try:
            self._socket.connect(str(self.path))
        except OSError:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def status(self) -> Status:
        """How it is."""
        answer, _ = self._ask({"do": "status"})
        return Status(**{name: answer[name] for name in Status.__dataclass_fields__})

    def accept(self) -> None:
        """Begin to answer at the listening socket. Again: nothing changes."""
        self._ask({"do": "accept"})

    def drain(self, *, hand_over: bool = False) -> list[int]:
        """Stop accepting, finish what is in flight, exit. Returns once no new connection is accepted.

        With `hand_over`, the descriptors of the connections on which no request is in work: for another server's
        `take`, or to be closed. Requests that clients send on them meanwhile wait in the kernel.
        """
        answer, _ = self._ask({"do": "drain", "hand_over": hand_over})
        self._socket.settimeout(self._left())
        return receive_fds(self._socket, int(answer.get("connections", 0)))

    def take(self, connections: Sequence[int]) -> None:
        """Serve these connections too; the caller's descriptors stay its own to close."""
        self._send({"do": "take", "connections": len(connections)})
        send_fds(self._socket, connections)
        self._answer()

    def listener(self) -> int:
        """A duplicate of the listening socket's descriptor; the caller closes it."""
        self._ask({"do": "listener"})
        self._socket.settimeout(self._left())
        return receive_fds(self._socket, 1)[0]

    def metrics(self) -> str:
        """Its series, in the exposition format."""
        return str(self._ask({"do": "metrics"})[0]["text"])

    def infer(self, inputs: Mapping[str, Array]) -> Arrays:
        """One inference, as HTTP clients get it (rehearsed faults included)."""
        return self._ask({"do": "infer"}, inputs)[1]

    def infer_cases(self, inputs: Mapping[str, Array]) -> Arrays:
        """The answers to golden inputs, cut as both ends must cut them: by the model's batch, else row by row."""
        # Here and not in the server: an idle server would hold pydantic in memory for it.
        from edgemodel_oci.golden import run_cases

        return run_cases(self.infer, inputs, rows=self.status().rows)

    def latency(self, runs: int) -> Timed:
        """Time `runs` inferences of the inputs that were asked last over this socket (zeros before there were any)."""
        answer, _ = self._ask({"do": "latency", "runs": runs})
        return Timed(answer["median"], answer["p99"], tuple(answer["seconds"]))

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for the control socket is over")
        return left

    def _send(self, message: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
        self._socket.settimeout(self._left())
        send(self._socket, message, arrays)

    def _ask(
        self, message: Mapping[str, Any], arrays: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, Any], Arrays]:
        self._send(message, arrays)
        return self._answer()

    def _answer(self) -> tuple[dict[str, Any], Arrays]:
        found = receive(self._socket, self._deadline)
        if found is None:
            raise ConnectionResetError("the server closed its control connection")
        answer, arrays = found
        if "error" in answer:
            raise (InputError if answer.get("input") else ControlError)(str(answer["error"]))
        return answer, arrays
