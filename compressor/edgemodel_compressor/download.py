"""One file from a server: streamed, resumed where the server allows it, with credentials for the file's own server only.

Which error is whose: a host that was never reached, a certificate, a redirect and a 4xx are the URI's fault
(`InputError`: trying again gives the same); a server that answered and then broke off, or 5xx, may recover
(`TransientError`).
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import NoReturn, Protocol, Self

import httpx
import tenacity

from edgemodel_api.errors import InputError, TransientError
from edgemodel_api.quantities import counted
from edgemodel_oci.answers import port_of, retry_after

from .credentials import CredentialsError
from .remote import Asked, shown

#: Breaks in a row with hardly a byte gained.
TRIES = 4
#: Connections for one file, whatever was gained.
MAX_CONNECTIONS = 100
#: Fewer bytes than this are no progress.
PROGRESS_BYTES = 2**16
#: A connection that brings less than PROGRESS_BYTES in this time has stalled.
STALL_SECONDS = 60.0
MAX_REDIRECTS = 5
#: Of a refusal, read for the server's reason.
_REFUSAL_BYTES = 2**14
_REFUSAL_SECONDS = 10.0
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_TIMEOUT = httpx.Timeout(connect=10, read=30, write=30, pool=10)
_CONTENT_RANGE = re.compile(r"^bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)$")


class Sink(Protocol):
    """Where the bytes go."""

    done: int

    def announce(self, total: int | None) -> None:
        """The whole size, as the server says."""

    def restart(self) -> None:
        """Forget what is here."""

    def write(self, chunk: bytes) -> None:
        """Append."""


class _AgainError(Exception):
    """A try failed in a way that another may mend."""

    def __init__(self, problem: str, *, reached: bool, wait: float | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.reached = reached
        self.wait = wait


class Download:
    """A context manager that holds the connection."""

    def __init__(self, file: Asked, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Connects to nothing yet.

        Args:
            file: what is asked for, and how.
            sleep: waits between tries.
        """
        self._file = file
        self._sleep = sleep
        self._validator: str | None = None
        self._reached = False
        self._breaks = 0
        self._connections = 0
        self._client = httpx.Client(
            verify=file.context,
            timeout=_TIMEOUT,
            # A proxy of the environment is none for this machine itself.
            trust_env=file.url.host not in ("localhost", "127.0.0.1", "::1"),
            headers={"User-Agent": "edgemodel", "Accept-Encoding": "identity"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def run(self, sink: Sink) -> None:
        """Fetch all of it.

        Raises:
            InputError: see the module; and whatever `sink` raises.
            TransientError: see the module.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_AgainError),
            stop=lambda _: self._breaks >= TRIES or self._connections >= MAX_CONNECTIONS,
            wait=self._wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            retrying(self._attempt, sink)
        except _AgainError as error:
            tries, came = counted(self._connections, "try", "tries"), counted(sink.done, "byte")
            message = f"{self._file.shown}: {error.problem} ({tries}, {came} came)"
            if self._reached:
                raise TransientError(f"{message}: try again later, or use another server") from None
            raise InputError(f"{message}: correct host and port, or check the network (proxy, firewall)") from None

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.wait if isinstance(error, _AgainError) else None
        return asked if asked is not None else min(5.0, 0.2 * 2.0**self._breaks)

    def _attempt(self, sink: Sink) -> None:
        before = sink.done
        self._connections += 1
        try:
            response = self._open(sink.done)
            try:
                self._receive(response, sink)
            finally:
                response.close()
        except _AgainError as error:
            self._reached = self._reached or error.reached
            self._breaks = 0 if sink.done - before >= PROGRESS_BYTES else self._breaks + 1
            raise

    def _open(self, offset: int) -> httpx.Response:
        """The answer with the file, after redirects."""
        url, own_headers = self._file.request()
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(url, offset, own_headers if self._is_own(url) else {})
            if not (response.has_redirect_location and self._file.follows):
                return response
            location = response.headers["Location"]
            response.close()
            url = self._redirected(url, location)
        raise InputError(f"{self._file.shown}: more than {MAX_REDIRECTS} redirects: name the file's own address")

    def _is_own(self, url: httpx.URL) -> bool:
        own = self._file.url
        return (url.scheme, url.host, port_of(url)) == (own.scheme, own.host, port_of(own))

    def _send(self, url: httpx.URL, offset: int, headers: dict[str, str]) -> httpx.Response:
        headers = dict(headers)
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self._validator:
                headers["If-Range"] = self._validator
        try:
            response = self._client.send(self._client.build_request("GET", url, headers=headers), stream=True)
        except httpx.TransportError as error:
            self._refuse_certificate(url, error)
            reached = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError))
            raise _AgainError(_described(error, url), reached=reached) from None
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise InputError(f"{shown(url)}: no usable address ({error}): correct the URI") from None
        self._reached = True
        return response

    def _redirected(self, url: httpx.URL, location: str) -> httpx.URL:
        try:
            target = url.join(location)
        except (httpx.InvalidURL, ValueError):
            raise InputError(f"{shown(url)}: redirects to something that is no address: name the file's own") from None
        if target.scheme != "https":
            raise InputError(
                f"{shown(url)}: redirects to {shown(target)}, which is not https: name an address that stays encrypted"
            )
        return target

    def _refuse_certificate(self, url: httpx.URL, error: BaseException) -> None:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise InputError(
                    f"{shown(url)}: the certificate of {url.host} is not trusted ({cause.verify_message}): name the"
                    " host as in its certificate, or give the authority's as ca.crt of the Secret in credentialsSecretRef"
                    " (or by SSL_CERT_FILE)"
                ) from None
            cause = cause.__cause__ or cause.__context__

    def _receive(self, response: httpx.Response, sink: Sink) -> None:
        self._check_status(response, sink)
        length = _length(response)
        sink.announce(None if length is None else sink.done + length)
        started, gained = time.monotonic(), 0
        try:
            # As they arrive: pieces that httpx gathers to a fixed size would be lost when the link breaks.
            for chunk in response.iter_raw():
                sink.write(chunk)
                gained += len(chunk)
                now = time.monotonic()
                if now - started > STALL_SECONDS:
                    if gained < PROGRESS_BYTES:
                        raise _AgainError(f"only {counted(gained, 'byte')} came in {STALL_SECONDS:.0f} s", reached=True)
                    started, gained = now, 0
        except httpx.TransportError as error:
            expected = "" if length is None else f" of {length} announced"
            raise _AgainError(f"broke off{expected} ({type(error).__name__})", reached=True) from None

    def _check_status(self, response: httpx.Response, sink: Sink) -> None:
        status = response.status_code
        where = self._file.shown if response.url.path == self._file.url.path else shown(response.url)
        if status == HTTPStatus.PARTIAL_CONTENT and sink.done:
            match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != sink.done:
                sink.restart()
                self._validator = None
                raise _AgainError("answers with another part than was asked for", reached=True)
        elif status == HTTPStatus.OK:
            if sink.done:
                sink.restart()
            self._validator = _validator(response)
        elif status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and sink.done:
            sink.restart()
            raise _AgainError("has another file by now", reached=True)
        elif status in _RETRIED:
            raise _AgainError(f"answers {_status(status)}", reached=True, wait=retry_after(response.headers))
        else:
            self._refuse(where, response)
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise InputError(
                f"{where}: sends the file with Content-Encoding {encoding[:40]}, though it was asked not to: turn that"
                " off on the server"
            )

    def _refuse(self, where: str, response: httpx.Response) -> NoReturn:
        status = response.status_code
        what = f"{where}: answers {_status(status)}"
        if self._is_own(response.url):
            advice = self._file.refused(status, response.headers, _beginning(response))
            if advice is not None:
                raise CredentialsError(f"{what}: {advice}")
        elif status in (401, 403):
            raise InputError(f"{what}: it was redirected to, and other hosts get no credentials: name this address")
        if status in (404, 410):
            raise InputError(f"{what}: there is no such file, correct the URI")
        raise InputError(f"{what} instead of a file: correct the URI")


def _beginning(response: httpx.Response) -> bytes:
    """A few bytes of a refusal, as long as they come soon."""
    content, until = b"", time.monotonic() + _REFUSAL_SECONDS
    try:
        for chunk in response.iter_raw():
            content += chunk
            if len(content) >= _REFUSAL_BYTES or time.monotonic() > until:
                break
    except httpx.TransportError:
        pass  # what came must do
    return content[:_REFUSAL_BYTES]


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _length(response: httpx.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _validator(response: httpx.Response) -> str | None:
    """For If-Range: a strong ETag, else the date (RFC 9110, 13.1.5)."""
    tag: str = response.headers.get("ETag", "")
    date: str | None = response.headers.get("Last-Modified")
    return tag if tag.startswith('"') else date


def _described(error: Exception, url: httpx.URL) -> str:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return f"cannot connect to {url.host}:{url.port or 443} ({str(error)[:200] or type(error).__name__})"
    return f"gives no answer ({type(error).__name__}: {str(error)[:200]})"
