"""`edgemodel` as a process, on tiny models, with everything that it leaves running counted and ended."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_agent.processes import find_servers
from edgemodel_agent.runtime_dir import runtime_dir
from edgemodel_api.yaml_text import dump

FEATURES, HIDDEN, CLASSES = 32, 256, 4


def write_model(path: Path, seed: int) -> None:
    """A classifier with two layers; another seed gives other weights in the hidden layer, and the same answers nearly."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((FEATURES, HIDDEN)).astype(np.float32) / 8
    # The sum of each quarter of the features decides: read it back out of the hidden layer.
    quarters = np.kron(np.eye(CLASSES, dtype=np.float32), np.ones((FEATURES // CLASSES, 1), np.float32))
    out = (np.linalg.pinv(hidden) @ quarters).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("MatMul", ["h", "w2"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(hidden, "w1"), numpy_helper.from_array(out, "w2")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_data(path: Path, samples: int = 256) -> None:
    """Inputs and the labels that the model is made for."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, FEATURES)).astype(np.float32)
    y = x.reshape(samples, CLASSES, -1).sum(axis=2).argmax(axis=1)
    np.savez(path, x=x, y=y)


SPEC = {
    "source": {"uri": "file:m.onnx"},
    "data": {"validation": {"uri": "file:v.npz", "labels": "y"}},
    "compression": {
        "budget": {"maxQualityDrop": "5%", "maxSlowdown": "1000%"},
        "steps": [{"quantize": {"precision": "Int8", "activations": "None"}}],
    },
    "rollout": {"waves": [{"nodes": 1, "soak": "200ms"}, {"nodes": "100%"}], "maxUnavailable": "100%"},
    "healthCheck": {"timeout": "60s"},
}


class Project:
    """A folder with a manifest and its files, and the workdir beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "edgemodel.yaml"
        self.workdir = folder / ".edgemodel" / "tiny"
        self.spec = json.loads(json.dumps(SPEC))
        self.processes: list[subprocess.Popen] = []
        self.write()
        self.model(1)
        write_data(folder / "v.npz")

    def write(self) -> None:
        document = {"apiVersion": "edgemodel.dev/v1alpha1", "kind": "EdgeModel", "metadata": {"name": "tiny"}}
        self.file.write_text(dump({**document, "spec": self.spec}))

    def model(self, seed: int) -> None:
        write_model(self.folder / "m.onnx", seed)

    def nodes_file(self, *nodes: dict) -> Path:
        path = self.folder / "nodes.yaml"
        path.write_text(dump({"nodes": list(nodes)}))
        return path

    def start(self, *arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "edgemodel_cli", *map(str, arguments)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder, start_new_session=True
        )
        self.processes.append(process)
        return process

    def edgemodel(self, *arguments: object, timeout: float = 100) -> "Ended":
        began = time.monotonic()
        process = self.start(*arguments)
        out, err = process.communicate(timeout=timeout)
        return Ended(process.returncode, out, err, time.monotonic() - began)

    def run(self, *arguments: object, timeout: float = 100) -> "Ended":
        return self.edgemodel("run", "-f", self.file, "-o", "json", *arguments, timeout=timeout)

    def compress(self, *arguments: object) -> "Ended":
        return self.edgemodel("compress", "-f", self.file, *arguments)

    def wait(self, what: str, condition, process: subprocess.Popen | None = None, timeout: float = 60):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if value := condition():
                return value
            if process is not None and process.poll() is not None:
                pytest.fail(f"{what}: ended with {process.returncode}: {process.communicate()}")
            time.sleep(0.02)
        pytest.fail(f"{what}: not within {timeout} s")

    def left_over(self) -> list[str]:
        """Command lines of living processes that belong to this folder."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if any(str(self.folder) in part for part in line) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(line))
        for root in (self.workdir / "nodes").glob("*"):
            found += [f"server {s.pid}" for s in find_servers(runtime_dir(root))]
        return found

    def clean(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for root in (self.workdir / "nodes").glob("*"):
            for server in find_servers(runtime_dir(root)):
                server.kill()
            shutil.rmtree(runtime_dir(root), ignore_errors=True)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(str(self.folder) in part for part in process.cmdline()) and process.pid != os.getpid():
                    process.kill()


class Ended:
    """A command that has ended."""

    def __init__(self, code: int, out: str, err: str, seconds: float) -> None:
        self.code, self.out, self.err, self.seconds = code, out, err, seconds

    @property
    def json(self) -> dict:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit {self.code} after {self.seconds:.1f} s\n{self.out}\n{self.err}"


class Load:
    """Clients that ask all the time and count what fails."""

    def __init__(self, endpoints: list[str]) -> None:
        self.failures: list[str] = []
        self.versions: set[str] = set()
        self.count = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(e,)) for e in endpoints]

    def _run(self, endpoint: str) -> None:
        body = {"inputs": [{"name": "x", "shape": [1, FEATURES], "datatype": "FP32", "data": [0.5] * FEATURES}]}
        with httpx.Client(timeout=20) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(f"{endpoint}/infer", json=body)
                    answer.raise_for_status()
                    self.versions.add(answer.json()["model_version"])
                    self.count += 1
                except httpx.HTTPError as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                time.sleep(0.005)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path)
    yield made
    made.clean()


@pytest.fixture(scope="session")
def load() -> type[Load]:
    return Load
