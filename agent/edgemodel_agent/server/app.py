"""Open Inference Protocol v2 REST and `/metrics`, as an ASGI application.

Inference (and reading the request's JSON) runs in a few threads, so that health answers meanwhile. What is held in
memory has limits: bytes of one request, bytes of all requests that are being read, requests that wait.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgemodel_api.errors import InputError

from . import protocol
from .service import Service

log = logging.getLogger(__name__)

#: Requests that may wait for a thread.
QUEUE = 64
#: A request's body must arrive within this time.
BODY_SECONDS = 60.0
#: All bodies being read together, in request limits.
READING_LIMITS = 4
#: Of a body that is too long so much is read and thrown away, so that the client reads the answer and not a reset.
DISCARD_LIMITS = 4
DISCARD_SECONDS = 10.0


class RefusedRequestError(Exception):
    """Answered with this status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Intake:
    """Reads bodies within the limits; `held` is what the bodies that are being read or wait take now."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    async def read(self, request: Request) -> bytes:
        """The whole body; the caller gives `len(body)` back to `held` when it is done with it.

        Raises:
            RefusedRequestError: too long (413), too slow (408), or too much is held already (503).
        """
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared) > self.limit:
            if request.headers.get("expect", "").lower() != "100-continue":
                await self._discard(request)
            raise self._too_long(f"{int(declared)} bytes")
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more:
                    chunk, more = await _next(request)
                    parts.append(chunk)
                    size += len(chunk)
                    self.held += len(chunk)
                    await self._check(request, size, more=more)
            return b"".join(parts)
        except BaseException as error:
            self.held -= size
            if isinstance(error, TimeoutError):
                raise RefusedRequestError(408, f"the request's body did not arrive within {BODY_SECONDS:g} s") from None
            raise

    async def _check(self, request: Request, size: int, *, more: bool) -> None:
        if size > self.limit:
            if more:
                await self._discard(request)
            raise self._too_long("more")
        if self.held > self.limit * READING_LIMITS:
            raise RefusedRequestError(503, "the server is reading too many large requests: try again later")

    def _too_long(self, what: str) -> RefusedRequestError:
        return RefusedRequestError(
            413, f"a request may have {self.limit} bytes, this one has {what}: send fewer rows, or binary tensors"
        )

    async def _discard(self, request: Request) -> None:
        seen, more = 0, True
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while more and seen < self.limit * DISCARD_LIMITS:
                    chunk, more = await _next(request)
                    seen += len(chunk)
        except TimeoutError:
            return


async def _next(request: Request) -> tuple[bytes, bool]:
    """The next part of the body, and whether more follows."""
    message = await request.receive()
    if message["type"] != "http.request":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


class InferenceApp:
    """The endpoints of one model."""

    def __init__(
        self, service: Service, *, limit: int, workers: int, queue: int = QUEUE, server_version: str = ""
    ) -> None:
        self.service = service
        self.intake = Intake(limit)
        self.capacity = workers + queue
        self.server_version = server_version
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="infer")

    def asgi(self, closing: Callable[[], bool]) -> ASGIApp:
        """The application; while `closing()`, each answer tells the client to use another connection next time."""
        model = "/v2/models/{model}"
        routes = [
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/metrics", self._metrics),
        ]
        for path in (model, f"{model}/versions/{{version}}"):
            routes += [
                Route(path, self._metadata),
                Route(f"{path}/ready", self._model_ready),
                Route(f"{path}/infer", self._infer, methods=["POST"]),
            ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})  # type: ignore[dict-item]
        return _closing_header(app, closing)

    async def _server(self, _request: Request) -> Response:
        return _json(protocol.server_metadata(self.server_version))

    async def _live(self, _request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, _request: Request) -> Response:
        # The process opens its control socket after the model was loaded, and this one later still.
        return _json({"ready": True})

    async def _metrics(self, _request: Request) -> Response:
        return Response(self.service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _metadata(self, request: Request) -> Response:
        return self._about(
            request, lambda: protocol.model_metadata(self.service.name, self.service.version, self.service.runtime)
        )

    async def _model_ready(self, request: Request) -> Response:
        return self._about(request, lambda: {"name": self.service.name, "ready": True})

    def _about(self, request: Request, answer: Callable[[], dict[str, Any]]) -> Response:
        try:
            self._check_path(request)
        except RefusedRequestError as error:
            return _error(error.status, error.message)
        return _json(answer())

    def _check_path(self, request: Request) -> None:
        name, version = request.path_params["model"], request.path_params.get("version", self.service.version)
        if name != self.service.name:
            raise RefusedRequestError(404, f"there is no model {name[:100]!r} here, only {self.service.name!r}")
        if version != self.service.version:
            raise RefusedRequestError(404, f"version {version[:100]!r} is not served, only {self.service.version!r}")

    async def _infer(self, request: Request) -> Response:
        began = time.perf_counter()
        try:
            response = await self._answer(request)
        except RefusedRequestError as error:
            response = _error(error.status, error.message)
        except InputError as error:
            response = _error(400, error.message)
        except ClientDisconnect:
            response = _error(499, "the client went away")
        except Exception:  # the rim of a request: its fault must not become the server's
            log.exception("a request failed")
            response = _error(500, "the server failed at this request; its log says why")
        self.service.metrics.answered(response.status_code, seconds=time.perf_counter() - began)
        return response

    async def _answer(self, request: Request) -> Response:
        self._check_path(request)
        body = await self.intake.read(request)
        size = len(body)
        try:
            if not self.service.enter(self.capacity):
                raise RefusedRequestError(503, f"{self.capacity} requests wait already: try again later")
            try:
                header_length = request.headers.get(protocol.HEADER_LENGTH)
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self.pool, self.service.infer, body, header_length)
            finally:
                self.service.leave()
        finally:
            self.intake.held -= size
        return Response(found.content, headers=found.headers)


def _json(value: dict[str, Any]) -> Response:
    return Response(protocol.dump(value), headers={"Content-Type": protocol.JSON_TYPE})


def _error(status: int, message: str) -> Response:
    body = protocol.error_body(message)
    retry = {"Retry-After": "1"} if status == 503 else {}
    # What is left of a body that was not read would be taken for the next request.
    close = {"Connection": "close"} if status in (408, 413, 503) else {}
    return Response(body.content, status, headers={**body.headers, **retry, **close})


async def _http_error(request: Request, error: HTTPException) -> Response:
    if error.status_code == 404:
        return _error(404, f"there is nothing at {request.url.path[:200]!r}: see GET /v2 and GET /v2/models/NAME")
    response = _error(error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


def _closing_header(app: ASGIApp, closing: Callable[[], bool]) -> ASGIApp:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start" and closing():
                headers = [h for h in message["headers"] if h[0].lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        await app(scope, receive, tell)

    return wrapped
