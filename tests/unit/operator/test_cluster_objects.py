"""The agent's window to the cluster, against an API server of a few lines: it goes away, comes back, and lies."""

from __future__ import annotations

import http.server
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from edgemodel_agent import cluster_objects as module
from edgemodel_agent.__main__ import main
from edgemodel_agent.cluster_objects import Access, ClusterObjects
from edgemodel_api.edgenode import EdgeNodeStatus
from edgemodel_api.errors import InputError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PATH = "/apis/edgemodel.dev/v1alpha1/edgenodes"


class Server(http.server.ThreadingHTTPServer):
    """One EdgeNode. `away`: it answers 503 to everything."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.object: dict | None = None
        self.version = 0
        self.away = False
        self.tokens: list[str] = []
        self.writes: list[dict] = []
        self.changed = threading.Condition()

    def handle_error(self, *_):
        """The client went away: it is meant to."""

    def put(self, **parts) -> None:
        with self.changed:
            self.version += 1
            meta = {"generation": 1, **(self.object or {}).get("metadata", {}), **parts.pop("metadata", {})}
            meta["resourceVersion"] = str(self.version)
            self.object = {**(self.object or {}), **parts, "metadata": meta}
            self.changed.notify_all()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.server.tokens.append(self.headers["Authorization"])
        if self.server.away:
            self.answer(503, {})
        elif "watch=true" in self.path:
            self.watch()
        elif self.server.object is None:
            self.answer(404, {})
        else:
            self.answer(200, self.server.object)

    def watch(self) -> None:
        self.send_response(200)
        self.end_headers()
        seen = int(parse_qs(urlsplit(self.path).query)["resourceVersion"][0])
        deadline = time.monotonic() + 5
        while not self.server.away and time.monotonic() < deadline:
            with self.server.changed:
                if self.server.version == seen:
                    self.server.changed.wait(0.2)
                event = {"type": "MODIFIED", "object": self.server.object} if self.server.version > seen else None
                seen = self.server.version
            if event is not None:
                self.wfile.write(json.dumps(event).encode() + b"\n")

    def body(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def do_POST(self):
        body = self.body()
        if self.server.away:
            self.answer(503, {})
            return
        self.server.put(**body)
        self.answer(201, self.server.object)

    def do_PATCH(self):
        body = self.body()
        if self.server.away:
            self.answer(503, {})
        elif self.server.object is None:
            self.answer(404, {})
        else:
            self.server.writes.append(body[0]["value"])
            self.server.put(status=body[0]["value"])
            self.answer(200, self.server.object)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.02)
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.away = True
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def window(server, tmp_path):
    token = tmp_path / "token"
    token.write_text("one\n")
    found = ClusterObjects(Access(f"http://127.0.0.1:{server.server_port}", token), "n1")
    yield found
    found.close(0)


def status(seconds: float = 0.0, **fields) -> EdgeNodeStatus:
    return EdgeNodeStatus(last_report_time=NOW + timedelta(seconds=seconds), **fields)


def until(condition, seconds: float = 5.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


def spec(name: str) -> dict:
    target = {"revision": "r", "reference": "oci://x/y", "digest": "d", "variant": "v"}
    return {"models": [{"namespace": "default", "name": name, "target": target}]}


def test_registered_and_told(server, window):
    window.register({"pool": "a"})
    window.write_status(status())
    until(lambda: server.writes)
    assert server.object["metadata"]["labels"] == {"pool": "a"}
    server.put(spec=spec("m"), metadata={"generation": 2})
    until(lambda: (d := window.read_desired()) is not None and d.generation == 2)
    assert [m.key for m in window.read_desired().spec.models] == ["default/m"]


def test_away_and_back(server, window, caplog):
    """Nothing waits for it, the wish stays, and the newest status is what is written then."""
    window.register({})
    window.write_status(status())
    until(window.read_desired)
    server.put(spec=spec("m"), metadata={"generation": 2})
    until(lambda: window.read_desired().generation == 2)
    server.away = True
    before = len(server.writes)
    begin = time.monotonic()
    for generation in (2, 3, 4):
        window.write_status(status(observed_generation=generation))
    assert time.monotonic() - begin < 0.1
    time.sleep(0.2)
    assert len(server.writes) == before
    assert window.read_desired().generation == 2
    server.away = False
    until(lambda: len(server.writes) > before)
    assert server.writes[-1]["observedGeneration"] == 4
    assert caplog.text.count("the API server is away") <= 2, "once for each thread"


def test_started_while_it_is_away(server, window):
    server.away = True
    window.register({})
    window.write_status(status())
    assert window.read_desired() is None
    server.away = False
    until(window.read_desired)


def test_heartbeats_go_out_less_often(server, window):
    window.register({})
    for seconds in range(0, 61, 3):
        window.write_status(status(seconds))
        until(lambda: window._pending is None)
    # Every 20 s at most, although there was one every 3 s.
    assert [w["lastReportTime"][17:19] for w in server.writes] == ["00", "21", "42"]
    window.write_status(status(61, observed_generation=9))
    until(lambda: server.writes[-1]["observedGeneration"] == 9)


def test_a_spec_that_is_not_understood_stops_nothing(server, window, caplog):
    window.register({})
    window.write_status(status())
    until(window.read_desired)
    server.put(spec=spec("m"), metadata={"generation": 2})
    until(lambda: window.read_desired().generation == 2)
    server.put(spec={"models": [{"name": "x"}]}, metadata={"generation": 3})
    until(lambda: "is ignored, the last good one stays" in caplog.text)
    assert window.read_desired().generation == 2


def test_the_token_is_read_anew(server, window, tmp_path):
    window.register({})
    window.write_status(status())
    until(lambda: server.writes)
    (tmp_path / "token").write_text("two")
    server.object = None
    window.write_status(status(30))
    until(lambda: "Bearer two" in server.tokens)
    until(lambda: server.object is not None)


def test_the_last_word_is_written(server, window):
    window.register({})
    window.write_status(status(observed_generation=7))
    window.close()
    assert server.writes[-1]["observedGeneration"] == 7


def test_no_pod(monkeypatch, tmp_path, capsys):
    with pytest.raises(InputError, match="give --objects DIR"):
        Access.of_pod({}, tmp_path)
    with pytest.raises(InputError, match="automountServiceAccountToken"):
        Access.of_pod({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)
    (tmp_path / "token").touch()
    assert Access.of_pod({"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path).server == "https://[fd00::1]:443"
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert main(["run", "--node", "n", "--root", str(tmp_path), "--cluster"]) == 2
    assert "works in a pod only" in capsys.readouterr().err
