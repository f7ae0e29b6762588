"""A small classifier of scikit-learn's digits, as ONNX, with its data; and Jobs over it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from edgemodel_api.job import JobResult, JobSpec
from edgemodel_api.report import CompressionReport
from edgemodel_compressor.pipeline import run_job
from edgemodel_oci.artifact import read_index
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import open_repository

REVISION = "0123456789ab"


def mlp(weights, biases, *, batch="n"):
    """Dense layers with Relu between them, and a Softmax."""
    nodes, initializers, name = [], [], "x"
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        initializers += [
            numpy_helper.from_array(w.astype(np.float32), f"w{i}"),
            numpy_helper.from_array(b.astype(np.float32), f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], [f"h{i}"], name=f"dense{i}"))
        name = f"h{i}"
        if i + 1 < len(weights):
            nodes.append(helper.make_node("Relu", [name], [f"r{i}"], name=f"relu{i}"))
            name = f"r{i}"
    nodes.append(helper.make_node("Softmax", [name], ["y"], name="softmax", axis=-1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, weights[0].shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, weights[-1].shape[1]])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """Folder with model.onnx, fixed.onnx (batch of 4), calibration.npz, validation.npz (labels: y)."""
    folder = tmp_path_factory.mktemp("digits")
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    trained = MLPClassifier((128, 64), random_state=0, max_iter=500, tol=1e-3, learning_rate_init=0.005).fit(
        x[:1200], y[:1200]
    )
    onnx.save(mlp(trained.coefs_, trained.intercepts_), folder / "model.onnx")
    onnx.save(mlp(trained.coefs_, trained.intercepts_, batch=4), folder / "fixed.onnx")
    np.savez(folder / "calibration.npz", x=x[:200])
    np.savez(folder / "validation.npz", x=x[1200:], y=y[1200:])
    return folder


@dataclass
class Lab:
    """Makes Jobs over the digits, in a folder of its own."""

    digits: Path
    folder: Path

    def job(self, *, output="layout", labels="y", model="model.onnx", with_data=True, budget=None, **fields) -> JobSpec:
        compression = {"budget": budget or {"maxQualityDrop": "2%"}, **fields.pop("compression", {})}
        validation = {"uri": "file:validation.npz", **({"labels": labels} if labels else {})}
        document = {
            "namespace": "default",
            "name": "digits",
            "revision": REVISION,
            "source": {"uri": f"file:{model}"},
            "data": {"calibration": {"uri": "file:calibration.npz"}, "validation": validation} if with_data else {},
            "compression": compression,
            "platforms": ["linux/amd64"],
            "output": f"oci-layout://{self.folder / output}",
            "baseDir": str(self.digits),
            "workDir": str(self.work),
        }
        return JobSpec.model_validate(document | fields)

    @property
    def work(self) -> Path:
        path = self.folder / "work"
        path.mkdir(exist_ok=True)
        return path

    def run(self, job: JobSpec) -> tuple[JobResult, CompressionReport]:
        """In this process."""
        folder = self.work / f"run{len(list(self.work.iterdir()))}"
        folder.mkdir()
        return run_job(job, work_dir=folder, progress=lambda _: None)

    def command(self, job: JobSpec | str) -> list[str]:
        path = self.folder / "job.json"
        path.write_text(job if isinstance(job, str) else json.dumps(job.to_json()))
        return [
            *(sys.executable, "-m", "edgemodel_compressor", "--job", str(path)),
            *("--result", str(self.folder / "result.json"), "--report", str(self.folder / "report.json")),
        ]

    def start(self, job: JobSpec) -> subprocess.Popen[str]:
        """As a process, its progress on a pipe."""
        return subprocess.Popen(
            self.command(job), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
        )

    def process(self, job: JobSpec | str) -> subprocess.CompletedProcess[str]:
        """As a process, to its end."""
        return subprocess.run(self.command(job), capture_output=True, text=True, timeout=110, check=False)

    def result(self) -> JobResult:
        """What the process left."""
        content = (self.folder / "result.json").read_bytes()
        assert len(content) <= 4096
        return JobResult.model_validate_json(content)

    def index(self, output="layout"):
        """The artifact in the layout."""
        with open_repository(Reference.parse(f"oci-layout://{self.folder / output}")) as repo:
            return read_index(repo, REVISION)


@pytest.fixture(autouse=True)
def _no_emulators(tmp_path_factory, monkeypatch):
    """Other CPUs are emulated in tests/integration/verify; here they would take minutes."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("nothing")))
    monkeypatch.setenv("EDGEMODEL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def lab(digits, tmp_path) -> Lab:
    return Lab(digits, tmp_path)
