"""One file in a process of its own: answers, and every way to end."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgemodel_api.hardware import HardwareClass
from edgemodel_compressor.verify.running import run_on


@pytest.fixture
def file(v, tmp_path):
    source, x = v.worst(4)
    path = tmp_path / "m.onnx"
    onnx.save(source, path)
    return path, [{"x": x[i : i + 1]} for i in range(4)], v.session(source).run(None, {"x": x})[0]


def program(tmp_path, text):
    """A command that stands for a Python under an emulator."""
    path = tmp_path / "emulator"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return (str(path),)


def test_answers(v, file, tmp_path):
    path, feeds, truth = file
    ran = run_on(v.machine(HardwareClass.AMD64_AVX2), path, feeds, work_dir=tmp_path, seconds=60)
    assert (ran.failure, ran.started, ran.late, len(ran.answers)) == ("", True, False, 4)
    np.testing.assert_allclose(np.concatenate([a["y"] for a in ran.answers]), truth, rtol=1e-5)
    # Nothing is left behind.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_strings_and_integers(v, tmp_path):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["s"], ["t"], name="i"),
            helper.make_node("ArgMax", ["x"], ["k"], name="a", axis=1),
        ],
        "g",
        [value("s", TensorProto.STRING, ["n"]), value("x", TensorProto.FLOAT, ["n", 3])],
        [value("t", TensorProto.STRING, ["n"]), value("k", TensorProto.INT64, None)],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    feed = {"s": np.array(["grüße"], dtype=object), "x": np.array([[1, 3, 2]], np.float32)}
    ran = run_on(v.machine(HardwareClass.AMD64_AVX2), path, [feed], work_dir=tmp_path, seconds=60)
    assert ran.failure == ""
    assert ran.answers[0]["t"].tolist() == ["grüße"]
    assert ran.answers[0]["k"].tolist() == [[1]]


@pytest.mark.parametrize(
    ("text", "started", "said"),
    [
        # Before the runtime is there, nothing is known of the model.
        ("kill -ILL $$", False, "does not start Python with onnxruntime (SIGILL"),
        ("echo 'cannot open libc.so.6' >&2; exit 1", False, "(cannot open libc.so.6)"),
        ('echo \'{"stage": "start", "error": "ImportError: numpy"}\'; exit 3', False, "(ImportError: numpy)"),
        # Afterwards, it is a verdict.
        ('echo \'{"stage": "start", "onnxruntime": "1"}\'; kill -ILL $$', True,
         "loading the model fails there: SIGILL, an instruction that this CPU does not have"),
        ('echo \'{"stage": "start", "onnxruntime": "1"}\'; echo \'{"stage": "load"}\'; kill -SEGV $$', True,
         "running the model fails there: SIGSEGV"),
        ('echo \'{"stage": "start", "onnxruntime": "1"}\'; echo \'{"stage": "load"}\'; kill -KILL $$', True, "SIGKILL, as it took too much memory"),
        ('echo \'{"stage": "start", "onnxruntime": "1"}\'; echo garbage; echo \'{"stage": "load", "error": "no kernel"}\'; exit 3',
         True, "loading the model fails there: no kernel"),
    ],
)  # fmt: skip
def test_every_end_is_a_sentence(v, file, tmp_path, text, started, said):
    path, feeds, _ = file
    machine = v.machine(HardwareClass.AMD64_AVX2, program(tmp_path, text))
    ran = run_on(machine, path, feeds, work_dir=tmp_path, seconds=60)
    assert (ran.started, ran.late, ran.answers) == (started, False, ())
    assert said in ran.failure


def test_out_of_time_keeps_what_was_answered(v, file, tmp_path):
    """A slow emulator that is cut off after its first answer."""
    path, feeds, truth = file
    np.savez(tmp_path / "first.npz", **{"0": truth[:1]})
    said = (
        '{"stage": "start", "onnxruntime": "1"}',
        '{"stage": "load"}',
        '{"stage": "run", "done": 1, "outputs": ["y"]}',
    )
    lines = "; ".join(f"echo '{line}'" for line in said)
    # $6: the folder for answers.
    machine = v.machine(
        HardwareClass.AMD64_AVX2, program(tmp_path, f"cp {tmp_path}/first.npz $6/0.npz; {lines}; sleep 60")
    )
    ran = run_on(machine, path, feeds, work_dir=tmp_path, seconds=4)
    assert ran.late
    assert "running the model took more than 4 s there" in ran.failure
    assert [a["y"].tolist() for a in ran.answers] == [truth[:1].tolist()]


def test_a_model_that_the_runtime_refuses(v, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model at all")
    ran = run_on(
        v.machine(HardwareClass.AMD64_AVX2), path, [{"x": np.zeros((1, 2), np.float32)}], work_dir=tmp_path, seconds=60
    )
    assert ran.started
    assert ran.failure.startswith("loading the model fails there: ")
    assert "\n" not in ran.failure


def test_a_limit_on_memory(v, tmp_path):
    made = helper.make_node("ConstantOfShape", ["n"], ["big"], name="c")
    nodes = [
        v.node("Shape", ["x"], "s", "s"),
        v.node("Mul", ["s", "f"], "n", "m"),
        made,
        v.node("ReduceSum", ["big"], "y", "r"),
    ]
    source = v.model(nodes, {}, (2,))
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2**17, 2**14]), "f"))
    path = tmp_path / "m.onnx"
    onnx.save(source, path)
    ran = run_on(
        v.machine(HardwareClass.AMD64_AVX2), path, [{"x": np.zeros((1, 2), np.float32)}], work_dir=tmp_path, seconds=60,
        memory_bytes=3 * 2**30,
    )  # fmt: skip
    assert ran.started
    assert "running the model fails there" in ran.failure
