"""Real agents as processes, real artifacts from tiny models, and clients that count what fails."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import httpx
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_agent.processes import bind_listener, find_servers
from edgemodel_agent.runtime_dir import runtime_dir
from edgemodel_agent.server.control import ControlClient
from edgemodel_api.artifact import Golden
from edgemodel_api.edgemodel import Format
from edgemodel_api.edgenode import (
    ArtifactTarget,
    AssignedModel,
    AssignedTrial,
    EdgeNodeSpec,
    EdgeNodeStatus,
    ModelStatus,
)
from edgemodel_oci.artifact import ArtifactWriter
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import open_repository

PLATFORM = "linux/amd64"


def model_file(path: Path, add: float, *, ballast: int = 0, work: int = 0) -> Path:
    """y = x + `add`: the answer tells which revision gave it. `ballast`: bytes that do not compress; `work`: MatMuls."""
    nodes = [helper.make_node("Add", ["x", "k"], ["y"])]
    weights = [numpy_helper.from_array(np.full((1, 4), add, np.float32), "k")]
    if ballast:
        noise = np.random.default_rng(int(add * 1000)).integers(0, 256, ballast, dtype=np.uint8)
        weights.append(numpy_helper.from_array(noise, "ballast"))
        nodes.append(helper.make_node("Gather", ["ballast", "first"], ["ballast_out"]))
        weights.append(numpy_helper.from_array(np.array(0, np.int64), "first"))
        nodes.append(helper.make_node("Cast", ["ballast_out"], ["b"], to=TensorProto.FLOAT))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])]
    if ballast:
        outputs.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, []))
    if work:
        size = 256
        weights.append(numpy_helper.from_array(np.full((4, size), 0.01, np.float32), "in"))
        weights.append(numpy_helper.from_array(np.full((size, size), 0.001, np.float32), "square"))
        nodes.append(helper.make_node("MatMul", ["x", "in"], ["h0"]))
        nodes += [helper.make_node("MatMul", [f"h{i}", "square"], [f"h{i + 1}"]) for i in range(work)]
        outputs.append(helper.make_tensor_value_info(f"h{work}", TensorProto.FLOAT, ["n", size]))
    graph = helper.make_graph(
        nodes, "add", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])], outputs, weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def golden_file(path: Path, model: Path, *, off_by: float = 0.0) -> Path:
    """Four cases with the model's own answers; `off_by` makes them wrong."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    rows = [session.run(None, {"x": row[None]}) for row in x]
    arrays = {"input:x": x}
    for index, output in enumerate(session.get_outputs()):
        arrays[f"output:{output.name}"] = np.concatenate([np.atleast_1d(r[index]) for r in rows]) + np.float32(off_by)
    with open(path, "wb") as f:
        np.savez(f, **arrays)
    return path


def tflite_file(path: Path, model: Path) -> Path:
    """The same model as a TFLite file."""
    from edgemodel_compressor.formats import tflite

    return tflite.convert(onnx.load(model), path).path


class Registry:
    """An image layout with revisions of the tiny model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "registry"
        self.work = folder / "work"
        self.work.mkdir()
        self._count = itertools.count()

    def push(self, revision: str, *variants: tuple[float, dict]) -> list[ArtifactTarget]:
        """One index; each variant is (number that it adds, options of model_file and off_by).

        `tflite`: True for the same as a TFLite file, or the bytes of one.
        """
        reference = f"oci-layout://{self.folder}"
        writer = ArtifactWriter(open_repository(Reference.parse(reference), create=True))
        targets = []
        for add, options in variants:
            n = next(self._count)
            off_by, other = options.pop("off_by", 0.0), options.pop("tflite", False)
            model = model_file(self.work / f"{n}.onnx", add, **options)
            golden = golden_file(self.work / f"{n}.npz", model, off_by=off_by)
            if other:
                path = self.work / f"{n}.tflite"
                model = tflite_file(path, model) if other is True else path
                if other is not True:
                    path.write_bytes(other)
            name = "source" if not targets else f"variant-{len(targets)}"
            descriptor = writer.add_variant(
                platform=PLATFORM,
                name=name,
                model_file=model,
                golden_file=golden,
                golden=Golden(cases=4, max_error=1e-3),
                classes=(),
                encoding="float32",
                source_name="tiny",
                model_format=Format.TFLITE if other else Format.ONNX,
            )
            targets.append(
                ArtifactTarget(
                    revision=revision,
                    reference=reference,
                    digest=descriptor.digest,
                    variant=name,
                    size_bytes=model.stat().st_size,
                    file_bytes=model.stat().st_size,
                )
            )
        writer.finish(revision=revision, tag=revision)
        return targets

    def one(self, revision: str, add: float, **options) -> ArtifactTarget:
        return self.push(revision, (add, options))[0]


class AgentProcess:
    """One node: its folders, its agent process, and the operator's side of its objects."""

    def __init__(self, folder: Path, name: str = "n1") -> None:
        self.name = name
        self.root = folder / name
        self.objects = folder / "objects"
        self.folder = self.objects / "edgenodes" / name
        self.process: subprocess.Popen | None = None
        self.generation = 0
        self.spec = EdgeNodeSpec()
        self.log = folder / f"{name}.log"

    def start(self, *options: str) -> "AgentProcess":
        command = [sys.executable, "-m", "edgemodel_agent", "run", "--node", self.name, "--root", str(self.root)]
        command += ["--objects", str(self.objects), "--interval", "0.05", "--reserve", "0", *options]
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        return self

    def assign(self, *targets: ArtifactTarget, trials: tuple[AssignedTrial, ...] = (), **fields) -> int:
        """Each target becomes a model of its own, `m`, `m2`, …"""
        models = tuple(
            AssignedModel(namespace="default", name="m" if i == 0 else f"m{i + 1}", target=t, **fields)
            for i, t in enumerate(targets)
        )
        return self.write(EdgeNodeSpec(models=models, trials=trials))

    def write(self, spec: EdgeNodeSpec) -> int:
        self.generation += 1
        self.spec = spec
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / ".spec.tmp"
        temporary.write_text(json.dumps({"generation": self.generation, "spec": spec.to_json()}))
        os.replace(temporary, self.folder / "spec.json")
        return self.generation

    def status(self) -> EdgeNodeStatus:
        try:
            return EdgeNodeStatus.model_validate_json((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return EdgeNodeStatus()

    def model(self, name: str = "m") -> ModelStatus | None:
        status = self.status()
        if status.observed_generation != self.generation:
            return None
        return next((m for m in status.models if m.name == name), None)

    def wait(self, what: str, condition, timeout: float = 40.0):
        """Until `condition(self)` is true; its value. On failure the agent's log is in the message."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if value := condition(self):
                return value
            if self.process is not None and self.process.poll() not in (None, -signal.SIGKILL):
                break
            time.sleep(0.02)
        tail = self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""
        pytest.fail(f"{what}: not within {timeout:g} s; {self.status().to_json()}\n{tail}")

    def wait_serving(self, target: ArtifactTarget, name: str = "m", timeout: float = 40.0) -> ModelStatus:
        def serves(agent: AgentProcess) -> ModelStatus | None:
            m = agent.model(name)
            good = m and m.state == "Serving" and m.running and m.running.digest == target.digest
            return m if good else None

        return self.wait(f"{target.revision} serves", serves, timeout)

    def switched_under_load(self, load: "type[Load]", first: ArtifactTarget, *others: ArtifactTarget) -> set[float]:
        """Serve the first, then the others in turn, while requests never stop: none may fail; what they were answered."""
        self.start()
        self.assign(first)
        endpoint = self.wait_serving(first).running.endpoint
        with load(endpoint) as clients:
            for target in others:
                self.assign(target)
                assert self.wait_serving(target).running.endpoint == endpoint
                seen = len(clients.answers)
                self.wait("answers", lambda _, n=seen: len(clients.answers) > n + 50)
        assert clients.failures == []
        return set(clients.answers)

    def wait_failed(self, target: ArtifactTarget, name: str = "m") -> ModelStatus:
        def failed(agent: AgentProcess) -> ModelStatus | None:
            m = agent.model(name)
            return m if m and m.state == "Failed" and m.digest == target.digest else None

        return self.wait(f"{target.revision} fails", failed)

    def servers(self) -> list[int]:
        """Process ids of living model servers of this node."""
        return sorted(s.pid for s in find_servers(self.runtime))

    @property
    def runtime(self) -> Path:
        return runtime_dir(self.root)

    def kill(self) -> None:
        """As the kernel would: no chance to tidy up."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=40)

    def clean(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for server in find_servers(self.runtime):
            with contextlib.suppress(psutil.Error):
                psutil.Process(server.pid).kill()
        shutil.rmtree(self.runtime, ignore_errors=True)


def infer(client: httpx.Client, endpoint: str) -> float:
    """Ask for x = 0; the number that the variant adds."""
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.0] * 4}]}
    answer = client.post(f"{endpoint}/infer", json=body)
    answer.raise_for_status()
    outputs = {o["name"]: o["data"] for o in answer.json()["outputs"]}
    return float(outputs["y"][0])


class Load:
    """Clients that ask all the time, half of them with a new connection for each request."""

    def __init__(self, endpoint: str, clients: int = 4) -> None:
        self.endpoint = endpoint
        self.answers: list[float] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i % 2 == 0,)) for i in range(clients)]

    def _run(self, keep_alive: bool) -> None:
        client = httpx.Client(timeout=20)
        while not self._stop.is_set():
            try:
                self.answers.append(infer(client, self.endpoint))
            except httpx.HTTPError as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            if not keep_alive:
                client.close()
                client = httpx.Client(timeout=20)
            time.sleep(0.002)
        client.close()

    def __enter__(self) -> Self:
        for t in self._threads:
            t.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for t in self._threads:
            t.join(timeout=30)


@pytest.fixture
def registry(tmp_path) -> Registry:
    return Registry(tmp_path)


@pytest.fixture
def agent(tmp_path):
    node = AgentProcess(tmp_path)
    yield node
    node.clean()


@pytest.fixture
def ask():
    """endpoint → number that the serving variant adds."""
    with httpx.Client(timeout=20) as client:
        yield lambda endpoint: infer(client, endpoint)


class ServerUnderTest:
    """One server process on loopback, without an agent."""

    def __init__(self, folder: Path, listener: socket.socket, model: Path, *options: str, version: str = "r1") -> None:
        self.listener = listener
        self.control = folder / f"{version}.sock"
        self.log = folder / f"{version}.log"
        command = [sys.executable, "-m", "edgemodel_agent.server", "--model", str(model), "--name", "m"]
        command += ["--version", version, "--listen-fd", str(listener.fileno()), "--control", str(self.control)]
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                [*command, *options], stdout=out, stderr=out, stdin=subprocess.DEVNULL, pass_fds=(listener.fileno(),)
            )
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def client(self, timeout: float = 10.0) -> ControlClient:
        return ControlClient(self.control, timeout=timeout)

    def wait_ready(self) -> "ServerUnderTest":
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), self.client() as client:
                if client.status().ready:
                    return self
            time.sleep(0.02)
        pytest.fail(f"the server does not get ready: {self.log.read_text()}")

    def accept(self) -> "ServerUnderTest":
        self.listener.listen(1024)
        with self.client() as client:
            client.accept()
        return self

    def drain(self, *, hand_over: bool = False) -> list[int]:
        with self.client() as client:
            return client.drain(hand_over=hand_over)


@pytest.fixture
def make_model():
    return model_file


@pytest.fixture
def make_tflite():
    return tflite_file


@contextlib.contextmanager
def servers():
    """Starts servers that share one listening socket; `start(model, *options)` is ready and accepting."""
    started: list[ServerUnderTest] = []
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="em") as short, bind_listener("127.0.0.1", None) as listener:

        def start(model: Path, *options: str, version: str = "r1", accept: bool = True) -> ServerUnderTest:
            server = ServerUnderTest(Path(short), listener, model, *options, version=version)
            started.append(server)
            return server.wait_ready().accept() if accept else server

        yield start
        for server in started:
            server.process.kill()
            server.process.wait()


@pytest.fixture
def serve():
    with servers() as start:
        yield start


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    """One server that adds 1, for tests that leave it as it was."""
    with servers() as start:
        yield start(model_file(tmp_path_factory.mktemp("shared") / "m.onnx", 1.0))


@pytest.fixture(scope="session")
def load() -> type[Load]:
    return Load
