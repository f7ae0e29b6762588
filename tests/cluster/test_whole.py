"""Everything real but the kubelets: the compressor and three agents run as processes of this machine, in a pod's stead."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_agent.processes import find_servers
from edgemodel_agent.runtime_dir import runtime_dir
from edgemodel_operator.k8s import objects

from .conftest import PYTHONPATH, ROOT, remove, wait

#: An agent that finds its API server and token where it is told, as there is no pod.
AGENT = """
import sys
from pathlib import Path
from edgemodel_agent.__main__ import main
from edgemodel_agent.cluster_objects import Access
server, token, ca = sys.argv[1:4]
Access.of_pod = classmethod(lambda cls: cls(server, Path(token), Path(ca)))
sys.exit(main(sys.argv[4:]))
"""
FEATURES, CLASSES = 64, 4


@pytest.fixture
def source(tmp_path):
    """A linear classifier, and data that it is right on."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((FEATURES, CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    x = rng.standard_normal((128, FEATURES)).astype(np.float32)
    np.savez(tmp_path / "v.npz", x=x, y=(x @ weights).argmax(axis=1))

    def remote(name):
        path = tmp_path / name
        return {"uri": f"file://{path}", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    return {
        "source": remote("m.onnx"),
        "data": {"validation": {**remote("v.npz"), "labels": "y"}},
        "compression": {
            "budget": {"maxQualityDrop": "5%", "maxSlowdown": "1000%"},
            "steps": [{"quantize": {"precision": "Int8", "activations": "None"}}],
        },
    }


@pytest.fixture
def stores(model):
    """Where the agents keep their things: not in `tmp_path`, as the path of a socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="em-") as folder:
        yield Path(folder)


@pytest.fixture
def real_agents(access, model, cluster, stores, tmp_path):
    """Three of them; names and processes."""
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    processes = {}
    for i in range(3):
        name = f"{model.namespace}-n{i}"
        flags = ["run", "--cluster", "--node", name, "--root", stores / name, "--label", f"pool={model.pool}"]
        command = [sys.executable, "-c", AGENT, access.server, access.token_file, access.ca_file, *flags]
        with (tmp_path / f"{name}.log").open("wb") as out:
            processes[name] = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out, env=environment)
    yield processes
    for name, process in processes.items():
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        for server in find_servers(runtime_dir(stores / name)):
            server.kill()
        print(name, (tmp_path / f"{name}.log").read_text())
        remove(cluster, f"{objects.EDGE_NODES}/{name}")


def compress(model, tmp_path) -> None:
    """What a kubelet would do with the Job's pod: lay down its contract, run its command, report how it ended."""
    pod = model.pod()
    (tmp_path / "job.json").write_text(pod["metadata"]["annotations"]["edgemodel.dev/job"])
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "edgemodel_compressor", "--job", tmp_path / "job.json", "--result", result]
    path = os.pathsep.join((PYTHONPATH, str(ROOT / "compressor")))
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, timeout=100, check=False
    )
    print(ended.stderr.decode()[-2000:])
    model.end_pod({"exitCode": ended.returncode, "message": result.read_text()})


@pytest.mark.timeout(240)
def test_from_apply_to_inference_on_each_node(cluster, operator, model, source, real_agents, tmp_path):
    operator.kill()
    operator.output = f"oci-layout://{tmp_path}/registry"
    operator.start()
    model.apply(**source)
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job")
    compress(model, tmp_path)
    wait(lambda: model.says("Compressed"), "the artifact")
    ready = wait(lambda: model.says("Ready") or model.says("Stalled"), "Ready", 120)
    assert (ready.type, ready.message[:3]) == ("Ready", "3/3"), ready
    assert {v.accepted for v in model.read().status.variants} == {True}

    request = {"inputs": [{"name": "x", "shape": [1, FEATURES], "datatype": "FP32", "data": [0.5] * FEATURES}]}
    endpoints = []
    for name in real_agents:
        status = cluster.get(f"{objects.EDGE_NODES}/{name}")["status"]
        assert status["observedGeneration"] == cluster.get(f"{objects.EDGE_NODES}/{name}")["metadata"]["generation"]
        endpoints.append(status["models"][0]["running"]["endpoint"])
        answer = httpx.post(f"{endpoints[-1]}/infer", content=json.dumps(request), timeout=10)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["outputs"][0]["data"]) == CLASSES

    remove(cluster, model.path)
    wait(lambda: not any(answers(e) for e in endpoints), "the end of the servers", 40)


def answers(endpoint: str) -> bool:
    try:
        return httpx.get(endpoint, timeout=2).status_code == 200
    except httpx.TransportError:
        return False
