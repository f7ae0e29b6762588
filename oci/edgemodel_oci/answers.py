"""What a registry's answers mean to a user, and how much of them is read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import NoReturn

import httpx

from edgemodel_api.errors import EdgeModelError, InputError, TransientError

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_MAX_WAIT_SECONDS = 60.0
_WORDS_BYTES = 1 << 18
#: Bodies that are errors, tokens or lists, never blobs.
SMALL_BODY_BYTES = 4 * 2**20


class AgainError(Exception):
    """A try failed in a way that another may mend."""

    def __init__(self, error: TransientError, wait: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.wait = wait


def refuse(host: str, method: str, response: httpx.Response, *, as_somebody: bool, advice: str = "") -> NoReturn:
    """Raise what a failed status means.

    Args:
        host: the registry.
        method: of the request.
        response: its answer; a small body is read for the registry's own words.
        as_somebody: whether credentials were found.
        advice: what to change when it refuses us; empty: docker login.

    Raises:
        AgainError: another try may help.
        InputError: it will not.
    """
    status = response.status_code
    with contextlib.suppress(EdgeModelError, AgainError):
        read_limited(response, _WORDS_BYTES)
    said = _said(response)
    what = f"{host_of(response.url)} answers {status}{f' ({said})' if said else ''} to {method} {response.url.path}"
    if status in _RETRIED:
        raise AgainError(TransientError(f"{what}: try again later"), retry_after(response.headers))
    if status in (401, 403):
        raise InputError(
            f"{what}: the credentials for {host} do not allow it{f', {advice}' if advice else ''}"
            if as_somebody
            else f"{what}: {advice or f'run `docker login {host}`'} as a user who has access"
        )
    if status == HTTPStatus.NOT_FOUND:
        raise InputError(f"{what}: check the name, or push the artifact")
    raise InputError(f"{what}: check the registry's name and what it supports")


def unreachable(host: str, error: Exception) -> TransientError:
    """What a broken or failed connection means to a user."""
    if "WRONG_VERSION_NUMBER" in str(error):
        return TransientError(
            f"the registry {host} does not speak TLS: if that is meant, name it in EDGEMODEL_PLAIN_HTTP_REGISTRIES"
            " (plainHttpRegistries of the chart); else give its TLS port"
        )
    return TransientError(
        f"the registry {host} cannot be reached ({type(error).__name__}: {str(error)[:300]}): check its name,"
        " the network and its certificate"
    )


def read_limited(response: httpx.Response, limit: int) -> None:
    """Read the body into `response.content`, as sent (no content encoding is undone).

    Raises:
        InputError: it is larger than `limit`.
        AgainError: the connection breaks.
    """
    content = bytearray()
    try:
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > limit:
                raise InputError(
                    f"{host_of(response.url)} answers with more than {limit} bytes: it is no such document"
                )
    except httpx.TransportError as error:
        message = f"{host_of(response.url)} broke off its answer ({type(error).__name__}): try again later"
        raise AgainError(TransientError(message)) from None
    response._content = bytes(content)  # httpx has no other way to keep a body that was read with a limit


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3), at most a minute; None without one."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text[:6]), _MAX_WAIT_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), _MAX_WAIT_SECONDS)


def port_of(url: httpx.URL) -> int:
    """The port, the scheme's own where none is written."""
    return url.port or (443 if url.scheme == "https" else 80)


def host_of(url: httpx.URL) -> str:
    """`host[:port]`, for messages."""
    return url.netloc.decode("ascii", "replace").rpartition("@")[2]


def _said(response: httpx.Response) -> str:
    """The registry's own words: the first error of the distribution spec's error document."""
    try:
        first = json.loads(response.content)["errors"][0]
        text = f"{first.get('code', '')}: {first.get('message', '')}"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, httpx.ResponseNotRead):
        return ""
    return "".join(c for c in text if c.isprintable())[:200]
