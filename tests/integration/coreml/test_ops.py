"""Every operator that is converted, beside onnxruntime: through the saved package and the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgemodel_compressor.formats import coreml


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


class TestFamilies:
    def test_arithmetic(self, agree: Any, op: Any, rng: Any) -> None:
        a, b = rng.standard_normal((2, 3, 4)).astype("f"), rng.standard_normal((3, 1)).astype("f")
        positive = np.abs(a) + 0.5
        whole, other = np.array([7, -7, 8, -8], np.int32), np.array([3, 3, -3, -5], np.int32)
        ops = [op(k, [a, b]) for k in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")]
        ops += [op(k, [a], [b]) for k in ("Add", "Sub", "Mul", "Div", "Max", "Min")]
        ops += [op(k, [whole, other]) for k in ("Div", "Mod", "Add", "Mul", "Max")]
        ops += [op("Mod", [whole, other], attributes={"fmod": 1}), op("Mod", [a, b], attributes={"fmod": 1})]
        ops += [op("Pow", [positive], [np.float32(p)]) for p in (2, 3, 0.5, -1)]
        ops += [op("Neg", [a]), op("Neg", [whole]), op("Reciprocal", [positive]), op("Sqrt", [positive])]
        ops += [op("Abs", [whole]), op("Sign", [a]), op("Log", [positive]), op("Exp", [a]), op("Erf", [a])]
        agree(ops)

    def test_comparison_and_logic(self, agree: Any, op: Any, rng: Any) -> None:
        a = rng.integers(-2, 3, (3, 4)).astype("f")
        b = rng.integers(-2, 3, (4,)).astype("f")
        n = a.astype(np.int64)
        p, q = a > 0, b > 0
        ops = [op(k, [a, b]) for k in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")]
        ops += [op(k, [p, q]) for k in ("And", "Or", "Xor", "Equal")]
        ops += [
            op("Not", [p]),
            op("Equal", [n], [i64(1)]),
            op("Where", [p, a, b]),
            op("Where", [p], [a, np.float32(3)]),
        ]
        ops += [op("Cast", [a], attributes={"to": t}) for t in (1, 6, 7, 9)]
        ops += [op("Cast", [p], attributes={"to": t}) for t in (1, 7)]
        ops += [op("Cast", [n], attributes={"to": t}) for t in (1, 9)]
        ops += [op("IsNaN", [np.where(p, np.float32(np.nan), a)])]
        agree(ops)

    def test_activations(self, agree: Any, op: Any, rng: Any) -> None:
        x = (3 * rng.standard_normal((1, 3, 4, 5))).astype("f")
        slope = rng.random((3, 1, 1)).astype("f")
        small = np.tanh(x) * np.float32(0.9)
        plain = ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish", "Mish", "Selu", "Elu", "Celu")
        ops = [
            op(k, [x]) for k in (*plain, "LeakyRelu", "HardSigmoid", "ThresholdedRelu", "Shrink", "Gelu", "Identity")
        ]
        ops += [op(k, [x]) for k in ("Ceil", "Floor", "Round", "Sin", "Cos", "Sinh", "Cosh", "Atan", "Asinh")]
        ops += [op(k, [small]) for k in ("Asin", "Acos", "Atanh", "Tan")]
        ops += [op("Acosh", [np.abs(x) + 1.5]), op("Gelu", [x], attributes={"approximate": "tanh"})]
        ops += [op("Elu", [x], attributes={"alpha": 0.5}), op("Celu", [x], attributes={"alpha": 2.0})]
        ops += [
            op("LeakyRelu", [x], attributes={"alpha": 0.3}),
            op("PRelu", [x], [slope]),
            op("PRelu", [x[0, 0]], [slope[:, 0][:1]]),
        ]
        ops += [
            op("Clip", [x], c)
            for c in (
                [np.float32(-1), np.float32(1)],
                [np.float32(0)],
                [None, np.float32(2)],
                [np.float32(0), np.float32(6)],
            )
        ]
        ops += [op("Clip", [x.astype(np.int32)], [np.int32(-1), np.int32(2)]), op("Dropout", [x])]
        ops += [op(k, [x], domain="com.microsoft") for k in ("QuickGelu", "FastGelu", "Gelu")]
        agree(ops, opset=20)

    def test_convolutions(self, agree: Any, op: Any, rng: Any) -> None:
        def f(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype("f")

        x1, x2, x3 = f(1, 4, 9), f(2, 4, 7, 8), f(1, 2, 4, 5, 6)
        ops = [
            op("Conv", [x2], [f(6, 4, 3, 3), f(6)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
            op("Conv", [x2], [f(4, 1, 3, 3)], {"group": 4, "pads": [1, 1, 1, 1]}),
            op("Conv", [x2], [f(8, 2, 2, 3)], {"group": 2, "dilations": [2, 1]}),
            op("Conv", [x2], [f(3, 4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
            op("Conv", [x2], [f(3, 4, 2, 2)], {"auto_pad": "SAME_LOWER"}),
            op("Conv", [x2], [f(3, 4, 2, 2)], {"auto_pad": "VALID"}),
            op("Conv", [x1], [f(5, 4, 3), f(5)], {"pads": [2, 1]}),
            op("Conv", [x3], [f(3, 2, 2, 2, 2)], {"strides": [1, 2, 2]}),
            op("Conv", [x2, f(3, 4, 3, 3), f(3)]),
            op("ConvTranspose", [x2], [f(4, 3, 3, 3), f(3)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
            op("ConvTranspose", [x2], [f(4, 3, 3, 3), f(3)], {"strides": [2, 2], "output_padding": [1, 1]}),
            op("ConvTranspose", [x2], [f(4, 3, 2, 2)], {"group": 2, "dilations": [2, 1]}),
            op("ConvTranspose", [x2], [f(4, 3, 3, 3)], {"strides": [2, 2], "output_shape": [14, 16]}),
            op("ConvTranspose", [x1], [f(4, 2, 3)], {"strides": [3], "auto_pad": "SAME_UPPER"}),
            op("ConvTranspose", [x3], [f(2, 2, 2, 2, 2)]),
        ]
        agree(ops)

    def test_pooling(self, agree: Any, op: Any, rng: Any) -> None:
        x = rng.standard_normal((1, 3, 7, 8)).astype("f")
        line, cube = x[:, :, 0], x.reshape(1, 2, 3, 4, 7)
        both = ("MaxPool", "AveragePool")
        attributes = [
            {"kernel_shape": [2, 3], "strides": [2, 2]},
            {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2], "strides": [2, 2]},
            {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
            {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
            {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        ]
        ops = [op(k, [x], [], a) for k in both for a in attributes]
        ops += [op("AveragePool", [x], [], {**attributes[1], "count_include_pad": 1})]
        ops += [op(k, [line], [], {"kernel_shape": [3]}) for k in both] + [
            op(k, [cube], [], {"kernel_shape": [2, 2, 2]}) for k in both
        ]
        ops += [op(k, [x]) for k in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")]
        ops += [op("LpPool", [x], [], {"kernel_shape": [2, 2], "strides": [2, 1]})]
        agree(ops)

    def test_products(self, agree: Any, op: Any, rng: Any) -> None:
        def f(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype("f")

        ops = [
            op("Gemm", [f(3, 4)], [f(5, 4), f(5)], {"transB": 1}),
            op("Gemm", [f(4, 3)], [f(4, 5), f(3, 5)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
            op("Gemm", [f(3, 4)], [f(4, 5), f(1)], {"alpha": 3.0}),
            op("Gemm", [f(3, 4), f(4, 5), f(1, 5)], [], {"beta": 0.5}),
            op("MatMul", [f(3, 4)], [f(4, 5)]),
            op("MatMul", [f(2, 3, 4)], [f(4, 5)]),
            op("MatMul", [f(2, 1, 3, 4), f(5, 4, 2)]),
            op("MatMul", [f(4), f(4, 3)]),
            op("MatMul", [f(2, 3, 4), f(4)]),
            op("Einsum", [f(2, 3, 4), f(2, 4, 5)], [], {"equation": "bij,bjk->bik"}),
            op("Einsum", [f(2, 3, 4, 5), f(2, 6, 4, 5)], [], {"equation": "bqhd,bkhd->bhqk"}),
            op("Einsum", [f(3, 4)], [], {"equation": "ij->ji"}),
            op("Einsum", [f(3, 4)], [], {"equation": "ij->i"}),
            op("Einsum", [f(2, 3, 4), f(4, 5)], [], {"equation": "...j,jk->...k"}),
            op("Einsum", [f(3), f(4)], [], {"equation": "i,j->ij"}),
            op("Einsum", [f(3, 4), f(4, 5), f(5, 2)], [], {"equation": "ij,jk,kl->il"}),
            op("FusedMatMul", [f(2, 4, 3), f(2, 4, 5)], [], {"transA": 1, "alpha": 0.5}, domain="com.microsoft"),
        ]
        agree(ops)

    def test_normalisation(self, agree: Any, op: Any, rng: Any) -> None:
        x = rng.standard_normal((2, 4, 3, 5)).astype("f")
        a, b = rng.random(4).astype("f") + 0.5, rng.standard_normal(4).astype("f")
        last, both = rng.standard_normal(5).astype("f"), rng.standard_normal((3, 5)).astype("f")
        ops = [
            op("BatchNormalization", [x], [a, b, b, a]),
            op("BatchNormalization", [x[:, :, 0, 0]], [a, b, b, a], {"epsilon": 1e-3}),
            op("InstanceNormalization", [x], [a, b]),
            op("InstanceNormalization", [x.reshape(2, 4, 3, 5, 1)], [a, b]),
            op("LayerNormalization", [x], [last, last]),
            op("LayerNormalization", [x], [both], {"axis": -2, "epsilon": 1e-3}, outputs=3),
            op("GroupNormalization", [x], [a, b], {"num_groups": 2}),
            op("LRN", [np.abs(x)], [], {"size": 3, "alpha": 0.3}),
            op("LpNormalization", [x], [], {"axis": 1, "p": 2}),
            op("LpNormalization", [x], [], {"axis": 1, "p": 1}),
            op("MeanVarianceNormalization", [x]),
            op("Softmax", [x]),
            op("Softmax", [x], [], {"axis": 1}),
            op("LogSoftmax", [x], [], {"axis": 2}),
            op("Hardmax", [x]),
            op("SkipLayerNormalization", [x[0], x[1]], [last, last], domain="com.microsoft"),
        ]
        agree(ops)

    def test_attention(self, agree: Any, op: Any, rng: Any) -> None:
        def f(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype("f")

        q, mask = f(1, 2, 4, 8), rng.random((4, 4)) > 0.3
        ops = [
            op("Attention", [q, f(1, 2, 4, 8), f(1, 2, 4, 8)], [mask]),
            op("Attention", [f(1, 4, 16), f(1, 4, 16), f(1, 4, 16)], [], {"q_num_heads": 2, "kv_num_heads": 2}),
            op("RotaryEmbedding", [q], [f(9, 4), f(9, 4), i64(0, 1, 2, 3)[None]]),
        ]
        agree(ops, opset=23)

    def test_shapes(self, agree: Any, op: Any, rng: Any) -> None:
        x = rng.standard_normal((2, 3, 4)).astype("f")
        n, flags = np.arange(24, dtype=np.int64).reshape(2, 3, 4), x > 0
        ops = [
            op("Reshape", [x], [i64(0, -1)]),
            op("Reshape", [x], [i64(4, 6)]),
            op("Flatten", [x], [], {"axis": 2}),
            op("Flatten", [x], [], {"axis": 0}),
            op("Transpose", [x]),
            op("Transpose", [n], [], {"perm": [1, 0, 2]}),
            op("Squeeze", [x[:1]], [i64(0)]),
            op("Squeeze", [x[:1, :, :1]]),
            op("Unsqueeze", [x], [i64(0, -1)]),
            op("Expand", [x[:, :1]], [i64(2, 3, 4)]),
            op("Expand", [x[0]], [i64(2, 1, 1, 4)]),
            op("Tile", [x], [i64(1, 2, 3)]),
            op("Concat", [x, x], [x], {"axis": 1}),
            op("Concat", [flags, flags], [], {"axis": -1}),
            op("Split", [x], [i64(1, 3)], {"axis": 2}, outputs=2),
            op("Split", [n], [], {"axis": 2, "num_outputs": 2}, outputs=2),
            op("Slice", [x], [i64(1), i64(2**62), i64(1)]),
            op("Slice", [x], [i64(-1, 3), i64(-(2**62), 0), i64(1, 2), i64(-1, -2)]),
            op("Slice", [n], [i64(0), i64(4), i64(2), i64(3)]),
            op("Pad", [x], [i64(0, 1, 2, 0, 0, 1)]),
            op("Pad", [x], [i64(0, 1, 2, 0, 0, 1), np.float32(3.5)]),
            op("Pad", [n], [i64(0, 0, 1, 0, 0, -1), np.int64(5)]),
            op("Pad", [x], [i64(1, 2, 3, 1, 2, 3)], {"mode": "edge"}),
            op("Pad", [x], [i64(1, 2, 3, 0, 1, 2)], {"mode": "reflect"}),
            op("Pad", [x], [i64(1, 2, 3, 0, 1, 2)], {"mode": "wrap"}),
            op("DepthToSpace", [x.reshape(1, 4, 2, 3)], [], {"blocksize": 2}),
            op("DepthToSpace", [np.tile(x.reshape(1, 4, 2, 3), (1, 2, 1, 1))], [], {"blocksize": 2, "mode": "CRD"}),
            op("SpaceToDepth", [np.tile(x.reshape(1, 4, 2, 3), (1, 1, 1, 2))], [], {"blocksize": 2}),
            op("Trilu", [x]),
            op("Trilu", [flags], [np.int64(1)], {"upper": 0}),
            op("ReverseSequence", [x], [i64(2, 1)], {"batch_axis": 0, "time_axis": 1}),
            op("EyeLike", [x[0]]),
        ]
        agree(ops)

    def test_reductions_and_indices(self, agree: Any, op: Any, rng: Any) -> None:
        x = rng.standard_normal((3, 4, 5)).astype("f")
        p, n = np.abs(x) + 0.1, rng.integers(-3, 9, (3, 4)).astype(np.int32)
        rows, flags = np.array([[0, 2], [-1, 1]], np.int64), x > 0
        kinds = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp")
        ops = [op(f"Reduce{k}", [x], [i64(1)], {"keepdims": 0}) for k in kinds]
        ops += [op(f"Reduce{k}", [x]) for k in kinds] + [op("ReduceLogSum", [p], [i64(0, -1)])]
        ops += [
            op("ReduceSum", [x], [np.zeros(0, np.int64)], {"noop_with_empty_axes": 1}),
            op("ReduceMax", [n], [i64(1)]),
        ]
        ops += [
            op("ArgMax", [x], [], {"axis": 1}),
            op("ArgMin", [x], [], {"axis": -1, "keepdims": 0}),
            op("ArgMax", [np.round(x)], [], {"axis": 1, "select_last_index": 1}),
            op("TopK", [x], [i64(3)], outputs=2),
            op("TopK", [x], [i64(2)], {"axis": 1, "largest": 0}, outputs=2),
            op("CumSum", [x], [np.int64(1)]),
            op("CumSum", [x], [np.int64(-1)], {"exclusive": 1, "reverse": 1}),
            op("Gather", [x], [np.int64(-1)], {"axis": 1}),
            op("Gather", [x], [rows], {"axis": 2}),
            op("Gather", [x, rows]),
            op("Gather", [rows], [p.astype(np.int64)[0] * 0], {"axis": 0}),
            op("Gather", [flags], [rows], {"axis": 2}),
            op("GatherElements", [x[:2, :2, 0], rows % 2], [], {"axis": 1}),
            op("GatherElements", [x[0], rows], [], {"axis": 1}),
            op("GatherND", [x, rows]),
            op("GatherND", [x[:2], i64(1, -1).reshape(2, 1)], [], {"batch_dims": 1}),
            op("ScatterElements", [x[:2, :2, 0], rows % 2, x[:2, :2, 1]], [], {"axis": 1}),
            op("ScatterND", [x, rows, x[:2, 0]]),
            op("ScatterND", [x, i64(1, 1).reshape(2, 1), x[:2]], [], {"reduction": "add"}),
            op("OneHot", [rows], [np.int64(4), np.array([0, 1], np.float32)]),
            op("OneHot", [rows], [np.int64(4), np.array([2, 5], np.int64)], {"axis": 0}),
        ]
        agree(ops)

    def test_resizing(self, agree: Any, op: Any, rng: Any) -> None:
        x = rng.standard_normal((1, 2, 4, 5)).astype("f")

        def scales(h: float, w: float) -> list[np.ndarray | None]:
            return [None, np.array([1, 1, h, w], np.float32)]

        sizes = [None, None, i64(1, 2, 7, 3)]
        modes = [
            {"mode": "nearest"},
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
            {"mode": "nearest", "coordinate_transformation_mode": "align_corners", "nearest_mode": "ceil"},
            {"mode": "linear"},
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
            {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
            {"mode": "cubic"},
            {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
            {"mode": "linear", "antialias": 1},
        ]
        ops = [op("Resize", [x], c, m) for m in modes for c in (scales(2, 2), scales(1.5, 0.6), sizes)]
        ops += [op("Resize", [x[0]], [None, np.array([1, 3, 1], np.float32)], {"mode": "nearest"})]
        agree(ops, opset=19)

    @pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
    def test_recurrent(self, agree: Any, op: Any, rng: Any, kind: str) -> None:
        steps, batch, features, hidden = 5, 2, 3, 4
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]

        def f(*shape: int) -> np.ndarray:
            return (0.5 * rng.standard_normal(shape)).astype("f")

        def cell(direction: str, *, initial: bool, **attributes: Any) -> Any:
            d = 2 if direction == "bidirectional" else 1
            constants: list[np.ndarray | None] = [
                f(d, gates * hidden, features),
                f(d, gates * hidden, hidden),
                f(d, 2 * gates * hidden),
            ]
            if initial:
                constants += [None, f(d, batch, hidden)] + ([f(d, batch, hidden)] if kind == "LSTM" else [])
            more = {"direction": direction, "hidden_size": hidden, **attributes}
            return op(kind, [f(steps, batch, features)], constants, more, outputs=3 if kind == "LSTM" else 2)

        ops = [cell("forward", initial=False), cell("reverse", initial=True), cell("bidirectional", initial=True)]
        if kind == "GRU":
            ops += [cell("bidirectional", initial=True, linear_before_reset=1)]
        agree(ops)


class TestNothingIsPassedOver:
    def test_attributes_that_say_nothing_new_are_fine(self, agree: Any, op: Any, rng: Any) -> None:
        x = rng.standard_normal((1, 2, 4, 4)).astype("f")
        w = rng.standard_normal((2, 2, 3, 3)).astype("f")
        zero = {"pads": [0, 0, 0, 0]}
        ops = [
            op("Conv", [x], [w], {"auto_pad": "NOTSET", **zero, "kernel_shape": [3, 3]}),
            op("ConvTranspose", [x], [w], {"output_shape": [6, 6], "kernel_shape": [3, 3]}),
            op("Concat", [x], [], {"axis": 3}),
            op("Pad", [x], [i64(0, 0, 0, 0, 0, 0, 0, 0)], {"mode": "edge"}),
            op("Resize", [x], [None, np.ones(4, np.float32)], {"mode": "cubic", "cubic_coeff_a": -0.5}),
            op("ReduceSum", [x], [i64(1)], {"noop_with_empty_axes": 1}),
            op("EyeLike", [x[0, 0]], [], {"dtype": 7, "k": 1}),
        ]
        agree(ops, opset=18)

    def test_an_attribute_of_a_later_opset_is_refused(self, op: Any, single: Any) -> None:
        model = single(op("Relu", [np.ones(3, np.float32)]))
        attribute = model.graph.node[0].attribute.add()
        attribute.name, attribute.type, attribute.f = "leak", 1, 0.5
        assert coreml.unsupported(model) == ("node 'Relu_0' (Relu): the attribute leak is not known",)


class TestAnyAttributes:
    """Few examples each: a conversion costs a tenth of a second."""

    @settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_convolution(self, agree: Any, op: Any, data: Any) -> None:
        draw = data.draw
        axes = draw(st.integers(1, 3))
        groups = draw(st.sampled_from([1, 2, 3]))
        kernel = draw(st.lists(st.integers(1, 3), min_size=axes, max_size=axes))
        strides = draw(st.lists(st.integers(1, 3), min_size=axes, max_size=axes))
        dilations = draw(st.lists(st.integers(1, 2), min_size=axes, max_size=axes))
        pads = draw(st.lists(st.integers(0, 2), min_size=2 * axes, max_size=2 * axes))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        x = rng.standard_normal((1, 6, *rng.integers(5, 8, axes))).astype("f")
        w = rng.standard_normal((2 * groups, 6 // groups, *kernel)).astype("f")
        t = rng.standard_normal((6, 2, *kernel)).astype("f")
        attributes = {"strides": strides, "dilations": dilations, "pads": pads, "group": groups}
        ops = [op("Conv", [x], [w], attributes)]
        full = [
            (n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(x.shape[2:], strides, kernel, dilations, strict=True)
        ]
        if all(f > pads[i] + pads[i + axes] for i, f in enumerate(full)):
            ops.append(op("ConvTranspose", [x], [t], attributes))
        agree(ops)

    @settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_slices(self, agree: Any, op: Any, data: Any) -> None:
        x = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
        ops = []
        for _ in range(6):
            bounds = []
            for size in x.shape:
                start, stop = data.draw(st.integers(-size - 2, size + 2)), data.draw(st.integers(-size - 2, size + 2))
                step = data.draw(st.sampled_from([1, 2, -1, -2, 3]))
                bounds.append((start, stop, step))
            if all(len(range(d)[slice(*b)]) for d, b in zip(x.shape, bounds, strict=True)):
                columns = [i64(*c) for c in zip(*bounds, strict=True)]
                ops.append(op("Slice", [x], [columns[0], columns[1], i64(0, 1, 2), columns[2]]))
        if ops:
            agree(ops)


def test_the_interpreter_knows_all_that_is_made() -> None:
    from edgemodel_compressor.formats.coreml.interpret import supported

    assert {"conv", "linear", "lstm", "constexpr_lut_to_dense"} <= supported()
    assert len(coreml.OPS) > 130
