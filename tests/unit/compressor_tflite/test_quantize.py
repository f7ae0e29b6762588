"""Quantization against numbers worked out by hand, and what stays float."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from edgemodel_api.errors import InputError
from edgemodel_compressor.formats import tflite
from edgemodel_compressor.formats.tflite import schema
from edgemodel_compressor.formats.tflite.graph import Graph, Op, Tensor
from edgemodel_compressor.formats.tflite.lower import lower
from edgemodel_compressor.formats.tflite.quantize import choose, parameters, quantize_full, quantized, sane
from edgemodel_compressor.formats.tflite.weights import quantize_weights, symmetric

FLOAT = np.dtype(np.float32)
X = {"x": np.random.default_rng(3).standard_normal((32, 3, 8, 8)).astype(np.float32)}


def tensor(name: str, *shape: int, data: object = None) -> Tensor:
    values = None if data is None else np.asarray(data, np.float32)
    return Tensor(name, values.shape if values is not None else shape, FLOAT, values)


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero"),
    [
        (0.0, 255.0, 1.0, -128),
        (-1.0, 254.0, 1.0, -127),
        (-12.8, 12.7, 0.1, 0),
        (-255.0, 0.0, 1.0, 127),
        (5.0, 25.5, 0.1, -128),  # widened to have 0 in it
    ],
)
def test_scale_and_zero(low, high, scale, zero):
    got = parameters(low, high)
    assert got == (pytest.approx(scale, rel=1e-6), zero)


def test_numbers_of_floats():
    assert quantized(np.asarray([-1.0, 0.0, 0.24, 0.26, 100.0]), 0.5, -2).tolist() == [-4, -2, -2, -1, 127]


def test_weights_have_a_scale_for_each_channel_and_keep_their_zeros():
    numbers, scale = symmetric(np.asarray([[1.27, -0.637, 0.0], [0.0, 0.254, -0.126], [0.0, 0.0, 0.0]], np.float32), 0)
    assert numbers.tolist() == [[127, -64, 0], [0, 127, -63], [0, 0, 0]]
    np.testing.assert_allclose(scale, [0.01, 0.002, 1.0], rtol=1e-6)


def product() -> tuple[Graph, dict[int, tuple[float, float]]]:
    """y = x · [[1.27, 0.635], [−0.254, 0]]ᵀ + [0.1, −0.01], x in [−1.28, 1.27], y in [0, 2.55]."""
    x, y = tensor("x", 1, 2), tensor("y", 1, 2)
    weight, bias = tensor("w", data=[[1.27, 0.635], [-0.254, 0.0]]), tensor("b", data=[0.1, -0.01])
    graph = Graph([Op("FULLY_CONNECTED", [x, weight, bias], [y], {}, "dense")], {"x": x}, {"y": y})
    return graph, {id(x): (-1.28, 1.27), id(y): (0.0, 2.55)}


def test_full_int8_of_a_product_by_hand():
    graph, ranges = product()
    quantize_full(graph, ranges)
    assert [op.code for op in graph.ops] == ["QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE"]
    x, weight, bias = graph.ops[1].inputs
    assert x.quantization.scale.tolist() == [pytest.approx(0.01)]
    assert x.quantization.zero.tolist() == [0]
    assert weight.data.tolist() == [[127, 64], [-127, 0]]
    np.testing.assert_allclose(weight.quantization.scale, [0.01, 0.002], rtol=1e-6)
    # bias / (0.01 · 0.01), bias / (0.01 · 0.002)
    assert bias.data.tolist() == [1000, -500]
    assert bias.data.dtype == np.int32
    np.testing.assert_allclose(bias.quantization.scale, [1e-4, 2e-5], rtol=1e-6)
    out = graph.ops[1].outputs[0].quantization
    assert (out.scale.tolist(), out.zero.tolist()) == ([pytest.approx(0.01)], [-128])


def test_a_bias_that_int32_cannot_hold_widens_the_scale():
    graph, ranges = product()
    graph.ops[0].inputs[2] = tensor("b", data=[1e9, 0.0])
    quantize_full(graph, ranges)
    _, weight, bias = graph.ops[1].inputs
    assert abs(int(bias.data[0])) <= 2**30 + 1
    assert float(bias.data[0]) * float(bias.quantization.scale[0]) == pytest.approx(1e9, rel=1e-6)
    assert np.abs(weight.data[0]).max() < 127


def test_what_only_moves_numbers_has_one_scale():
    a, b, c, d = tensor("a", 1, 2), tensor("b", 1, 2), tensor("c", 1, 4), tensor("d", 1, 2)
    w2, w4 = tensor("w2", data=np.eye(2)), tensor("w4", data=np.ones((2, 4)))
    graph = Graph(
        [
            Op("FULLY_CONNECTED", [a, w2, None], [b]),
            Op("CONCATENATION", [a, b], [c], {"axis": 1}),
            Op("FULLY_CONNECTED", [c, w4, None], [d]),
        ],
        {"a": a},
        {"d": d},
    )
    quantize_full(graph, {id(a): (-1.0, 1.0), id(b): (-3.0, 2.0), id(c): (-3.0, 2.0), id(d): (-9.0, 9.0)})
    joined = next(op for op in graph.ops if op.code == "CONCATENATION")
    scales = [float(t.quantization.scale[0]) for t in (*joined.inputs, *joined.outputs)]
    assert scales == pytest.approx([5 / 255] * 3)


def test_masks_are_not_squeezed_into_8_bits():
    x, m = tensor("x", 1, 2), tensor("m", 1, 2)
    graph = Graph([Op("ADD", [x, tensor("k", data=[0.0, -1e9])], [m])], {"x": x}, {"m": m})
    assert list(sane(graph, {id(x): (-1.0, 1.0), id(m): (-1e9, 1.0)})) == [id(x)]


def small(build):
    nodes = [
        build.node("Conv", ["x", "w1", "b1"], "a", pads=[1, 1, 1, 1]), build.node("Relu", ["a"], "r"),
        build.node("MaxPool", ["r"], "m", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        build.node("Conv", ["m", "w2", "b2"], "b", pads=[1, 1, 1, 1], group=16), build.node("Add", ["b", "m"], "s"),
        build.node("GlobalAveragePool", ["s"], "p"), build.node("Flatten", ["p"], "f"),
        build.node("Gemm", ["f", "w3", "b3"], "g", transB=1), build.node("Softmax", ["g"]),
    ]  # fmt: skip
    constants = {
        "w1": build.weights(16, 3, 3, 3), "b1": build.weights(16), "w2": build.weights(16, 1, 3, 3),
        "b2": build.weights(16), "w3": build.weights(9, 16), "b3": build.weights(9),
    }  # fmt: skip
    return build.model(nodes, {"x": ["N", 3, 8, 8]}, constants)


def codes(path):
    made = schema.parse(path.read_bytes())
    return collections.Counter(
        schema.name_of("BuiltinOperator", made.operatorCodes[o.opcodeIndex].builtinCode)
        for o in made.subgraphs[0].operators
    )


def test_full_int8_ends_with_a_float_softmax(build):
    made = build.convert(small(build), encoding="int8-full", calibration=X)
    found = codes(made.path)
    assert (found["QUANTIZE"], found["DEQUANTIZE"], found["SOFTMAX"]) == (1, 1, 1)
    assert made.check.max_error < 0.02


def test_nodes_that_stay_float(build):
    model = small(build)
    conv = model.graph.node[0].name
    made = build.convert(model, encoding="int8-full", calibration=X, float_nodes={conv})
    kept = schema.parse(made.path.read_bytes())
    weight = next(t for t in kept.subgraphs[0].tensors if t.name == b"w1")
    assert schema.name_of("TensorType", weight.type) == "FLOAT32"
    assert codes(made.path)["QUANTIZE"] == 1


@pytest.mark.parametrize("encoding", ["int8-weights", "float16"])
def test_small_weights_are_computed_in_float(build, encoding):
    wide = build.model([build.node("MatMul", ["x", "w"])], {"x": ["N", 64]}, {"w": build.weights(64, 48)})
    plain, small_ = build.convert(wide).size_bytes, build.convert(wide, encoding=encoding).size_bytes
    assert small_ < plain * {"int8-weights": 0.4, "float16": 0.6}[encoding]
    assert codes(build.folder / "model.tflite") == {"DEQUANTIZE": 1, "FULLY_CONNECTED": 1}


def test_weights_only_answers_are_those_of_the_rounded_weights(build):
    weight = build.weights(64, 48)
    model = build.model([build.node("MatMul", ["x", "w"])], {"x": ["N", 64]}, {"w": weight})
    path = build.convert(model, encoding="int8-weights").path
    numbers, scale = symmetric(np.ascontiguousarray(weight.T), 0)
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    wanted = x @ (numbers.astype(np.float32) * scale[:, None]).T
    np.testing.assert_allclose(tflite.run(path, {"x": x})["y"], wanted, rtol=1e-4, atol=1e-5)


def test_weights_that_would_not_become_smaller_stay(build):
    graph = lower(build.model([build.node("MatMul", ["x", "w"])], {"x": ["N", 4]}, {"w": build.weights(4, 4)})).graph
    assert quantize_weights(graph) == ("0 weights are int8, one scale an output channel; 1 small one stays float32",)


def test_recurrent_states_stay_float(build):
    constants = {"w": build.weights(1, 24, 4), "r": build.weights(1, 24, 6), "b": build.weights(1, 48)}
    node = build.node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=6)
    graph = lower(build.model([node], {"x": [3, 1, 4]}, constants)).graph
    ranges = {id(t): (-1.0, 1.0) for t in graph.tensors() if t.data is None}
    chosen = [op.code for op in graph.ops if id(op) in choose(graph, ranges)]
    assert set(chosen) >= {"FULLY_CONNECTED"}
    assert not {"LOGISTIC", "TANH", "MUL"} & set(chosen)


def test_calibration_that_does_not_fit(build):
    with pytest.raises(InputError, match="calibration"):
        build.convert(small(build), encoding="int8-full")
    with pytest.raises(InputError, match="'x' is missing"):
        build.convert(small(build), encoding="int8-full", calibration={"other": np.zeros((2, 3), np.float32)})
