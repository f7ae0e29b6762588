"""The agent's `/metrics`, `/healthz`, `/readyz`, asked by good clients and bad ones."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import httpx
import pytest
from tests.programs import free_port

from edgemodel_agent import endpoint as module
from edgemodel_agent.endpoint import CONNECTIONS, HEAD_BYTES, Endpoint
from edgemodel_agent.health import LOOP_SECONDS, Health


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Asked:
    """An endpoint, and all that it depends on."""

    def __init__(self, port: int) -> None:
        self.clock, self.introduced, self.gathered, self.body = Clock(), True, 0, b"a_total 1\n"
        self.health = Health(introduced=lambda: self.introduced, clock=self.clock)
        self.endpoint = Endpoint("127.0.0.1", port, health=self.health, metrics=self.gather)
        self.port, self.url = port, f"http://127.0.0.1:{port}"

    def gather(self) -> bytes:
        self.gathered += 1
        return self.body

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=5)

    def connection(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)


@pytest.fixture
def asked():
    found = Asked(free_port())
    found.endpoint.start()
    yield found
    found.endpoint.close()


def test_live_while_the_loop_turns(asked):
    asked.health.turned()
    assert asked.get("/healthz").status_code == 200
    asked.clock.now = LOOP_SECONDS - 1
    assert asked.get("/healthz").status_code == 200
    asked.clock.now = LOOP_SECONDS + 41
    answer = asked.get("/healthz")
    assert answer.status_code == 503
    assert answer.text == "the last pass ended 101 s ago, the limit is 60 s\n"
    asked.health.turned()
    assert asked.get("/healthz").status_code == 200


def test_live_before_the_first_pass_but_not_for_ever(asked):
    assert asked.get("/healthz").status_code == 200
    asked.clock.now = LOOP_SECONDS + 1
    assert asked.get("/healthz").status_code == 503


READY = {
    "works": ({}, 200, "the last pass ended 0.0 s ago"),
    "no pass yet": ({"turned": False}, 503, "no pass was made yet"),
    "pass failed": ({"problem": "disk full"}, 503, "the last pass failed: disk full"),
    "API server not asked": ({"introduced": False}, 503, "the API server was not asked yet"),
    "hangs": ({"later": 100.0}, 503, "the last pass ended 100 s ago"),
}


@pytest.mark.parametrize("name", READY)
def test_ready(asked, name):
    so, code, text = READY[name]
    asked.introduced = so.get("introduced", True)
    if so.get("turned", True):
        asked.health.turned(so.get("problem", ""))
    asked.clock.now += so.get("later", 0.0)
    answer = asked.get("/readyz?verbose")
    assert answer.status_code == code
    assert answer.text.startswith(text)


def test_ready_again_after_a_pass_that_failed(asked):
    asked.health.turned("sick disk")
    asked.health.turned()
    assert asked.get("/readyz").status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_only_get(asked, method):
    answer = httpx.request(method, f"{asked.url}/metrics", timeout=5)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"
    assert asked.gathered == 0


def test_other_paths(asked):
    assert asked.get("/").status_code == 404
    assert asked.get("/metrics/../../etc/passwd").status_code == 404


def test_metrics_have_the_right_type(asked):
    answer = asked.get("/metrics?name[]=x")
    assert answer.content == asked.body
    assert answer.headers["content-type"].startswith("text/plain; version=")


def test_many_scrapes_gather_once(asked, monkeypatch):
    monkeypatch.setattr(module, "FRESH_SECONDS", 60.0)
    with contextlib.ExitStack() as stack:
        threads = [threading.Thread(target=asked.get, args=("/metrics",)) for _ in range(20)]
        for t in threads:
            t.start()
            stack.callback(t.join)
    assert asked.gathered == 1


def test_series_are_fresh_after_a_second(asked, monkeypatch):
    monkeypatch.setattr(module, "FRESH_SECONDS", 0.0)
    asked.get("/metrics")
    asked.body = b"a_total 2\n"
    assert asked.get("/metrics").content == asked.body


HOSTILE = {
    "nothing": b"",
    "half a head": b"GET /metrics HTTP/1.1\r\nHost: x\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "endless head": b"GET /metrics HTTP/1.1\r\nX: " + b"a" * (HEAD_BYTES * 4),
    "two requests": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_clients_keep_nobody_waiting(asked, name):
    with contextlib.ExitStack() as stack:
        bad = [stack.enter_context(asked.connection()) for _ in range(CONNECTIONS + 8)]
        for c in bad:
            with contextlib.suppress(OSError):  # it may have been thrown out already
                c.sendall(HOSTILE[name])
        began = time.monotonic()
        assert asked.get("/healthz").status_code == 200
        assert asked.get("/metrics").content == asked.body
        assert time.monotonic() - began < 3


def test_what_is_no_request_gets_an_answer(asked):
    for content, code in ((HOSTILE["no HTTP"], b"400"), (HOSTILE["endless head"], b"431")):
        with asked.connection() as c:
            c.sendall(content)
            assert c.recv(100).startswith(b"HTTP/1.1 " + code)


def test_slow_readers_keep_nobody_waiting_and_are_thrown_out(asked, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 1.5)
    asked.body = b"#" * 40_000_000
    with asked.connection() as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert slow.recv(10) == b"HTTP/1.1 2"
        assert asked.get("/healthz").status_code == 200
        time.sleep(2)
        got = 0
        with contextlib.suppress(ConnectionResetError):
            while chunk := slow.recv(1 << 20):
                got += len(chunk)
        assert got < len(asked.body)


def test_a_slow_writer_is_thrown_out(asked, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.5)
    with asked.connection() as slow:
        slow.sendall(b"GET /metr")
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(10) == b""


def test_a_port_that_is_taken(asked):
    second = Asked(asked.port)
    with pytest.raises(OSError, match="in use"):
        second.endpoint.start()


def test_a_patient_one_gets_the_port_when_the_other_lets_go(asked):
    second = Asked(asked.port)
    second.body = b"b_total 1\n"
    second.endpoint.start(patient=True)
    try:
        assert asked.get("/metrics").content == asked.body
        asked.endpoint.close()
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if second.get("/metrics").content == second.body:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        second.endpoint.close()
