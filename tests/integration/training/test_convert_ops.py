"""Operators beside onnxruntime, on attributes and shapes that hypothesis makes.

A few examples each, as JAX compiles every one; EDGEMODEL_CONVERT_EXAMPLES=50 runs more.
"""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, assume, currently_in_test_context, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.training.convert import differentiable

EXAMPLES = int(os.environ.get("EDGEMODEL_CONVERT_EXAMPLES", "3"))
few = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow,
    HealthCheck.filter_too_much],
)  # fmt: skip
seeds = st.integers(0, 2**16)
sizes = st.integers(1, 5)


def values(seed, *shape, scale=1.0, dtype=np.float32):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(dtype)


def compare(op, feeds, tensors=None, *, outputs=1, opset=17, domain="", atol=2e-5, node_inputs=None, **attributes):
    """The operator by both; what onnxruntime refuses is no case."""
    tensors = tensors or {}
    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, node_inputs or [*feeds, *tensors], names, "node", domain=domain, **attributes)
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()],
        [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in names],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()],
    )  # fmt: skip
    for output in graph.output:
        output.ClearField("type")
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        want = session.run(None, feeds)
    except Exception:  # onnxruntime has types of its own
        assume(not currently_in_test_context())
        raise
    import jax

    function = differentiable(model)
    got = jax.jit(function.apply)(function.parameters, feeds)
    for name, expected in zip(names, want, strict=True):
        ours = np.asarray(got[name])
        assert ours.shape == expected.shape
        np.testing.assert_allclose(
            ours.astype(np.float64), expected.astype(np.float64), atol=atol, rtol=1e-4, equal_nan=True
        )


@few
@given(seeds, st.integers(1, 3), st.sampled_from([1, 2, 3, 6]), st.data())
def test_conv(seed, rank, group, data):
    strides, dilations, kernel = (
        data.draw(st.lists(st.integers(1, high), min_size=rank, max_size=rank)) for high in (3, 2, 3)
    )
    attributes = {"group": group, "strides": strides, "dilations": dilations}
    auto = data.draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto == "NOTSET":
        attributes["pads"] = data.draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    else:
        attributes["auto_pad"] = auto
    each, out = data.draw(sizes), data.draw(st.integers(1, 3))
    x = values(seed, data.draw(st.integers(1, 3)), each * group, *(data.draw(st.integers(5, 9)) for _ in range(rank)))
    tensors = {"w": values(seed + 1, out * group, each, *kernel)}
    if data.draw(st.booleans()):
        tensors["b"] = values(seed + 2, out * group)
    compare("Conv", {"x": x}, tensors, **attributes)


@few
@given(seeds, st.integers(1, 2), st.sampled_from([1, 2]), st.data())
def test_conv_transpose(seed, rank, group, data):
    strides, dilations, kernel = (
        data.draw(st.lists(st.integers(1, high), min_size=rank, max_size=rank)) for high in (3, 2, 3)
    )
    attributes = {"group": group, "strides": strides, "dilations": dilations}
    attributes["pads"] = data.draw(st.lists(st.integers(0, 1), min_size=2 * rank, max_size=2 * rank))
    attributes["output_padding"] = [data.draw(st.integers(0, s - 1)) for s in strides]
    each, out = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    x = values(seed, 2, each * group, *(data.draw(st.integers(3, 6)) for _ in range(rank)))
    tensors = {"w": values(seed + 1, each * group, out, *kernel), "b": values(seed + 2, out * group)}
    compare("ConvTranspose", {"x": x}, tensors, **attributes)


@few
@given(st.sampled_from(["MaxPool", "AveragePool", "LpPool"]), seeds, st.integers(1, 3), st.data())
def test_pooling(op, seed, rank, data):
    kernel = data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    attributes = {
        "kernel_shape": kernel,
        "strides": data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)),
    }
    auto = data.draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto == "NOTSET":
        attributes["pads"] = [data.draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
        attributes["ceil_mode"] = int(data.draw(st.booleans()))
    else:
        attributes["auto_pad"] = auto
    if op == "AveragePool":
        attributes["count_include_pad"] = int(data.draw(st.booleans()))
    if op == "LpPool":
        attributes["p"] = data.draw(st.integers(1, 3))
        attributes.pop("ceil_mode", None)  # onnxruntime's shape inference and kernel do not agree
    x = values(seed, 2, 3, *(data.draw(st.integers(4, 8)) for _ in range(rank)))
    compare(op, {"x": x}, opset=19 if op != "LpPool" else 18, **attributes)


@few
@given(st.sampled_from(["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"]), seeds, st.integers(1, 3))
def test_global_pooling(op, seed, rank):
    compare(op, {"x": values(seed, 2, 3, *range(3, 3 + rank))})


@few
@given(seeds, st.booleans(), st.booleans(), st.sampled_from([1.0, 0.5]), st.sampled_from([None, (4,), (1, 4), (3, 1)]))
def test_gemm(seed, trans_a, trans_b, scale, bias):
    a = values(seed, *((5, 3) if trans_a else (3, 5)))
    b = values(seed + 1, *((4, 5) if trans_b else (5, 4)))
    tensors = {"b": b} | ({} if bias is None else {"c": values(seed + 2, *bias)})
    compare("Gemm", {"a": a}, tensors, transA=int(trans_a), transB=int(trans_b), alpha=scale, beta=2 * scale)


@few
@given(seeds, st.sampled_from([((3, 4), (4, 2)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (4, 3))]))
def test_matmul(seed, shapes):
    compare("MatMul", {"a": values(seed, *shapes[0]), "b": values(seed + 1, *shapes[1])})


ACTIVATIONS = [
    ("Relu", {}), ("Sigmoid", {}), ("Tanh", {}), ("Erf", {}), ("HardSwish", {}), ("HardSigmoid", {"alpha": 0.3}),
    ("Elu", {"alpha": 0.7}), ("LeakyRelu", {"alpha": 0.2}), ("Selu", {}), ("Softplus", {}), ("Softsign", {}),
    ("Celu", {"alpha": 1.5}), ("ThresholdedRelu", {"alpha": 0.4}), ("Mish", {}), ("Gelu", {}),
    ("Gelu", {"approximate": "tanh"}), ("Softmax", {"axis": 1}), ("LogSoftmax", {}), ("Hardmax", {"axis": 0}),
    ("Exp", {}), ("Abs", {}), ("Neg", {}), ("Round", {}), ("Floor", {}), ("Sign", {}), ("Sin", {}), ("Shrink", {}),
    ("LpNormalization", {"axis": 1, "p": 1}), ("LRN", {"size": 3}), ("MeanVarianceNormalization", {"axes": [0, 2]}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "attributes"), ACTIVATIONS, ids=lambda v: v if isinstance(v, str) else "")
def test_activation(op, attributes):
    shape = (2, 3, 4, 2) if op == "LRN" else (2, 3, 4)
    compare(op, {"x": values(7, *shape, scale=2.0)}, opset=22, **attributes)


@few
@given(st.sampled_from(["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu"]), seeds,
       st.sampled_from([(2, 3, 4), (4,), (3, 1), (1,), ()]))  # fmt: skip
def test_broadcasting(op, seed, shape):
    a = np.abs(values(seed, 2, 3, 4)) + 0.5 if op == "Pow" else values(seed, 2, 3, 4)
    compare(op, {"a": a}, {"b": values(seed + 1, *shape) + np.float32(op == "Div") * 3})


@pytest.mark.parametrize(
    ("exponent", "dtype"), [(2.0, np.float32), (3.0, np.float32), (-1.0, np.float32), (2, np.int64)]
)
def test_powers_of_negative_numbers_have_values_and_gradients(exponent, dtype):
    compare("Pow", {"a": values(1, 3, 4)}, {"b": np.asarray(exponent, dtype)})


@few
@given(
    st.sampled_from(["LSTM", "GRU", "RNN"]), seeds, st.sampled_from(["forward", "reverse", "bidirectional"]),
    st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_recurrent(op, seed, direction, lengths, start, flag):
    gates, dirs, hidden, size, steps, batch = (
        {"LSTM": 4, "GRU": 3, "RNN": 1}[op],
        1 + (direction == "bidirectional"),
        4,
        3,
        5,
        2,
    )
    tensors = {
        "w": values(seed, dirs, gates * hidden, size), "r": values(seed + 1, dirs, gates * hidden, hidden, scale=0.5),
        "b": values(seed + 2, dirs, 2 * gates * hidden),
    }  # fmt: skip
    inputs = ["x", "w", "r", "b"]
    if lengths or start:
        tensors["l"] = np.asarray([steps, 3] if lengths else [steps, steps], np.int32)
        inputs.append("l")
    if start:
        tensors["h"] = values(seed + 3, dirs, batch, hidden)
        inputs.append("h")
        if op == "LSTM":
            tensors |= {"c": values(seed + 4, dirs, batch, hidden), "p": values(seed + 5, dirs, 3 * hidden)}
            inputs += ["c", "p"]
    attributes = {"direction": direction, "hidden_size": hidden}
    if op == "GRU":
        attributes["linear_before_reset"] = int(flag)
    elif flag:
        attributes["clip"] = 0.7
    compare(op, {"x": values(seed + 6, steps, batch, size)}, tensors, node_inputs=inputs,
            outputs=3 if op == "LSTM" else 2, **attributes)  # fmt: skip


def test_activations_of_recurrent_cells_with_their_numbers():
    tensors = {"w": values(0, 1, 12, 3), "r": values(1, 1, 12, 4), "b": values(2, 1, 24)}
    compare("GRU", {"x": values(3, 5, 2, 3)}, tensors, outputs=2, hidden_size=4,
            activations=["HardSigmoid", "LeakyRelu"], activation_alpha=[0.3, 0.1], activation_beta=[0.4])  # fmt: skip


@few
@given(seeds, st.sampled_from([-1, 1, 2]), st.booleans())
def test_layer_normalization(seed, axis, bias):
    x = values(seed, 3, 4, 5)
    shape = x.shape[axis:]
    tensors = {"s": values(seed + 1, *shape)} | ({"b": values(seed + 2, *shape)} if bias else {})
    compare("LayerNormalization", {"x": x}, tensors, axis=axis, epsilon=1e-3)


@pytest.mark.parametrize(
    "op", ["InstanceNormalization", "GroupNormalization", "BatchNormalization", "RMSNormalization"]
)
def test_other_normalizations(op):
    x = values(1, 2, 6, 4, 3)
    tensors = {"s": values(2, 6), "b": values(3, 6)}
    if op == "BatchNormalization":
        tensors |= {"m": values(4, 6), "v": np.abs(values(5, 6)) + 0.3}
    if op == "RMSNormalization":
        tensors = {"s": values(2, 3)}
    attributes = {"num_groups": 3} if op == "GroupNormalization" else {}
    compare(op, {"x": x}, tensors, opset=23 if op == "RMSNormalization" else 21, epsilon=1e-3, **attributes)


CONTRIB = {
    "SkipLayerNormalization": ({"x": (2, 3, 8), "k": (2, 3, 8)}, {"g": (8,), "be": (8,), "bi": (8,)}, {}),
    "SkipSimplifiedLayerNormalization": ({"x": (2, 3, 8), "k": (2, 3, 8)}, {"g": (8,)}, {}),
    "Attention": ({"x": (2, 5, 8)}, {"w": (8, 24), "b": (24,)}, {"num_heads": 2, "unidirectional": 1}),
    "MultiHeadAttention": ({"q": (2, 5, 8), "k": (2, 6, 8), "v": (2, 6, 8)}, {"b": (24,)}, {"num_heads": 2}),
    "Gelu": ({"x": (2, 5)}, {}, {}),
    "FastGelu": ({"x": (2, 5)}, {"b": (5,)}, {}),
    "BiasGelu": ({"x": (2, 5)}, {"b": (5,)}, {}),
    "QuickGelu": ({"x": (2, 5)}, {}, {"alpha": 1.5}),
    "FusedMatMul": ({"a": (2, 5, 3)}, {"b": (4, 5)}, {"transA": 1, "transB": 1, "alpha": 0.5}),
}


@pytest.mark.parametrize("op", CONTRIB)
def test_operators_of_onnxruntime(op):
    inputs, tensors, attributes = CONTRIB[op]
    if op == "FusedMatMul":
        tensors = {"b": (4, 5)}
    feeds = {k: values(i, *shape) for i, (k, shape) in enumerate(inputs.items())}
    compare(op, feeds, {k: values(9 + i, *s) for i, (k, s) in enumerate(tensors.items())}, domain="com.microsoft",
            **attributes)  # fmt: skip


def test_masks_of_onnxruntimes_attention():
    tensors = {"w": values(1, 8, 24), "b": values(2, 24), "m": np.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)}
    compare("Attention", {"x": values(0, 2, 5, 8)}, tensors, domain="com.microsoft", num_heads=2)


def test_simplified_layer_normalization():
    compare("SimplifiedLayerNormalization", {"x": values(0, 2, 3, 8)}, {"s": values(1, 8)}, axis=-1, epsilon=1e-5)


@few
@given(
    seeds, st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]),
    st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]), st.booleans(),
    st.sampled_from([(2.0, 2.0), (0.5, 0.5), (1.5, 2.0), (1.0, 3.0)]),
)  # fmt: skip
def test_resize(seed, mode, coordinates, rounding, sized, scales):
    x = values(seed, 1, 2, 4, 6)
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    if sized:
        tensors = {"sizes": np.asarray([1, 2, int(4 * scales[0]), int(6 * scales[1])])}
        inputs = ["x", "", "", "sizes"]
    else:
        tensors = {"scales": np.asarray([1, 1, *scales], np.float32)}
        inputs = ["x", "", "scales"]
    compare("Resize", {"x": x}, tensors, node_inputs=inputs, opset=18, atol=1e-4, **attributes)


def test_upsample_and_scatter_in_their_old_forms():
    compare("Upsample", {"x": values(0, 1, 2, 3, 4)}, {"s": np.asarray([1, 1, 2, 2], np.float32)}, opset=9)
    compare("Scatter", {"x": values(0, 3, 4)}, {"i": np.asarray([[0, 1, 2, 0]]), "u": values(1, 1, 4)}, opset=9)


@few
@given(seeds, st.data())
def test_slice(seed, data):
    x = values(seed, 4, 5, 6)
    axes = data.draw(st.lists(st.integers(-3, 2), min_size=1, max_size=3, unique_by=lambda a: a % 3))
    bounds = st.integers(-8, 8) | st.sampled_from([2**63 - 1, -(2**63)])
    tensors = {k: np.asarray([data.draw(bounds) for _ in axes]) for k in ("starts", "ends")}
    tensors |= {
        "axes": np.asarray(axes),
        "steps": np.asarray([data.draw(st.sampled_from([1, 2, -1, -2])) for _ in axes]),
    }
    compare("Slice", {"x": x}, tensors)


@few
@given(
    st.sampled_from(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
                     "ReduceLogSumExp", "ReduceSumSquare"]),
    seeds, st.sampled_from([None, [0], [1, -1], [0, 1, 2]]), st.booleans(),
)  # fmt: skip
def test_reductions(op, seed, axes, keep):
    tensors = {} if axes is None else {"axes": np.asarray(axes)}
    compare(op, {"x": values(seed, 2, 3, 4)}, tensors, opset=18, keepdims=int(keep))


@few
@given(seeds, st.sampled_from(["constant", "reflect", "edge"]), st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_pad(seed, mode, pads):
    tensors = {"pads": np.asarray(pads)} | ({"v": np.asarray(1.5, np.float32)} if mode == "constant" else {})
    compare("Pad", {"x": values(seed, 3, 4, 5)}, tensors, opset=18, mode=mode)


@few
@given(seeds, st.sampled_from([0, 1, -1]), st.booleans(), st.integers(1, 3))
def test_top_k_and_arg_max(seed, axis, largest, k):
    x = np.round(values(seed, 4, 5, 6))  # ties
    compare("TopK", {"x": x}, {"k": np.asarray([k])}, outputs=2, axis=axis, largest=int(largest))
    compare("ArgMax", {"x": x}, axis=axis, keepdims=int(largest), select_last_index=int(largest))


@few
@given(seeds, st.sampled_from([0, 1, -1]))
def test_gathers(seed, axis):
    x = values(seed, 4, 4, 4)
    indices = np.random.default_rng(seed).integers(-4, 4, (2, 4, 4))
    compare("Gather", {"x": x}, {"i": indices[0]}, axis=axis)
    compare("GatherElements", {"x": x}, {"i": indices}, axis=axis)
    compare("GatherND", {"x": x}, {"i": indices[..., :2]})


@few
@given(seeds, st.sampled_from(["bij,bjk->bik", "bij->bji", "bij,bij->b", "bhqd,bhkd->bhqk", "...ij,...jk->...ik"]))
def test_einsum(seed, equation):
    shapes = {"bij,bjk->bik": [(2, 3, 4), (2, 4, 5)], "bij->bji": [(2, 3, 4)], "bij,bij->b": [(2, 3, 4)] * 2,
              "bhqd,bhkd->bhqk": [(2, 2, 3, 4), (2, 2, 5, 4)], "...ij,...jk->...ik": [(2, 2, 3, 4), (2, 2, 4, 3)]}  # fmt: skip
    feeds = {f"x{i}": values(seed + i, *s) for i, s in enumerate(shapes[equation])}
    compare("Einsum", feeds, equation=equation)


@few
@given(
    seeds, st.sampled_from(["bilinear", "nearest"]), st.sampled_from(["zeros", "border", "reflection"]), st.booleans()
)
def test_grid_sample(seed, mode, padding, aligned):
    grid = np.clip(values(seed + 1, 2, 3, 5, 2), -1.6, 1.6)
    compare("GridSample", {"x": values(seed, 2, 3, 4, 6), "grid": grid}, opset=16, mode=mode, padding_mode=padding,
            align_corners=int(aligned))  # fmt: skip


@few
@given(seeds, st.booleans())
def test_quantize_and_back(seed, per_axis):
    scale = np.abs(values(seed + 1, *((3,) if per_axis else ()))) * 0.1 + np.float32(0.01)
    zero = np.zeros(scale.shape, np.int8) + np.int8(3)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [2, 3, 4])], [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (("s", scale), ("z", zero))],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = values(seed, 2, 3, 4)
    want = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(differentiable(model).apply({}, {"x": x})["y"], want, atol=1e-5)


def test_indices_outside_give_nan_not_another_row():
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", 1, None)], [numpy_helper.from_array(values(0, 4, 3), "table")],
    )  # fmt: skip
    f = differentiable(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    y = np.asarray(f.apply(f.parameters, {"x": np.asarray([-1, 9])})["y"])
    np.testing.assert_allclose(y[0], values(0, 4, 3)[3])
    assert np.isnan(y[1]).all()


def branch(name, op):
    return helper.make_graph(
        [helper.make_node(op, ["x"], [name])], name, [], [helper.make_tensor_value_info(name, 1, None)]
    )


@pytest.mark.parametrize("known", [True, False])
def test_if(known):
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch("t", "Relu"), else_branch=branch("e", "Neg"))]
    tensors = [numpy_helper.from_array(np.asarray(False), "c")] if known else []
    if not known:
        nodes.insert(0, helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0))
        nodes.insert(1, helper.make_node("Greater", ["s", "zero"], ["c"]))
        tensors.append(numpy_helper.from_array(np.asarray(0, np.float32), "zero"))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, ["n", 3])],
                              [helper.make_tensor_value_info("y", 1, None)], tensors)  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    f = differentiable(model)
    for x in (values(1, 2, 3), -np.abs(values(1, 2, 3))):
        want = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[
            0
        ]
        np.testing.assert_allclose(f.apply({}, {"x": x})["y"], want)


def test_a_loop_that_runs_too_often_is_refused():
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["again"]), helper.make_node("Relu", ["s"], ["t"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("c", TensorProto.BOOL, []),
         helper.make_tensor_value_info("s", 1, None)],
        [helper.make_tensor_value_info("again", TensorProto.BOOL, []), helper.make_tensor_value_info("t", 1, None)],
    )  # fmt: skip
    tensors = [numpy_helper.from_array(np.asarray(10**9), "n")]
    graph = helper.make_graph([helper.make_node("Loop", ["n", "", "x"], ["y"], "forever", body=body)], "g",
                              [helper.make_tensor_value_info("x", 1, ["b", 3])],
                              [helper.make_tensor_value_info("y", 1, None)], tensors)  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(InputError, match=r"node 'forever' \(Loop\): it has more than 256 iterations"):
        differentiable(model)
