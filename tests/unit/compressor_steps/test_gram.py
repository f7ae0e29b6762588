"""Gram matrices of inputs: beside patches that are cut by hand, and answers of onnxruntime itself."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_compressor.steps import gram as grams_of_inputs
from edgemodel_compressor.steps.compensate import answer_error
from edgemodel_compressor.steps.gram import grams
from edgemodel_compressor.steps.prepare import prepare
from edgemodel_compressor.steps.weights import channels

RANDOM = np.random.default_rng(0)


class Rows:
    """Calibration data in memory."""

    labels = None

    def __init__(self, x):
        self.x = x
        self.samples = len(x)

    def batches(self, size):
        for begin in range(0, len(self.x), size):
            yield {"x": self.x[begin : begin + size]}


def model_of(node, weight, shape, *, before=(), outputs=("y",)):
    graph = helper.make_graph(
        [*before, node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weight.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return prepare(made)


def answers(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


CONVS = {
    "plain": ((6, 4, 3, 3), {}),
    "pads": ((6, 4, 3, 2), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    "dilated": ((6, 4, 3, 3), {"dilations": [2, 1], "pads": [1, 1, 1, 1]}),
    "grouped": ((6, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "depthwise": ((4, 1, 5, 5), {"group": 4, "strides": [2, 2]}),
    "same, upper": ((6, 4, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same, lower": ((6, 4, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    "valid": ((6, 4, 4, 3), {"auto_pad": "VALID"}),
}


@pytest.mark.parametrize("case", CONVS)
def test_conv_the_matrix_tells_the_mean_square_of_the_answers(case):
    shape, attributes = CONVS[case]
    weight = RANDOM.standard_normal(shape).astype(np.float32)
    model = model_of(helper.make_node("Conv", ["x", "w"], ["y"], name="c", **attributes), {"w": weight}, (4, 9, 8))
    x = RANDOM.standard_normal((5, 4, 9, 8)).astype(np.float32) + 1
    found = grams(model, Rows(x), rows=2, samples=5, seed=0)["w"]
    y = answers(model, x[:4]).astype(np.float64)  # the last batch of fewer rows is left out
    rows = channels(weight.astype(np.float64), found.axes).reshape(len(found.matrix), -1, found.matrix.shape[1])
    assert found.positions == y.size // y.shape[1]
    np.testing.assert_allclose(answer_error(rows, found).reshape(-1), (y**2).mean(axis=(0, 2, 3)), rtol=1e-4)


PRODUCTS = {
    "MatMul": ("MatMul", {}, (6, 4), (1,)),
    "Gemm": ("Gemm", {}, (6, 4), (1,)),
    "Gemm, transposed": ("Gemm", {"transB": 1}, (4, 6), (0,)),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_products(case):
    op, attributes, shape, axes = PRODUCTS[case]
    weight = RANDOM.standard_normal(shape).astype(np.float32)
    model = model_of(helper.make_node(op, ["x", "w"], ["y"], name="m", **attributes), {"w": weight}, (6,))
    x = RANDOM.standard_normal((8, 6)).astype(np.float32)
    found = grams(model, Rows(x), rows=3, samples=8, seed=0)["w"]
    assert found.axes == axes
    np.testing.assert_allclose(found.matrix[0], x[:6].T @ x[:6] / 6, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lstm_inputs_and_hidden_states(direction):
    both = 2 if direction == "bidirectional" else 1
    w, r = RANDOM.standard_normal((both, 20, 3)), RANDOM.standard_normal((both, 20, 5))
    turn = helper.make_node("Transpose", ["x"], ["t"], name="t", perm=[1, 0, 2])
    node = helper.make_node("LSTM", ["t", "w", "r"], ["", "y"], name="l", hidden_size=5, direction=direction)
    model = model_of(node, {"w": w, "r": r}, (7, 3), before=[turn])
    x = RANDOM.standard_normal((4, 7, 3)).astype(np.float32)
    found = grams(model, Rows(x), rows=4, samples=4, seed=0)
    flat = x.reshape(-1, 3)
    np.testing.assert_allclose(found["w"].matrix[0], flat.T @ flat / 28, rtol=1e-4, atol=1e-5)
    # Beside the states that an LSTM which answers them gives.
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    lstm = next(n for n in whole.graph.node if n.op_type == "LSTM")
    lstm.output[0] = "states"
    del whole.graph.output[:]
    whole.graph.output.append(helper.make_tensor_value_info("states", TensorProto.FLOAT, None))
    states = answers(whole, x)
    for d in range(both):
        before = states[1:, d] if d or direction == "reverse" else states[:-1, d]
        h = before.reshape(-1, 5)
        np.testing.assert_allclose(found["r"].matrix[d], h.T @ h / len(h), rtol=1e-4, atol=1e-5)


def test_positions_are_bounded_and_the_same_every_time(monkeypatch):
    monkeypatch.setattr(grams_of_inputs, "_LEAST", 10)
    monkeypatch.setattr(grams_of_inputs, "_MOST", 40)
    weight = RANDOM.standard_normal((2, 1, 3, 3))
    model = model_of(helper.make_node("Conv", ["x", "w"], ["y"], name="c"), {"w": weight}, (1, 12, 12))
    x = RANDOM.standard_normal((8, 1, 12, 12)).astype(np.float32)
    first, second = (grams(model, Rows(x), rows=2, samples=8, seed=3)["w"] for _ in range(2))
    assert first.positions == 40
    assert np.array_equal(first.matrix, second.matrix)


def test_the_same_on_any_number_of_threads():
    """Weights that share inputs, and one that two nodes read."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], name="p"),
        helper.make_node("MatMul", ["x", "b"], ["q"], name="q"),
        helper.make_node("MatMul", ["p", "b"], ["r"], name="r"),
    ]
    weight = {name: RANDOM.normal(size=(6, 6)) for name in "ab"}
    last = helper.make_node("Sum", ["q", "r"], ["y"], name="s")
    model = model_of(last, weight, [6], before=nodes)
    x = RANDOM.normal(size=(40, 6)).astype(np.float32)
    one, many = (grams(model, Rows(x), rows=3, samples=40, seed=1, threads=n) for n in (1, 4))
    assert set(one) == set(many) == {"a", "b"}
    assert all(np.array_equal(one[name].matrix, many[name].matrix) for name in one)


def test_batches_without_rows_say_nothing():
    """A detector hands on the regions that it found: of some pictures none."""
    kept = [
        helper.make_node("ReduceSum", ["x", "axes"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("Compress", ["x", "c"], ["p"], axis=0),
    ]
    weight = {"w": RANDOM.normal(size=(3, 2, 3, 3)), "zero": np.zeros(())}
    last = helper.make_node("Conv", ["p", "w"], ["y"], name="conv")
    model = model_of(last, weight, [2, 5, 5], before=kept)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3]), "axes"))
    x = np.ones((6, 2, 5, 5), np.float32)
    some = x.copy()
    some[::2] = -1
    assert np.array_equal(
        grams(model, Rows(some), rows=1, samples=6, seed=0)["w"].matrix,
        grams(model, Rows(x[::2]), rows=1, samples=3, seed=0)["w"].matrix,
    )
    assert not grams(model, Rows(-x), rows=1, samples=6, seed=0)


def test_what_cannot_be_known_is_left_out(monkeypatch):
    x = RANDOM.standard_normal((4, 6)).astype(np.float32)
    model = model_of(helper.make_node("MatMul", ["x", "w"], ["y"], name="m"), {"w": np.ones((6, 4))}, (6,))
    assert set(grams(model, Rows(x), rows=2, samples=4, seed=0)) == {"w"}
    monkeypatch.setattr(grams_of_inputs, "MOST_COLUMNS", 5)
    assert not grams(model, Rows(x), rows=2, samples=4, seed=0)
    monkeypatch.undo()
    large = np.array([np.inf, *np.ones(5)], dtype=np.float32)
    assert not grams(model, Rows(np.tile(large, (4, 1))), rows=2, samples=4, seed=0)
    # Rows of it are one reader's channels, columns the other's.
    turned = model_of(
        helper.make_node("Gemm", ["x", "w"], ["y"], name="m"),
        {"w": RANDOM.standard_normal((6, 6))},
        (6,),
        before=[helper.make_node("Gemm", ["x", "w"], ["z"], name="n", transB=1)],
        outputs=("y", "z"),
    )
    assert not grams(turned, Rows(x), rows=2, samples=4, seed=0)
    # Looked up and multiplied: a row of it is no input's column.
    both = model_of(
        helper.make_node("MatMul", ["e", "w"], ["y"], name="m"),
        {"w": np.ones((6, 6))},
        (6,),
        before=[
            helper.make_node("Cast", ["x"], ["i"], name="i", to=TensorProto.INT64),
            helper.make_node("Gather", ["w", "i"], ["e"], name="e"),
        ],
    )
    assert not grams(both, Rows(np.zeros((4, 6), np.float32)), rows=2, samples=4, seed=0)
