"""`edgemodel.compress()` with the real Job behind it, and the example as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgemodel

ROOT = Path(__file__).resolve().parents[3]
FEATURES, HIDDEN, CLASSES = 32, 256, 4


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """A classifier with two layers: the sum of each quarter of the features decides."""
    rng = np.random.default_rng(1)
    hidden = rng.standard_normal((FEATURES, HIDDEN)).astype(np.float32) / 8
    quarters = np.kron(np.eye(CLASSES, dtype=np.float32), np.ones((FEATURES // CLASSES, 1), np.float32))
    weights = {"w1": hidden, "w2": (np.linalg.pinv(hidden) @ quarters).astype(np.float32)}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("MatMul", ["h", "w2"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((256, FEATURES)).astype(np.float32)
    return x, x.reshape(256, CLASSES, -1).sum(axis=2).argmax(axis=1)


STEP = {"quantize": "Int8", "activations": "None", "max_quality_drop": "5%", "max_slowdown": "1000%"}


def test_arrays_in_and_a_model_out(model, data, tmp_path):
    x, y = data
    seen = []
    done = edgemodel.compress(
        model, validation=x, labels=y, formats=["ONNX", "TFLite"], out=tmp_path / "o", progress=seen.append, **STEP
    )
    (answers,) = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    best = next(row for row in done.candidates if row.chosen)
    assert (answers.argmax(axis=1) == y).mean() == pytest.approx(best.quality)
    assert best.smaller > 3
    assert done.path == tmp_path / "o" / "tiny.onnx"
    assert done.files["TFLite"].read_bytes()[4:8] == b"TFL3"
    assert {"fetch", "source", "convert", "store"} <= {p.stage for p in seen}
    assert done.report.name == "tiny"
    assert done.save_html(tmp_path / "r.html").stat().st_size > 10_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o", "r.html"]


def test_the_same_as_the_command_line(model, data, tmp_path):
    x, y = data
    onnx.save(model, tmp_path / "tiny.onnx")
    np.savez(tmp_path / "v.npz", x=x, y=y)
    options = ["--validation", "v.npz", "--labels", "y", "--out", "cli"]
    options += [part for name, value in STEP.items() for part in (f"--{name.replace('_', '-')}", value)]
    command = [sys.executable, "-m", "edgemodel_cli", "compress", "tiny.onnx", *options]
    told = subprocess.run([*command, "-o", "json"], cwd=tmp_path, check=True, capture_output=True)
    done = edgemodel.compress(
        tmp_path / "tiny.onnx", validation=tmp_path / "v.npz", labels="y", out=tmp_path / "api", progress=False, **STEP
    )
    assert (tmp_path / "cli" / "tiny.onnx").read_bytes() == done.path.read_bytes()
    assert done.digest == json.loads(told.stdout)["digest"], "the same artifact"


def test_a_refusal_has_the_numbers_and_leaves_nothing(model, data, tmp_path):
    x, y = data
    with pytest.raises(edgemodel.CompressionRefusedError, match=r"more than max_size 100 \(100 bytes\)") as refused:
        edgemodel.compress(model, validation=x, labels=y, max_size=100, out=tmp_path / "o", progress=False, **STEP)
    assert refused.value.report.diagnosis.nearest == "int8-weights"
    assert refused.value.candidates[1].why.startswith("max_size: ")
    assert not list(tmp_path.iterdir())


def test_mistakes_that_only_the_job_sees(model, data, tmp_path):
    x, y = data
    with pytest.raises(edgemodel.InputError, match=r"^validation: .*x"):
        edgemodel.compress(model, validation={"z": x}, out=tmp_path / "o", progress=False, **STEP)
    with pytest.raises(edgemodel.InputError, match=r"^judged_output is 'logits', but the model's outputs are y"):
        edgemodel.compress(
            model, validation=x, labels=y, judged_output="logits", out=tmp_path / "o", progress=False, **STEP
        )
    with pytest.raises(edgemodel.InputError, match=r"^model: .*no nodes|^model: "):
        edgemodel.compress(onnx.helper.make_model(onnx.GraphProto(name="g")), out=tmp_path / "o", progress=False)
    ids = onnx.helper.make_model(
        helper.make_graph(
            [helper.make_node("Gather", ["words", "ids"], ["y"], name="embed")],
            "ids",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 4])],
            [numpy_helper.from_array(np.ones((10, 4), np.float32), "words")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    with pytest.raises(
        edgemodel.InputError, match=r"^validation: array 'ids' has 10 in sample 1, .* only 0 … 9 have one"
    ):
        edgemodel.compress(ids, validation=np.array([[0, 9], [1, 10]]), out=tmp_path / "o", progress=False)
    assert not list(tmp_path.iterdir())


def test_from_a_thread_and_with_an_end_in_the_middle(model, data, tmp_path):
    """No signal handlers are set, so any thread may; what progress raises ends the Job and leaves nothing."""
    x, y = data
    raised = []

    def stop(progress):
        if progress.stage == "source":
            raise RuntimeError("enough")

    def work():
        try:
            edgemodel.compress(model, validation=x, labels=y, out=tmp_path / "o", progress=stop, **STEP)
        except RuntimeError as error:
            raised.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert raised == ["enough"]
    assert not list(tmp_path.iterdir())


ENDS = {"interrupted cell": signal.SIGINT, "restarted kernel": signal.SIGKILL}


@pytest.mark.parametrize("how", ENDS.values(), ids=ENDS)
def test_no_job_goes_on_for_a_caller_that_is_gone(model, data, tmp_path, how):
    x, y = data
    folder = tmp_path / "f"
    folder.mkdir()
    onnx.save(model, tmp_path / "tiny.onnx")
    np.savez(tmp_path / "v.npz", x=x, y=y)
    script = (
        # What runs the tests in the background may have left it ignored.
        "import signal, edgemodel; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "say = lambda p: print(p.stage, flush=True)\n"
        "edgemodel.compress('../tiny.onnx', validation='../v.npz', labels='y', max_slowdown='1000%', progress=say)\n"
    )
    environment = dict(os.environ, TMPDIR=str(folder))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stages = iter(process.stdout.readline, "")
    assert any(line.strip() == "source" for line in stages), process.communicate()
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("edgemodel_compressor" in child.cmdline() for child in children)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert psutil.wait_procs(children, timeout=40)[1] == []
    if how is signal.SIGINT:
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert not list(folder.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_example(tmp_path):
    environment = dict(os.environ, EXAMPLE_FOLDER=str(tmp_path))
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "python" / "compress.py")]
    ended = subprocess.run(
        command, check=False, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "none of 1 candidate keeps the budget; the nearest is int4-weights" in ended.stdout
    assert 'max_quality_drop 0.5: "0.5" is not a percentage' in ended.stdout
    assert re.fullmatch(r"9\d\.\d\d% right, from \d+ bytes", ended.stdout.splitlines()[-1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "searched", "steps"]
