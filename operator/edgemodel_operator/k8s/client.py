"""Requests to the API server: plain JSON in and out, a timeout on each, and errors that say what to do about them.

The generated client's connection, TLS and tokens are used, not its thousand models: objects are JSON here and
`edgemodel_api` types above.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import urllib3
from kubernetes import client, config

from edgemodel_api.errors import EdgeModelError, InputError, TransientError

Body = dict[str, Any]
FIELD_MANAGER = "edgemodel-operator"
PAGE = 500
_MESSAGE_LIMIT = 500


class NotFoundError(EdgeModelError):
    """404: the object is gone, or was never there."""

    reason = "NotFound"


class ConflictError(TransientError):
    """409, or a failed test of a JSON patch: somebody else wrote first. Look again."""

    reason = "Conflict"


class ForbiddenError(EdgeModelError):
    """401 or 403: a role is missing, or the namespace is being deleted."""

    reason = "Forbidden"


class RejectedError(EdgeModelError):
    """400 or 422: the API server will never take this."""

    reason = "Rejected"


def connect(*, pool: int) -> client.ApiClient:
    """A client for the cluster that this pod runs in, or that KUBECONFIG names; `pool` connections at once.

    Raises:
        InputError: there is neither.
    """
    settings = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            raise InputError(f"no cluster: not in a pod, and KUBECONFIG is of no use: {error}") from None
    settings.connection_pool_maxsize = pool
    settings.retries = False
    return client.ApiClient(settings)


class Cluster:
    """The API server. Threads may share it."""

    def __init__(
        self,
        api: client.ApiClient,
        *,
        timeout: float,
        told: Callable[[str, int | None, float], None] = lambda _verb, _code, _seconds: None,
    ) -> None:
        """`told`: called with the verb, status code (None: no answer) and seconds of each request."""
        self._api = api
        self._timeout = timeout
        self._told = told

    def get(self, path: str) -> Body:
        """One object.

        Raises:
            NotFoundError, ForbiddenError, TransientError.
        """
        return self._request("GET", path)

    def listed(self, path: str, *, selector: str = "") -> tuple[list[Body], int]:
        """All objects, in pages, and the resource version of the list.

        Raises:
            NotFoundError (the kind is unknown), ForbiddenError, TransientError.
        """
        found: list[Body] = []
        version = 0
        for page in self._pages(path, selector):
            found += page.get("items") or []
            version = int(page["metadata"].get("resourceVersion") or 0)
        return found, version

    def answers(self, path: str) -> bool:
        """Whether it gives one object of a kind now: with what it stores, not from memory."""
        try:
            self._request("GET", path, query={"limit": "1"})
        except EdgeModelError:
            return False
        return True

    def _pages(self, path: str, selector: str) -> Iterator[Body]:
        query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
        while True:
            page = self._request("GET", path, query=query)
            yield page
            more = page["metadata"].get("continue")
            if not more:
                return
            query = {**query, "continue": more}

    def create(self, path: str, body: Body) -> Body:
        """A new object.

        Raises:
            ConflictError: it exists. Others as above; RejectedError.
        """
        return self._request("POST", path, body=body, query={"fieldManager": FIELD_MANAGER})

    def merge(self, path: str, body: Body) -> Body:
        """A merge patch (RFC 7386); with a resourceVersion in it, only if nobody wrote since."""
        kind = "application/merge-patch+json"
        return self._request("PATCH", path, body=body, kind=kind, query={"fieldManager": FIELD_MANAGER})

    def patch(self, path: str, operations: list[Body]) -> Body:
        """A JSON patch (RFC 6902); a failed test is a ConflictError."""
        kind = "application/json-patch+json"
        return self._request("PATCH", path, body=operations, kind=kind, query={"fieldManager": FIELD_MANAGER})

    def apply(self, path: str, body: Body, *, manager: str = FIELD_MANAGER) -> Body:
        """Server-side apply, taking over what others set of the same fields."""
        query = {"fieldManager": manager, "force": "true"}
        return self._request("PATCH", path, body=json.dumps(body), kind="application/apply-patch+yaml", query=query)

    def delete(self, path: str, *, uid: str) -> None:
        """Exactly the object with this uid and, in the background, what it owns. One that is gone is fine."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            self._request("DELETE", path, body=options)
        except NotFoundError:
            return

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        kind: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Body:
        headers = {"Accept": "application/json"} | ({"Content-Type": kind} if body is not None else {})
        call = self._api.param_serialize(
            method, path, query_params=list((query or {}).items()), header_params=headers, body=body,
            auth_settings=["BearerToken"],
        )  # fmt: skip
        begin, code = time.monotonic(), None
        try:
            answer = self._api.call_api(*call, _request_timeout=self._timeout)
            content: bytes = answer.read()
            code = answer.status
        except (urllib3.exceptions.HTTPError, client.ApiException, OSError) as error:
            text = str(error).strip()[:_MESSAGE_LIMIT]
            raise TransientError(f"the API server does not answer {method} {path}: {text}") from error
        finally:
            self._told(method, code, time.monotonic() - begin)
        if answer.status >= 400:
            raise error_of(answer.status, f"{method} {path}", content)
        found: Body = json.loads(content)
        return found


def error_of(status: int, what: str, content: bytes) -> EdgeModelError:
    """The error for an answer of the API server."""
    try:
        message = str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        message = content.decode(errors="replace")
    text = f"{what}: {status}: {message[:_MESSAGE_LIMIT]}"
    if status == 404:
        return NotFoundError(text)
    # 422 with these words: a failed test of a JSON patch (the API server tells no more), or another object by that name.
    if status == 409 or (status == 422 and ("rejected our request due to" in message or "metadata.uid" in message)):
        return ConflictError(text)
    if status in (401, 403):
        return ForbiddenError(text)
    if status == 429 or status >= 500:
        return TransientError(text)
    return RejectedError(text)
