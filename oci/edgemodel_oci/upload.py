"""Send a blob to a registry: in one request, or in chunks that go on after a break (distribution spec, "Pushing blobs")."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import httpx

from edgemodel_api.errors import InputError, TransientError

from . import transport
from .files import chunks_of
from .transport import TRIES, Transport

#: Larger blobs are sent in chunks of this size: registries' proxies often refuse bodies above 100 MB.
CHUNK_BYTES = 32 * 2**20
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,15})")


def upload(
    http: Transport, uploads: str, content: Path | bytes, *, digest: str, size: int, scope: str, chunk_bytes: int
) -> httpx.Response:
    """Store `content`; the last answer of the registry.

    Args:
        http: the registry.
        uploads: path of the repository's uploads.
        content: a file or bytes.
        digest: of the content.
        size: of the content, in bytes.
        scope: for a token.
        chunk_bytes: blobs that are larger are sent in chunks of this size.

    Raises:
        InputError: the registry refuses.
        TransientError: it cannot be reached, or the upload broke `TRIES` times.
    """
    error: TransientError | None = None
    for n in range(TRIES):
        # An upload that broke is begun anew: its session may be gone, or hold a part of the bytes.
        if n:
            transport.SLEEP(random.uniform(0, 0.25 * 2**n))
        try:
            session = _Upload(http, scope, http.request("POST", uploads, scope=scope, headers={"Content-Length": "0"}))
            if size > chunk_bytes:
                session.send_chunks(content, size, chunk_bytes)
                return session.finish(digest, b"", 0)
            return session.finish(digest, content, size)
        except _LostError as lost:
            error = lost.error
    raise error or TransientError(f"the upload of {digest} failed: try again")


class _LostError(Exception):
    """The session does not go on."""

    def __init__(self, error: TransientError) -> None:
        super().__init__(error.message)
        self.error = error


class _Upload:
    """One upload session; its address changes with every answer."""

    def __init__(self, http: Transport, scope: str, begun: httpx.Response) -> None:
        self._http = http
        self._scope = scope
        self._url = begun.url
        minimum = begun.headers.get("OCI-Chunk-Min-Length", "")
        self._minimum = int(minimum) if re.fullmatch(r"[0-9]{1,12}", minimum) else 0
        self._move(begun)

    def send_chunks(self, content: Path | bytes, size: int, chunk_bytes: int) -> None:
        """Send everything by PATCH; after a break from where the registry says that it is."""
        step = max(chunk_bytes, self._minimum)
        offset, breaks = 0, 0
        while offset < size:
            length = min(step, size - offset)
            try:
                self._patch(content, offset, length)
                offset += length
            except TransientError as error:
                breaks += 1
                position = self._position() if breaks < TRIES else None
                if position is None or not offset <= position <= size:
                    raise _LostError(error) from None
                offset = position

    def finish(self, digest: str, content: Path | bytes, size: int) -> httpx.Response:
        """Close the session, with all or no content."""
        try:
            return self._http.request(
                "PUT",
                self._url.copy_merge_params({"digest": digest}),
                scope=self._scope,
                headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
                body=lambda: _body(content, 0, size),
                tries=1 if size else TRIES,
            )
        except TransientError as error:
            raise _LostError(error) from None
        except InputError as error:
            # A retry after an answer that was lost finds the session gone, with the blob stored.
            if self._stored(digest):
                return httpx.Response(HTTPStatus.CREATED, headers={"Docker-Content-Digest": digest})
            raise error from None

    def _patch(self, content: Path | bytes, offset: int, length: int) -> None:
        response = self._http.request(
            "PATCH",
            self._url,
            scope=self._scope,
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(length),
                "Content-Range": f"{offset}-{offset + length - 1}",
            },
            body=lambda: _body(content, offset, length),
            accept=frozenset({HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}),
        )
        self._move(response)
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise TransientError(f"{self._http.host} has another part of the upload than was sent: it is begun anew")

    def _position(self) -> int | None:
        """How many bytes the registry has; None where it does not know (any more)."""
        try:
            response = self._http.request("GET", self._url, scope=self._scope)
        except (InputError, TransientError):
            return None
        self._move(response)
        match = _RANGE.fullmatch(response.headers.get("Range", ""))
        # `0-0` is said for nothing and for one byte alike: begin anew.
        return int(match[1]) + 1 if match and match[1] != "0" else None

    def _stored(self, digest: str) -> bool:
        path = re.sub(r"/uploads/.*", f"/{digest}", self._url.path)
        if not self._http.is_own(self._url) or not path.endswith(digest):
            return False
        response = self._http.request("HEAD", path, scope=self._scope, accept=frozenset({404}))
        return response.is_success

    def _move(self, response: httpx.Response) -> None:
        location = response.headers.get("Location")
        if location:
            try:
                self._url = response.url.join(location)
            except (httpx.InvalidURL, ValueError):
                raise InputError(f"{self._http.host} sends an upload to no address: check the registry") from None
            self._http.check_target(self._url)


def _body(content: Path | bytes, offset: int, length: int) -> bytes | Iterator[bytes]:
    if isinstance(content, bytes):
        return content[offset : offset + length]
    return chunks_of(content, offset=offset, size=length)
