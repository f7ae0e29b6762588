"""HTTP to one registry: retries, redirects, authentication. Everything that is sent or read has a limit.

- Retries (tenacity): 429, 500, 502, 503, 504 and broken connections, honouring Retry-After.
- Redirects are followed by hand: the Authorization header goes to the registry's own origin only, and never from https
  to plain http.
- Plain http only for loopback addresses and the hosts in `EDGEMODEL_PLAIN_HTTP_REGISTRIES` (commas between them).
  Certificates are checked against the system's or `SSL_CERT_FILE`'s authorities.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx
import tenacity

from edgemodel_api.errors import EdgeModelError, InputError, TransientError

from .auth import Challenge, parse_challenges, token_of
from .credentials import Credentials

PLAIN_HTTP_VARIABLE = "EDGEMODEL_PLAIN_HTTP_REGISTRIES"
TRIES = 5
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_MAX_REDIRECTS = 5
_MAX_WAIT_SECONDS = 60.0
#: Bodies that are errors, tokens or lists, never blobs.
SMALL_BODY_BYTES = 4 * 2**20
_TIMEOUT = httpx.Timeout(connect=15, read=60, write=60, pool=15)
_CHUNK = 1 << 18

#: Waits between tries; tests replace it.
SLEEP = time.sleep
#: Makes the body anew for each try.
Body = Callable[[], bytes | Iterator[bytes]]


def is_plain_http(host: str) -> bool:
    """Whether `host[:port]` is spoken to without TLS."""
    name = httpx.URL(f"http://{host}").host
    allowed = {h.strip().lower() for h in os.environ.get(PLAIN_HTTP_VARIABLE, "").split(",")}
    if name == "localhost" or host in allowed:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class _AgainError(Exception):
    """A try failed in a way that another may mend."""

    def __init__(self, error: TransientError, wait: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.wait = wait


class Transport:
    """A connection pool to one registry.

    Args:
        host: `host[:port]`.
        credentials: gives those to use; called once, where the registry asks for some.
        plain_http: None: by `is_plain_http`.
    """

    def __init__(
        self,
        host: str,
        credentials: Callable[[], Credentials | None],
        *,
        plain_http: bool | None = None,
    ) -> None:
        self.host = host
        plain = is_plain_http(host) if plain_http is None else plain_http
        self.base = httpx.URL(f"{'http' if plain else 'https'}://{host}")
        self._plain = plain
        self._find_credentials = credentials
        self._credentials: Credentials | None = None
        self._authorization: dict[str, str] = {}
        # A proxy of the environment is none for this machine itself.
        self._client = httpx.Client(
            timeout=_TIMEOUT,
            trust_env=not plain,
            headers={"User-Agent": "edgemodel", "Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def request(
        self,
        method: str,
        url: str | httpx.URL,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        accept: frozenset[int] = frozenset(),
        limit: int = SMALL_BODY_BYTES,
        tries: int = TRIES,
    ) -> httpx.Response:
        """One request with a small answer, read whole.

        Args:
            method: GET, HEAD, POST, …
            url: absolute, or relative to the registry.
            scope: for a token, as `repository:NAME:pull`.
            headers: beside our own.
            body: makes the body for each try.
            accept: status codes beside 2xx that are answers, not errors.
            limit: bytes of the answer that are read at most.
            tries: 1 where a second try would find another state.

        Raises:
            InputError: 4xx, or an answer larger than `limit`.
            TransientError: the registry cannot be reached, or keeps failing.
        """
        options = {"headers": headers, "body": body, "accept": accept, "limit": limit, "tries": tries}
        with self.stream(method, url, scope=scope, **options) as response:  # type: ignore[arg-type]
            return response

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        url: str | httpx.URL,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        accept: frozenset[int] = frozenset(),
        limit: int | None = None,
        tries: int = TRIES,
    ) -> Iterator[httpx.Response]:
        """As `request`, but without `limit` the body is left to the caller (`chunks_of`), who must not expect retries."""
        target = self.base.join(url)

        def attempt() -> httpx.Response:
            response = self._follow(method, target, scope, dict(headers or {}), body)
            try:
                if not (response.is_success or response.status_code in accept):
                    self._refuse(method, response)
                if limit is not None:
                    read_limited(response, limit)
            except BaseException:
                response.close()
                raise
            return response

        response = self._retrying(attempt, tries)
        try:
            yield response
        finally:
            response.close()

    def _retrying(self, attempt: Callable[[], httpx.Response], tries: int) -> httpx.Response:
        backoff = tenacity.wait_random_exponential(multiplier=0.25, max=10)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.wait if isinstance(error, _AgainError) else None
            return backoff(state) if asked is None else asked

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_AgainError),
            stop=tenacity.stop_after_attempt(tries),
            wait=wait,
            sleep=SLEEP,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except _AgainError as error:
            raise error.error from None

    def _follow(
        self, method: str, url: httpx.URL, scope: str, headers: dict[str, str], body: Body | None
    ) -> httpx.Response:
        """One try: send, answer a challenge once, follow redirects."""
        challenged = False
        for _ in range(_MAX_REDIRECTS + 2):
            ours = self.is_own(url)
            authorization = self._authorization.get(scope) if ours else None
            sent = {**headers, **({"Authorization": authorization} if authorization else {})}
            response = self._send(method, url, sent, body)
            if response.status_code == HTTPStatus.UNAUTHORIZED and ours and not challenged:
                challenged = True
                header = response.headers.get("WWW-Authenticate", "")
                response.close()
                self._authorization[scope] = self._answer(parse_challenges(header), scope)
                continue
            if response.has_redirect_location and method in ("GET", "HEAD"):
                location = self._location(url, response)
                response.close()
                url = location
                continue
            return response
        raise InputError(f"{self.host} redirects more than {_MAX_REDIRECTS} times: check the registry's configuration")

    def _send(self, method: str, url: httpx.URL, headers: dict[str, str], body: Body | None) -> httpx.Response:
        content = body() if body else None
        request = self._client.build_request(method, url, headers=headers, content=content)
        try:
            return self._client.send(request, stream=True)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise _AgainError(self.unreachable(error)) from None

    def _location(self, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        try:
            target = url.join(response.headers["Location"])
        except (httpx.InvalidURL, ValueError):
            raise InputError(f"{self.host} redirects to something that is no address: check the registry") from None
        self.check_target(target)
        return target

    def is_own(self, url: httpx.URL) -> bool:
        """Whether `url` has the registry's origin (scheme, host and port)."""
        return (url.scheme, url.host, _port(url)) == (self.base.scheme, self.base.host, _port(self.base))

    def check_target(self, url: httpx.URL) -> None:
        """Refuse to go from TLS to plain http, or to another protocol.

        Raises:
            InputError: as said.
        """
        if url.scheme != "https" and not (url.scheme == "http" and (self._plain or is_plain_http(_host(url)))):
            raise InputError(
                f"{self.host} sends us on to {url.scheme}://{_host(url)}, which is not encrypted: let the registry"
                f" redirect to https, or name the host in {PLAIN_HTTP_VARIABLE}"
            )

    def _answer(self, challenges: list[Challenge], scope: str) -> str:
        """The Authorization header that a challenge asks for.

        Raises:
            InputError: there are no credentials, or nothing that we can answer.
            _AgainError: the token server fails for now.
        """
        self._credentials = self._credentials or self._find_credentials()
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                return "Bearer " + self._token(challenge.parameters, scope)
            if challenge.scheme == "basic":
                if self._credentials is None or not self._credentials.username:
                    raise InputError(f"{self.host} wants a user name and password: run `docker login {self.host}`")
                return self._credentials.basic
        raise InputError(f"{self.host} refuses access and says no way to ask for it: check its configuration")

    def _token(self, parameters: Mapping[str, str], scope: str) -> str:
        try:
            realm = self.base.join(parameters["realm"])
        except (httpx.InvalidURL, ValueError):
            raise InputError(f"{self.host} names a token server that is no address: check the registry") from None
        self.check_target(realm)
        # A registry behind another name knows better what to ask its token server for.
        query = {"scope": parameters.get("scope") or scope}
        if service := parameters.get("service"):
            query["service"] = service
        credentials = self._credentials
        headers = {"Accept": "application/json"}
        if credentials is not None and credentials.identity_token:
            # OAuth2 (distribution spec, "token/oauth"): a refresh token goes into a form.
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": "edgemodel",
            }
            request = self._client.build_request("POST", realm, data={**form, **query}, headers=headers)
        else:
            if credentials is not None and credentials.username:
                headers["Authorization"] = credentials.basic
            request = self._client.build_request("GET", realm.copy_merge_params(query), headers=headers)
        try:
            response = self._client.send(request, stream=True)
        except httpx.TransportError as error:
            raise _AgainError(self.unreachable(error)) from None
        try:
            if response.status_code in (400, 401, 403):
                raise InputError(
                    f"the token server of {self.host} refuses access ({response.status_code}) to {scope}: run"
                    f" `docker login {self.host}` as a user who has it"
                )
            if not response.is_success:
                self._refuse(request.method, response)
            read_limited(response, SMALL_BODY_BYTES)
        finally:
            response.close()
        token = token_of(response.content)
        if token is None:
            raise InputError(f"the token server of {self.host} answers without a token: check the registry")
        return token

    def _refuse(self, method: str, response: httpx.Response) -> None:
        """Raise what a failed status means."""
        status = response.status_code
        with contextlib.suppress(EdgeModelError, _AgainError):
            read_limited(response, _CHUNK)
        said = _said(response)
        what = f"{_host(response.url)} answers {status}{f' ({said})' if said else ''} to {method} {response.url.path}"
        if status in _RETRIED:
            raise _AgainError(TransientError(f"{what}: try again later"), retry_after(response.headers))
        if status in (401, 403):
            raise InputError(
                f"{what}: the credentials for {self.host} do not allow it"
                if self._credentials
                else f"{what}: run `docker login {self.host}` as a user who has access"
            )
        if status == HTTPStatus.NOT_FOUND:
            raise InputError(f"{what}: check the name, or push the artifact")
        raise InputError(f"{what}: check the registry's name and what it supports")

    def unreachable(self, error: Exception) -> TransientError:
        """What a broken or failed connection means to a user."""
        return TransientError(
            f"the registry {self.host} cannot be reached ({type(error).__name__}: {str(error)[:300]}): check its name,"
            " the network and its certificate"
        )


def read_limited(response: httpx.Response, limit: int) -> None:
    """Read the body into `response.content`, as sent (no content encoding is undone).

    Raises:
        InputError: it is larger than `limit`.
        _AgainError: the connection breaks.
    """
    content = bytearray()
    try:
        for chunk in response.iter_raw(_CHUNK):
            content += chunk
            if len(content) > limit:
                raise InputError(f"{_host(response.url)} answers with more than {limit} bytes: it is no such document")
    except httpx.TransportError as error:
        message = f"{_host(response.url)} broke off its answer ({type(error).__name__}): try again later"
        raise _AgainError(TransientError(message)) from None
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


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _host(url: httpx.URL) -> str:
    return url.netloc.decode("ascii", "replace").rpartition("@")[2]


def _said(response: httpx.Response) -> str:
    """The registry's own words: the first error of the distribution spec's error document."""
    import json

    try:
        first = json.loads(response.content)["errors"][0]
        text = f"{first.get('code', '')}: {first.get('message', '')}"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, httpx.ResponseNotRead):
        return ""
    return "".join(c for c in text if c.isprintable())[:200]
