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
from http import HTTPStatus

import httpx
import tenacity

from edgemodel_api.errors import InputError

from .answers import SMALL_BODY_BYTES, AgainError, host_of, port_of, read_limited, refuse, unreachable
from .auth import parse_challenges
from .credentials import Credentials
from .login import Login
from .repository import Access

PLAIN_HTTP_VARIABLE = "EDGEMODEL_PLAIN_HTTP_REGISTRIES"
TRIES = 5
_MAX_REDIRECTS = 5
_TIMEOUT = httpx.Timeout(connect=15, read=60, write=60, pool=15)

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


class Transport:
    """A connection pool to one registry.

    Args:
        host: `host[:port]`.
        credentials: gives those to use; called once, where the registry asks for some.
        plain_http: None: by `is_plain_http`.
        access: None: the system's authorities.
        timeout: of each connection, and of each read and write.
        tries: of a request that does not say otherwise.
    """

    def __init__(
        self,
        host: str,
        credentials: Callable[[], Credentials | None],
        *,
        plain_http: bool | None = None,
        timeout: httpx.Timeout = _TIMEOUT,
        tries: int = TRIES,
        access: Access | None = None,
    ) -> None:
        self.host = host
        access = access or Access()
        self._advice = access.advice or f"run `docker login {host}`"
        self._tries = tries
        plain = is_plain_http(host) if plain_http is None else plain_http
        self.base = httpx.URL(f"{'http' if plain else 'https'}://{host}")
        self._plain = plain
        self._authorization: dict[str, str] = {}
        # A proxy of the environment is none for this machine itself.
        self._client = httpx.Client(
            verify=access.context if access.context is not None else True,
            timeout=timeout,
            trust_env=not plain,
            headers={"User-Agent": "edgemodel", "Accept-Encoding": "identity"},
        )
        self._login = Login(self._client, self.base, credentials, self.check_target, self._advice)

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
        tries: int | None = None,
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
        tries: int | None = None,
    ) -> Iterator[httpx.Response]:
        """As `request`, but without `limit` the body is left to the caller (`chunks_of`), who must not expect retries."""
        target = self.base.join(url)

        def attempt() -> httpx.Response:
            response = self._follow(method, target, scope, dict(headers or {}), body)
            try:
                if not (response.is_success or response.status_code in accept):
                    refuse(
                        self.host,
                        method,
                        response,
                        as_somebody=self._login.credentials is not None,
                        advice=self._advice,
                    )
                if limit is not None:
                    read_limited(response, limit)
            except BaseException:
                response.close()
                raise
            return response

        response = self._retrying(attempt, self._tries if tries is None else tries)
        try:
            yield response
        finally:
            response.close()

    def _retrying(self, attempt: Callable[[], httpx.Response], tries: int) -> httpx.Response:
        backoff = tenacity.wait_random_exponential(multiplier=0.25, max=10)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.wait if isinstance(error, AgainError) else None
            return backoff(state) if asked is None else asked

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(AgainError),
            stop=tenacity.stop_after_attempt(tries),
            wait=wait,
            sleep=SLEEP,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except AgainError as error:
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
                self._authorization[scope] = self._login.answer(parse_challenges(header), scope)
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
            raise AgainError(unreachable(self.host, error)) from None

    def _location(self, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        try:
            target = url.join(response.headers["Location"])
        except (httpx.InvalidURL, ValueError):
            raise InputError(f"{self.host} redirects to something that is no address: check the registry") from None
        self.check_target(target)
        return target

    def is_own(self, url: httpx.URL) -> bool:
        """Whether `url` has the registry's origin (scheme, host and port)."""
        return (url.scheme, url.host, port_of(url)) == (self.base.scheme, self.base.host, port_of(self.base))

    def check_target(self, url: httpx.URL) -> None:
        """Refuse to go from TLS to plain http, or to another protocol.

        Raises:
            InputError: as said.
        """
        if url.scheme != "https" and not (url.scheme == "http" and (self._plain or is_plain_http(host_of(url)))):
            raise InputError(
                f"{self.host} sends us on to {url.scheme}://{host_of(url)}, which is not encrypted: let the registry"
                f" redirect to https, or name the host in {PLAIN_HTTP_VARIABLE}"
            )
