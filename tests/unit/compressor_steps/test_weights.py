"""Which initializers are weights, and where their output channels lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgemodel_compressor.steps.weights import channels, from_channels, weights

INT64 = TensorProto.INT64


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "axes"),
    [
        pytest.param("MatMul", (4, 3), {}, (1,), id="MatMul"),
        pytest.param("MatMul", (2, 4, 3), {}, (2,), id="batched MatMul"),
        pytest.param("Gemm", (4, 3), {}, (1,), id="Gemm"),
        pytest.param("Gemm", (3, 4), {"transB": 1}, (0,), id="Gemm transB"),
        pytest.param("Conv", (6, 2, 3), {"group": 2}, (0,), id="grouped 1-D Conv"),
        pytest.param("Conv", (6, 2, 3, 3), {}, (0,), id="2-D Conv"),
        pytest.param("Conv", (6, 2, 3, 3, 3), {}, (0,), id="3-D Conv"),
        pytest.param("ConvTranspose", (2, 6, 3, 3), {}, (1,), id="ConvTranspose"),
        pytest.param("Einsum", (4, 3), {"equation": "ab,bc->ac"}, (1,), id="Einsum"),
        pytest.param("Einsum", (3, 4), {"equation": "ab, cb -> ac"}, (0,), id="Einsum turned"),
        pytest.param("Einsum", (3, 4), {"equation": "...b,cb->...c"}, (), id="Einsum with dots"),
    ],
)
def test_channel_axes(m, op, shape, attributes, axes):
    made = m.model([m.node(op, ["x", "w"], "y", name="n", **attributes)], {"w": m.normal(*shape)}, x=(1, 4, 4, 4))
    (weight,) = weights(made)
    assert (weight.name, weight.node, weight.op, weight.shape, weight.channel_axes) == ("w", "n", op, shape, axes)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_weights_have_channels_per_direction_and_gate(m, op):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    nodes = [helper.make_node(op, ["x", "W", "R", "B"], ["y"], name="rnn", hidden_size=5)]
    tensors = {"W": m.normal(1, gates * 5, 3), "R": m.normal(1, gates * 5, 5), "B": m.normal(1, gates * 10)}
    found = weights(m.model(nodes, tensors, x=(7, 1, 3)))
    assert [(w.name, w.channel_axes) for w in found] == [("W", (0, 1)), ("R", (0, 1))]


def test_an_embedding_has_a_channel_a_row(m):
    made = m.model([m.node("Gather", ["w", "x"], "y")], {"w": m.normal(9, 4)}, x=("n",), x_type=INT64)
    assert [w.channel_axes for w in weights(made)] == [(0,)]


def test_weights_behind_constant_nodes_are_found(m):
    nodes = [
        m.node("Identity", ["w"], "i"), m.node("Transpose", ["i"], "t"), m.node("MatMul", ["x", "t"], "h", name="a"),
        m.node("Reshape", ["v", "s"], "r"), m.node("MatMul", ["h", "r"], "y", name="b"),
    ]  # fmt: skip
    tensors = {"w": m.normal(3, 4), "v": m.normal(6), "s": np.array([3, 2])}
    made = m.model(nodes, {**tensors, "v": m.normal(2, 3)}, x=("n", 4))
    assert [(w.name, w.node, w.channel_axes) for w in weights(made)] == [("w", "a", (0,)), ("v", "b", ())]


def test_what_is_no_weight(m):
    nodes = [
        m.node("Add", ["x", "bias"], "a"), m.node("Mul", ["a", "table"], "b"),
        m.node("Gather", ["ints", "i"], "g"), m.node("MatMul", ["b", "b"], "y"),
    ]  # fmt: skip
    tensors = {"bias": m.normal(4), "table": m.normal(4, 4), "ints": np.ones((4, 4), np.int64), "i": np.array(0)}
    assert weights(m.model(nodes, tensors, x=(4, 4))) == ()


def test_an_initializer_that_is_an_input_may_be_fed_and_is_no_weight(m):
    made = m.matmul()
    made.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [32, 16]))
    assert weights(made) == ()


def test_weights_in_branches_and_of_the_outer_graph(m):
    def branch(name, tensors, weight):
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        nodes = [helper.make_node("MatMul", ["x", weight], [f"{name}_y"], name=f"{name}_fc")]
        return helper.make_graph(nodes, name, [], [out], [numpy_helper.from_array(v, k) for k, v in tensors.items()])

    then = branch("then", {"inner": m.normal(4, 2)}, "inner")
    other = branch("else", {}, "outer")
    nodes = [helper.make_node("If", ["c"], ["y"], name="if", then_branch=then, else_branch=other)]
    made = m.model(nodes, {"c": np.array(True), "outer": m.normal(4, 2)}, x=("n", 4))
    assert {(w.name, w.node) for w in weights(made)} == {("inner", "then_fc"), ("outer", "else_fc")}


@given(st.permutations(range(4)), st.integers(0, 4))
def test_channels_and_back(order, count):
    values = np.arange(2 * 3 * 4 * 5, dtype=np.float64).reshape(2, 3, 4, 5)
    axes = tuple(sorted(order[:count]))
    rows = channels(values, axes)
    assert rows.shape[0] == int(np.prod([values.shape[a] for a in axes], dtype=int))
    np.testing.assert_array_equal(from_channels(rows, values.shape, axes), values)
