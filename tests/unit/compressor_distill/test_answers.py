"""What a teacher says: in as many rows at a time as fit, and how far it deviates."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.training import answers as module
from edgemodel_compressor.training.answers import Answers, Wanted
from edgemodel_compressor.training.data import TrainingSet


@given(
    rows=st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=40),
    cut=st.integers(1, 40),
    shift=st.sampled_from([0.0, 1e4, -3e5]),
)
def test_the_variance_of_parts_is_that_of_the_whole(rows, cut, shift):
    whole = np.asarray(rows, dtype=np.float32) + np.float32(shift)
    moments = module._Moments()
    for begin in range(0, len(whole), cut):
        moments.add(whole[begin : begin + cut])
    numbers = whole.astype(np.float64)
    expected = np.mean(np.square(numbers - numbers.mean(axis=0)))
    if expected < 1e-6:  # about one row, or rows that are all alike
        expected = max(np.mean(np.square(numbers)), 1e-6) if expected <= 1e-12 else expected
    assert moments.variance() == pytest.approx(expected, rel=1e-6, abs=1e-6 * np.mean(np.square(numbers)))


def test_nothing_was_said():
    moments = module._Moments()
    moments.add(np.zeros((2, 0), np.float32))
    assert moments.variance() == 1e-6


@pytest.fixture
def teacher():
    nodes = [
        helper.make_node("Tile", ["x", "often"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["y"], keepdims=1, axes=[1]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [onnx.numpy_helper.from_array(np.array([1, 256]), "often")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("kibibytes", [1, 9, 1000])
def test_large_answers_come_in_few_rows(tmp_path, monkeypatch, teacher, kibibytes):
    """Each row's is 4 KiB."""
    monkeypatch.setattr(module, "ANSWERS_BYTES", kibibytes * 1024)
    x = np.random.default_rng(0).normal(size=(50, 4)).astype("f4")
    wanted = {"a": Wanted("wide", lambda v: v), "b": Wanted("y", lambda v: v)}
    said = Answers(teacher, wanted, TrainingSet.of({"x": x}), rows=32)
    run, seen = said._run, []
    said._run = lambda feeds: seen.append(len(feeds["x"])) or run(feeds)
    before = said.at(np.arange(50))
    said.keep(tmp_path, lambda _p: None)
    assert max(seen) == {1: 1, 9: 2, 1000: 32}[kibibytes]
    rows = np.array([3, 49, 0])
    found = said.at(rows)
    assert np.array_equal(found["a"], np.tile(x, 256)[rows])
    assert all(np.array_equal(found[name], before[name][rows]) for name in ("a", "b"))
    said.close()


def test_answers_of_other_shapes(teacher):
    wanted = {"a": Wanted("wide", lambda v: v[:, : 3 + len(v)])}
    with pytest.raises(InputError, match="'wide' has other shapes for other samples"):
        Answers(teacher, wanted, TrainingSet.of({"x": np.zeros((50, 4), "f4")}), rows=32)
