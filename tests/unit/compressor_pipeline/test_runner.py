"""Answers of several runs at a time: those of one after the other, in order."""

import threading

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.runner import answers, runner


def requests(n):
    return [{"x": np.full((1, 2), i, np.float32)} for i in range(n)]


@pytest.fixture
def session():
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString())


@pytest.mark.parametrize("lanes", [1, 2, 5])
@pytest.mark.parametrize("n", [0, 1, 3, 40])
def test_in_order(session, lanes, n):
    assert [a["y"][0, 0] for a in answers(runner(session), iter(requests(n)), lanes)] == [2 * i for i in range(n)]


def shared(function):
    """As `runner` says that several may call."""
    function.__dict__["shared"] = True
    return function


def test_as_many_at_a_time_as_there_are_lanes():
    together = threading.Barrier(3, timeout=30)

    def run(feeds):
        together.wait()
        return feeds

    assert len(list(answers(shared(run), requests(9), 3))) == 9


def test_what_nobody_said_may_be_shared_is_called_by_one_thread():
    seen = set()

    def run(feeds):
        seen.add(threading.get_ident())
        return feeds

    assert len(list(answers(run, requests(9), 3))) == 9
    assert seen == {threading.get_ident()}


def test_an_error_comes_at_its_place_and_nothing_more_is_begun():
    begun = []

    def run(feeds):
        begun.append(int(feeds["x"][0, 0]))
        if begun[-1] == 4:
            raise InputError("no")
        return feeds

    found = answers(shared(run), requests(1000), 2)
    with pytest.raises(InputError, match="no"):
        list(found)
    assert len(begun) < 12


def test_requests_are_read_as_they_are_needed(session):
    read = []

    def reading():
        for feeds in requests(100):
            read.append(feeds)
            yield feeds

    found = answers(runner(session), reading(), 2)
    next(found)
    assert len(read) <= 4
    found.close()
