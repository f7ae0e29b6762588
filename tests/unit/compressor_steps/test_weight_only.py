"""Weight-only storage: golden numbers, error bounds, and that nothing of it is left at inference."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.edgemodel import Activations, Exclude, Include, Precision, PruneStep, QuantizeStep, Scope
from edgemodel_api.errors import InputError
from edgemodel_compressor.steps.encodings import (
    BY_NAME,
    FLOAT16_WEIGHTS,
    INT4_WEIGHTS,
    INT8_WEIGHTS,
    STEPPED,
    stepped,
)
from edgemodel_compressor.steps.prepare import prepare
from edgemodel_compressor.steps.prune import prune
from edgemodel_compressor.steps.quantize import quantizable, quantize
from edgemodel_compressor.steps.weight_only import Stored, _scales, alike, encode, planes, store_weights
from edgemodel_compressor.steps.weights import weights

INT8 = QuantizeStep(activations=Activations.NONE)
INT4 = QuantizeStep(precision=Precision.INT4)
HALF = QuantizeStep(precision=Precision.FLOAT16)
ALL = [
    pytest.param(INT8, INT8_WEIGHTS, 0.01, id="int8"),
    pytest.param(INT4, INT4_WEIGHTS, 0.15, id="int4"),
    pytest.param(HALF, FLOAT16_WEIGHTS, 0.001, id="float16"),
    pytest.param(INT8, stepped(20, per_channel=True, dead=0.6), 0.08, id="stepped"),
    pytest.param(INT8, stepped(40, per_channel=False), 0.06, id="stepped as a whole"),
    pytest.param(INT8, stepped(508, per_channel=True), 0.003, id="stepped beyond eight bits"),
]


def test_int8_golden():
    w = np.array([[1.27, -2.0], [-0.634, 0.5], [0.004, 0.0]], dtype=np.float32)
    stored = encode(w, (1,), INT8_WEIGHTS)
    # Scales 1.27/127 = 0.01 and 2/127; ties of rint go to even, -63.4 to -63, 0.4 to 0, 31.75 to 32.
    assert stored.numbers.tolist() == [[127, -127], [-63, 32], [0, 0]]
    np.testing.assert_allclose(stored.scales, [[0.01, 2 / 127]], rtol=1e-6)
    assert stored.spread is None


def test_int4_golden_blocks_along_the_inputs():
    w = np.zeros((64, 1), dtype=np.float32)
    w[:32, 0] = np.arange(32) % 8 * 0.5  # 0…3.5: exactly 0…7 steps of 0.5
    w[32:, 0] = np.arange(32) % 8 * -0.01
    stored = encode(w, (1,), INT4_WEIGHTS)
    assert stored.numbers[:, 0].tolist() == [*list(range(8)) * 4, *(-n for n in list(range(8)) * 4)]
    np.testing.assert_allclose(stored.scales[:, 0], [0.5, 0.01], rtol=1e-6)
    assert stored.spread[0] == 0
    assert stored.spread[1].tolist() == [0] * 32 + [1] * 32


def test_numbers_of_twelve_bits_golden():
    high, low = planes(np.array([-2032, -9, -8, -1, 0, 7, 8, 2039], dtype=np.int16))
    assert high.tolist() == [-127, -1, 0, 0, 0, 0, 1, 127]
    assert low.tolist() == [0, 7, -8, -1, 0, 7, -8, 7]


def test_encodings_of_the_same_numbers():
    assert alike(INT8_WEIGHTS, stepped(127, per_channel=True))
    assert not alike(INT8_WEIGHTS, stepped(127, per_channel=False))
    assert not alike(INT8_WEIGHTS, stepped(101, per_channel=True))
    assert not alike(stepped(20, per_channel=True), stepped(20, per_channel=True, dead=0.6))
    assert not alike(FLOAT16_WEIGHTS, INT4_WEIGHTS)
    assert alike(FLOAT16_WEIGHTS, FLOAT16_WEIGHTS)


def test_float16_golden():
    stored = encode(np.array([[1.0, 65504.0, 2**-24]], dtype=np.float32), (1,), FLOAT16_WEIGHTS)
    assert stored.numbers.dtype == np.float16
    assert stored.values(np.float32).tolist() == [[1.0, 65504.0, 2**-24]]
    assert encode(np.array([[65520.0]], dtype=np.float32), (1,), FLOAT16_WEIGHTS) is None


def test_stepped_golden():
    w = np.array([[4.0, 1.0, 1.2, -2.0], [0.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    stored = encode(w, (0,), stepped(2, per_channel=True))
    # A step of 2 at first: 2, 0.5 (to even), 0.6, −1. Then Σ w·q / Σ q² = (8 + 1.2 + 2) / 6 = 1.8667, as 239/128.
    assert stored.numbers.tolist() == [[2, 0, 1, -1], [0, 0, 0, 0]]
    assert stored.scales.tolist() == [[239 / 128], [1.0]]
    stored = encode(w, (0,), stepped(2, per_channel=False, dead=0.65))
    assert stored.numbers.tolist() == [[2, 0, 0, -1], [0, 0, 0, 0]]
    assert stored.scales.tolist() == [[2.0]]


def test_the_step_of_the_largest_half_stays_finite():
    """Rounded up to eight bits it would be 65536."""
    stored = encode(np.array([[65504.0, 1.0]], dtype=np.float16), (0,), stepped(1, per_channel=True))
    assert stored.numbers.tolist() == [[1, 0]]
    assert stored.scales.tolist() == [[65504.0]]


@pytest.mark.parametrize("limit", [1, 7, 20, 101, 127, 508, 2032])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_largest_step_is_the_last_one_that_decodes_to_a_number(dtype, limit):
    largest = np.array([np.finfo(dtype).max], dtype=np.float64)
    for short in (False, True):
        found = _scales(largest, limit, dtype, short=short)
        numbers = np.array([limit], dtype=np.int16)
        assert np.isfinite(Stored(numbers, found).values(dtype)).all()
        with np.errstate(over="ignore"):
            assert np.isinf(Stored(numbers, np.nextafter(found, dtype(np.inf))).values(dtype)).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@settings(max_examples=20)
@given(
    shape=hnp.array_shapes(min_dims=2, max_dims=3, max_side=40),
    axes=st.sampled_from([(), (0,), (1,), (0, 1)]),
    seed=st.integers(0, 999),
    near=st.sampled_from([0.2, 0.9, 0.999, 1.0]),
)
def test_finite_weights_decode_to_finite_ones(dtype, shape, axes, seed, near):
    random = np.random.default_rng(seed)
    most = np.finfo(dtype).max
    w = (random.uniform(-1, 1, shape) ** 5 * float(most)).astype(dtype)
    w[random.random(shape) < 0.2] = most * dtype(near)
    w[random.random(shape) < 0.2] = -most * dtype(near)
    for encoding in (e for e in BY_NAME.values() if e.weights_only):
        stored = encode(w, axes, encoding)
        if stored is None:
            assert encoding is FLOAT16_WEIGHTS
            continue
        got = stored.values(dtype)
        assert np.isfinite(got).all(), encoding
        if stored.scales is not None:
            scales = stored.scales
            if stored.spread is not None:
                scales = np.take(scales, stored.spread[1], axis=stored.spread[0])
            # Three steps: the largest elements of a block may be clipped by as much. (Of a quarter: the sum is finite.)
            assert (np.abs(got / 4 - w / 4) <= scales / 4 * dtype(3.1)).all(), encoding


@pytest.mark.parametrize("encoding", [INT8_WEIGHTS, INT4_WEIGHTS, stepped(101, per_channel=True)], ids=lambda e: e.name)
def test_the_runtime_decodes_the_largest_weights_too(m, encoding):
    made = m.matmul()
    values = m.normal(32, 16)
    values[::5] = np.finfo(np.float32).max
    values[1::5] = -np.finfo(np.float32).max
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    result = quantize(prepare(made), INT8 if encoding is not INT4_WEIGHTS else INT4, encoding, ranges=None).model
    x = np.eye(3, 32, dtype=np.float32)
    np.testing.assert_allclose(m.run(result, x)[:2], m.run(made, x)[:2], rtol=0.02)


SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=9)


@given(
    st.sampled_from([np.float32, np.float64, np.float16]),
    SHAPES,
    st.sampled_from([(), (0,), (1,), (0, 1)]),
    st.integers(0, 999),
    st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_int8_error_is_at_most_half_a_step(dtype, shape, axes, seed, size):
    w = (np.random.default_rng(seed).standard_cauchy(shape).clip(-300, 300) * size).clip(-6e4, 6e4).astype(dtype)
    stored = encode(w, axes, INT8_WEIGHTS)
    assert stored.numbers.shape == shape
    assert stored.numbers.dtype == np.int8
    assert stored.scales.dtype == dtype
    wide = stored.numbers.astype(np.float64) * stored.scales.astype(np.float64)
    assert (np.abs(wide - w) <= np.broadcast_to(stored.scales, shape).astype(np.float64) * (0.5 + 1e-6)).all()
    assert (stored.numbers[w == 0] == 0).all()
    assert stored.values(dtype).dtype == dtype


@given(SHAPES, st.sampled_from([(), (0,), (1,), (0, 1)]), st.integers(0, 999), st.sampled_from([4, 8, 32]))
def test_int4_error_is_half_a_step_or_what_was_clipped(shape, axes, seed, block):
    w = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    w[np.random.default_rng(seed).random(shape) < 0.3] = 0
    stored = encode(w, axes, replace(INT4_WEIGHTS, block=block))
    assert stored.numbers.shape == shape
    assert stored.numbers.min() >= -8
    assert stored.numbers.max() <= 7
    scales = stored.scales
    if stored.spread is not None:
        scales = np.take(scales, stored.spread[1], axis=stored.spread[0])
    scales = np.broadcast_to(scales, shape).astype(np.float64)
    bound = np.maximum(scales / 2, np.abs(w) - 7 * scales)
    assert (np.abs(stored.numbers * scales - w) <= bound * (1 + 1e-6)).all()
    assert (stored.numbers[w == 0] == 0).all()


@pytest.mark.parametrize("encoding", [stepped(508, per_channel=True), stepped(9, per_channel=False), INT8_WEIGHTS, INT4_WEIGHTS],
                         ids=lambda e: e.name)  # fmt: skip
def test_what_is_stored_is_a_weight_again_when_it_is_prepared(m, encoding):
    made = m.matmul(96, 40)
    (weight,) = weights(made)
    values = encode(weight.values(), weight.channel_axes, encoding).values(np.float32)
    store_weights(made, [weight], encoding)
    done = prepare(made)
    (again,) = weights(done)
    assert len(done.graph.node) == 1
    np.testing.assert_array_equal(again.values(), values)


@pytest.mark.parametrize(
    "suffix", ["/cast", "/cast_low", "/times", "/add", "/block_scale", "/dequantize", "/cast_back"]
)
@pytest.mark.parametrize(
    "encoding", [stepped(508, per_channel=True), INT4_WEIGHTS, FLOAT16_WEIGHTS], ids=lambda e: e.name
)
def test_nodes_that_the_model_has_keep_their_names(m, suffix, encoding):
    made = m.matmul(96, 40)
    made.graph.node[0].name = f"w{suffix}"
    store_weights(made, weights(made), encoding)
    names = [n.name for n in made.graph.node]
    assert len(set(names)) == len(names)
    assert names[-1] == f"w{suffix}"
    assert np.isfinite(m.run(made, m.normal(2, 96))).all()


@given(
    st.sampled_from([np.float32, np.float64, np.float16]),
    SHAPES,
    st.sampled_from([(), (0,), (1,), (0, 1)]),
    st.integers(0, 999),
    st.sampled_from(STEPPED),
)
def test_stepped_errs_no_more_than_plain_steps(dtype, shape, axes, seed, encoding):
    w = np.random.default_rng(seed).standard_cauchy(shape).clip(-300, 300).astype(dtype)
    w[np.random.default_rng(seed).random(shape) < 0.3] = 0
    stored = encode(w, axes, encoding)
    assert stored.numbers.shape == shape
    assert stored.numbers.dtype == (np.int8 if encoding.limit <= 127 else np.int16)
    assert {p.dtype for p in stored.parts} == {np.dtype(np.int8)}
    assert (sum(p.astype(int) * 16**i for i, p in enumerate(stored.parts[::-1])) == stored.numbers).all()
    assert np.abs(stored.numbers).max(initial=0) <= encoding.limit
    assert (stored.numbers[w == 0] == 0).all()
    assert stored.spread is None
    assert stored.scales.dtype == dtype
    assert (stored.scales > 0).all()
    if dtype is np.float32:
        assert not (stored.scales.view(np.uint32) & 0xFFFF).any()
    elements = tuple(i for i, n in enumerate(stored.scales.shape) if n == 1)
    wide, scales = w.astype(np.float64), stored.scales.astype(np.float64)
    largest = np.abs(wide).max(axis=elements, keepdims=True, initial=0)
    step = _scales(largest, encoding.limit, dtype, short=True).astype(np.float64)
    # The numbers are those of plain steps, but for small ones; and the step may only do better by them.
    assert (np.abs(stored.numbers * step - wide) <= step * encoding.dead * (1 + 1e-6)).all()
    plain = ((stored.numbers * step - wide) ** 2).sum(axis=elements)
    assert (((stored.numbers * scales - wide) ** 2).sum(axis=elements) <= plain + 1e-9 * (wide**2).sum()).all()


def graphs(m):
    def rnn(op, gates):
        node = helper.make_node(op, ["x", "W", "R", "B"], ["y"], name="rnn", hidden_size=16)
        tensors = {"W": m.normal(1, gates * 16, 8), "R": m.normal(1, gates * 16, 16), "B": m.normal(1, gates * 32)}
        return m.model([node], {k: v * 0.2 for k, v in tensors.items()}, x=(5, 2, 8))

    def branches():
        out = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
        tensors = [numpy_helper.from_array(m.normal(32, 16), "inner")]
        fc = [helper.make_node("MatMul", ["x", "inner"], ["t"], name="in")]
        other = [helper.make_node("MatMul", ["x", "outer"], ["t2"], name="out")]
        out2 = helper.make_tensor_value_info("t2", TensorProto.FLOAT, None)
        # The condition depends on the input: the branch cannot be folded away.
        nodes = [
            m.node("ReduceSum", ["x"], "s", keepdims=0), m.node("Greater", ["s", "zero"], "c"),
            helper.make_node("If", ["c"], ["y"], name="if", then_branch=helper.make_graph(fc, "a", [], [out], tensors),
                             else_branch=helper.make_graph(other, "b", [], [out2])),
        ]  # fmt: skip
        return m.model(nodes, {"zero": np.float32(0), "outer": m.normal(32, 16)}, x=(3, 32))

    def layers(*nodes, x, **tensors):
        return m.model(list(nodes), tensors, x=x)

    n = m.node
    return {
        "MatMul": (m.matmul(), (3, 32)),
        "batched MatMul": (layers(n("MatMul", ["x", "w"], "y"), x=(2, 3, 32), w=m.normal(2, 32, 16)), (2, 3, 32)),
        "constant on the left": (layers(n("MatMul", ["w", "x"], "y"), x=(32, 5), w=m.normal(16, 32)), (32, 5)),
        "Gemm": (m.mlp(), (4, 64)),
        "1-D Conv": (layers(n("Conv", ["x", "w"], "y"), x=(1, 8, 20), w=m.normal(16, 8, 5)), (1, 8, 20)),
        "grouped Conv": (
            layers(n("Conv", ["x", "w"], "y", group=4), x=(1, 16, 9, 9), w=m.normal(16, 4, 3, 3)), (1, 16, 9, 9),
        ),
        "depthwise Conv": (
            layers(n("Conv", ["x", "w"], "y", group=32), x=(1, 32, 9, 9), w=m.normal(32, 1, 3, 3)), (1, 32, 9, 9),
        ),
        "3-D Conv": (
            layers(n("Conv", ["x", "w"], "y"), x=(1, 4, 6, 6, 6), w=m.normal(8, 4, 3, 3, 3)), (1, 4, 6, 6, 6),
        ),
        "ConvTranspose": (
            layers(n("ConvTranspose", ["x", "w"], "y"), x=(1, 8, 6, 6), w=m.normal(8, 8, 3, 3)), (1, 8, 6, 6),
        ),
        "Einsum": (
            layers(n("Einsum", ["x", "w"], "y", equation="ab,cb->ac"), x=(3, 32), w=m.normal(16, 32)), (3, 32),
        ),
        "shared": (
            layers(n("MatMul", ["x", "w"], "h"), n("MatMul", ["h", "w"], "y"), x=(3, 20), w=m.normal(20, 20)), (3, 20),
        ),
        "behind Transpose": (
            layers(n("Transpose", ["w"], "t"), n("MatMul", ["x", "t"], "y"), x=(3, 32), w=m.normal(16, 32)), (3, 32),
        ),
        "LSTM": (rnn("LSTM", 4), (5, 2, 8)),
        "GRU": (rnn("GRU", 3), (5, 2, 8)),
        "in branches": (branches(), (3, 32)),
        "CNN": (m.cnn(), (2, 1, 8, 8)),
        "odd width": (m.matmul(k=257), (3, 257)),
    }  # fmt: skip


GRAPHS = ("MatMul", "batched MatMul", "constant on the left", "Gemm", "1-D Conv", "grouped Conv", "depthwise Conv",
          "3-D Conv", "ConvTranspose", "Einsum", "shared", "behind Transpose", "LSTM", "GRU", "in branches", "CNN",
          "odd width")  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(("step", "encoding", "bound"), ALL)
def test_each_kind_of_weight(m, name, step, encoding, bound):
    made, shape = graphs(m)[name]
    base = prepare(made)
    before = m.raw(base)
    result = quantize(base, step, encoding, ranges=None)
    assert m.raw(base) == before
    assert m.in_order(result.model)
    assert set(result.quantized_nodes) == set(quantizable(base, step))
    assert result.quantized_nodes
    x = m.normal(*shape)
    got, want = m.run(result.model, x), m.run(made, x)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert m.error(got, want) < bound
    assert len(m.raw(result.model)) < len(m.raw(made)) or encoding is INT4_WEIGHTS
    assert m.raw(result.model) == m.raw(quantize(base, step, encoding, ranges=None).model)


@pytest.mark.parametrize("op", ["MatMul", "Gather"])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_keep_their_type(m, op, dtype):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if op == "MatMul":
        made = m.matmul(x_type=kind, y_type=kind)
        x = m.normal(3, 32, dtype=dtype)
    else:
        made = m.model([m.node("Gather", ["w", "x"], "y")], {"w": 0}, x=("n",), x_type=TensorProto.INT64, y_type=kind)
        x = np.array([0, 5, 31])
    del made.graph.initializer[:]
    made.graph.initializer.append(numpy_helper.from_array(m.normal(32, 16, dtype=dtype), "w"))
    result = quantize(prepare(made), INT8, INT8_WEIGHTS, ranges=None).model
    got = m.run(result, x)
    assert got.dtype == dtype
    assert m.error(got.astype(np.float64), m.run(made, x).astype(np.float64)) < 0.01


def _loaded(model, folder):
    """How many nodes of each operator run once the runtime has folded constants."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = Counter()

    def count(graph):
        for node in graph.node:
            found[node.op_type] += 1
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    count(attribute.g)

    count(onnx.load(folder / "loaded.onnx").graph)
    return found


@pytest.mark.parametrize(("step", "encoding", "bound"), ALL)
@pytest.mark.parametrize("name", ["Gemm", "CNN", "LSTM", "in branches", "behind Transpose"])
def test_the_runtime_folds_it_at_load(m, tmp_path, name, step, encoding, bound):
    """Inference has the float model's nodes, whatever the file holds: so it has its latency too."""
    made, _ = graphs(m)[name]

    base = prepare(made)
    assert _loaded(quantize(base, step, encoding, ranges=None).model, tmp_path) == _loaded(base, tmp_path)


@pytest.mark.parametrize(("step", "encoding"), [(INT8, INT8_WEIGHTS), (INT4, INT4_WEIGHTS)], ids=["int8", "int4"])
def test_halves_are_folded_too(m, tmp_path, step, encoding):
    """A Mul of halves has no kernel on a CPU: scaled in halves, the weight would be expanded at each inference."""
    made = m.matmul(x_type=TensorProto.FLOAT16, y_type=TensorProto.FLOAT16)
    del made.graph.initializer[:]
    made.graph.initializer.append(numpy_helper.from_array(m.normal(32, 16, dtype=np.float16), "w"))
    small = quantize(prepare(made), step, encoding, ranges=None).model
    assert _loaded(small, tmp_path)["Mul"] == 0
    assert _loaded(small, tmp_path) == _loaded(prepare(made), tmp_path)


@pytest.mark.parametrize(
    ("step", "nodes", "expected"),
    [
        pytest.param(INT8, None, {"fc1", "fc2"}, id="all"),
        pytest.param(INT8, frozenset({"fc2"}), {"fc2"}, id="what a search says"),
        pytest.param(INT8.replace(exclude=Exclude(nodes=("fc1",))), None, {"fc2"}, id="exclude"),
        pytest.param(
            INT8.replace(scope=Scope.LOCAL, include=Include(nodes=("fc1",))), None, {"fc1"}, id="include a node"
        ),
        pytest.param(
            INT8.replace(scope=Scope.LOCAL, include=Include(ops=("Gemm",))), None, {"fc1", "fc2"}, id="include an op"
        ),
    ],
)
def test_include_and_exclude(m, step, nodes, expected):
    result = quantize(prepare(m.mlp()), step, INT8_WEIGHTS, ranges=None, nodes=nodes)
    assert set(result.quantized_nodes) == expected
    assert {w.node for w in weights(result.model)} == {"fc1", "fc2"} - expected


def test_two_encodings_side_by_side(m):
    """The least sensitive nodes in one encoding, the rest in another: scales are never taken for weights."""
    base = prepare(m.mlp())
    first = quantize(base, INT4, INT4_WEIGHTS, ranges=None, nodes=frozenset({"fc1"})).model
    second = quantize(first, INT8, INT8_WEIGHTS, ranges=None)
    assert second.quantized_nodes == ("fc2",)
    assert weights(second.model) == ()
    x = m.normal(4, 64)
    assert m.error(m.run(second.model, x), m.run(base, x)) < 0.1
    with pytest.raises(InputError, match="int8-weights finds nothing to quantize"):
        quantize(second.model, INT8, INT8_WEIGHTS, ranges=None)


def test_pruned_zeros_stay(m):
    pruned = prune(prepare(m.mlp()), PruneStep(sparsity="70%"))
    for step, encoding in ((INT8, INT8_WEIGHTS), (INT4, INT4_WEIGHTS), (HALF, FLOAT16_WEIGHTS)):
        made = quantize(pruned.model, step, encoding, ranges=None).model
        stored = [numpy_helper.to_array(t) for t in made.graph.initializer if t.name.endswith(("/quantized", "/half"))]
        assert sum((s == 0).sum() for s in stored) / sum(s.size for s in stored) >= pruned.sparsity


def test_a_tensor_too_large_for_half_stays_and_says_so(m):
    base = prepare(m.mlp())
    w1 = m.tensor(base, "w1").copy()
    w1[0, 0] = 1e6
    next(t for t in base.graph.initializer if t.name == "w1").CopyFrom(numpy_helper.from_array(w1, "w1"))
    result = quantize(base, HALF, FLOAT16_WEIGHTS, ranges=None)
    assert result.quantized_nodes == ("fc2",)
    assert "'w1' has values beyond ±65504" in result.notes[0]


def test_nan_is_refused(m):
    made = m.matmul()
    w = m.tensor(made, "w").copy()
    w[3, 3] = np.nan
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    with pytest.raises(InputError, match="weight 'w' of node 'fc'"):
        quantize(made, INT8, INT8_WEIGHTS, ranges=None)


CHILD = """
import sys, hashlib, onnx
from pathlib import Path
from edgemodel_api.edgemodel import *
from edgemodel_compressor.steps.calibrate import Ranges, TensorRange
from edgemodel_compressor.steps.encodings import BY_NAME
from edgemodel_compressor.steps.prepare import prepare
from edgemodel_compressor.steps.prune import prune
from edgemodel_compressor.steps.quantize import quantize
model = prune(prepare(onnx.load(sys.argv[1])), PruneStep(sparsity="30%", granularity="Global")).model
for name, step in (("int8-weights", QuantizeStep(activations="None")), ("int4-weights", QuantizeStep(precision="Int4")),
                   ("int8-dynamic-s8", QuantizeStep(activations="Dynamic")), ("int8-static-u8s8", QuantizeStep())):
    ranges = Ranges({n: TensorRange(-4.0, 4.0, (-4.0, 4.0)) for n in ("x", "h", "r", "l")}, 1)
    made = quantize(model, step, BY_NAME[name], ranges=ranges).model
    print(hashlib.sha256(made.SerializeToString()).hexdigest())
"""


def test_the_same_bytes_in_every_process(m, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(m.raw(m.mlp()))
    answers = set()
    for seed in ("1", "2"):
        env = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        child = [sys.executable, "-c", CHILD, str(path)]
        answers.add(subprocess.run(child, env=env, capture_output=True, text=True, check=True).stdout)
    assert len(answers) == 1
    assert len(answers.pop().split()) == 4
