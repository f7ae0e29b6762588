"""One real server process on loopback: endpoints, limits, hostile clients, drain, faults, control socket."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import stat
import struct
import threading
import time

import httpx
import numpy as np
import psutil
import pytest

from edgemodel_agent.server.wire import ControlError
from edgemodel_api.errors import InputError

ZEROS = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0] * 4}]}
INFER = "/v2/models/m/infer"


@pytest.fixture
def model(tmp_path, make_model):
    return make_model(tmp_path / "m.onnx", 1.0)


@pytest.fixture
def server(serve, model):
    return serve(model)


@pytest.fixture
def http(shared_server):
    with httpx.Client(base_url=shared_server.url, timeout=20) as client:
        yield client


def connect(server) -> socket.socket:
    return socket.create_connection(server.listener.getsockname(), timeout=15)


def until(connection: socket.socket, text: bytes) -> bytes:
    """Read on until `text` has come."""
    found = b""
    while text not in found and (chunk := connection.recv(65536)):
        found += chunk
    return found


def all_of(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            parts.append(chunk)
    return b"".join(parts)


def test_nothing_answers_before_accept(serve, model):
    server = serve(model, accept=False).wait_ready()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/v2/health/live")
    with server.client() as client:
        assert not client.status().accepting
    server.accept()
    assert httpx.get(f"{server.url}/v2/health/live").json() == {"live": True}
    server.accept()  # again: nothing changes
    with server.client() as client:
        assert client.status().accepting


def test_health_and_metadata(http):
    assert http.get("/v2/health/ready").json() == {"ready": True}
    assert http.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in ("/v2/models/m", "/v2/models/m/versions/r1"):
        assert http.get(f"{path}/ready").json() == {"name": "m", "ready": True}
        assert http.get(path).json() == {
            "name": "m", "versions": ["r1"], "platform": "onnxruntime_onnx",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
        }  # fmt: skip


def test_infer_with_json(http):
    for path in (INFER, "/v2/models/m/versions/r1/infer"):
        answer = http.post(path, json={**ZEROS, "id": "42"})
        assert answer.status_code == 200
        assert answer.json() == {
            "model_name": "m", "model_version": "r1", "id": "42",
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [1.0] * 4}],
        }  # fmt: skip


def test_infer_with_binary_both_ways(http):
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    head = json.dumps(
        {
            "inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}}],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    ).encode()
    answer = http.post(INFER, content=head + x.tobytes(), headers={"Inference-Header-Content-Length": str(len(head))})
    assert answer.status_code == 200
    size = int(answer.headers["Inference-Header-Content-Length"])
    assert json.loads(answer.content[:size])["outputs"][0]["parameters"] == {"binary_data_size": 32}
    assert np.frombuffer(answer.content[size:], np.float32).reshape(2, 4).tolist() == (x + 1).tolist()


ERRORS = {
    "another model": ("POST", "/v2/models/z/infer", ZEROS, 404, "no model 'z' here, only 'm'"),
    "another version": ("POST", "/v2/models/m/versions/r9/infer", ZEROS, 404, "'r9' is not served, only 'r1'"),
    "metadata of another model": ("GET", "/v2/models/z", None, 404, "no model 'z'"),
    "no such page": ("GET", "/v3", None, 404, "nothing at '/v3'"),
    "wrong method": ("GET", INFER, None, 405, "Method Not Allowed"),
    "empty body": ("POST", INFER, None, 400, "JSON cannot be read"),
    "wrong shape": ("POST", INFER, {"inputs": [{**ZEROS["inputs"][0], "shape": [4]}]}, 400, "does not fit"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_json_and_say_what_to_change(http, name):
    method, path, body, code, text = ERRORS[name]
    answer = http.request(method, path, json=body)
    assert answer.status_code == code
    assert text in answer.json()["error"]
    assert http.post(INFER, json=ZEROS).status_code == 200


def test_metrics(server):
    with httpx.Client(base_url=server.url) as http:
        http.post(INFER, json=ZEROS)
        http.post(INFER, json={})
        http.post("/v2/models/intruder/infer", json=ZEROS)
        text = http.get("/metrics").text
    assert 'edgemodel_server_requests_total{code="200",name="m",revision="r1"} 1.0' in text
    assert 'edgemodel_server_requests_total{code="400",name="m",revision="r1"} 1.0' in text
    assert 'edgemodel_server_requests_total{code="404",name="m",revision="r1"} 1.0' in text
    assert 'edgemodel_server_inference_seconds_count{name="m",revision="r1"} 1.0' in text
    assert 'edgemodel_server_in_flight_requests{name="m",revision="r1"} 0.0' in text
    assert 'edgemodel_server_model_info{file="m.onnx",name="m",revision="r1",runtime="onnxruntime_onnx"' in text
    assert 'edgemodel_server_model_load_seconds{name="m",revision="r1"}' in text
    assert "edgemodel_server_process_resident_memory_bytes" in text
    assert "intruder" not in text


def test_a_request_that_is_too_large(serve, model):
    server = serve(model, "--max-request-bytes", "1000")
    with httpx.Client(base_url=server.url) as client:
        for content in (b"x" * 1001, iter([b"x" * 400] * 5)):  # with and without a Content-Length
            answer = client.post(INFER, content=content)
            assert answer.status_code == 413
            assert "a request may have 1000 bytes" in answer.json()["error"]
        assert client.post(INFER, json=ZEROS).status_code == 200
    with connect(server) as c:  # a client that asks before it sends
        c.sendall(
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\nExpect: 100-continue\r\n\r\n"
        )
        assert all_of(c).startswith(b"HTTP/1.1 413")


GARBAGE = {
    "binary": os.urandom(64) + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "no HTTP": b"hello\r\n\r\n",
    "endless head": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
    "two lengths": b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "bad chunk": b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "half a request": b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_harms_nobody(shared_server, http, name):
    with connect(shared_server) as c:
        with contextlib.suppress(OSError):
            c.sendall(GARBAGE[name])
            c.shutdown(socket.SHUT_WR)
        answer = all_of(c)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert http.post(INFER, json=ZEROS).status_code == 200
    assert shared_server.process.poll() is None
    assert "Traceback" not in shared_server.log.read_text()


def test_slow_clients_do_not_block_others(shared_server, http):
    with contextlib.ExitStack() as stack:
        for i in range(600):  # more than the server holds: the oldest of these make room
            c = stack.enter_context(connect(shared_server))
            with contextlib.suppress(OSError):
                c.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\n" if i % 2 else b"G")
        began = time.monotonic()
        assert http.post(INFER, json=ZEROS).status_code == 200
        assert httpx.get(f"{shared_server.url}/v2/health/live").status_code == 200
        assert time.monotonic() - began < 5


def test_health_answers_while_inferences_run_and_too_many_get_503(serve, model):
    server = serve(model, "--queue", "2", "--fault", '{"fault": "Slow", "at": "Serving"}')
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(httpx.post, server.url + INFER, json=ZEROS, timeout=30) for _ in range(16)]
        began = time.monotonic()
        live = 0
        while not all(a.done() for a in asked):
            assert httpx.get(f"{server.url}/v2/health/live", timeout=5).status_code == 200
            live += 1
        took = time.monotonic() - began
    answers = [a.result() for a in asked]
    assert {a.status_code for a in answers} == {200, 503}
    refused = next(a for a in answers if a.status_code == 503)
    assert "try again later" in refused.json()["error"]
    assert refused.headers["Retry-After"] == "1"
    assert live >= 2
    assert took >= 0.1


# --- drain


def test_a_request_in_flight_is_answered_and_the_process_ends(serve, model):
    server = serve(model, "--fault", '{"fault": "Slow", "at": "Serving"}')
    # One client: to make four takes longer on a busy machine than the answers do.
    with httpx.Client(base_url=server.url, timeout=30) as http, concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(http.post, INFER, json=ZEROS) for _ in range(4)]
        with server.client() as client:
            deadline = time.monotonic() + 5
            while client.status().in_flight < 4 and time.monotonic() < deadline:
                time.sleep(0.005)
            client.drain()
            assert client.status().draining
        answers = [a.result() for a in asked]
    assert [a.status_code for a in answers] == [200] * 4
    assert all(a.headers["Connection"] == "close" for a in answers)
    assert server.process.wait(timeout=10) == 0
    assert not server.control.exists()


def test_without_a_successor_idle_connections_are_served_a_while_and_then_closed(server):
    with httpx.Client(base_url=server.url) as busy, httpx.Client(base_url=server.url) as idle:
        for client in (busy, idle):
            assert client.post(INFER, json=ZEROS).status_code == 200
        server.drain()
        late = busy.post(INFER, json=ZEROS)
        assert (late.status_code, late.headers["Connection"]) == (200, "close")
        assert server.process.wait(timeout=10) == 0


def test_sigterm_drains(server):
    assert httpx.post(server.url + INFER, json=ZEROS).status_code == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=10) == 0
    assert server.log.read_text() == ""


def test_idle_connections_go_to_the_next_server_with_what_was_sent_on_them(serve, tmp_path, make_model):
    old = serve(make_model(tmp_path / "old.onnx", 1.0), version="r1")
    body = json.dumps(ZEROS).encode()
    request = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with connect(old) as c, httpx.Client(base_url=old.url) as client:
        c.sendall(request)
        assert b"[1.0,1.0,1.0,1.0]" in until(c, b"]}]}")
        assert client.post(INFER, json=ZEROS).json()["model_version"] == "r1"
        new = serve(make_model(tmp_path / "new.onnx", 2.0), version="r2")
        connections = old.drain(hand_over=True)
        assert len(connections) == 2
        assert old.process.wait(timeout=1.5) == 0, "nothing is left to wait for"
        c.sendall(request)  # nobody has the connection yet: it waits in the kernel
        with new.client() as control:
            control.take(connections)
        for fd in connections:
            os.close(fd)
        assert b"[2.0,2.0,2.0,2.0]" in until(c, b"]}]}")
        assert client.post(INFER, json=ZEROS).json()["model_version"] == "r2"


def test_switches_under_load_lose_no_request(serve, tmp_path, make_model, load):
    models = [make_model(tmp_path / f"{i}.onnx", float(i)) for i in range(7)]
    current = serve(models[0], version="r0")
    with load(f"{current.url}/v2/models/m", clients=10) as clients:
        for i in range(1, 7):
            following = serve(models[i], version=f"r{i}")
            connections = current.drain(hand_over=i % 2 == 1)
            if connections:
                with following.client() as control:
                    control.take(connections)
                for fd in connections:
                    os.close(fd)
            current = following
            time.sleep(0.3)
    assert clients.failures == []
    assert set(clients.answers) == {float(i) for i in range(7)}


def test_a_draining_server_accepts_no_more(server):
    with connect(server):  # an idle connection keeps it for a while
        time.sleep(0.1)
        server.drain()
        with server.client() as client, pytest.raises(ControlError, match="draining"):
            client.accept()
        server.listener.setblocking(False)  # still listening: what comes now waits for the next server
        with connect(server):
            pass


# --- control socket


def test_inference_and_timing_over_the_control_socket(serve, model):
    server = serve(model, accept=False).wait_ready()
    with server.client() as client:
        x = np.arange(12, dtype=np.float32).reshape(3, 4)
        assert client.infer_cases({"x": x})["y"].tolist() == (x + 1).tolist()
        timed = client.latency(20)
        assert 0 < timed.median <= timed.p99
        assert len(timed.seconds) == 20
        with pytest.raises(InputError, match="does not accept"):
            client.infer({"x": np.zeros((1, 3), np.float32)})
        with pytest.raises(ControlError, match="runs must be"):
            client.latency(0)
        assert client.status().rows == 1


def test_the_listening_socket_can_be_had_back(shared_server):
    with shared_server.client() as client, socket.socket(fileno=client.listener()) as listener:
        assert listener.getsockname() == shared_server.listener.getsockname()
        assert not os.get_inheritable(listener.fileno())


def test_the_control_socket_is_private(shared_server):
    assert stat.S_IMODE(shared_server.control.stat().st_mode) == 0o600


CONTROL_GARBAGE = {
    "nothing": b"",
    "giant lengths": struct.pack("!IQ", 2**32 - 1, 2**63),
    "not JSON": struct.pack("!IQ", 1, 0) + b"{",
    "a list": struct.pack("!IQ", 2, 0) + b"[]",
    "pickles": struct.pack("!IQ", 80, 0) + b'{"do":"infer","arrays":[{"name":"x","dtype":"O","shape":[1]}]}'.ljust(80),
    "arrays beyond the end": struct.pack("!IQ", 80, 4)
    + b'{"do":"infer","arrays":[{"name":"x","dtype":"<f4","shape":[9]}]}'.ljust(80)
    + b"1234",
    "unknown": struct.pack("!IQ", 26, 0) + b'{"do":"fly", "arrays":[]}'.ljust(26),
}


@pytest.mark.parametrize("name", CONTROL_GARBAGE)
def test_garbage_on_the_control_socket(shared_server, name):
    with socket.socket(socket.AF_UNIX) as c:
        c.settimeout(5)
        c.connect(str(shared_server.control))
        c.sendall(CONTROL_GARBAGE[name])
        c.shutdown(socket.SHUT_WR)
        answer = all_of(c)
    assert (b"cannot 'fly'" in answer) if name == "unknown" else answer == b""
    with shared_server.client() as client:
        assert client.status().ready
    assert "Traceback" not in shared_server.log.read_text()


# --- faults and starts


def test_wrong_output_only_at_its_stage(serve, model):
    x = {"x": np.zeros((2, 4), np.float32)}
    server = serve(model, "--fault", '{"fault": "WrongOutput", "at": "Serving"}', accept=False).wait_ready()
    with server.client() as client:
        assert client.infer_cases(x)["y"].tolist() == [[1.0] * 4] * 2
    server.accept()
    with server.client() as client:
        assert client.infer_cases(x)["y"].tolist() == [[-2.0] * 4] * 2
    assert httpx.post(server.url + INFER, json=ZEROS).json()["outputs"][0]["data"] == [-2.0] * 4


def test_crash_while_serving_comes_even_if_nobody_asks(serve, model):
    server = serve(model, "--fault", '{"fault": "Crash", "at": "Serving"}')
    assert server.process.wait(timeout=10) == 70
    assert "rehearsed fault Crash" in server.log.read_text()


BAD_STARTS = {
    "not a model": (b"not a model", (), "cannot load it"),
    "no file": (None, (), "cannot load it"),
    "threads": (None, ("--threads", "0"), "--threads 0 is not 1 or more"),
    "fault": (None, ("--fault", "{}"), "--rehearse"),
}


@pytest.mark.parametrize("name", BAD_STARTS)
def test_bad_starts_exit_2_with_one_line(serve, tmp_path, name):
    content, options, text = BAD_STARTS[name]
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    server = serve(path, *options, accept=False)
    assert server.process.wait(timeout=20) == 2
    said = server.log.read_text().strip().splitlines()
    assert text in said[-1]
    assert "Traceback" not in "\n".join(said)


def test_an_idle_server_is_small_and_uses_no_cpu(server, record_property):
    for _ in range(20):
        httpx.post(server.url + INFER, json=ZEROS)
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()
    time.sleep(1.5)
    after = process.cpu_times()
    resident = process.memory_info().rss / 2**20
    record_property("resident_mebibytes", resident)
    print(f"resident: {resident:.1f} MiB")
    assert resident < 110
    assert after.user + after.system - before.user - before.system <= 0.05


def test_many_clients_at_once(shared_server):
    answers: list[int] = []
    lock = threading.Lock()

    def ask() -> None:
        with httpx.Client(base_url=shared_server.url, timeout=30) as client:
            for _ in range(10):
                code = client.post(INFER, json=ZEROS).status_code
                with lock:
                    answers.append(code)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert answers == [200] * 200
