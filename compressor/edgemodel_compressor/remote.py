"""A file of an https or S3 server: its address, how one asks for it, and what its server's refusals mean."""

from __future__ import annotations

import re
import ssl
from abc import ABC, abstractmethod
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx

from edgemodel_api.edgemodel import RemoteFile
from edgemodel_api.errors import InputError

from .credentials import ACCESS_KEY, ENDPOINT, REGION, SECRET_KEY, SESSION_TOKEN, S3Keys, Secret, authorities, s3_keys
from .credentials import authorization as authorization_of

if TYPE_CHECKING:
    from obstore.store import S3Credential

#: Signed anew for each connection.
_SIGNATURE_LASTS = timedelta(minutes=15)
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9.]{1,64})\s*</Code>")
#: AWS says it in an element, others in words.
_EXPECTED = re.compile(rb"""<Region>([a-z0-9-]{1,40})</Region>|expecting (?:&#34;|&quot;|["'])([a-z0-9-]{1,40})""")
_UNKNOWN_KEY = ("InvalidAccessKeyId", "XAdminUserNotFound")  # the other is versitygw's, and a 404
_ELSEWHERE = ("AuthorizationHeaderMalformed", "PermanentRedirect", "IncorrectEndpoint")
_REGION = re.compile(r"[a-z0-9-]{1,40}")


class Asked(ABC):
    """A file that a server is asked for.

    Attributes:
        url: without a signature; credentials go to its origin only.
        shown: for messages.
        context: whose certificates count.
        follows: whether redirects are followed (without credentials, where they lead to another origin).
    """

    url: httpx.URL
    shown: str
    context: ssl.SSLContext
    follows: bool = True

    @abstractmethod
    def request(self) -> tuple[httpx.URL, dict[str, str]]:
        """Address and headers for the file's own server."""

    @abstractmethod
    def refused(self, status: int, headers: httpx.Headers, body: bytes) -> str | None:
        """What to change after a 4xx (or a redirect that is not followed), given the beginning of its body."""


class HttpsFile(Asked):
    """On a web server.

    Raises:
        InputError: the URI is none, or the Secret does not fit.
    """

    def __init__(self, remote: RemoteFile, secret: Secret | None) -> None:
        self.url = _address(remote.uri, remote.shown, ("https",), "write https://HOST/PATH")
        self.shown = shown(self.url)
        self.context = authorities(secret)
        self._secret = secret
        self._authorization = authorization_of(secret) if secret is not None else None

    def request(self) -> tuple[httpx.URL, dict[str, str]]:
        """See `Asked`."""
        return self.url, {"Authorization": self._authorization} if self._authorization else {}

    def refused(self, status: int, headers: httpx.Headers, body: bytes) -> str | None:
        """See `Asked`."""
        if status not in (401, 403):
            return None
        if self._secret is None:
            return "name a Secret with username and password, or token, in credentialsSecretRef"
        if self._authorization is None:
            return f"add username and password, or token, to {self._secret}"
        what = "token" if self._authorization.startswith("Bearer ") else "username and password"
        return f"the {what} of {self._secret} {_verb(status, what)}: correct it, or ask for access"


class S3File(Asked):
    """An object in a bucket. Path style, which every server knows; the URI's key is taken as it stands.

    Raises:
        InputError: the Secret does not fit, or its endpoint is no address.
    """

    follows = False  # a signature holds for one host

    def __init__(self, remote: RemoteFile, secret: Secret | None) -> None:
        self.bucket, _, self.key = remote.uri.removeprefix("s3://").partition("/")
        self._keys = keys = s3_keys(secret)
        self._secret = secret
        if not _REGION.fullmatch(keys.region):
            raise InputError(f"{REGION} of {keys.origin} is no region: write one such as eu-central-1")
        endpoint = keys.endpoint or f"https://s3.{keys.region}.amazonaws.com"
        hint = f"correct {ENDPOINT} of {keys.origin}: write https://HOST[:PORT]"
        host = _address(endpoint, "its endpoint", ("https", "http"), hint)
        if host.query or host.fragment or host.userinfo:
            raise InputError(f"{remote.uri}: the endpoint has more than a host: {hint}")
        self._endpoint = endpoint.rstrip("/")
        self.url = self._signed(keys).copy_with(query=None)
        self.shown = f"{remote.uri} at {shown(host).rstrip('/')}"
        self.context = authorities(secret)

    def request(self) -> tuple[httpx.URL, dict[str, str]]:
        """See `Asked`."""
        return (self._signed(self._keys) if self._keys.access_key else self.url), {}

    def _signed(self, keys: S3Keys) -> httpx.URL:
        """By obstore, which knows how; it connects to nothing as keys are given (or, for the plain address, made up)."""
        import obstore  # only where it is needed: 16 MB
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        given: S3Credential = {
            "access_key_id": keys.access_key or "x",
            "secret_access_key": keys.secret_key or "x",
            "token": keys.session_token,
            "expires_at": None,
        }
        try:
            # All that the environment could say otherwise is said here.
            store = S3Store(
                self.bucket,
                region=keys.region,
                endpoint=self._endpoint,
                virtual_hosted_style_request=False,
                s3_express=False,
                skip_signature=False,
                request_payer=False,
                client_options={"allow_http": True},
                credential_provider=lambda: given,
            )
            return httpx.URL(obstore.sign(store, "GET", self.key, _SIGNATURE_LASTS))
        except (BaseError, TypeError, ValueError, httpx.InvalidURL) as error:
            # Its messages are long, and hold what it was given.
            raise InputError(
                f"s3://{self.bucket}/{self.key}: cannot be signed ({type(error).__name__}): correct the URI, and"
                f" {ENDPOINT} and {REGION} of {keys.origin}"
            ) from None

    def refused(self, status: int, headers: httpx.Headers, body: bytes) -> str | None:
        """See `Asked`. The codes are those of the S3 API reference, "List of error codes"."""
        match = _CODE.search(body)
        code = match[1].decode() if match is not None else ""
        expected = _EXPECTED.search(body)
        region = headers.get("x-amz-bucket-region", "")
        if expected is not None:
            region = (expected[1] or expected[2]).decode()
        text = self._advice(status, code, region)
        return f"{code}: {text}" if code and text else text

    def _advice(self, status: int, code: str, region: str) -> str | None:
        origin = self._keys.origin
        known = {
            **dict.fromkeys(_UNKNOWN_KEY, f"{ACCESS_KEY} of {origin} is not known there: correct it, or {ENDPOINT}"),
            "SignatureDoesNotMatch": f"{SECRET_KEY} of {origin} does not belong to its {ACCESS_KEY}: correct it",
            "ExpiredToken": f"{SESSION_TOKEN} of {origin} has expired: make new keys",
            "InvalidToken": f"{SESSION_TOKEN} of {origin} does not belong to its keys: make new ones",
            "RequestTimeTooSkewed": "the clocks of server and node differ: set them",
            "NoSuchBucket": f"there is no bucket {self.bucket} at this endpoint: correct the URI, or {ENDPOINT}",
            "NoSuchKey": "there is no such object: correct the URI",
            "InvalidObjectState": "the object is archived: restore it first",
        }
        if code in known:
            return known[code]
        if code in _ELSEWHERE or 300 <= status < 400 or (code == "AuthorizationQueryParametersError" and region):
            there = f" to {region}" if _REGION.fullmatch(region) else ""
            return f"the bucket lies in another region than {self._keys.region}: set {REGION} of {origin}{there}"
        if status in (401, 403):
            if not self._keys.access_key:
                what = f"add {ACCESS_KEY} and {SECRET_KEY} to {self._secret}"
                named = f"name a Secret with {ACCESS_KEY} and {SECRET_KEY} in credentialsSecretRef"
                return what if self._secret is not None else named
            return f"the keys of {origin} do not allow s3:GetObject on {self.bucket}/{self.key}: allow it, or correct {ACCESS_KEY}"
        return None


def shown(url: httpx.URL) -> str:
    """A URL for messages: without password and query, which may hold secrets."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))[:300]


def _address(text: str, what: str, schemes: tuple[str, ...], hint: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise InputError(f"{what[:200]}: no {schemes[0]} URI: {hint}") from None
    if url.scheme not in schemes or not url.host:
        raise InputError(f"{what[:200]}: no {schemes[0]} URI: {hint}")
    return url


def _verb(status: int, what: str) -> str:
    plural = "and" in what
    if status == HTTPStatus.UNAUTHORIZED:
        return "are not accepted" if plural else "is not accepted"
    return "do not allow it" if plural else "does not allow it"
