"""Distillation as a step: what comes out, what is refused and why, and that it is the same again."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, checker, numpy_helper

from edgemodel_api.edgemodel import DistillStep
from edgemodel_api.errors import InputError
from edgemodel_compressor.steps.distill import check, distill
from edgemodel_compressor.training.data import TrainingSet
from edgemodel_compressor.training.room import Room

pytest.importorskip("jax")


def step(**kw):
    return DistillStep.model_validate({"student": {"width": "50%"}, "epochs": 1, "batchSize": 16, **kw})


@pytest.fixture
def run(tmp_path, silent):
    def run(teacher, one, data, *, student=None, seed=0, folder="w"):
        return distill(teacher, one, student=student, data=data, work_dir=tmp_path / folder, seed=seed, progress=silent)

    return run


@pytest.mark.parametrize("method", ["Knowledge", "Parameter"])
def test_a_smaller_network_of_the_same_kind_twice_the_same(build, run, method):
    teacher, data = build.mlp(), build.rows(labels=True)
    before = teacher.SerializeToString()
    first = run(teacher, step(method=method), data, folder="a")
    assert teacher.SerializeToString() == before
    checker.check_model(first.model, full_check=True)
    assert [(o.name, o.type) for o in first.model.graph.output] == [(o.name, o.type) for o in teacher.graph.output]
    assert [(i.name, i.type) for i in first.model.graph.input] == [(i.name, i.type) for i in teacher.graph.input]
    assert build.run(first.model, x=data.take(np.arange(4))["x"])["y"].sum(axis=1) == pytest.approx(1.0)
    assert f"distilled by {method} (temperature 4, alpha 90%): epoch 1 of 1" in first.notes[0]
    assert "the student has 136 weights, the teacher 400" in first.notes[1]
    again = run(teacher, step(method=method), data, folder="b")
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert again.notes == first.notes


def test_it_becomes_like_the_teacher(build, run):
    teacher, data = build.mlp(), build.rows(400)
    few, many = (
        run(teacher, step(epochs=e, learningRate="0.02", temperature="2"), data, folder=str(e)).model for e in (1, 12)
    )
    x = np.random.default_rng(9).normal(size=(300, 6)).astype("f4")
    want = build.run(teacher, x=x)["y"].argmax(axis=1)
    shares = [float((build.run(m, x=x)["y"].argmax(axis=1) == want).mean()) for m in (few, many)]
    assert shares[1] > max(shares[0], 0.8)


def test_numbers_are_matched(build, run):
    """A regression: two outputs, one of them an embedding."""
    teacher = build.mlp(ending=None)
    teacher.graph.output.append(_value("r1", ["n", 16]))
    student = build.mlp(ending=None, seed=50)
    student.graph.output.append(_value("r1", ["n", 16]))
    found = run(
        teacher, step(student={"uri": "file:s.onnx"}, epochs=40, learningRate="0.02"), build.rows(), student=student
    )
    x = build.rows().take(np.arange(80))["x"]
    want, was, now = (build.run(m, x=x) for m in (teacher, student, found.model))
    for name in ("y", "r1"):
        assert np.square(now[name] - want[name]).mean() < 0.5 * np.square(was[name] - want[name]).mean()
    assert any("'y' ends without a Softmax" in n for n in found.notes)


def _value(name, shape, kind=TensorProto.FLOAT):
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch(build, run, batch):
    found = run(build.mlp(batch=batch), step(), build.rows(40, labels=True))
    x = build.rows().take(np.arange(batch))["x"]
    assert build.run(found.model, x=x)["y"].shape == (batch, 3)


def test_a_teacher_and_a_student_of_other_batches(build, run):
    student = build.mlp(wide=4, batch=8)
    found = run(build.mlp(batch=4), step(student={"uri": "file:s"}), build.rows(40), student=student)
    assert found.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 8
    with pytest.raises(InputError, match="takes 8 samples at a time and the training data has 4"):
        run(build.mlp(batch=4), step(student={"uri": "file:s"}), build.rows(4), student=student)


def test_rows_that_cannot_be_joined(build, run):
    """A free batch is declared, and yet the rows of a batch are mixed (its mean is taken away)."""
    nodes = [
        build.node("ReduceMean", ["x"], "m", axes=[0], keepdims=1),
        build.node("Sub", ["x", "m"], "c"),
        build.node("Add", ["x", "c"], "d"),
        build.node("Gemm", ["d", "w1"], "h"),
        build.node("Relu", ["h"], "r"),
        build.node("Gemm", ["r", "w2"], "y"),
    ]
    tensors = {"w1": build.normal(1, 6, 16), "w2": build.normal(2, 16, 3)}
    teacher = build.model(nodes, tensors, {"x": ["n", 6]}, {"y": ["n", 3]})
    found = run(teacher, step(method="Parameter", epochs=8, learningRate="0.02"), build.rows())
    # As it is served: one row at a time.
    x = build.rows().take(np.arange(40))["x"]
    want, got = ([build.run(m, x=x[i : i + 1])["y"][0] for i in range(40)] for m in (teacher, found.model))
    assert np.square(np.subtract(want, got)).mean() < 0.5 * np.square(want).mean()


def test_integer_inputs(build, run):
    nodes = [
        build.node("Gather", ["table", "ids"], "e"),
        build.node("ReduceMean", ["e"], "m", axes=[1], keepdims=0),
        build.node("Gemm", ["m", "w1"], "h"),
        build.node("Relu", ["h"], "r"),
        build.node("Gemm", ["r", "w2"], "l"),
        build.node("Softmax", ["l"], "y"),
    ]
    tensors = {"table": build.normal(1, 20, 8), "w1": build.normal(2, 8, 12), "w2": build.normal(3, 12, 3)}
    teacher = build.model(nodes, tensors, {"ids": (TensorProto.INT64, ["n", 4])}, {"y": ["n", 3]})
    ids = np.random.default_rng(0).integers(0, 20, (60, 4))
    found = run(teacher, step(), TrainingSet.of({"ids": ids}))
    assert build.run(found.model, ids=ids[:3])["y"].shape == (3, 3)


def test_one_row_and_a_batch_larger_than_the_data(build, run):
    found = run(build.mlp(), step(batchSize=64, epochs=2), build.rows(1, labels=True))
    assert "1 training sample is too few to hold some out" in found.notes[-1]


def test_alpha_0_learns_labels_alone(build, run):
    """The teacher's answers have no part in it: one that knows nothing gives the same student."""
    student, data = build.mlp(wide=6, seed=7), build.rows(labels=True)
    one = step(alpha="0%", student={"uri": "file:s"})
    first = run(build.mlp(), one, data, student=student, folder="a").model
    other = run(build.mlp(seed=30), one, data, student=student, folder="b").model
    assert first.SerializeToString() == other.SerializeToString()


def test_alpha_100_ignores_the_labels(build, run):
    one = step(alpha="100%")
    x = build.rows(60).take(np.arange(60))
    models = [
        run(build.mlp(), one, TrainingSet.of(x, labels=labels), folder=str(i)).model.SerializeToString()
        for i, labels in enumerate((np.zeros(60, int), np.arange(60) % 3))
    ]
    assert models[0] == models[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": "0%"}, "alpha is 0%, so only labels would be learned, and data.training has none"),
        ({"temperature": "0"}, "temperature is 0: give a number above 0"),
        ({"learningRate": "0"}, "learningRate is 0"),
        ({"student": {"uri": "file:s"}}, "go together"),
        ({"student": {"depth": "50%"}}, "no repeated or residual blocks"),
    ],
)
def test_refused(build, run, change, message):
    with pytest.raises(InputError, match=message):
        run(build.mlp(), step(**change), build.rows())


def test_other_inputs(build, run):
    with pytest.raises(InputError, match="the training data has z"):
        run(build.mlp(), step(), TrainingSet.of({"z": np.zeros((20, 6), "f4")}))


def test_operators_that_cannot_learn_are_named_before_any_work(build, tmp_path):
    teacher = build.mlp()
    del teacher.graph.node[-1]
    teacher.graph.node.append(build.node("NonZero", ["l"], "nz"))
    teacher.graph.node.append(build.node("Softmax", ["l"], "y"))
    teacher.graph.output.append(_value("nz", [2, "k"], TensorProto.INT64))
    with pytest.raises(InputError, match=r"nonzero_nz.*NonZero"):
        check(teacher, step(), None)
    # As a teacher it is only run: a student file without it will do.
    check(teacher, step(student={"uri": "file:s"}), build.mlp(wide=4))


def test_without_jax_the_extra_is_named(build, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(InputError, match=r"edgemodel\[train\]"):
        check(build.mlp(), step(), None)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(("method", "student"), [("Parameter", {"depth": "50%"}), ("Knowledge", {"width": "50%"})])
def test_the_memory_decides_only_how_many_rows_are_asked_at_a_time(build, tmp_path, silent, rows, method, student):
    teacher = build.residual(4)
    x = build.normal(3, 60, 1, 6, 6)
    x[0] = 0  # of one row alone nothing would be learned
    wide, narrow = (
        distill(
            teacher, step(method=method, student=student), student=None, data=TrainingSet.of({"x": x}),
            work_dir=tmp_path / str(room.rows), seed=0, progress=silent, room=room,
        )
        for room in (Room(), Room(rows))
    )  # fmt: skip
    assert narrow.notes[1:] == wide.notes[1:]
    tensors = [{t.name: numpy_helper.to_array(t) for t in d.model.graph.initializer} for d in (wide, narrow)]
    assert tensors[0].keys() == tensors[1].keys()
    for name, value in tensors[0].items():
        assert np.allclose(value, tensors[1][name], rtol=1e-3, atol=1e-5), name
