"""Learning as the builder asks for it: with data, stopped in time, and never twice."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.edgemodel import DistillStep, PruneStep
from edgemodel_api.errors import InputError
from edgemodel_api.job import Progress
from edgemodel_compressor.cache import Cache, model_digest
from edgemodel_compressor.deadline import TimeUpError
from edgemodel_compressor.learn import Learner
from edgemodel_compressor.recipe import Distill
from edgemodel_compressor.steps import distill as distilling
from edgemodel_compressor.training import recover as recovering
from edgemodel_compressor.training.data import TrainingSet

STEP = PruneStep.model_validate({"sparsity": "50%", "recover": {"epochs": 2}})


def network(value):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.full(2, value, np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def learner(tmp_path):
    said = []

    def make(*, data=True, check=lambda: None, students=None, seed=0):
        (tmp_path / "work").mkdir(exist_ok=True)
        return Learner(
            data=TrainingSet.of({"x": np.zeros((4, 2), np.float32)}) if data else None,
            students=students or {},
            work_dir=tmp_path / "work",
            seed=seed,
            report=said.append,
            cache=Cache.at(str(tmp_path / "cache"), "", tmp_path / "work"),
            check=check,
        )

    make.said = said
    return make


@pytest.fixture
def trained(monkeypatch):
    """How often something was trained."""
    calls = []

    def recover(teacher, model, step, *, data, work_dir, seed, progress, room):
        calls.append(step)
        for epoch in range(step.recover.epochs):
            progress(Progress(stage="recover", done=epoch + 1, total=step.recover.epochs))
        return network(3.0), ("learned",)

    def distill(teacher, step, *, student, data, work_dir, seed, progress, room):
        calls.append(student)
        return distilling.Distilled(network(4.0), ("distilled",))

    monkeypatch.setattr(recovering, "recover", recover)
    monkeypatch.setattr(distilling, "distill", distill)
    return calls


def test_the_same_is_not_learned_twice(learner, trained):
    first, notes = learner().recover(network(1.0), network(2.0), STEP)
    again, same_notes = learner().recover(network(1.0), network(2.0), STEP)
    assert model_digest(first) == model_digest(again)
    assert notes == same_notes == ("learned",)
    assert len(trained) == 1
    # Another network, step or seed is something else.
    learner().recover(network(1.0), network(2.5), STEP)
    learner().recover(network(1.0), network(2.0), STEP.replace(sparsity="60%"))
    learner(seed=1).recover(network(1.0), network(2.0), STEP)
    assert len(trained) == 4


def test_a_students_file_is_part_of_what_is_learned(learner, trained):
    step = Distill(DistillStep.model_validate({"student": {"uri": "file:s.onnx"}}), 0)
    one, two = network(5.0), network(6.0)
    for student in (one, two, one):
        learner(students={0: student}).distill(network(1.0), network(1.0), step)
    assert [s is one for s in trained] == [True, False]


def test_between_epochs_the_time_may_be_up(learner, trained):
    left = [True, True, False]

    def check():
        if not left.pop(0):
            raise TimeUpError

    with pytest.raises(TimeUpError):
        learner(check=check).recover(network(1.0), network(2.0), STEP)
    assert len(learner.said) == 2
    # What was not finished is not kept.
    learner().recover(network(1.0), network(2.0), STEP)
    assert len(trained) == 2


def test_without_data_there_is_nothing_to_learn_from(learner, trained):
    with pytest.raises(InputError, match=r"recover has nothing to learn from: give data\.training"):
        learner(data=False).recover(network(1.0), network(2.0), STEP)
    assert trained == []
