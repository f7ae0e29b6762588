"""Which layers leave 16 bits: golden numbers, beside a slow calculation, and what each encoding does."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgemodel_api.errors import InputError
from edgemodel_compressor.steps.encodings import DYNAMIC, FLOAT16_WEIGHTS, INT8_WEIGHTS, STATIC
from edgemodel_compressor.verify.saturation import LIMIT, bound, find_saturation, pair_sums


def feeds(x):
    return [{"x": x[i : i + 1]} for i in range(len(x))]


def saved(model, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    return path


def test_pair_sums_golden():
    left = np.array([[255, 255, 10, 0, 7]])
    right = np.array([[127, -127], [127, 127], [-1, 2], [50, 50], [3, -4]])
    # 255·127 + 255·127; 10·−1 + 0·50; 7·3 alone. And 0; 20; −28.
    assert pair_sums(left, right).tolist() == [[[64770, 0], [-10, 20], [21, -28]]]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([[127], [127]], 64770),
        ([[-127], [-127]], 64770),
        ([[127], [-127]], 32385),  # one of them at 0
        ([[64], [64]], 32640),  # 7 bits: within 16
        ([[100], [0], [29], [-100]], 25500),
        ([[127]], 32385),
    ],
)
def test_bound_golden(weights, expected):
    assert bound(np.array(weights)) == expected


@given(
    hnp.arrays(np.int64, st.tuples(st.just(3), st.shared(st.integers(1, 7), key="k")), elements=st.integers(0, 255)),
    hnp.arrays(np.int64, st.tuples(st.shared(st.integers(1, 7), key="k"), st.just(2)), elements=st.integers(-128, 127)),
)
def test_pair_sums_are_what_vpmaddubsw_adds(left, right):
    found = pair_sums(left, right)
    k = left.shape[1]
    for row, column, pair in itertools.product(range(3), range(2), range(math.ceil(k / 2))):
        inner = range(2 * pair, min(2 * pair + 2, k))
        assert found[row, pair, column] == sum(int(left[row, i]) * int(right[i, column]) for i in inner)
    assert np.abs(found).max() <= bound(right)
    assert np.array_equal(found.sum(axis=1), left @ right)


@given(hnp.arrays(np.int64, (4, 2), elements=st.integers(-64, 63)))
def test_seven_bits_never_leave_16(right):
    assert bound(right) <= LIMIT


@pytest.mark.parametrize(
    "encoding", [pytest.param(e, id=e.name) for e in (*STATIC, *DYNAMIC, INT8_WEIGHTS, FLOAT16_WEIGHTS)]
)
def test_the_worst_case_in_each_encoding(v, tmp_path, encoding):
    source, x = v.worst()
    found = find_saturation(saved(v.quantized(source, x, encoding), tmp_path), feeds(x))
    if encoding.name in ("int8-static-u8s8", "int8-static-s8s8", "int8-dynamic-s8"):
        (one,) = found
        assert (one.node, one.bound, one.saturates, one.weights) == ("mm", 64770, True, True)
        assert 32767 < one.seen <= 64770
        # As FACTS of the field have it: a third of the answer is lost.
        assert one.error == pytest.approx(0.337, abs=0.01)
        assert one.share > 0.9
    else:
        assert found == ()


def test_small_activations_do_not_saturate_though_they_could(v, tmp_path):
    source, x = v.worst()
    path = saved(v.quantized(source, x, "int8-static-u8s8"), tmp_path)
    (one,) = find_saturation(path, feeds(x * 0.3))
    assert (one.bound, one.saturates, one.share, one.error) == (64770, False, 0.0, 0.0)


CONVS = [
    pytest.param((3, 6, 6), (4, 3, 3, 3), {"pads": [1, 0, 2, 1]}, id="odd channels, pads"),
    pytest.param((4, 7, 6), (6, 2, 3, 2), {"group": 2, "strides": [2, 1]}, id="groups, strides"),
    pytest.param((4, 9), (5, 4, 3), {"dilations": [2], "pads": [2, 1]}, id="1-d, dilated"),
    pytest.param((3, 9), (5, 3, 4), {"auto_pad": "SAME_UPPER", "strides": [2]}, id="1-d, same upper"),
    pytest.param((2, 8), (3, 2, 4), {"strides": [3], "auto_pad": "SAME_LOWER"}, id="1-d, same lower"),
    pytest.param((2, 4, 4, 4), (2, 2, 2, 2, 2), {}, id="3-d"),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "attributes"), CONVS)
def test_conv_counts_as_a_slow_one(v, tmp_path, x_shape, w_shape, attributes):
    rng = np.random.default_rng(3)
    x = rng.uniform(0.4, 1.0, size=(2, *x_shape)).astype(np.float32)
    w = rng.choice([-1.0, 1.0], p=[0.3, 0.7], size=w_shape)
    source = v.model([v.node("Conv", ["x", "w"], "y", "c", **attributes)], {"w": w}, x_shape)
    made = v.quantized(source, x, "int8-static-u8s8")
    (one,) = find_saturation(saved(made, tmp_path), feeds(x))
    seen, beyond, count, excess, exact = slow_conv(v, made, x, source)
    assert one.seen == seen > LIMIT
    assert one.share == pytest.approx(beyond / count)
    assert one.error == pytest.approx(math.sqrt(excess / exact), rel=1e-6)


def slow_conv(v, made, x, source):
    """Loops over the answers: for each, the kernel's positions, and at each the channels, in pairs."""
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
    conv = next(n for n in made.graph.node if n.op_type == "Conv")
    dequantize = {n.output[0]: n for n in made.graph.node if n.op_type == "DequantizeLinear"}
    scale, zero = (tensors[n] for n in dequantize[conv.input[0]].input[1:3])
    w = tensors[dequantize[conv.input[1]].input[0]].astype(int)
    q = np.clip(np.rint(x / scale) + int(zero), 0, 255).astype(int)
    # A convolution with one-hot weights and zero pads says which input each kernel position sees, or none.
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in conv.attribute}
    groups, channels = attributes.get("group", 1), w.shape[1]
    kernel = w.shape[2:]
    positions = list(itertools.product(*map(range, kernel)))
    probe_w = np.zeros((len(positions) * x.shape[1], 1, *kernel))
    for c, (p, at) in itertools.product(range(x.shape[1]), enumerate(positions)):
        probe_w[(c * len(positions) + p, 0, *at)] = 1
    plain = {k: val for k, val in attributes.items() if k not in ("group", "kernel_shape")}
    probe = v.model([v.node("Conv", ["x", "w"], "y", "p", group=x.shape[1], **plain)], {"w": probe_w}, x.shape[1:])
    # 1 + q, so that 0 means: outside, where the kernel sees the zero point.
    patches = v.session(probe).run(None, {"x": (q + 1).astype(np.float32)})[0].astype(int) - 1
    patches = np.where(patches < 0, int(zero), patches).reshape(len(x), x.shape[1], len(positions), -1)
    seen = beyond = count = 0
    excess = exact = 0.0
    for n, m, place in itertools.product(range(len(x)), range(len(w)), range(patches.shape[-1])):
        group = m // (len(w) // groups)
        products = [
            patches[n, group * channels + c, p, place] * w[(m, c, *at)]
            for p, at in enumerate(positions)
            for c in range(channels)
        ]
        sums = [sum(products[i : i + 2]) for i in range(0, len(products), 2)]
        clipped = [min(max(s, -LIMIT - 1), LIMIT) for s in sums]
        seen = max(seen, *map(abs, sums))
        beyond += sum(a != b for a, b in zip(sums, clipped, strict=True))
        count += len(sums)
        excess += float(sum(clipped) - sum(sums)) ** 2
        exact += float(sum(sums) - int(zero) * int(w[m].sum())) ** 2
    return seen, beyond, count, excess, exact


def test_depthwise_is_widened_first(v, tmp_path):
    x = np.full((1, 4, 5, 5), 0.9, np.float32)
    source = v.model([v.node("Conv", ["x", "w"], "y", "c", group=4)], {"w": np.ones((4, 1, 3, 3))}, (4, 5, 5))
    assert find_saturation(saved(v.quantized(source, x, "int8-static-u8s8"), tmp_path), feeds(x)) == ()


def test_two_activations(v, tmp_path):
    x = np.random.default_rng(1).uniform(0.8, 1, size=(2, 6, 6)).astype(np.float32)
    source = v.model([v.node("MatMul", ["x", "x"], "y", "mm")], {}, (6, 6))
    (one,) = find_saturation(saved(v.quantized(source, x, "int8-static-s8s8"), tmp_path), feeds(x))
    assert (one.node, one.weights, one.saturates) == ("mm", False, True)
    assert find_saturation(saved(v.quantized(source, x, "int8-static-u8u8"), tmp_path), feeds(x)) == ()


def test_gemm_and_the_gemm_that_became_a_matmul(v, tmp_path):
    _, x = v.worst()
    w = np.ones((16, 128))
    source = v.model([v.node("Gemm", ["x", "w", "b"], "y", "dense", transB=1)], {"w": w, "b": np.zeros(16)}, (128,))
    for encoding in ("int8-static-u8s8", "int8-dynamic-s8"):
        (one,) = find_saturation(saved(v.quantized(source, x, encoding), tmp_path), feeds(x))
        assert (one.node, one.saturates) == ("dense", True)
        assert one.error == pytest.approx(0.337, abs=0.01)


def test_a_recurrent_layer_is_told_by_its_bound(v, tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"w": rng.normal(size=(1, 16, 8)), "r": rng.normal(size=(1, 16, 4))}
    lstm = v.node("LSTM", ["x", "w", "r"], "h", "lstm", hidden_size=4)
    source = v.model([lstm, v.node("Squeeze", ["h"], "y", "s")], tensors, (1, 8))
    x = rng.normal(size=(3, 1, 8)).astype(np.float32)
    found = find_saturation(saved(v.quantized(source, x, "int8-dynamic-s8"), tmp_path), [{"x": x}])
    assert [(f.node, f.seen == f.bound, math.isnan(f.error)) for f in found] == [("lstm", True, True)]


def test_feeds_that_do_not_fit_are_a_message(v, tmp_path):
    source, x = v.worst()
    path = saved(v.quantized(source, x, "int8-static-u8s8"), tmp_path)
    with pytest.raises(InputError, match="fails on the data"):
        find_saturation(path, [{"x": x[:, :5]}])
