"""Preparing: the same answers, and a graph that is easier to compress."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_compressor.steps.graph import graphs, opset
from edgemodel_compressor.steps.prepare import prepare, upgrade_opset
from edgemodel_compressor.steps.weights import weights


def ops(made):
    return [n.op_type for n in made.graph.node]


def test_batch_norm_folds_into_conv(m):
    made = m.cnn()
    before = m.raw(made)
    done = prepare(made)
    assert m.raw(made) == before
    assert ops(done) == ["Conv", "Relu", "Conv", "Add", "MaxPool", "Flatten", "Gemm"]
    assert done.graph.node[0].name == "conv1"
    x = m.normal(3, 1, 8, 8)
    np.testing.assert_allclose(m.run(done, x), m.run(made, x), rtol=1e-4, atol=1e-5)
    assert m.in_order(done)
    assert m.raw(done) == m.raw(prepare(made))
    assert m.raw(prepare(done)) == m.raw(done)


@pytest.mark.parametrize("why", ["read twice", "an output", "shared weight"])
def test_batch_norm_stays_where_the_conv_is_needed_as_it_is(m, why):
    tensors = {"w": m.normal(4, 4, 1, 1), **{n: np.abs(m.normal(4)) + 0.5 for n in ("g", "b", "mu", "var")}}
    nodes = [m.node("Conv", ["x", "w"], "c"), m.node("BatchNormalization", ["c", "g", "b", "mu", "var"], "n")]
    outputs = ("y",)
    if why == "read twice":
        nodes.append(m.node("Add", ["c", "n"], "y"))
    elif why == "an output":
        nodes.append(m.node("Relu", ["n"], "y"))
        outputs = ("y", "c")
    else:
        nodes.append(m.node("Conv", ["n", "w"], "y"))
    made = m.model(nodes, tensors, x=(1, 4, 5, 5), outputs=outputs)
    done = prepare(made)
    assert "BatchNormalization" in ops(done)
    x = m.normal(1, 4, 5, 5)
    np.testing.assert_allclose(m.run(done, x), m.run(made, x), rtol=1e-6)


def test_constants_become_initializers_and_are_folded(m):
    w, table = m.normal(3, 4), m.normal(2, 50, 4)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(w)),
        helper.make_node("Constant", [], ["s"], value_ints=[3, 4]),
        helper.make_node("Identity", ["w"], ["i"]), helper.make_node("Reshape", ["i", "s"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["h"]),
        helper.make_node("MatMul", ["h", "u"], ["y"]),
    ]  # fmt: skip
    made = m.model(nodes, {"u": m.normal(3, 2), "unused": table}, x=("n", 4))
    done = prepare(made)
    assert ops(done) == ["MatMul", "MatMul"]
    assert sorted(t.name for t in done.graph.initializer) == ["t", "u"]
    assert [w.channel_axes for w in weights(done)] == [(1,), (1,)]
    np.testing.assert_array_equal(m.run(done, m.normal(5, 4)), m.run(made, m.normal(5, 4)))


def test_a_tied_embedding_is_not_stored_twice(m):
    table = m.normal(200, 16)
    nodes = [m.node("Gather", ["e", "x"], "h"), m.node("Transpose", ["e"], "t"), m.node("MatMul", ["h", "t"], "y")]
    done = prepare(m.model(nodes, {"e": table}, x=("n",), x_type=TensorProto.INT64))
    assert ops(done) == ["Gather", "Transpose", "MatMul"]
    (weight,) = weights(done)
    assert [u.op for u in weight.uses] == ["Gather", "MatMul"]


def test_names_are_stable_and_unique(m):
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["b"], name="twin"),
             helper.make_node("Relu", ["b"], ["c"], name="twin"), helper.make_node("Relu", ["c"], ["y"], name="Relu_0")]  # fmt: skip
    names = [n.name for n in prepare(m.model(nodes, {}, x=(2,))).graph.node]
    assert names == ["Relu_0_2", "twin", "twin_2", "Relu_0"]


def test_initializers_are_no_inputs(m):
    made = m.matmul()
    made.ir_version = 3
    made.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [32, 16]))
    done = prepare(made)
    assert [i.name for i in done.graph.input] == ["x"]
    assert done.ir_version >= 4
    assert len(weights(done)) == 1


def test_upgrade_keeps_names_and_answers(m):
    tensors = {"w": m.normal(4, 8), "axes": np.array([0])}
    del tensors["axes"]
    nodes = [m.node("MatMul", ["x", "w"], "h", name="fc"), m.node("Unsqueeze", ["h"], "u", name="un", axes=[0]),
             m.node("Softmax", ["u"], "y", name="sm", axis=2)]  # fmt: skip
    made = m.model(nodes, tensors, x=(3, 4), opset=11)
    raised = upgrade_opset(made)
    assert opset(made) == 11
    assert opset(raised) >= 13
    assert {"fc", "un"} <= {n.name for n in raised.graph.node}
    np.testing.assert_allclose(m.run(raised, m.normal(3, 4)), m.run(made, m.normal(3, 4)), rtol=1e-6)


def test_upgrade_gives_none_where_the_converter_cannot(m):
    made = m.model([helper.make_node("Nonsense", ["x"], ["y"])], {}, x=(3, 4), opset=11)
    assert upgrade_opset(made) is None


def test_functions_are_inlined(m):
    body = [helper.make_node("MatMul", ["a", "b"], ["c"]), helper.make_node("Relu", ["c"], ["d"])]
    made = m.model([helper.make_node("Layer", ["x", "w"], ["y"], domain="own")], {"w": m.normal(4, 3)}, x=("n", 4))
    made.opset_import.append(helper.make_opsetid("own", 1))
    made.functions.append(helper.make_function("own", "Layer", ["a", "b"], ["d"], body, [helper.make_opsetid("", 17)]))
    done = prepare(made)
    assert ops(done) == ["MatMul", "Relu"]
    assert [w.name for w in weights(done)] == ["w"]
    np.testing.assert_array_equal(m.run(done, m.normal(5, 4)), m.run(made, m.normal(5, 4)))


@pytest.mark.parametrize("how", ["DequantizeLinear", "Cast and scale", "integers are computed with"])
def test_stored_integers_become_weights_where_floats_are_computed_with(m, how):
    """One scale a channel; beside a QuantizeLinear the pairs stay as they are."""
    numbers = np.arange(-60, 60, 10, dtype=np.int8).reshape(4, 3)
    scale, zero = np.array([0.1, 0.2, 0.3], np.float32), np.array([0, 1, -1], np.int8)
    tensors = {
        "w": numbers,
        "s": scale,
        "z": zero,
        "zf": zero.astype(np.float32),
        "one": np.float32(0.05),
        "zero": np.int8(0),
    }
    nodes = [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=1)]
    if how == "Cast and scale":
        cast = helper.make_node("Cast", ["w"], ["c"], to=TensorProto.FLOAT)
        nodes = [cast, m.node("Sub", ["c", "zf"], "d"), m.node("Mul", ["d", "s"], "f")]
    nodes.append(m.node("MatMul", ["x", "f"], "p"))
    last = [m.node("Relu", ["p"], "y")]
    if how.startswith("integers"):
        last = [
            m.node("QuantizeLinear", ["p", "one", "zero"], "q"),
            m.node("DequantizeLinear", ["q", "one", "zero"], "y"),
        ]
    done = prepare(m.model([*nodes, *last], tensors, x=("n", 4)))
    if how.startswith("integers"):
        assert ops(done) == ["DequantizeLinear", "MatMul", "QuantizeLinear", "DequantizeLinear"]
        return
    assert ops(done) == ["MatMul", "Relu"]
    (stored,) = (numpy_helper.to_array(t) for t in done.graph.initializer if t.name == "f")
    np.testing.assert_array_equal(stored, (numbers.astype(np.float32) - zero) * scale)


def branch(name, nodes, **tensors):
    out = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    return helper.make_graph(nodes, name, [], out, [numpy_helper.from_array(v, k) for k, v in tensors.items()])


def choice(condition, name, first, second):
    return helper.make_node("If", [condition], [name], name=name, then_branch=first, else_branch=second)


def test_tensors_of_one_name_get_one_each(m):
    """Branches that each have a `w`, read by a branch inside too; those inside each have a `u`, one as a Constant."""
    w = m.normal(8, 5)
    constant = helper.make_node("Constant", [], ["u"], value=numpy_helper.from_array(3 * w))
    product, inner = m.node("MatMul", ["x", "w"], "p"), m.node("MatMul", ["x", "u"], "p")
    deep = choice("c2", "d", branch("e", [inner], u=2 * w), branch("f", [product]))
    other = choice("c3", "d", branch("i", [constant, inner]), branch("j", [m.node("Add", ["w", "x5"], "p")]))
    nodes = [
        m.node("ReduceSum", ["x"], "s", keepdims=0), m.node("Greater", ["s", "zero"], "c"),
        m.node("Greater", ["s", "ten"], "c2"), m.node("Less", ["s", "low"], "c3"), m.node("MatMul", ["x", "w_2"], "x5"),
        choice("c", "y", branch("g", [m.node("Neg", ["w"], "n"), deep], w=4 * w), branch("h", [other], w=5 * w)),
    ]  # fmt: skip
    tensors = {"zero": np.float32(0), "ten": np.float32(10), "low": np.float32(-10), "w_2": 6 * w}
    made = m.model(nodes, tensors, x=(1, 8))
    before = m.raw(made)
    done = prepare(made)
    assert m.raw(made) == before
    names = [t.name for g in graphs(done.graph) for t in g.initializer]
    assert len(names) == len(set(names)) == 8
    assert {"w", "w_2", "w_3", "u", "u_2"} <= set(names)
    assert len({w.name for w in weights(done)}) == len(weights(done)) == 4
    made_there = [name for g in graphs(done.graph) for n in g.node for name in n.output]
    assert len(made_there) == len(set(made_there))
    assert m.raw(prepare(done)) == m.raw(done)
    for sum_of_x in (20, 5, -5, -20):
        x = np.full((1, 8), sum_of_x / 8, dtype=np.float32)
        np.testing.assert_array_equal(m.run(done, x), m.run(made, x))


#: Where `w` is beside the branches, and what the branches hold: "own" a `w` that they read, "outer" the one around them.
HIDDEN = {
    "both have one": ("initializer", "own", "own"),
    "both have one, outside is a Constant": ("constant", "own", "own"),
    "both have one, outside is computed": ("node", "own", "own"),
    "the other reads the one outside": ("initializer", "own", "outer"),
    "the other reads a Constant outside": ("constant", "own", "outer"),
    "the other reads what is computed outside": ("node", "outer", "own"),
    "the other reads none": ("node", "own", "none"),
    "both read the one outside": ("constant", "outer", "outer"),
}


@pytest.mark.parametrize("case", HIDDEN)
@pytest.mark.parametrize("deep", [False, True])
def test_names_that_are_inside_and_outside(m, case, deep):
    """As onnxruntime reads them, which is not told by ONNX: names have to be single there."""
    where, *kinds = HIDDEN[case]

    def of(kind, place):
        own = {"w": np.full((1, 4), 10.0 * (place + 1), np.float32)} if kind == "own" else {}
        read = "x" if kind == "none" else "w"
        return branch(f"b{place}", [m.node("Add", ["x", read], f"r{place}")], **own)

    inner = choice("c", "q", of(kinds[0], 0), of(kinds[1], 1))
    if deep:
        inner = choice("c2", "z", branch("t", [inner]), branch("e", [m.node("Add", ["x", "w"], "e")]))
    outside = np.full((1, 4), 3.0, np.float32)
    before = {
        "initializer": [],
        "constant": [helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(outside))],
        "node": [m.node("Add", ["x", "x"], "w")],
    }[where]
    nodes = [
        *before, m.node("ReduceSum", ["x"], "s", keepdims=0), m.node("Greater", ["s", "zero"], "c"),
        m.node("Greater", ["s", "low"], "c2"), inner, m.node("Add", [inner.output[0], "w"], "y"),
    ]  # fmt: skip
    tensors = {"zero": np.float32(0), "low": np.float32(-9), **({"w": outside} if where == "initializer" else {})}
    made = m.model(nodes, tensors, x=(1, 4))
    done = prepare(made)
    for sum_of_x in (20, -5, -20):
        x = np.full((1, 4), sum_of_x / 4, dtype=np.float32)
        np.testing.assert_array_equal(m.run(done, x), m.run(made, x))


def test_an_initializer_that_one_around_it_hides_is_dropped(m):
    """The runtime reads the outer one of two with the same name, where another branch reads it."""
    w = m.normal(8, 5)
    nodes = [
        m.node("ReduceSum", ["x"], "s", keepdims=0), m.node("Greater", ["s", "zero"], "c"),
        choice("c", "y", branch("a", [m.node("MatMul", ["x", "w"], "p")], w=2 * w),
               branch("b", [m.node("MatMul", ["x", "w"], "q")])),
    ]  # fmt: skip
    made = m.model(nodes, {"zero": np.float32(0), "w": w}, x=(1, 8))
    done = prepare(made)
    (weight,) = weights(done)
    assert (weight.name, len(weight.uses)) == ("w", 2)
    for x in (np.ones((1, 8), dtype=np.float32), -np.ones((1, 8), dtype=np.float32)):
        np.testing.assert_array_equal(m.run(done, x), m.run(made, x))
