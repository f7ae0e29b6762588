"""Each operator on generated attributes: converting runs the file beside onnxruntime and raises where they disagree.

Most are tried behind a convolution as well, so that their operands are held channels-last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from edgemodel_api.errors import InputError

few = settings(max_examples=4, suppress_health_check=list(HealthCheck), derandomize=True)
sizes = st.integers(1, 3)


def behind_conv(build: Any, nodes: list[Any], constants: dict[str, Any], channels: int = 4, **options: Any) -> Any:
    """x [N, 3, 7, 6] → Conv → c [N, channels, 7, 6] → the nodes."""
    conv = build.node("Conv", ["x", "conv.w"], "c", kernel_shape=[1, 1])
    given_ = {"conv.w": build.weights(channels, 3, 1, 1), **constants}
    return build.model([conv, *nodes], {"x": ["N", 3, 7, 6]}, given_, **options)


@few
@given(data=st.data())
def test_conv(build, data):
    groups = data.draw(st.sampled_from([1, 2, 4]))
    kernel = [data.draw(sizes), data.draw(sizes)]
    channels = groups * data.draw(st.sampled_from([1, 2]))
    out = groups * data.draw(st.sampled_from([1, 3]))
    attributes: dict[str, Any] = {"group": groups, "strides": [data.draw(st.integers(1, 2)) for _ in kernel]}
    attributes["dilations"] = [data.draw(st.integers(1, 2)) for _ in kernel]
    if data.draw(st.booleans()):
        attributes["auto_pad"] = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        # onnxruntime does not know both.
        attributes["dilations"] = [1, 1]
    else:
        attributes["pads"] = [data.draw(st.integers(0, 2)) for _ in range(4)]
    constants = {"w": build.weights(out, channels // groups, *kernel), "b": build.weights(out)}
    model = build.model([build.node("Conv", ["x", "w", "b"], **attributes)], {"x": ["N", channels, 9, 8]}, constants)
    assert build.convert(model).free_batch


@few
@given(data=st.data())
def test_conv_1d(build, data):
    groups = data.draw(st.sampled_from([1, 2]))
    attributes = {"group": groups, "strides": [data.draw(sizes)], "dilations": [data.draw(sizes)], "pads": [2, 1]}
    constants = {"w": build.weights(6, 4 // groups, data.draw(sizes)), "b": build.weights(6)}
    nodes = [build.node("Conv", ["x", "w", "b"], "c", **attributes), build.node("Relu", ["c"])]
    assert build.convert(build.model(nodes, {"x": ["N", 4, 13]}, constants)).free_batch


@few
@given(data=st.data())
def test_conv_transpose(build, data):
    flat = data.draw(st.booleans())
    rank = 1 if flat else 2
    groups = data.draw(st.sampled_from([1, 2]))
    strides = [data.draw(sizes) for _ in range(rank)]
    attributes: dict[str, Any] = {"group": groups, "strides": strides}
    attributes["dilations"] = [data.draw(st.integers(1, 2)) for _ in range(rank)]
    if data.draw(st.booleans()):
        attributes["auto_pad"] = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))
        attributes["dilations"] = [1] * rank
    else:
        attributes["pads"] = [data.draw(st.integers(0, 1)) for _ in range(2 * rank)]
        attributes["output_padding"] = [data.draw(st.integers(0, s - 1)) for s in strides]
    kernel = [data.draw(st.integers(2, 3)) for _ in range(rank)]
    constants = {"w": build.weights(4, 3, *kernel), "b": build.weights(3 * groups)}
    inputs = {"x": ["N", 4, 5, 6][: 2 + rank]}
    assert build.convert(build.model([build.node("ConvTranspose", ["x", "w", "b"], **attributes)], inputs, constants))


@few
@given(data=st.data())
def test_pool(build, data):
    op = data.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    kernel = [data.draw(st.integers(2, 3)) for _ in range(2)]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": [data.draw(sizes) for _ in kernel]}
    attributes["ceil_mode"] = data.draw(st.integers(0, 1))
    if data.draw(st.booleans()):
        attributes["auto_pad"] = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))
    else:
        attributes["pads"] = [data.draw(st.integers(0, 1)) for _ in range(4)]
    if op == "AveragePool":
        attributes["count_include_pad"] = data.draw(st.integers(0, 1))
    build.convert(behind_conv(build, [build.node(op, ["c"], **attributes)], {}, opset=19))


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pool(build, op):
    nodes = [build.node(op, ["c"], "p"), build.node("Flatten", ["p"], "f"), build.node("Gemm", ["f", "w"], transB=1)]
    build.convert(behind_conv(build, nodes, {"w": build.weights(5, 4)}))


UNARY = (
    "Abs", "Neg", "Exp", "Floor", "Ceil", "Round", "Sin", "Cos", "Relu", "Sigmoid", "Tanh", "HardSwish", "Sign",
    "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "HardSigmoid", "Softplus", "Softsign", "Erf", "Identity",
    "Atan", "Cosh", "Tan",
)  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
def test_unary(build, op):
    build.convert(behind_conv(build, [build.node(op, ["c"])], {}))


@pytest.mark.parametrize("op", ["Log", "Sqrt", "Reciprocal"])
def test_unary_of_positive_numbers(build, op):
    nodes = [build.node("Exp", ["c"], "e"), build.node(op, ["e"])]
    build.convert(behind_conv(build, nodes, {}))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_and_mish(build, approximate):
    nodes = [build.node("Gelu", ["c"], "g", approximate=approximate), build.node("Mish", ["g"])]
    build.convert(behind_conv(build, nodes, {}, opset=20))


@few
@given(data=st.data())
def test_binary_with_broadcasting(build, data):
    op = data.draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"]))
    shape = [data.draw(st.sampled_from([1, d])) for d in (1, 4, 7, 6)][data.draw(st.integers(0, 3)) :]
    constant = np.abs(build.weights(*shape)) + 0.5
    order = data.draw(st.permutations(["c", "k"]))
    other = build.node("Conv", ["x", "conv2.w"], "d", kernel_shape=[1, 1])
    nodes = [build.node(op, order, "z"), other, build.node("Add", ["z", "d"])]
    build.convert(behind_conv(build, nodes, {"k": constant, "conv2.w": build.weights(4, 3, 1, 1)}), tolerance=1e-2)


@few
@given(data=st.data())
def test_binary_of_five_dimensions(build, data):
    left = [data.draw(st.sampled_from([1, d])) for d in (2, 3, 2, 3)]
    right = [data.draw(st.sampled_from([1, d])) for d in (1, 2, 3, 2, 3)]
    model = build.model([build.node("Add", ["x", "k"])], {"x": ["N", *left]}, {"k": build.weights(*right)})
    # Who is broadcast along an axis; neighbours that are alike become one.
    kinds = [(a > 1, b > 1) for a, b in zip([2, *left], right, strict=True) if (a, b) != (1, 1)]
    groups = [k for k, before in zip(kinds, [None, *kinds], strict=False) if k != before]
    if len(groups) > 4:
        with pytest.raises(InputError, match="5 dimensions; TFLite's ADD has 4 at most"):
            build.convert(model)
    else:
        build.convert(model)


@pytest.mark.parametrize(("left", "right"), [((1, 1, 2, 1), (1, 1, 3, 1, 3)), ((1, 2, 1, 2), (1, 1, 1, 3, 1))])
def test_axes_of_one_are_no_groups_of_their_own(build, left, right):
    build.convert(build.model([build.node("Add", ["x", "k"])], {"x": ["N", *left]}, {"k": build.weights(*right)}))


@pytest.mark.parametrize("op", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
def test_comparison_and_where(build, op):
    nodes = [build.node(op, ["c", "k"], "b"), build.node("Where", ["b", "c", "zero"])]
    constants = {"k": build.weights(4, 1, 1), "zero": np.float32(0)}
    build.convert(behind_conv(build, nodes, constants))


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(build, op):
    nodes = [
        build.node("Greater", ["x", "zero"], "a"), build.node("Less", ["x", "one"], "b"), build.node(op, ["a", "b"], "l"),
        build.node("Not", ["l"], "n"), build.node("Cast", ["n"], to=TensorProto.FLOAT),
    ]  # fmt: skip
    build.convert(build.model(nodes, {"x": ["N", 9]}, {"zero": np.float32(0), "one": np.float32(1)}))


@pytest.mark.parametrize(("low", "high"), [(0, 6), (0, None), (-1, 1), (None, 0.5), (0.1, 2)])
def test_clip(build, low, high):
    constants = {n: np.float32(v) for n, v in (("lo", low), ("hi", high)) if v is not None}
    nodes = [build.node("Clip", ["c", "lo" if low is not None else "", "hi" if high is not None else ""])]
    build.convert(behind_conv(build, nodes, constants))


@pytest.mark.parametrize("slope", [(1,), (4, 1, 1), (1, 7, 6)])
def test_prelu(build, slope):
    build.convert(behind_conv(build, [build.node("PRelu", ["c", "s"])], {"s": build.weights(*slope)}))


@pytest.mark.parametrize("exponent", [2.0, 0.5, 3.0, -1.0, -0.5, 1.7])
def test_pow(build, exponent):
    nodes = [build.node("Exp", ["c"], "e"), build.node("Pow", ["e", "p"])]
    build.convert(behind_conv(build, nodes, {"p": np.float32(exponent)}))


REDUCTIONS = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSumExp",
)  # fmt: skip


@pytest.mark.parametrize("op", REDUCTIONS)
@settings(few, max_examples=3)
@given(data=st.data())
def test_reduce(build, op, data):
    axes = sorted(data.draw(st.sets(st.sampled_from([1, 2, 3, -1]), min_size=1, max_size=3)))
    axes = sorted({a % 4 for a in axes})
    attributes = {"keepdims": data.draw(st.integers(0, 1))}
    constants = {"axes": np.asarray(axes)}
    build.convert(behind_conv(build, [build.node(op, ["c", "axes"], **attributes)], constants, opset=18))


@few
@given(data=st.data())
def test_softmax(build, data):
    axis = data.draw(st.integers(-3, 3).filter(bool))
    op = data.draw(st.sampled_from(["Softmax", "LogSoftmax"]))
    build.convert(behind_conv(build, [build.node(op, ["c"], axis=axis)], {}))


@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_of_old_opsets_joins_axes(build, opset):
    build.convert(behind_conv(build, [build.node("Softmax", ["c"], axis=1)], {}, opset=opset))


@few
@given(data=st.data())
def test_layouts(build, data):
    """Any chain of what only moves numbers, between convolutions."""
    nodes, name = [], "c"
    for k in range(data.draw(st.integers(1, 4))):
        new, op = f"t{k}", data.draw(st.sampled_from(["Transpose", "Relu", "Concat", "Pad", "Slice"]))
        if op == "Transpose":
            perm = [0, *data.draw(st.permutations([1, 2, 3]))]
            nodes.append(build.node(op, [name], new, perm=perm))
        elif op == "Concat":
            nodes.append(build.node(op, [name, name], new, axis=data.draw(st.integers(1, 3))))
        elif op == "Pad":
            nodes.append(
                build.node(op, [name, "pads"], new, mode=data.draw(st.sampled_from(["constant", "reflect", "edge"])))
            )
        elif op == "Slice":
            nodes.append(build.node(op, [name, "starts", "ends", "axes", "steps"], new))
        else:
            nodes.append(build.node(op, [name], new))
        name = new
    nodes.append(build.node("Sigmoid", [name]))
    constants = {
        "pads": np.asarray([0, 1, 0, 1, 0, 0, 1, 1]), "starts": np.asarray([0, 5]), "ends": np.asarray([3, -9]),
        "axes": np.asarray([1, 2]), "steps": np.asarray([1, -1]),
    }  # fmt: skip
    assert build.convert(behind_conv(build, nodes, constants)).free_batch


@few
@given(data=st.data())
def test_split(build, data):
    axis, count = data.draw(st.sampled_from([(1, 2), (2, 7), (3, 3), (-1, 2)]))
    names = [f"s{i}" for i in range(count)]
    nodes = [build.node("Split", ["c"], names, axis=axis), build.node("Concat", names[::-1], axis=axis)]
    build.convert(behind_conv(build, nodes, {}, opset=12))
    uneven = [build.node("Split", ["c", "sizes"], ["a", "b"], axis=1), build.node("Concat", ["b", "a"], axis=1)]
    build.convert(behind_conv(build, uneven, {"sizes": np.asarray([1, 3])}))


@pytest.mark.parametrize("index", [2, [1, -1], [[0, 3], [2, 1]]])
@pytest.mark.parametrize("axis", [1, 3])
def test_gather(build, index, axis):
    build.convert(behind_conv(build, [build.node("Gather", ["c", "i"], axis=axis)], {"i": np.asarray(index)}))


def test_embedding(build):
    nodes = [build.node("Gather", ["table", "x"], "e"), build.node("ReduceMean", ["e"], axes=[1], keepdims=0)]
    model = build.model(nodes, {"x": ["N", 5]}, {"table": build.weights(7, 6)}, kinds={"x": TensorProto.INT64})
    assert build.convert(model).free_batch


MODES = (
    ("nearest", "asymmetric", "floor"), ("nearest", "half_pixel", "round_prefer_floor"),
    ("nearest", "half_pixel", "round_prefer_ceil"), ("nearest", "align_corners", "ceil"),
    ("linear", "half_pixel", ""), ("linear", "align_corners", ""), ("linear", "asymmetric", ""),
    ("linear", "pytorch_half_pixel", ""), ("cubic", "half_pixel", ""),
)  # fmt: skip


@pytest.mark.parametrize(("mode", "coordinates", "nearest"), MODES)
@pytest.mark.parametrize("scales", [(2, 2), (0.5, 1.5)])
def test_resize(build, mode, coordinates, nearest, scales):
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if nearest:
        attributes["nearest_mode"] = nearest
    nodes = [build.node("Resize", ["c", "", "scales"], **attributes)]
    build.convert(behind_conv(build, nodes, {"scales": np.asarray([1, 1, *scales], np.float32)}, opset=13))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(build, mode):
    nodes = [
        build.node("DepthToSpace", ["c"], "d", blocksize=2, mode=mode), build.node("Relu", ["d"], "r"),
        build.node("SpaceToDepth", ["r"], blocksize=2),
    ]  # fmt: skip
    build.convert(behind_conv(build, nodes, {}, channels=8))


@few
@given(data=st.data())
def test_matmul(build, data):
    rank = data.draw(st.integers(2, 4))
    lead = [data.draw(sizes) for _ in range(rank - 2)]
    nodes = [
        build.node("MatMul", ["x", "w"], "h"),
        build.node("Transpose", ["h"], "t", perm=[*range(rank - 2), rank - 1, rank - 2]),
    ]
    if rank > 2:
        nodes.append(build.node("MatMul", ["h", "t"]))
    else:
        nodes.append(build.node("Relu", ["h"]))
    build.convert(build.model(nodes, {"x": ["N", *lead, 5]}, {"w": build.weights(5, 4)}))


@few
@given(data=st.data())
def test_gemm(build, data):
    flip = data.draw(st.integers(0, 1))
    bias = data.draw(st.sampled_from([(6,), (1, 6), (1,), ()]))
    attributes = {
        "transB": flip,
        "alpha": data.draw(st.sampled_from([1.0, 0.5])),
        "beta": data.draw(st.sampled_from([1.0, 2.0])),
    }
    weight = build.weights(5, 6)
    constants = {"w": weight.T.copy() if flip else weight, "b": np.asarray(build.weights(*bias))}
    build.convert(build.model([build.node("Gemm", ["x", "w", "b"], **attributes)], {"x": ["N", 5]}, constants))


def test_flattening_a_convolution_needs_no_transposition(build):
    nodes = [build.node("Flatten", ["c"], "f"), build.node("MatMul", ["f", "w"])]
    model = behind_conv(build, nodes, {"w": build.weights(4 * 42, 5)})
    from edgemodel_compressor.formats.tflite.lower import lower

    build.convert(model)
    assert [op.code for op in lower(model).graph.ops].count("TRANSPOSE") == 1  # the input's


EQUATIONS = ("bij,bjk->bik", "bhid,bhjd->bhij", "bid,df->bif", "bi,bj->bij", "bij->bji", "bij,bij->b", "bnd,nd->bn")


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(build, equation):
    size = dict(zip("bhijkdfn", (1, 2, 3, 4, 5, 6, 7, 3), strict=True))
    terms = equation.split("->")[0].split(",")
    inputs = {f"x{i}": ["N" if c == "b" else size[c] for c in t] for i, t in enumerate(terms) if t[0] == "b"}
    constants = {f"x{i}": build.weights(*(size[c] for c in t)) for i, t in enumerate(terms) if t[0] != "b"}
    node = build.node("Einsum", [f"x{i}" for i in range(len(terms))], equation=equation)
    build.convert(build.model([node], inputs, constants))


@pytest.mark.parametrize(
    "op", ["LayerNormalization", "InstanceNormalization", "BatchNormalization", "LRN", "LpNormalization"]
)
def test_norms(build, op):
    channels = build.weights(4)
    table: dict[str, tuple[Any, dict[str, Any]]] = {
        "LayerNormalization": (
            build.node(op, ["c", "s", "b"], axis=-1),
            {"s": build.weights(6), "b": build.weights(6)},
        ),
        "InstanceNormalization": (build.node(op, ["c", "s", "b"]), {"s": channels, "b": channels}),
        "BatchNormalization": (
            build.node(op, ["r", "s", "b", "m", "v"]),
            {"s": channels, "b": channels, "m": channels, "v": np.abs(channels)},
        ),
        "LRN": (build.node(op, ["c"], size=3), {}),
        "LpNormalization": (build.node(op, ["c"], axis=1), {}),
    }
    node, constants = table[op]
    build.convert(behind_conv(build, [build.node("Relu", ["c"], "r"), node], constants), tolerance=2e-3)


def test_group_norm(build):
    constants = {"s": build.weights(4), "b": build.weights(4)}
    node = build.node("GroupNormalization", ["c", "s", "b"], num_groups=2)
    build.convert(behind_conv(build, [node], constants, opset=21))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent(build, op, direction):
    gates, both = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 2 if direction == "bidirectional" else 1
    constants = {
        "w": build.weights(both, gates * 5, 3), "r": build.weights(both, gates * 5, 5),
        "b": build.weights(both, 2 * gates * 5),
    }  # fmt: skip
    attributes: dict[str, Any] = {"hidden_size": 5, "direction": direction}
    if op == "GRU":
        attributes["linear_before_reset"] = int(direction != "reverse")
    outputs = ["y", "h", "c"] if op == "LSTM" else ["y", "h"]
    nodes = [
        build.node("Transpose", ["x"], "t", perm=[1, 0, 2]),
        build.node(op, ["t", "w", "r", "b"], ["all", *outputs[1:]], **attributes),
        build.node("Transpose", ["all"], perm=[2, 0, 1, 3]),
    ]
    last = [build.node("Transpose", [n], f"{n}_t", perm=[1, 0, 2]) for n in outputs[1:]]
    names = ("y", *(f"{n}_t" for n in outputs[1:]))
    model = build.model([*nodes, *last], {"x": ["N", 6, 3]}, constants, outputs=names)
    assert build.convert(model).free_batch


def test_attention_block(build):
    """Two heads, with the shape arithmetic that exporters write."""
    n = build.node
    nodes = [
        n("Shape", ["x"], "shape"), n("Gather", ["shape", "zero"], "batch"), n("Unsqueeze", ["batch", "axis0"], "batch1"),
        n("Concat", ["batch1", "rest"], "heads", axis=0),
        n("MatMul", ["x", "wq"], "q0"), n("Reshape", ["q0", "heads"], "q1"), n("Transpose", ["q1"], "q", perm=[0, 2, 1, 3]),
        n("MatMul", ["x", "wk"], "k0"), n("Reshape", ["k0", "heads"], "k1"), n("Transpose", ["k1"], "k", perm=[0, 2, 3, 1]),
        n("MatMul", ["x", "wv"], "v0"), n("Reshape", ["v0", "heads"], "v1"), n("Transpose", ["v1"], "v", perm=[0, 2, 1, 3]),
        n("MatMul", ["q", "k"], "s0"), n("Mul", ["s0", "scale"], "s1"), n("Softmax", ["s1"], "s", axis=-1),
        n("MatMul", ["s", "v"], "o0"), n("Transpose", ["o0"], "o1", perm=[0, 2, 1, 3]),
        n("Reshape", ["o1", "joined"], "o2"), n("MatMul", ["o2", "wo"], "o3"), n("Add", ["o3", "x"], "o"),
        n("LayerNormalization", ["o", "g", "b"], axis=-1),
    ]  # fmt: skip
    constants = {
        "zero": np.int64(0), "axis0": np.asarray([0]), "rest": np.asarray([5, 2, 4]), "joined": np.asarray([0, 5, 8]),
        "scale": np.float32(0.5), "g": build.weights(8), "b": build.weights(8),
    }  # fmt: skip
    constants |= {f"w{k}": build.weights(8, 8) for k in "qkvo"}
    assert build.convert(build.model(nodes, {"x": ["N", 5, 8]}, constants)).free_batch


def test_indices(build):
    n = build.node
    nodes = [
        n("TopK", ["x", "k"], ["v", "i"], axis=-1), n("ArgMax", ["x"], "a", axis=1), n("CumSum", ["x", "one"], "s"),
        n("Tile", ["x", "twice"], "t"), n("Expand", ["m", "wide"], "e"), n("ReduceMean", ["x"], "m", axes=[1]),
    ]  # fmt: skip
    nodes = [*nodes[:4], nodes[5], nodes[4]]
    constants = {"k": np.asarray([3]), "one": np.int64(1), "twice": np.asarray([1, 2]), "wide": np.asarray([1, 4])}
    assert build.convert(
        build.model(nodes, {"x": ["N", 7]}, constants, outputs=("v", "i", "a", "s", "t", "e"))
    ).free_batch


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad(build, mode):
    nodes = [build.node("Pad", ["c", "pads", *(["value"] if mode == "constant" else [])], mode=mode)]
    constants = {"pads": np.asarray([0, 1, 2, 1, 0, 0, -1, 2])}
    if mode == "constant":
        constants["value"] = np.float32(-1.5)
    build.convert(behind_conv(build, nodes, constants, opset=19))


def test_more_of_indices(build):
    n = build.node
    nodes = [
        n("GatherND", ["w", "places"], "g"), n("Trilu", ["x"], "t", upper=0), n("ScatterND", ["w", "at", "u"], "s"),
        n("GatherElements", ["w", "each"], "ge", axis=1), n("OneHot", ["ids", "depth", "values"], "o", axis=-1),
        n("MatMul", ["x", "w"], "m"), n("ReduceSum", ["t"], "r", keepdims=1), n("Add", ["m", "g2"], "y0"),
        n("Mul", ["y0", "s"], "y1"), n("Add", ["y1", "ge"], "y2"), n("Add", ["y2", "o"], "y3"), n("Add", ["y3", "r"], "y"),
        n("Unsqueeze", ["g", "axis0"], "g2"),
    ]  # fmt: skip
    constants = {
        "w": build.weights(4, 4), "places": np.asarray([[0, 1], [2, -1], [1, 1], [3, 0]]), "at": np.asarray([[1], [3]]),
        "u": build.weights(2, 4), "each": np.asarray([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 1, 1], [0, 0, 2, 2]]),
        "ids": np.asarray([0, 2, 1, 3]), "depth": np.int64(4), "values": np.asarray([0, 1], np.float32),
        "axis0": np.asarray([0]),
    }  # fmt: skip
    build.convert(build.model(nodes, {"x": [4, 4]}, constants))


def test_states_of_the_batchs_size(build):
    """As exporters write it: zeros of a shape that is computed from the input's."""
    n = build.node
    nodes = [
        n("Shape", ["x"], "shape"), n("Gather", ["shape", "one"], "batch"), n("Concat", ["unit", "batch", "hidden"], "size", axis=0),
        n("ConstantOfShape", ["size"], "state"), n("Transpose", ["b"], "x", perm=[1, 0, 2]),
        n("GRU", ["x", "w", "r", "", "", "state"], ["y", "h"], hidden_size=5), n("Transpose", ["h"], "z", perm=[1, 0, 2]),
    ]  # fmt: skip
    nodes = [nodes[4], *nodes[:4], *nodes[5:]]
    constants = {
        "one": np.asarray([1]), "unit": np.asarray([1]), "hidden": np.asarray([5]),
        "w": build.weights(1, 15, 3), "r": build.weights(1, 15, 5),
    }  # fmt: skip
    assert build.convert(build.model(nodes, {"b": ["N", 4, 3]}, constants, outputs=("z",))).free_batch


def test_broadcasting_to_the_batchs_size(build):
    n = build.node
    nodes = [
        n("Shape", ["x"], "shape"), n("Gather", ["shape", "zero"], "batch"), n("Concat", ["batch", "rest"], "size", axis=0),
        n("Expand", ["token", "size"], "tokens"), n("Concat", ["tokens", "x"], "all", axis=1), n("Softmax", ["all"], axis=-1),
    ]  # fmt: skip
    constants = {"zero": np.asarray([0]), "rest": np.asarray([1, 6]), "token": build.weights(1, 1, 6)}
    assert build.convert(build.model(nodes, {"x": ["N", 4, 6]}, constants)).free_batch


def test_a_fixed_batch(build):
    nodes = [build.node("Reshape", ["x", "flat"], "r"), build.node("Softmax", ["r"])]
    made = build.convert(build.model(nodes, {"x": [2, 3, 4]}, {"flat": np.asarray([2, 12])}))
    assert (made.free_batch, made.notes, made.check.cases) == (False, (), 2)


def test_upsample_of_old_opsets(build):
    nodes = [build.node("Upsample", ["c", "scales"], mode="linear")]
    build.convert(behind_conv(build, nodes, {"scales": np.asarray([1, 1, 2, 2], np.float32)}, opset=9))


def test_reverse_sequence(build):
    node = build.node("ReverseSequence", ["x", "n"], time_axis=1, batch_axis=0)
    model = build.model([node], {"x": ["N", 5, 2], "n": ["N"]}, kinds={"n": TensorProto.INT64})
    assert build.convert(model).free_batch
