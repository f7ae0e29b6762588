"""The agent's own HTTP endpoint: `/metrics`, `/healthz`, `/readyz`. Only GET, one request a connection.

A client may be slow or hostile: a connection has `SECONDS` for everything, the oldest one makes room when there are more
than `CONNECTIONS`, a head has at most `HEAD_BYTES`, and however many ask, series are gathered once in `FRESH_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import h11
from prometheus_client import CONTENT_TYPE_LATEST

from .health import Health, Verdict

log = logging.getLogger(__name__)

SECONDS = 10.0
CONNECTIONS = 32
HEAD_BYTES = 8192
FRESH_SECONDS = 1.0
#: How often a port is tried again that the agent before this one still has.
BIND_SECONDS = 0.5
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Page:
    """An answer."""

    status: int
    body: bytes
    kind: str = TEXT

    @classmethod
    def of(cls, verdict: Verdict) -> Page:
        """200 or 503, with the reason."""
        return cls(200 if verdict.good else 503, f"{verdict.text}\n".encode())


class Endpoint:
    """Answers from a thread of its own, so that it tells when the loop hangs."""

    def __init__(self, address: str, port: int, *, health: Health, metrics: Callable[[], bytes]) -> None:
        self._where = (address, port)
        self._health = health
        self._gather = metrics
        self._gathered: tuple[float, bytes] | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, *, patient: bool = False) -> None:
        """Begin to answer. `patient`: a port that is taken is tried again, as the agent before this one may have it.

        Raises:
            OSError: the port is taken, and `patient` is not set.
        """
        listener = None if patient else self._bound()
        self._thread = threading.Thread(target=self._run, args=(listener,), name="endpoint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let go of the port."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _bound(self) -> socket.socket:
        address, _ = self._where
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._where)
            listener.listen(CONNECTIONS)
        except OSError:
            listener.close()
            raise
        return listener

    def _run(self, listener: socket.socket | None) -> None:
        complained = False
        while listener is None and not self._closing.wait(BIND_SECONDS if complained else 0):
            try:
                listener = self._bound()
            except OSError as error:
                if not complained:
                    log.warning("port %d cannot be had yet, it is tried again: %s", self._where[1], error)
                complained = True
        if listener is not None:
            asyncio.run(self._serve(listener))

    async def _serve(self, listener: socket.socket) -> None:
        self._lock = asyncio.Lock()
        server = await asyncio.start_server(self._connected, sock=listener, limit=HEAD_BYTES)
        async with server:
            while not self._closing.is_set():  # noqa: ASYNC110 - it is set by another thread
                await asyncio.sleep(0.1)
        for task in list(self._open):
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("not in a task")
        self._open[task] = writer
        if len(self._open) > CONNECTIONS:
            next(iter(self._open)).cancel()
        try:
            async with asyncio.timeout(SECONDS):
                await self._talk(reader, writer)
        except (TimeoutError, OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            del self._open[task]
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # What was written is in the kernel's hands after `drain`: nothing is left to wait for behind the time limit.
        writer.transport.set_write_buffer_limits(high=0)
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        page = await self._answer(connection, reader)
        if page is None:
            return
        headers = [("Content-Type", page.kind), ("Content-Length", str(len(page.body))), ("Connection", "close")]
        if page.status == 405:
            headers.append(("Allow", "GET"))
        for event in (
            h11.Response(status_code=page.status, headers=headers), h11.Data(data=page.body), h11.EndOfMessage(),
        ):  # fmt: skip
            with contextlib.suppress(h11.LocalProtocolError):  # a HEAD's answer has no body
                writer.write(connection.send(event) or b"")
        await writer.drain()

    async def _answer(self, connection: h11.Connection, reader: asyncio.StreamReader) -> Page | None:
        """The answer to the connection's request; None: the client went away."""
        try:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await reader.read(HEAD_BYTES))
        except h11.RemoteProtocolError as error:
            return Page(error.error_status_hint, f"this is no request: {error}\n".encode())
        if not isinstance(event, h11.Request):
            return None
        if event.method != b"GET":
            return Page(405, b"only GET\n")
        match event.target.partition(b"?")[0]:
            case b"/metrics":
                return Page(200, await self._metrics(), CONTENT_TYPE_LATEST)
            case b"/healthz":
                return Page.of(self._health.live())
            case b"/readyz":
                return Page.of(self._health.ready())
        return Page(404, b"there are /metrics, /healthz and /readyz\n")

    async def _metrics(self) -> bytes:
        async with self._lock:
            if self._gathered is None or time.monotonic() - self._gathered[0] > FRESH_SECONDS:
                body = await asyncio.to_thread(self._gather)
                self._gathered = (time.monotonic(), body)
            return self._gathered[1]
