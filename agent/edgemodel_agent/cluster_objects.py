"""The agent's own EdgeNode in a Kubernetes cluster: the adapter beside `objects.DirectoryObjects`.

Two threads talk to the API server, so that the agent's loop never waits for it: one watches the EdgeNode, one writes
its status. While the server is away, the last wish stays and the newest status waits. Plain HTTP by httpx and the pod's
token: a Kubernetes client would weigh more than the agent.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from edgemodel_api import API_VERSION, GROUP, VERSION
from edgemodel_api.edgenode import RETIRE_ANNOTATION, EdgeNodeSpec, EdgeNodeStatus
from edgemodel_api.errors import InputError

from .metrics import ApiMetrics
from .objects import Desired
from .report import worth_writing

log = logging.getLogger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: A third of the time after which a node is offline; the agent's own heartbeat is meant for files.
HEARTBEAT = timedelta(seconds=20)
REQUEST_SECONDS = 10.0
#: Our own heartbeats are events of our own watch: without any for so long, the stream is dead.
SILENCE_SECONDS = 3 * HEARTBEAT.total_seconds()
RETRY_SECONDS = 1.0
RETRY_LONGEST_SECONDS = 30.0
#: After a write: a model that goes through its states quickly, or flaps, is not written more often.
SPACING_SECONDS = 0.5


@dataclass(frozen=True)
class Access:
    """How to reach the API server. The token is read anew for each request, as it is replaced every hour."""

    server: str
    token_file: Path
    ca_file: Path | None = None

    @classmethod
    def of_pod(cls, environment: Mapping[str, str] = os.environ, folder: Path = SERVICE_ACCOUNT) -> Access:
        """What every pod has.

        Raises:
            InputError: this is no pod, or one without a token.
        """
        host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise InputError("--cluster works in a pod only (no KUBERNETES_SERVICE_HOST): give --objects DIR instead")
        if not (folder / "token").is_file():
            raise InputError(f"no token in {folder}: set automountServiceAccountToken: true for the agent's pod")
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", folder / "token", folder / "ca.crt")


class ApiAwayError(OSError):
    """The API server does not answer, or not as it should."""


class ClusterObjects:
    """`NodeObjects` over the API. `register` starts the threads, `close` ends them."""

    def __init__(self, access: Access, node: str, metrics: ApiMetrics | None = None) -> None:
        self.node = node
        self._metrics = metrics or ApiMetrics(CollectorRegistry())
        self._tried = False
        self._access = access
        verify: ssl.SSLContext | bool = True
        if access.ca_file is not None:
            verify = ssl.create_default_context(cafile=str(access.ca_file))
        # trust_env: a proxy of the environment is none for the cluster's own address.
        self._http = httpx.Client(
            base_url=access.server, verify=verify, timeout=REQUEST_SECONDS, trust_env=False, follow_redirects=False
        )
        self._path = f"/apis/{GROUP}/{VERSION}/edgenodes"
        self._lock = threading.Condition()
        self._labels: dict[str, str] = {}
        self._desired: Desired | None = None
        self._version = -1
        self._pending: EdgeNodeStatus | None = None
        self._queued: EdgeNodeStatus | None = None
        self._registered = threading.Event()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._working = 0

    # --- what the agent's loop calls: never waits for the network

    def register(self, labels: Mapping[str, str]) -> None:
        """Make the node known, as soon as the API server answers."""
        self._labels = dict(labels)
        if not self._threads:
            for name, run in (("edgenode-watch", self._watch), ("edgenode-status", self._write)):
                self._threads.append(threading.Thread(target=self._until_closed, args=(run,), name=name, daemon=True))
            self._working = len(self._threads)
            for thread in self._threads:
                thread.start()

    def read_desired(self) -> Desired | None:
        """The newest spec that was seen; None: none was, since this agent started."""
        with self._lock:
            return self._desired

    def write_status(self, status: EdgeNodeStatus) -> None:
        """Have it written. Until then a newer one replaces it; mere heartbeats go out less often than they come in."""
        with self._lock:
            if worth_writing(self._queued, status, heartbeat=HEARTBEAT):
                self._queued = self._pending = status
                self._lock.notify_all()

    def tried(self) -> bool:
        """Whether the API server answered, or was asked in vain."""
        return self._tried

    def close(self, patience: float = 5.0) -> None:
        """Write what waits, if the API server answers within `patience` seconds, and end the threads."""
        with self._lock:
            self._lock.wait_for(lambda: self._pending is None or not self._threads, patience)
        self._closing.set()
        self._registered.set()
        with self._lock:
            self._lock.notify_all()
            if not self._threads:
                self._http.close()

    # --- the threads

    def _until_closed(self, run: Callable[[], None]) -> None:
        """Again and again. The last thread closes what they share: another one may be just connecting."""
        try:
            self._repeat(run)
        finally:
            with self._lock:
                self._working -= 1
                if not self._working:
                    self._http.close()

    def _repeat(self, run: Callable[[], None]) -> None:
        """Until the end; after a failure, after a pause that grows."""
        pause, complained = RETRY_SECONDS, False
        while not self._closing.is_set():
            try:
                run()
                if complained:
                    log.info("the API server is back")
                pause, complained = RETRY_SECONDS, False
            except Exception as error:  # the rim of the thread: whatever it is, the next try may work
                if self._closing.is_set():
                    return
                if not complained:
                    log.warning("the API server is away, what runs goes on: %s", error)
                complained = True
                self._metrics.retried()
                self._closing.wait(pause)
                pause = min(2 * pause, RETRY_LONGEST_SECONDS)

    def _write(self) -> None:
        """Write the next status. A failure leaves it, or a newer one, for the next try."""
        with self._lock:
            self._lock.wait_for(lambda: self._pending is not None or self._closing.is_set())
            status = self._pending
        if status is None:
            return
        self._ensure_registered()
        patch = [{"op": "add", "path": "/status", "value": status.to_json()}]
        answer = self._send(
            "PATCH", f"{self._path}/{self.node}/status", content=patch, kind="application/json-patch+json"
        )
        if answer is None:
            raise self._is_gone()
        self._saw(answer)
        self._metrics.reported(status)
        with self._lock:
            if self._pending is status:
                self._pending = None
            self._lock.notify_all()
        self._closing.wait(SPACING_SECONDS)

    def _ensure_registered(self) -> None:
        if self._registered.is_set():
            return
        if self._send("GET", f"{self._path}/{self.node}") is None:
            meta = {"name": self.node, "labels": self._labels}
            self._send("POST", self._path, content={"apiVersion": API_VERSION, "kind": "EdgeNode", "metadata": meta})
        self._registered.set()

    def _is_gone(self) -> ApiAwayError:
        """Somebody deleted the EdgeNode: the writer makes it anew, with the last status."""
        self._registered.clear()
        with self._lock:
            self._pending = self._pending or self._queued
            self._lock.notify_all()
        return ApiAwayError(f"there is no EdgeNode {self.node}: it is made anew")

    def _watch(self) -> None:
        """One look and one watch, until the stream ends."""
        self._registered.wait()
        if self._closing.is_set():
            return
        found = self._send("GET", f"{self._path}/{self.node}")
        if found is None:
            raise self._is_gone()
        self._saw(found)
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "fieldSelector": f"metadata.name={self.node}",
            "resourceVersion": str(found["metadata"]["resourceVersion"]),
        }
        timeout = httpx.Timeout(REQUEST_SECONDS, read=SILENCE_SECONDS)
        with (
            _as_away(),
            self._http.stream("GET", self._path, params=query, headers=self._headers(), timeout=timeout) as stream,
        ):
            self._metrics.requested("WATCH", stream.status_code)
            if stream.status_code != 200:
                raise ApiAwayError(f"GET {self._path}?watch: {stream.status_code}")
            for line in stream.iter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiAwayError(f"GET {self._path}?watch: {event['object'].get('message', '')}")
                if self._closing.is_set():
                    return
                if event["type"] in ("ADDED", "MODIFIED"):
                    self._saw(event["object"])
                elif event["type"] == "DELETED":
                    raise self._is_gone()

    def _saw(self, body: dict[str, Any]) -> None:
        """Note the spec. One that cannot be understood is logged once and ignored: it must not stop a model."""
        meta = body["metadata"]
        version = int(meta["resourceVersion"])
        retire = (meta.get("annotations") or {}).get(RETIRE_ANNOTATION) == "true"
        try:
            desired = Desired(int(meta["generation"]), EdgeNodeSpec.model_validate(body.get("spec") or {}), retire)
        except ValidationError as error:
            desired = None
            trouble = error
        with self._lock:
            if version <= self._version:
                return
            # In one step with the wish: the writer's answer and the watch's event come by two threads.
            self._version = version
            self._desired = desired or self._desired
        if desired is None:
            log.warning("the spec of EdgeNode %s is ignored, the last good one stays: %s", self.node, trouble)

    # --- requests

    def _headers(self) -> dict[str, str]:
        token = self._access.token_file.read_text().strip()
        return {"Authorization": f"Bearer {token}", "Accept": "application/json"}

    def _send(
        self, method: str, path: str, *, content: object = None, kind: str = "application/json"
    ) -> dict[str, Any] | None:
        """The answer; None: there is no such object.

        Raises:
            ApiAwayError: anything else went wrong.
        """
        headers = self._headers() | ({"Content-Type": kind} if content is not None else {})
        data = None if content is None else json.dumps(content).encode()
        query = None if method == "GET" else {"fieldManager": "edgemodel-agent"}
        with _as_away():
            code = None
            try:
                answer = self._http.request(method, path, content=data, headers=headers, params=query)
                code = answer.status_code
            finally:
                self._metrics.requested(method, code)
                self._tried = True
            if answer.status_code == 404:
                return None
            if answer.status_code >= 400:
                raise ApiAwayError(f"{method} {path}: {answer.status_code}: {answer.text[:300]}")
            found: dict[str, Any] = answer.json()
            return found


@contextmanager
def _as_away() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, ValueError, RuntimeError) as error:
        raise ApiAwayError(str(error) or type(error).__name__) from error
