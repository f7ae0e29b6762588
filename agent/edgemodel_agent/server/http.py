"""uvicorn's HTTP/1.1 on an inherited listening socket, opened by `accept` and emptied by `drain` without losing a request.

The listening socket stays with the agent. During a switch the old and the new server hold it at once; the kernel gives
each new connection to one of them, and those that neither has taken wait in its queue. What could be lost is a request
that a client has just sent on an idle keep-alive connection of the old server. So a draining server

1. takes no new connections;
2. hands its idle connections over (SCM_RIGHTS, through the agent) where a server follows it: what the client sends
   next is answered by the new one, and what it has sent already waits in the kernel;
3. answers what is in work, or has begun to arrive, with `Connection: close`, and closes the connection after it;
4. where no server follows, does so too for requests that come within `GRACE_SECONDS`, and then closes idle
   connections, if nothing waits in their buffers at that very moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from concurrent.futures import Future
from typing import TypeVar

import h11
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from . import protocol
from .wire import ControlError

Result = TypeVar("Result")

BACKLOG = 1024
KEEP_ALIVE_SECONDS = 75
#: A request's head must arrive within this time, and a new connection must begin to talk.
HEAD_SECONDS = 20.0
GRACE_SECONDS = 2.0
#: Less than the agent's patience (node.DRAIN_SECONDS).
DRAIN_SECONDS = 20.0
MAX_CONNECTIONS = 512
_POLL = 0.02
#: Passes of the event loop from accepting a connection to its being known here (asyncio: 3).
_SETTLE_PASSES = 6


class Connection(H11Protocol):
    """uvicorn's, with a limit on how long a head may take, and errors as the protocol wants them."""

    _timer: asyncio.TimerHandle | None = None
    since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it; the one that waited longest makes room when there are too many."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self._arm()
        if len(self.connections) > MAX_CONNECTIONS:
            waiting = [c for c in self.connections if isinstance(c, Connection) and c.waiting()]
            oldest = min(waiting, key=lambda c: c.since)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and watch that a head which has begun also ends."""
        super().data_received(data)
        if self.waiting() and not self.transport.is_closing():
            self._arm()
        else:
            self._disarm()

    def on_response_complete(self) -> None:
        """From here on it waits for the next request."""
        self.since = self.loop.time()
        super().on_response_complete()

    def keep(self) -> None:
        """It was taken over between two requests: it may be as idle as any other that is kept alive."""
        if not self.waiting() or self.conn.trailing_data[0]:
            return  # the client's next request was waiting in the kernel
        self._disarm()
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def waiting(self) -> bool:
        """Whether no request is in work; the head of one may have begun to arrive."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def idle(self) -> bool:
        """Whether nothing of a request has arrived, not even in the kernel's buffer."""
        if not self.waiting() or self.conn.trailing_data[0]:
            return False
        poll = select.poll()
        raw = self.transport.get_extra_info("socket")
        if raw is None or raw.fileno() < 0:
            return False
        poll.register(raw.fileno(), select.POLLIN)
        return not poll.poll(0)

    def let_go(self) -> int | None:
        """Give the connection away, if it is between two requests: a duplicate of its descriptor; None: it is not."""
        raw = self.transport.get_extra_info("socket")
        between = self.waiting() and self.conn.states == {h11.CLIENT: h11.IDLE, h11.SERVER: h11.IDLE}
        if not between or self.conn.trailing_data[0] or self.transport.is_closing() or raw is None or raw.fileno() < 0:
            return None
        if self.transport.get_write_buffer_size():
            return None
        duplicate = os.dup(raw.fileno())
        # Ends the transport without a word to the client: the duplicate keeps the connection open.
        self.transport.abort()
        return duplicate

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        with contextlib.suppress(h11.LocalProtocolError):  # an answer is on its way already
            body = protocol.error_body(msg).content
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.waiting():
            self.transport.abort()


class HttpServer:
    """The HTTP side of the process. Methods without `async` are for other threads than the loop's."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._accepting = self._draining = False
        self.finished = asyncio.Event()
        self._stopped = asyncio.Event()
        self.forced = False

    async def start(self, app: ASGIApp) -> None:
        """Prepare; nothing is accepted yet."""
        self._loop = asyncio.get_running_loop()
        config = Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        config.load()

        self._config = config
        self._server = await self._loop.create_server(
            self._connection, sock=self._listener, backlog=BACKLOG, start_serving=False
        )

    def _connection(self) -> Connection:
        return Connection(config=self._config, server_state=self._state, app_state={}, _loop=self._loop)

    def listener(self) -> int:
        """A duplicate of the listening socket's descriptor.

        Raises:
            ControlError: it drains, and holds the socket no more: nobody shall wait in its queue in vain.
        """
        try:
            return os.dup(self._listener.fileno())
        except OSError:
            raise ControlError("the server is draining and has given its listening socket up") from None

    def accepting(self) -> bool:
        """Whether new connections are accepted."""
        return self._accepting

    def draining(self) -> bool:
        """Whether it was told to stop."""
        return self._draining

    def accept(self) -> None:
        """Begin; returns when it has.

        Raises:
            ControlError: it drains already.
        """
        self._wait_for(asyncio.run_coroutine_threadsafe(self._accept(), self._loop))

    def drain(self, *, hand_over: bool) -> list[int]:
        """Stop accepting; returns when that is so. `finished` is set when nothing is left to answer.

        With `hand_over`: descriptors of the connections that are between two requests, for another server.
        """
        return self._wait_for(asyncio.run_coroutine_threadsafe(self._close(hand_over=hand_over), self._loop))

    def take(self, connections: list[int]) -> None:
        """Serve connections that another server let go; those that came too late are closed.

        Raises:
            ControlError: it drains already.
        """
        self._wait_for(asyncio.run_coroutine_threadsafe(self._take(connections), self._loop))

    @staticmethod
    def _wait_for(future: Future[Result]) -> Result:
        return future.result(timeout=5.0)

    async def _accept(self) -> None:
        if self._draining or self._server is None:
            raise ControlError("the server is draining: start another one")
        if not self._accepting:
            await self._server.start_serving()
            self._accepting = True

    async def _close(self, *, hand_over: bool) -> list[int]:
        self.begin_drain()
        await self._stopped.wait()
        if not hand_over:
            return []
        connections = [c for c in self._state.connections if isinstance(c, Connection)]
        return [fd for c in connections if (fd := c.let_go()) is not None]

    async def _take(self, connections: list[int]) -> None:
        sockets = [socket.socket(fileno=fd) for fd in connections]
        if self._draining:
            for one in sockets:
                one.close()
            raise ControlError("the server is draining: give the connections to another one")
        for one in sockets:
            try:
                _, connection = await self._loop.connect_accepted_socket(self._connection, one)
            except OSError:  # the client is gone
                one.close()
            else:
                connection.keep()

    def begin_drain(self) -> None:
        """In the loop's thread: stop accepting, and finish in the background."""
        if self._draining:
            return
        self._draining, self._accepting = True, False
        self._emptying = self._loop.create_task(self._empty())

    async def _stop_accepting(self) -> None:
        # `Server.close` would drop, with a reset, each connection that asyncio has accepted in this very pass of its
        # loop and not attached yet. So only the accepting ends first, and what was accepted gets its protocol.
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
        for _ in range(_SETTLE_PASSES):
            await asyncio.sleep(0)
        if self._server is not None:
            self._server.close()
        self._stopped.set()

    async def _empty(self) -> None:
        began = self._loop.time()
        await self._stop_accepting()
        while self._state.connections or self._state.tasks:
            spent = self._loop.time() - began
            if spent > DRAIN_SECONDS:
                self.forced = True
                for connection in list(self._state.connections):
                    connection.transport.abort()
                break
            if spent > GRACE_SECONDS:
                for connection in list(self._state.connections):
                    if isinstance(connection, Connection) and connection.idle():
                        connection.transport.close()
            await asyncio.sleep(_POLL)
        self.finished.set()
