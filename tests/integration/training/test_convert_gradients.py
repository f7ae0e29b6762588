"""Gradients against finite differences of onnxruntime's answers, along a random direction."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_compressor.training.convert import differentiable, with_parameters

STEP = 2e-2


def values(seed, *shape, scale=0.5):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def made(nodes, tensors, shape, opset=17):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def convolutions():
    tensors = {"d": values(1, 6, 1, 3, 3), "g": values(2, 6, 3, 3, 3), "b": values(3, 6), "t": values(4, 6, 2, 2, 2)}
    nodes = [
        helper.make_node("Conv", ["x", "d"], ["h1"], group=6, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["h1"], ["h2"]),
        helper.make_node("Conv", ["h2", "g", "b"], ["h3"], group=2, pads=[2, 2, 2, 2], dilations=[2, 2]),
        helper.make_node("ConvTranspose", ["h3", "t"], ["y"], group=1, strides=[2, 2]),
    ]
    return made(nodes, tensors, [2, 6, 7, 7])


def normalizations():
    tensors = {"w": values(1, 8, 8), "s": values(2, 8) + 1, "b": values(3, 8), "is": values(4, 3), "ib": values(5, 3)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("LayerNormalization", ["h", "s", "b"], ["n"]),
        helper.make_node("InstanceNormalization", ["n", "is", "ib"], ["y"]),
    ]
    return made(nodes, tensors, [2, 3, 8])


def recurrent():
    tensors = {
        "w": values(1, 2, 16, 3), "r": values(2, 2, 16, 4), "b": values(3, 2, 32), "p": values(4, 2, 12),
        "gw": values(5, 1, 9, 8), "gr": values(6, 1, 9, 3), "gb": values(7, 1, 18), "shape": np.asarray([5, 2, 8]),
    }  # fmt: skip
    nodes = [
        helper.make_node(
            "LSTM", ["x", "w", "r", "b", "", "", "", "p"], ["h"], hidden_size=4, direction="bidirectional"
        ),
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "shape"], ["f"]),
        helper.make_node("GRU", ["f", "gw", "gr", "gb"], ["g", "y"], hidden_size=3, linear_before_reset=1),
    ]
    return made(nodes, tensors, [5, 2, 3])


def attention():
    """Self-attention as exporters write it, with a causal mask and an embedding of the positions."""
    tensors = {
        "q": values(1, 8, 8), "k": values(2, 8, 8), "v": values(3, 8, 8), "scale": np.float32(8**-0.5),
        "mask": np.where(np.tri(5) > 0, 0, -1e9).astype(np.float32), "table": values(4, 6, 8),
        "positions": np.arange(5), "ln": values(5, 8) + 1,
    }  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["table", "positions"], ["pe"]),
        helper.make_node("Add", ["x", "pe"], ["h"]),
        *(helper.make_node("MatMul", ["h", n], [n.upper()]) for n in "qkv"),
        helper.make_node("Transpose", ["K"], ["KT"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["Q", "KT"], ["scores"]),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["p"]),
        helper.make_node("MatMul", ["p", "V"], ["o"]),
        helper.make_node("Add", ["o", "h"], ["r"]),
        helper.make_node("LayerNormalization", ["r", "ln"], ["y"]),
    ]
    return made(nodes, tensors, [2, 5, 8])


def pooling_and_resize():
    tensors = {"w": values(1, 4, 3, 3, 3), "sizes": np.asarray([2, 4, 9, 9]), "slope": np.abs(values(2, 4, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["c", "slope"], ["a"]),
        helper.make_node("AveragePool", ["a"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["p", "", "", "sizes"], ["z"], mode="cubic"),
        helper.make_node("ReduceL2", ["z"], ["y"], axes=[1], keepdims=0),
    ]
    return made(nodes, tensors, [2, 3, 6, 6])


MODELS = [convolutions, normalizations, recurrent, attention, pooling_and_resize]


@pytest.mark.parametrize("model", MODELS, ids=lambda f: f.__name__)
def test_gradients_are_the_slopes_of_onnxruntimes_answers(model):
    import jax

    model = model()
    x = values(9, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim), scale=1)
    f = differentiable(model)

    def answer(parameters):
        changed = with_parameters(model, parameters).SerializeToString()
        return ort.InferenceSession(changed, providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]

    want = answer(f.parameters)
    weights = values(10, *want.shape, scale=1)
    found, gradients = jax.jit(
        jax.value_and_grad(
            lambda p, v: ((y := f.apply(p, {"x": v})["y"]) * weights).sum() + 0 * y.sum(), argnums=(0, 1)
        )
    )(f.parameters, x)
    np.testing.assert_allclose(found, (want * weights).sum(), rtol=2e-4, atol=2e-4)
    assert set(gradients[0]) == set(f.parameters)
    for name, gradient in gradients[0].items():
        direction = values(11, *gradient.shape, scale=1)
        direction /= np.linalg.norm(direction)
        ahead, back = (
            answer(f.parameters | {name: f.parameters[name] + sign * STEP * direction}).astype(np.float64)
            for sign in (1, -1)
        )
        slope = ((ahead - back) * weights).sum() / (2 * STEP)
        size = float(np.linalg.norm(gradient))
        assert size > 1e-3, name
        assert abs(slope - float((gradient * direction).sum())) < 0.02 * size + 1e-3, name


def test_rounding_passes_the_gradient_on():
    import jax

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    model = made(nodes, {"s": np.float32(0.1), "z": np.int8(0)}, [4])
    f = differentiable(model)
    x = np.asarray([0.123, -0.5, 20.0, -20.0], np.float32)
    gradient = jax.grad(lambda v: f.apply({}, {"x": v})["y"].sum())(x)
    # Beyond the range (±12.7) nothing that the input does changes the output.
    np.testing.assert_allclose(gradient, [1, 1, 0, 0], atol=1e-5)


def test_a_fully_masked_row_of_attention_has_no_nan_in_its_gradient():
    import jax

    tensors = {"m": np.asarray([[True, True, True], [False, False, False]]), "k": values(1, 1, 2, 3, 4)}
    node = helper.make_node("Attention", ["x", "k", "k", "m"], ["y"])
    f = differentiable(made([node], tensors, [1, 2, 2, 4], opset=23))
    gradient = jax.grad(lambda v: (f.apply(f.parameters, {"x": v})["y"] ** 2).sum())(values(2, 1, 2, 2, 4))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[:, :, 0]).max() > 0
    assert not np.abs(gradient[:, :, 1]).max()


@pytest.mark.parametrize(("op", "attributes"), [("ReduceL2", {}), ("LpNormalization", {}), ("Pow", {})])
def test_gradients_at_zero_are_finite(op, attributes):
    import jax

    inputs = ["x", "two"] if op == "Pow" else ["x"]
    model = made([helper.make_node(op, inputs, ["y"], **attributes)], {"two": np.float32(2)}, [2, 3])
    f = differentiable(model)
    gradient = jax.grad(lambda v: f.apply({}, {"x": v})["y"].sum())(np.zeros((2, 3), np.float32))
    assert np.isfinite(gradient).all()
