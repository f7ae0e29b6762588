"""Peak memory of a whole Job on a model with 300 MB of weights, beside what was predicted; in a process of its own."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from edgemodel_api import reasons
from edgemodel_api.edgemodel import Step
from edgemodel_compressor.memory import predict, sizes_of
from edgemodel_oci.artifact import read_index, read_variant
from edgemodel_oci.layout import Layout
from edgemodel_oci.pack import ExternalData, unpack_file
from edgemodel_oci.pull import fetch_blob
from edgemodel_oci.reference import Reference

ROOT = Path(__file__).resolve().parents[3]
GIGABYTES = 0.3
#: What interpreters and libraries take, which a model of 3 GB does not notice: the Job's process, and one more.
PROCESSES_BYTES = 60 * 10**6
BOUND = 1.5


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memory_benchmark", ROOT / "benchmarks" / "memory.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stack(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stack") / "model.onnx"
    benchmark.generate(path, round(GIGABYTES * 1e9 / benchmark.BLOCK_BYTES))
    return path


@pytest.mark.timeout(600)
def test_a_job_stays_under_one_and_a_half_times_the_source(benchmark: ModuleType, stack: Path, tmp_path: Path):
    size = sizes_of(stack)
    assert size.large
    found, result = benchmark.run_recipe("int8 weights", stack, tmp_path, limit=2 * 2**30, keep=True)
    assert found.ending == ""
    assert result["outcome"] == "Succeeded", result
    assert found.peak - PROCESSES_BYTES < BOUND * size.weights
    # The prediction is no lower than what was measured, and not idle talk either.
    predicted = predict(size, [Step.model_validate(s) for s in benchmark.RECIPES["int8 weights"]]).peak
    assert 0.5 * predicted < found.peak <= predicted
    layout = Layout(Reference.parse(f"oci-layout://{tmp_path}/layout"))
    variants = [read_variant(layout, v.digest) for v in read_index(layout, "memory").variants]
    small = next(v for v in variants if v.name != "source")
    assert small.data_size < 0.26 * size.weights < next(v for v in variants if v.name == "source").data_size
    out = tmp_path / "node"
    out.mkdir()
    fetch_blob(layout, small.weight, out / "layer")
    data = ExternalData(out / f"{small.data_digest.removeprefix('sha256:')}.data", small.data_digest, small.data_size)
    unpack_file(out / "layer", out / "m", file_digest=small.file_digest, file_size=small.file_size, data=data)
    model = onnx.load(str(out / "m"), load_external_data=False)
    assert sum(np.prod(t.dims) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8) > 7e7


@pytest.mark.timeout(120)
def test_a_job_that_does_not_fit_is_refused_before_it_reads_the_weights(
    benchmark: ModuleType, stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    limit = tmp_path / "sitecustomize.py"
    limit.write_text(
        "import psutil\npsutil.virtual_memory = lambda: type('M', (), {'available': 200 * 2**20, 'total': 2**30})()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found, result = benchmark.run_recipe("prune 60 %", stack, tmp_path, limit=2 * 2**30, keep=True)
    assert result["outcome"] == "Invalid"
    assert result["reason"] == reasons.INSUFFICIENT_MEMORY
    assert "200.0 MiB are free on this machine" in result["message"]
    assert found.peak < 0.7 * sizes_of(stack).weights
    assert json.dumps(result)


def test_the_generated_stack_is_the_same_each_time(benchmark: ModuleType, tmp_path: Path):
    def digests(name: str) -> Any:
        folder = tmp_path / name
        folder.mkdir()
        benchmark.generate(folder / "model.onnx", 1)
        return [p.read_bytes() for p in sorted(folder.iterdir())]

    assert digests("a") == digests("b")
