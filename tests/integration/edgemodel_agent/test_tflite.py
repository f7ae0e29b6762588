"""TFLite variants on a node: real files through a real server and a real agent, beside ONNX ones, and hostile ones."""

import concurrent.futures
import json
import random
import time

import httpx
import numpy as np
import pytest

from edgemodel_api.edgemodel import Budget, HealthCheck, Serving, ServingMode
from edgemodel_api.edgenode import AssignedTrial
from edgemodel_api.errors import InputError

INFER = "/v2/models/m/infer"


@pytest.fixture
def tflite(tmp_path, make_model, make_tflite):
    return make_tflite(tmp_path / "m", make_model(tmp_path / "m.onnx", 1.0))


def request_of(x):
    return {"inputs": [{"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.reshape(-1).tolist()}]}


# --- one server


def test_the_protocol_is_the_same(serve, tflite):
    server = serve(tflite)
    with httpx.Client(base_url=server.url, timeout=20) as http:
        assert http.get("/v2/models/m").json() == {
            "name": "m", "versions": ["r1"], "platform": "litert_tflite",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
        }  # fmt: skip
        for rows in (1, 7, 2):
            x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
            (y,) = http.post(INFER, json=request_of(x)).json()["outputs"]
            assert (y["shape"], y["data"]) == ([rows, 4], (x + 1).reshape(-1).tolist())
        x = np.arange(8, dtype=np.float32).reshape(2, 4)
        head = json.dumps(
            {
                "inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}}],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        answer = http.post(
            INFER, content=head + x.tobytes(), headers={"Inference-Header-Content-Length": str(len(head))}
        )
        size = int(answer.headers["Inference-Header-Content-Length"])
        assert np.frombuffer(answer.content[size:], np.float32).tolist() == (x + 1).reshape(-1).tolist()
        text = http.get("/metrics").text
        assert 'runtime="litert_tflite"' in text
        assert 'edgemodel_server_inference_seconds_count{name="m",revision="r1"} 4.0' in text


BAD_REQUESTS = {
    "no row": (np.zeros((0, 4), np.float32), "any from 1 on"),
    "another width": (np.zeros((1, 5), np.float32), "does not fit"),
    "another rank": (np.zeros((4,), np.float32), "does not fit"),
}


def test_hostile_clients_get_400_and_harm_nobody(serve, tflite):
    server = serve(tflite)
    with httpx.Client(base_url=server.url, timeout=20) as http:
        for x, text in BAD_REQUESTS.values():
            answer = http.post(INFER, json=request_of(x))
            assert (answer.status_code, text in answer.json()["error"]) == (400, True), answer.text
            assert http.post(INFER, json=request_of(np.ones((1, 4), np.float32))).status_code == 200
    assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("options", [(), ("--threads", "2")], ids=["one thread", "two threads"])
def test_many_clients_with_batches_of_their_own(serve, tmp_path, make_model, make_tflite, options):
    model = make_model(tmp_path / "w.onnx", 1.0, work=4)
    server = serve(make_tflite(tmp_path / "w", model), *options)

    def ask(client: int) -> bool:
        rng = np.random.default_rng(client)
        with httpx.Client(base_url=server.url, timeout=60) as http:
            for _ in range(15):
                x = rng.standard_normal((int(rng.integers(1, 9)), 4)).astype(np.float32)
                found = {o["name"]: o for o in http.post(INFER, json=request_of(x)).json()["outputs"]}
                y = np.array(found["y"]["data"], np.float32).reshape(found["y"]["shape"])
                if not np.array_equal(y, x + 1) or found["h4"]["shape"] != [len(x), 256]:
                    return False
        return True

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        assert list(pool.map(ask, range(10))) == [True] * 10
    assert server.process.poll() is None


def peak_mebibytes(server) -> float:
    with open(f"/proc/{server.process.pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM:")) / 1024


def asked_at_once(server, clients: int = 8) -> float:
    """Peak memory after clients that ask at the same time, each with a row."""
    x = request_of(np.ones((1, 4), np.float32))

    def ask(_client: int) -> set[int]:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            return {http.post(INFER, json=x).status_code for _ in range(30)}

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        assert set().union(*pool.map(ask, range(clients))) == {200}
    return peak_mebibytes(server)


def test_clients_at_once_do_not_take_more_memory_than_may_be(serve, tmp_path, make_model, make_tflite):
    file = make_tflite(tmp_path / "w", make_model(tmp_path / "w.onnx", 1.0, work=150))
    free = serve(file, version="r1")
    alone = peak_mebibytes(free)
    free.process.kill()
    limit = int((alone + 8) * 2**20)
    assert asked_at_once(serve(file, "--max-memory-bytes", str(limit), version="r2")) < alone + 8 + 4


def test_the_control_socket_times_and_infers_as_with_onnx(serve, tflite):
    server = serve(tflite, accept=False).wait_ready()
    with server.client() as client:
        x = np.arange(12, dtype=np.float32).reshape(3, 4)
        assert client.infer_cases({"x": x})["y"].tolist() == (x + 1).tolist()
        timed = client.latency(20)
        assert 0 < timed.median <= timed.p99
        with pytest.raises(InputError, match="does not accept"):
            client.infer({"x": np.zeros((1, 3), np.float32)})
        assert client.status().rows == 1


# --- a node


def test_an_update_from_onnx_to_tflite_and_back_loses_no_request(agent, registry, load):
    onnx, tflite = registry.one("r1", 1.0), registry.one("r2", 2.0, tflite=True)
    last = registry.one("r3", 3.0)
    assert agent.switched_under_load(load, onnx, tflite, last, tflite) == {1.0, 2.0, 3.0}
    status = agent.status()
    assert {"onnxruntime", "ai-edge-litert"} <= set(status.runtimes)
    measured = agent.model().measured
    assert float(measured.golden_error) < 1e-6
    assert float(measured.latency_median_seconds) > 0
    assert measured.peak_memory_bytes > 10_000_000


def test_limits_and_golden_cases_hold_for_tflite_too(agent, registry):
    good, wrong = registry.one("r1", 1.0, tflite=True), registry.one("r2", 2.0, tflite=True, off_by=0.5)
    agent.start()
    agent.assign(good, budget=Budget(max_latency="0.001ms"))
    assert agent.wait_failed(good).reason == "TooSlow"
    agent.assign(good, attempt=2, health_check=HealthCheck(max_memory="1Mi"))
    assert agent.wait("too large", lambda a: (m := a.model()) and m.reason == "TooMuchMemory" and m)
    agent.assign(good, attempt=3)
    agent.wait_serving(good)
    agent.assign(wrong)
    model = agent.wait_failed(wrong)
    assert (model.reason, model.running.digest) == ("GoldenMismatch", good.digest)


def test_a_trial_of_both_formats(agent, registry):
    candidates = registry.push("r1", (1.0, {"work": 20}), (1.0, {"work": 20, "tflite": True}))
    agent.start()
    agent.assign(trials=(AssignedTrial(namespace="default", name="m", revision="r1", candidates=tuple(candidates)),))

    def done(a):
        status = a.status()
        return status.trials[0] if status.trials and status.trials[0].done else None

    source, tflite = agent.wait("the trial ends", done, timeout=90).results
    assert (source.passed, tflite.passed) == (True, True), (source.message, tflite.message)
    assert source.measured.slowdown is None
    assert float(tflite.measured.slowdown) > -1
    assert tflite.measured.peak_memory_bytes > 10_000_000
    agent.wait("no server is left", lambda a: a.servers() == [])


def test_files_mode_lays_it_down_under_its_own_name(agent, registry):
    onnx, tflite = registry.one("r1", 1.0), registry.one("r2", 2.0, tflite=True)
    serving = Serving(mode=ServingMode.FILES)
    agent.start()
    current = agent.root / "models/default/m/current"
    agent.assign(onnx, serving=serving)
    assert agent.wait_serving(onnx).running.endpoint == f"file://{current}/model.onnx"
    agent.assign(tflite, serving=serving)
    assert agent.wait_serving(tflite).running.endpoint == f"file://{current}/model.tflite"
    assert (current / "model.tflite").read_bytes() == (registry.work / "1.tflite").read_bytes()
    assert sorted(p.name for p in current.iterdir()) == ["model.tflite", "variant.json"]
    assert json.loads((current / "variant.json").read_text())["file"] == "model.tflite"
    agent.kill()
    agent.start()
    generation = agent.assign(tflite, serving=serving)
    agent.wait("observed", lambda a: a.status().observed_generation == generation)
    assert agent.wait_serving(tflite).running.endpoint == f"file://{current}/model.tflite"


# --- hostile files


def endless() -> bytes:
    """Three graphs whose loops are made of each other: to prepare one takes all of the stack."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: bytes):
        found = schema.TensorT()
        found.name, found.shape, found.type, found.buffer = name, [1], schema.TensorType.FLOAT32, 0
        return found

    def graph(cond: int, body: int):
        options, op, found = schema.WhileOptionsT(), schema.OperatorT(), schema.SubGraphT()
        options.condSubgraphIndex, options.bodySubgraphIndex = cond, body
        op.opcodeIndex, op.inputs, op.outputs = 0, [0], [1]
        op.builtinOptions, op.builtinOptionsType = options, schema.BuiltinOptions.WhileOptions
        found.tensors, found.inputs, found.outputs, found.operators = [tensor(b"x"), tensor(b"y")], [0], [1], [op]
        return found

    def named(name: str, index: int):
        found = schema.TensorMapT()
        found.name, found.tensorIndex = name, index
        return found

    model, code, signature = schema.ModelT(), schema.OperatorCodeT(), schema.SignatureDefT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.WHILE
    code.version = 1
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = [named("x", 0)], [named("y", 1)]
    model.version, model.operatorCodes, model.buffers = 3, [code], [schema.BufferT()]
    model.subgraphs, model.signatureDefs = [graph(1, 2), graph(2, 0), graph(0, 1)], [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_file_that_ends_the_process_is_refused_while_the_old_one_serves(agent, registry, load):
    good, bad = registry.one("r1", 1.0), registry.one("r2", 2.0, tflite=endless())
    agent.start()
    agent.assign(good)
    endpoint = agent.wait_serving(good).running.endpoint
    with load(endpoint) as clients:
        agent.assign(bad)
        model = agent.wait_failed(bad)
    assert (model.reason, model.running.digest) == ("LoadFailed", good.digest)
    assert "the server could not load the model, killed by SIG" in model.message
    assert "INFO" not in model.message
    assert clients.failures == []
    assert agent.process.poll() is None


def flipped(content: bytes, rng: random.Random) -> bytes:
    """A few bytes of the graph (it is behind the weights) or anywhere are others; the magic stays."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 2, 4, 16])):
        at = rng.randrange(len(found)) if rng.random() < 0.5 else rng.randrange(max(0, len(found) - 2000), len(found))
        found[at] = rng.randrange(256)
    found[4:8] = b"TFL3"
    return bytes(found)


def test_flipped_bytes_end_in_a_verdict_and_nothing_else(agent, registry, load, tflite):
    good = registry.one("r0", 1.0)
    rng = random.Random(5)
    bad = [registry.one(f"r{i}", 1.0, tflite=flipped(tflite.read_bytes(), rng)) for i in range(1, 9)]
    agent.start()
    agent.assign(good)
    endpoint = agent.wait_serving(good).running.endpoint
    ends = set()
    with load(endpoint, clients=2) as clients:
        for target in bad:
            agent.assign(target, health_check=HealthCheck(timeout="20s"))

            def ended(a, target=target):
                m = a.model()
                return m if m and m.digest == target.digest and m.state in ("Failed", "Serving") else None

            model = agent.wait("a verdict", ended)
            ends.add(model.reason)
            assert model.running is not None, "something always serves"
            assert model.state == "Serving" or model.message
            time.sleep(0.05)
    assert clients.failures == []
    assert set(clients.answers) == {1.0}, "the golden cases let no other answer through"
    assert ends <= {"Serving", "LoadFailed", "GoldenMismatch", "CheckTimedOut", "ServerCrashed", "TooMuchMemory"}
    assert "LoadFailed" in ends
    assert "Traceback" not in agent.log.read_text()
