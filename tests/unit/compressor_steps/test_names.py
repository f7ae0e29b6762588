"""Short names: the same answers, the same inputs, outputs and nodes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgemodel_compressor.steps.graph import copy_of, names_in
from edgemodel_compressor.steps.names import shorten


def branches(m):
    """Both branches read a tensor of the outer graph and have one of their own of the same name; an input is named "1"."""
    out = helper.make_tensor_value_info("model/branch/answer", TensorProto.FLOAT, [3, 4])

    def branch(op, name):
        nodes = [helper.make_node(op, ["model/shared", "model/inner"], ["model/branch/answer"], name=name)]
        return helper.make_graph(nodes, name, [], [out], [numpy_helper.from_array(m.normal(32, 4), "model/inner")])

    nodes = [
        helper.make_node("Relu", ["1"], ["model/shared"], name="first"),
        helper.make_node("ReduceSum", ["1"], ["model/sum"], name="sum", keepdims=0),
        helper.make_node("Greater", ["model/sum", "model/zero"], ["model/condition"], name="greater"),
        helper.make_node("If", ["model/condition"], ["y"], name="if", then_branch=branch("MatMul", "a"),
                         else_branch=branch("MatMul", "b")),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("1", TensorProto.FLOAT, [3, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])],
        [numpy_helper.from_array(np.float32(0), "model/zero")],
        value_info=[helper.make_tensor_value_info("model/shared", TensorProto.FLOAT, [3, 32])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_the_model_answers_as_before(m):
    for made, shape in ((branches(m), (3, 32)), (m.cnn(), (2, 1, 8, 8))):
        short = copy_of(made)
        shorten(short)
        if shape == (3, 32):  # the other one does not say how large its answer is
            onnx.checker.check_model(short)
        for sign in (1, -1):
            x = sign * np.abs(m.normal(*shape))
            assert (m.run(short, x) == m.run(made, x)).all()
        kept = {v.name for v in (*made.graph.input, *made.graph.output)}
        assert {v.name for v in (*short.graph.input, *short.graph.output)} == kept
        assert [n.name for n in short.graph.node] == [n.name for n in made.graph.node]
        assert len(names_in(short.graph)) == len(names_in(made.graph))
        assert all(len(n) <= 2 for n in names_in(short.graph) - kept)
        assert len(short.graph.value_info) == 0


def test_short_names_stay(m):
    short = branches(m)
    shorten(short)
    before = m.raw(short)
    shorten(short)
    assert m.raw(short) == before
