"""A small convolutional classifier of scikit-learn's digits, as ONNX, with its data; and Jobs over it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from edgemodel_api.job import JobResult, JobSpec
from edgemodel_api.report import CompressionReport
from edgemodel_compressor.pipeline import run_job
from edgemodel_oci.artifact import read_index, read_variant
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import open_repository

REVISION = "0123456789ab"
FILTERS = 24


def features(x, filters, bias):
    """Conv 3×3 with padding, Relu, 2×2 average, flat: what the ONNX model computes before its last layer."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, 0]
    found = np.maximum(np.einsum("nhwij,cij->nchw", windows, filters[:, 0]) + bias[:, None, None], 0)
    n, c, h, w = found.shape
    return found.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5)).reshape(n, -1)


def network(parameters, *, batch="n", extra=()):
    """The classifier; `extra` nodes take `scores` and give `y`."""
    nodes = [
        helper.make_node("Conv", ["x", "filters", "bias"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("AveragePool", ["r"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "weight", "offset"], ["scores"], name="dense"),
        *(extra or [helper.make_node("Softmax", ["scores"], ["y"], name="softmax", axis=-1)]),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in parameters.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """Folder with model.onnx, fixed.onnx (batch of 4), bad.onnx, calibration.npz, validation.npz (labels: y)."""
    folder = tmp_path_factory.mktemp("digits")
    pixels, labels = load_digits(return_X_y=True)
    x = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    rng = np.random.default_rng(0)
    filters, bias = rng.standard_normal((FILTERS, 1, 3, 3)), 0.1 * rng.standard_normal(FILTERS)
    head = LogisticRegression(max_iter=400, C=0.3).fit(features(x[:1200], filters, bias), labels[:1200])
    parameters = {"filters": filters, "bias": bias, "weight": head.coef_.T, "offset": head.intercept_}
    onnx.save(network(parameters), folder / "model.onnx")
    onnx.save(network(parameters, batch=4), folder / "fixed.onnx")
    bad = network(
        parameters,
        extra=[
            helper.make_node("Reshape", ["scores", "single"], ["square"], name="squared"),
            helper.make_node("Det", ["square"], ["d"], name="determinant"),
            helper.make_node("Reshape", ["d", "rows"], ["y"], name="back"),
        ],
    )
    for name, shape in (("single", [-1, 1, 1]), ("rows", [-1, 10])):
        bad.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    onnx.save(bad, folder / "bad.onnx")
    np.savez(folder / "calibration.npz", x=x[:200])
    np.savez(folder / "validation.npz", x=x[1200:], y=labels[1200:])
    return folder


@dataclass
class Lab:
    """Makes Jobs over the digits, in a folder of its own."""

    digits: Path
    folder: Path

    def job(self, *formats, output="layout", model="model.onnx", budget=None, steps=None, **fields) -> JobSpec:
        compression = {
            "budget": {"maxQualityDrop": "2%"} if budget is None else budget,
            "steps": [{"quantize": {"precision": "Int8", "activations": "None"}}] if steps is None else steps,
        }
        document = {
            "namespace": "default",
            "name": "digits",
            "revision": REVISION,
            "source": {"uri": f"file:{model}"},
            "data": {
                "calibration": {"uri": "file:calibration.npz"},
                "validation": {"uri": "file:validation.npz", "labels": "y"},
            },
            "compression": compression,
            "formats": formats,
            "platforms": ["linux/amd64"],
            "output": f"oci-layout://{self.folder / output}",
            "baseDir": str(self.digits),
        }
        return JobSpec.model_validate(document | fields)

    def run(self, job: JobSpec, progress=lambda _: None) -> tuple[JobResult, CompressionReport]:
        """In this process."""
        work = self.folder / f"work{len(list(self.folder.glob('work*')))}"
        work.mkdir()
        return run_job(job, work_dir=work, progress=progress)

    def open(self, output="layout"):
        """The layout."""
        return open_repository(Reference.parse(f"oci-layout://{self.folder / output}"))

    def variants(self, output="layout"):
        """(platform, name, format, encoding) of each manifest of the index."""
        with self.open(output) as repo:
            found = [read_variant(repo, v.digest) for v in read_index(repo, REVISION).variants]
        return [(v.platform, v.name, v.format.value, v.encoding) for v in found]

    def files(self, output="layout"):
        """Digest of every blob."""
        root = self.folder / output / "blobs"
        return {hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def _no_emulators(tmp_path_factory, monkeypatch):
    """Other CPUs are emulated in tests/integration/verify; here they would take minutes."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("nothing")))
    monkeypatch.setenv("EDGEMODEL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def make_lab() -> type[Lab]:
    return Lab


@pytest.fixture
def lab(digits, tmp_path) -> Lab:
    return Lab(digits, tmp_path)
