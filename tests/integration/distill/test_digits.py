"""On real pictures: a teacher helps, recovery gives back what pruning took, and a killed Job goes on.

A smaller version of `benchmarks/distill.py`, on scikit-learn's digits.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from edgemodel_api.edgemodel import DistillStep, PruneStep
from edgemodel_compressor.steps.distill import distill
from edgemodel_compressor.steps.prune import prune
from edgemodel_compressor.steps.weights import sparsity_of, weights
from edgemodel_compressor.training.data import TrainingSet

pytest.importorskip("jax")
from edgemodel_compressor.training.recover import recover

FEW = 150
SEEDS = range(3)
#: One process of `test_killed_and_gone_on`.
LEARN = """
import sys
from pathlib import Path
import numpy as np, onnx
from edgemodel_api.edgemodel import DistillStep
from edgemodel_compressor.steps.distill import distill
from edgemodel_compressor.training.data import TrainingSet
folder, work, out = map(Path, sys.argv[1:])
data = np.load(folder / "data.npz")
step = DistillStep.model_validate(
    {"method": "Parameter", "student": {"width": "50%"}, "epochs": 40, "batchSize": 16}
)
found = distill(
    onnx.load(folder / "teacher.onnx"), step, student=None, data=TrainingSet.of({"x": data["x"]}, labels=data["y"]),
    work_dir=work, seed=0, progress=lambda p: print(p.done, flush=True),
)
out.write_bytes(found.model.SerializeToString(deterministic=True))
out.with_suffix(".txt").write_text("\\n".join(found.notes))
"""


def mlp():
    """[n, 64] → logits [n, 10]; weights of zero, which are drawn anew."""
    shapes = {"w1": (64, 64), "b1": (64,), "w2": (64, 32), "b2": (32,), "w3": (32, 10), "b3": (10,)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h1"], name="fc1"),
        helper.make_node("Relu", ["h1"], ["r1"], name="relu1"),
        helper.make_node("Gemm", ["r1", "w2", "b2"], ["h2"], name="fc2"),
        helper.make_node("Relu", ["h2"], ["r2"], name="relu2"),
        helper.make_node("Gemm", ["r2", "w3", "b3"], ["y"], name="fc3"),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(np.zeros(s, dtype=np.float32), n) for n, s in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def step(**kw):
    return DistillStep.model_validate({"learningRate": "0.005", "batchSize": 32, **kw})


@pytest.fixture(scope="module")
def pictures():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return (x[order] / 16).astype(np.float32), y[order]


@pytest.fixture(scope="module")
def teacher(pictures, tmp_path_factory):
    x, y = pictures
    return distill(
        mlp(), step(alpha="0%", student={"uri": "file:t"}, epochs=25), student=mlp(), seed=0,
        data=TrainingSet.of({"x": x[:1000]}, labels=y[:1000]), work_dir=tmp_path_factory.mktemp("t"),
        progress=lambda _p: None,
    ).model  # fmt: skip


def accuracy(model, pictures):
    x, y = (a[1000:] for a in pictures)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return float((session.run(None, {"x": x})[0].argmax(axis=1) == y).mean())


def few(pictures):
    x, y = pictures
    return TrainingSet.of({"x": x[:FEW]}, labels=y[:FEW])


def test_both_methods_beat_the_student_without_a_teacher(teacher, pictures, tmp_path):
    assert accuracy(teacher, pictures) > 0.94

    def mean(**kw):
        found = [
            accuracy(
                distill(
                    teacher, step(student={"width": "25%"}, epochs=150, batchSize=16, **kw), student=None, data=few(pictures),
                    work_dir=tmp_path, seed=seed, progress=lambda _p: None,
                ).model,
                pictures,
            )
            for seed in SEEDS
        ]  # fmt: skip
        return float(np.mean(found))

    alone = mean(alpha="0%")
    assert mean(method="Knowledge") > alone + 0.03
    assert mean(method="Parameter") > alone + 0.03


@pytest.mark.parametrize("schedule", ["OneShot", "Gradual"])
def test_recovery_gives_back_what_pruning_took(teacher, pictures, tmp_path, schedule):
    wanted = {"epochs": 25, "learningRate": "0.005", "batchSize": 32, "schedule": schedule}
    one = PruneStep.model_validate({"sparsity": "90%", "recover": wanted})
    pruned = prune(teacher, one).model
    found, _ = recover(
        teacher, teacher if schedule == "Gradual" else pruned, one, data=few(pictures), work_dir=tmp_path, seed=0,
        progress=lambda _p: None,
    )  # fmt: skip
    assert sparsity_of(weights(found)) == pytest.approx(0.9, abs=0.002)
    assert accuracy(found, pictures) > accuracy(pruned, pictures) + 0.2


def test_killed_and_gone_on(teacher, pictures, tmp_path):
    """SIGKILL in the middle of an epoch, twice; then the same bytes and notes as without."""
    onnx.save(teacher, tmp_path / "teacher.onnx")
    np.savez(tmp_path / "data.npz", x=pictures[0][:FEW], y=pictures[1][:FEW])
    script = tmp_path / "learn.py"
    script.write_text(LEARN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    def start(work: Path, out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(tmp_path), str(work), str(out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def lines(process: subprocess.Popen[str]) -> list[int]:
        assert process.stdout is not None
        return [int(line) for line in process.stdout]

    with start(tmp_path / "whole", tmp_path / "whole.onnx") as process:
        whole = lines(process)
    assert process.returncode == 0
    total = whole[-1]
    for share in (0.2, 0.6):
        with start(tmp_path / "work", tmp_path / "part.onnx") as process:
            assert process.stdout is not None
            for line in process.stdout:
                # Of the teacher's answers first, then of the steps.
                if int(line) > share * total and int(line) != FEW:
                    process.send_signal(signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "part.onnx").exists()
    with start(tmp_path / "work", tmp_path / "part.onnx") as process:
        rest = lines(process)
    assert process.returncode == 0
    assert len(rest) < 0.6 * len(whole)
    for suffix in (".onnx", ".txt"):
        assert (tmp_path / f"part{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
