"""Which outputs are scores of classes, decisions or numbers, and where their logits are."""

from __future__ import annotations

import numpy as np
import pytest

from edgemodel_api.errors import InputError
from edgemodel_compressor.training.data import TrainingSet
from edgemodel_compressor.training.heads import Kind, Reading, check_labels, heads, labels_of, read, with_outputs

X = np.random.default_rng(0).normal(size=(8, 6)).astype("f4")


def found(build, teacher, student=None, *, labels=None, **kw):
    student = teacher if student is None else student
    data = TrainingSet.of({"x": X}, labels=labels, **kw)
    return heads(
        teacher, student, teacher_says=build.run(teacher, x=X), student_says=build.run(student, x=X), data=data
    )


@pytest.mark.parametrize(
    ("ending", "kind", "tensor"),
    [
        ("Softmax", Kind.CLASSES, "l"),
        ("LogSoftmax", Kind.CLASSES, "l"),
        ("Sigmoid", Kind.DECISIONS, "l"),
        ("Tanh", Kind.NUMBERS, "y"),
        (None, Kind.NUMBERS, "y"),
    ],
)
def test_final_activation(build, ending, kind, tensor):
    ((head,), notes) = found(build, build.mlp(ending=ending))
    assert (head.kind, head.teacher, head.student) == (kind, Reading(tensor), Reading(tensor))
    # Raw numbers may be scores: the report says what was made of them.
    assert bool(notes) == (kind is Kind.NUMBERS)


def test_raw_scores_are_classes_where_labels_or_validation_say_so(build):
    raw = build.mlp(ending=None)
    ((by_labels,), notes) = found(build, raw, labels=np.arange(8) % 3)
    assert by_labels.kind is Kind.CLASSES
    assert by_labels.labelled
    assert not notes
    ((by_validation,), _) = found(build, raw, classes=True)
    assert by_validation.kind is Kind.CLASSES
    assert not by_validation.labelled
    one_hot = np.eye(3)[np.arange(8) % 3]
    assert found(build, raw, labels=one_hot)[0][0].kind is Kind.CLASSES
    assert found(build, raw, labels=X[:, :3])[0][0].kind is Kind.NUMBERS


def test_probabilities_without_a_softmax_are_read_as_logarithms(build):
    probabilities = build.mlp()
    # The same function written otherwise: exp(l) / Σ exp(l).
    del probabilities.graph.node[-1]
    probabilities.graph.node.extend(
        [
            build.node("Exp", ["l"], "e"),
            build.node("ReduceSum", ["e", "axes"], "s", keepdims=1),
            build.node("Div", ["e", "s"], "y"),
        ]
    )
    from onnx import numpy_helper

    probabilities.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    ((head,), _) = found(build, probabilities)
    assert head.kind is Kind.CLASSES
    assert head.teacher == head.student == Reading("y", log=True)
    logits = build.run(with_outputs(build.mlp(), ["l"]), x=X)["l"]
    logs = read(build.run(probabilities, x=X)["y"], head.teacher)
    assert np.allclose(logs - logs.mean(axis=1, keepdims=True), logits - logits.mean(axis=1, keepdims=True), atol=1e-4)


def test_a_student_without_the_teachers_softmax_gives_logits(build):
    ((head,), _) = found(build, build.mlp(), build.mlp(ending=None, wide=4))
    assert (head.kind, head.teacher, head.student) == (Kind.CLASSES, Reading("l"), Reading("y"))


def test_softmax_over_another_axis(build):
    teacher = build.model(
        [build.node("Conv", ["x", "w"], "l"), build.node("Softmax", ["l"], "y", axis=1)],
        {"w": build.normal(1, 3, 1, 1, 1)}, {"x": ["n", 1, 2, 2]}, {"y": ["n", 3, 2, 2]},
    )  # fmt: skip
    x = build.normal(2, 4, 1, 2, 2)
    says = build.run(teacher, x=x)
    ((head,), _) = heads(teacher, teacher, teacher_says=says, student_says=says, data=TrainingSet.of({"x": x}))
    assert head.axis == -3
    assert head.arranged(says["y"]).shape == (4, 2, 2, 3)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"ending": "Sigmoid"}, "ends in another activation"),
        ({"classes": 4}, "has shape"),
    ],
)
def test_networks_that_do_not_fit(build, student, message):
    with pytest.raises(InputError, match=message):
        found(build, build.mlp(), build.mlp(**student))


def test_other_output_names(build):
    other = build.mlp()
    other.graph.node[-1].output[0] = "z"
    other.graph.output[0].name = "z"
    with pytest.raises(InputError, match=r"same\s+names"):
        found(build, build.mlp(), other)


def test_unknown_output_of_the_labels(build):
    with pytest.raises(InputError, match="'z'"):
        found(build, build.mlp(), labels=np.zeros(8), output="z")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(8, 3), "one is 3, but the output has 3 classes"),
        (np.full(8, -1), "one is -1"),
        (np.full(8, 0.5), "one is 0.5"),
        (np.zeros((8, 2)), "they have shape"),
        (np.array(["a"] * 8), "numbers are needed"),
    ],
)
def test_labels_that_do_not_fit(build, labels, message):
    ((head,), _) = found(build, build.mlp(), labels=labels)
    with pytest.raises(InputError, match=message):
        check_labels(head, labels, np.zeros((1, 3)))


def test_labels_are_classes_in_every_form(build):
    ((head,), _) = found(build, build.mlp(), labels=np.zeros(8))
    for labels in (np.array([2, 0]), np.array([[2.0], [0.0]]), np.eye(3)[[2, 0]]):
        assert labels_of(head, labels, np.zeros((1, 3))).tolist() == [2, 0]


def test_a_teacher_that_answers_nan():
    with pytest.raises(InputError, match="NaN"):
        read(np.array([np.nan]), Reading("y"))


def test_an_integer_output_is_not_learned(build):
    model = build.mlp()
    model.graph.node.append(build.node("ArgMax", ["l"], "k", axis=1))
    from onnx import TensorProto, helper

    model.graph.output.append(helper.make_tensor_value_info("k", TensorProto.INT64, ["n", 1]))
    (learned, notes) = found(build, model)
    assert [h.output for h in learned] == ["y"]
    assert "'k'" in notes[0]
