"""Static and dynamic integer kernels: numbers, coverage, what stays float, and messages."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.edgemodel import Activations, Exclude, QuantizeStep
from edgemodel_api.errors import InputError, TransientError
from edgemodel_compressor.steps.calibrate import Ranges, TensorRange, calibrate
from edgemodel_compressor.steps.encodings import BY_NAME, DYNAMIC, STATIC
from edgemodel_compressor.steps.prepare import prepare
from edgemodel_compressor.steps.quantize import quantizable, quantize

STEP = QuantizeStep()
DYNAMIC_STEP = QuantizeStep(activations=Activations.DYNAMIC)
U8S8 = BY_NAME["int8-static-u8s8"]
STATICS = [pytest.param(e, id=e.name) for e in STATIC]


def of(made):
    return Counter(n.op_type for n in made.graph.node)


def exact(**ranges):
    return Ranges({n: TensorRange(lo, hi, (lo, hi)) for n, (lo, hi) in ranges.items()}, 1)


@pytest.fixture
def measured(tmp_path):
    def measure(base, data, rows=16):
        path = tmp_path / "float.onnx"
        path.write_bytes(base.SerializeToString())
        return calibrate(path, data, rows=rows, samples=64, seed=0)

    return measure


def test_golden_numbers(m):
    w = np.array([[1.27, 0.5], [-0.635, -1.0]], dtype=np.float32)
    made = prepare(m.model([m.node("MatMul", ["x", "w"], "y", name="fc")], {"w": w}, x=("n", 2)))
    done = quantize(made, STEP, U8S8, ranges=exact(x=(-1.0, 1.55), y=(-2.55, 0.0)))
    assert done.quantized_nodes == ("fc",)
    # x: 2.55 / 255 = 0.01 from −1 (zero point 100); w: a scale per column, symmetric; −63.5 rounds to even.
    assert m.tensor(done.model, "x_scale") == pytest.approx(0.01)
    assert m.tensor(done.model, "x_zero_point") == 100
    assert m.tensor(done.model, "w_quantized").tolist() == [[127, 64], [-64, -127]]
    np.testing.assert_allclose(m.tensor(done.model, "w_scale"), [0.01, 1 / 127], rtol=1e-6)
    assert m.tensor(done.model, "w_zero_point").tolist() == [0, 0]


@pytest.mark.parametrize("encoding", STATICS)
def test_a_cnn_in_each_encoding(m, measured, encoding):
    made = m.cnn()
    base = prepare(made)
    x = np.random.default_rng(0).normal(size=(64, 1, 8, 8)).astype(np.float32)
    ranges = measured(base, m.Data(x=x))
    before = m.raw(base)
    done = quantize(base, STEP, encoding, ranges=ranges)
    assert m.raw(base) == before
    assert m.raw(done.model) == m.raw(quantize(base, STEP, encoding, ranges=ranges).model)
    assert done.quantized_nodes == ("conv1", "conv2", "fc") == quantizable(base, STEP)
    assert m.in_order(done.model)
    assert m.error(m.run(done.model, x), m.run(made, x)) < 0.06
    kinds = {t.name: t.data_type for t in done.model.graph.initializer}
    assert kinds["w2_quantized"] == (TensorProto.INT8 if "u8u8" not in encoding.name else TensorProto.UINT8)
    assert (m.tensor(done.model, "w2_scale").shape == (8,)) is encoding.per_channel
    limit = 64 if encoding.reduce_range else 127
    if encoding.weight == "int8":
        assert np.abs(m.tensor(done.model, "w2_quantized").astype(int)).max() == limit


def test_reduced_weights_cannot_saturate_16_bits(m):
    """vpmaddubsw adds two products u8·s8 in a saturating int16: the worst case of each encoding without VNNI."""
    w = np.full((64, 8), 1.0, dtype=np.float32)
    base = prepare(m.model([m.node("MatMul", ["x", "w"], "y", name="fc")], {"w": w}, x=("n", 64)))
    ranges = exact(x=(0.0, 1.0), y=(0.0, 64.0))
    worst = {}
    for name in ("int8-static-u8s8", "int8-static-u8s7"):
        numbers = m.tensor(quantize(base, STEP, BY_NAME[name], ranges=ranges).model, "w_quantized").astype(int)
        worst[name] = 2 * 255 * int(np.abs(numbers).max())
    assert worst["int8-static-u8s8"] == 64770 > 32767
    assert worst["int8-static-u8s7"] == 32640 <= 32767


def test_the_last_answers_are_computed_in_float(m, measured):
    """fc2 feeds a float Softmax: no pair in between, and Softmax itself is not worth integers."""
    base = prepare(m.mlp())
    x = m.normal(64, 64)
    done = quantize(base, STEP, U8S8, ranges=measured(base, m.Data(x=x))).model
    fc2 = next(n for n in done.graph.node if n.name == "fc2")
    softmax = next(n for n in done.graph.node if n.op_type == "Softmax")
    assert softmax.input[0] == fc2.output[0]
    # x and the hidden layer: two pairs of activations, DequantizeLinear of two weights and two biases.
    assert of(done)["QuantizeLinear"] == 2
    assert np.abs(m.run(done, x) - m.run(base, x)).max() < 0.1


def test_passing_nodes_only_between_quantized_ones(m, measured):
    nodes = [
        m.node("Add", ["x", "one"], "a", name="before"), m.node("MatMul", ["a", "w"], "h", name="fc1"),
        m.node("Add", ["h", "one"], "i", name="between"), m.node("MatMul", ["i", "v"], "k", name="fc2"),
        m.node("Add", ["k", "one"], "y", name="after"),
    ]  # fmt: skip
    tensors = {"one": np.ones(16, np.float32), "w": m.normal(16, 16), "v": m.normal(16, 16)}
    base = prepare(m.model(nodes, tensors, x=("n", 16)))
    done = quantize(base, STEP, U8S8, ranges=measured(base, m.Data(x=m.normal(32, 16)))).model
    producer = {o: n.op_type for n in done.graph.node for o in n.output}
    feeds = {n.name: producer.get(n.input[0]) for n in done.graph.node}
    assert feeds["between"] == "DequantizeLinear"
    assert feeds["before"] is None
    assert feeds["after"] == "MatMul"


LAYERS = {
    "1-D Conv": ("Conv", (8, 4, 3), {}, (2, 4, 9)),
    "grouped Conv": ("Conv", (8, 2, 3, 3), {"group": 2}, (2, 4, 6, 6)),
    "depthwise Conv": ("Conv", (4, 1, 3, 3), {"group": 4}, (2, 4, 6, 6)),
    "3-D Conv": ("Conv", (8, 4, 2, 2, 2), {}, (2, 4, 4, 4, 4)),
    "ConvTranspose": ("ConvTranspose", (4, 8, 2, 2), {}, (2, 4, 6, 6)),
    "Gemm transB": ("Gemm", (8, 4), {"transB": 1}, (5, 4)),
    "batched MatMul": ("MatMul", (2, 4, 8), {}, (2, 5, 4)),
}


@pytest.mark.parametrize("encoding", STATICS)
@pytest.mark.parametrize("name", LAYERS)
def test_each_kind_of_node(m, measured, name, encoding):
    op, shape, attributes, x_shape = LAYERS[name]
    made = m.model([m.node(op, ["x", "w"], "y", name="n", **attributes)], {"w": m.normal(*shape)}, x=x_shape)
    base = prepare(made)
    x = m.normal(*x_shape)
    done = quantize(base, STEP, encoding, ranges=measured(base, m.Data(x=x), rows=x_shape[0]))
    assert m.error(m.run(done.model, x), m.run(made, x)) < 0.05


def test_shared_weights_and_biases(m, measured):
    """Twice the same weight and bias behind different ranges; `b2` is a name that the quantizer would make up."""
    nodes = [
        m.node("Gemm", ["x", "w", "b"], "h", name="one"), m.node("Mul", ["h", "s"], "b2", name="big"),
        m.node("Gemm", ["b2", "w", "b"], "y", name="two"),
    ]  # fmt: skip
    tensors = {"w": m.normal(16, 16), "b": m.normal(16), "s": np.float32(50)}
    made = m.model(nodes, tensors, x=("n", 16))
    base, x = prepare(made), m.normal(32, 16)
    done = quantize(base, STEP, U8S8, ranges=measured(base, m.Data(x=x)))
    assert m.in_order(done.model)
    assert m.error(m.run(done.model, x), m.run(made, x)) < 0.05


def test_attention_and_masks_of_infinity(m, measured):
    """MatMul of two activations is quantized; a tensor with −∞ in it is not."""
    mask = np.where(np.tri(6, dtype=bool), 0, -np.inf).astype(np.float32)
    nodes = [
        m.node("MatMul", ["x", "wq"], "q", name="q"), m.node("Transpose", ["x"], "t", name="t", perm=[0, 2, 1]),
        m.node("MatMul", ["q", "t"], "s", name="scores"), m.node("Add", ["s", "mask"], "a", name="mask"),
        m.node("Softmax", ["a"], "p", name="p", axis=-1), m.node("MatMul", ["p", "x"], "y", name="out"),
    ]  # fmt: skip
    made = m.model(nodes, {"wq": m.normal(8, 8) * 0.3, "mask": mask}, x=("n", 6, 8))
    base, x = prepare(made), m.normal(16, 6, 8)
    done = quantize(base, STEP, U8S8, ranges=measured(base, m.Data(x=x)))
    assert done.quantized_nodes == ("q", "scores", "out")
    assert m.error(m.run(done.model, x), m.run(made, x)) < 0.05
    broken = Ranges({n: replace(r, finite=n != "s") for n, r in measured(base, m.Data(x=x)).tensors.items()}, 1)
    partly = quantize(base, STEP, U8S8, ranges=broken)
    assert partly.quantized_nodes == ("q", "out")
    assert "1 node stays float" in partly.notes[0]
    assert "scores" in partly.notes[0]


@pytest.mark.parametrize(("opset", "note"), [(11, "written in opset 13 instead of 11"), (17, None)])
def test_scales_per_channel_need_opset_13(m, measured, opset, note):
    base = prepare(m.cnn(opset=opset))
    x = np.random.default_rng(0).normal(size=(32, 1, 8, 8)).astype(np.float32)
    done = quantize(base, STEP, U8S8, ranges=measured(base, m.Data(x=x)))
    assert done.notes == ((note,) if note else ())
    assert m.error(m.run(done.model, x), m.run(base, x)) < 0.05


def test_without_a_converter_one_scale_per_tensor(m, monkeypatch):
    monkeypatch.setattr("edgemodel_compressor.steps.integer.upgrade_opset", lambda model, version: None)
    base = prepare(m.matmul(opset=11))
    ranges = exact(x=(-3.0, 3.0), y=(-20.0, 20.0))
    done = quantize(base, STEP, U8S8, ranges=ranges)
    assert "one scale per tensor" in done.notes[0]
    assert m.tensor(done.model, "w_scale").shape == ()
    with pytest.raises(
        InputError, match=r"needs opset 10, the model is in opset 9 .* export it with opset 13 or newer"
    ):
        quantize(prepare(m.matmul(opset=9)), STEP, U8S8, ranges=ranges)


@pytest.mark.parametrize("name", ["y_QuantizeLinear_Output", "w_quantized", "x_scale"])
def test_names_that_clash_with_the_quantizers(m, measured, name):
    nodes = [m.node("MatMul", ["x", "w"], "y1", name="fc"), m.node("Relu", ["y1"], name, name="r"),
             m.node("MatMul", [name, "w"], "y", name="fc2")]  # fmt: skip
    base = prepare(m.model(nodes, {"w": m.normal(16, 16)}, x=("n", 16)))
    ranges = measured(base, m.Data(x=m.normal(16, 16)))
    with pytest.raises(InputError, match=f"a tensor named '{name}', which the model has already: rename it"):
        quantize(base, STEP, U8S8, ranges=ranges)


@pytest.mark.parametrize(
    ("step", "encoding", "ranges", "message"),
    [
        pytest.param(STEP, U8S8, None, "needs ranges of activations: give data.calibration", id="no ranges"),
        pytest.param(
            STEP.replace(exclude=Exclude(ops=("MatMul",))),
            U8S8,
            Ranges({}, 0),
            "finds nothing to quantize",
            id="static",
        ),
        pytest.param(
            DYNAMIC_STEP.replace(exclude=Exclude(nodes=("fc",))), DYNAMIC[0], None, "no MatMul, Gemm", id="dynamic"
        ),
    ],
)
def test_messages(m, step, encoding, ranges, message):
    with pytest.raises(InputError, match=message):
        quantize(prepare(m.matmul()), step, encoding, ranges=ranges)


def test_what_the_quantizer_raises_becomes_a_message(m, monkeypatch):
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    def fail(self):
        raise AssertionError("unexpected thing at fc")

    monkeypatch.setattr(QDQQuantizer, "quantize_model", fail)
    with pytest.raises(InputError, match=r"cannot take node 'fc' as int8-static-u8s8: .*; exclude it, or use"):
        quantize(prepare(m.matmul()), STEP, U8S8, ranges=exact(x=(-3.0, 3.0), y=(-20.0, 20.0)))


def test_a_full_disk_is_not_the_models_fault(m, monkeypatch):
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    def fail(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(QDQQuantizer, "quantize_model", fail)
    with pytest.raises(TransientError, match="No space left"):
        quantize(prepare(m.matmul()), STEP, U8S8, ranges=exact(x=(-3.0, 3.0), y=(-20.0, 20.0)))


@pytest.mark.parametrize("encoding", [pytest.param(e, id=e.name) for e in DYNAMIC])
def test_dynamic_gemm_and_never_conv(m, encoding):
    base = prepare(m.mlp())
    x = m.normal(8, 64)
    done = quantize(base, DYNAMIC_STEP, encoding, ranges=None)
    assert done.quantized_nodes == ("fc1", "fc2") == quantizable(base, DYNAMIC_STEP)
    assert of(done.model)["MatMulInteger"] == 2
    assert np.abs(m.run(done.model, x) - m.run(base, x)).max() < 0.1
    cnn = quantize(prepare(m.cnn()), DYNAMIC_STEP, encoding, ranges=None)
    assert cnn.quantized_nodes == ("fc",)
    assert "ConvInteger" not in of(cnn.model)


def test_dynamic_lstm(m):
    node = helper.make_node("LSTM", ["x", "W", "R"], ["y"], name="rnn", hidden_size=16)
    made = m.model([node], {"W": m.normal(1, 64, 8) * 0.2, "R": m.normal(1, 64, 16) * 0.2}, x=(5, 2, 8))
    x = m.normal(5, 2, 8)
    done = quantize(prepare(made), DYNAMIC_STEP, BY_NAME["int8-dynamic-s8"], ranges=None)
    assert of(done.model) == {"DynamicQuantizeLSTM": 1}
    assert m.error(m.run(done.model, x), m.run(made, x)) < 0.05


def test_float64_has_no_integer_kernels(m):
    made = m.matmul(x_type=TensorProto.DOUBLE, y_type=TensorProto.DOUBLE)
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(m.normal(32, 16, dtype=np.float64), "w"))
    assert quantizable(prepare(made), STEP) == ()
    assert quantizable(prepare(made), QuantizeStep(activations=Activations.NONE)) == ("fc",)


def test_a_weight_that_a_branch_reads_too(m, measured):
    """The branch goes on with the float weight, which must not be dropped."""

    def branch(name, op):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["h", "w"], [name], name=name)], name, [], [out])

    nodes = [
        m.node("MatMul", ["x", "w"], "h", name="fc"), m.node("ReduceSum", ["x"], "s", keepdims=0),
        m.node("Greater", ["s", "zero"], "c"),
        helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch("t", "MatMul"), else_branch=branch("e", "Sub")),
    ]  # fmt: skip
    base = prepare(m.model(nodes, {"w": m.normal(16, 16), "zero": np.float32(0)}, x=(16, 16)))
    x = m.normal(16, 16)
    done = quantize(base, STEP, U8S8, ranges=measured(base, m.Data(x=x)))
    for sign in (1, -1):
        assert m.error(m.run(done.model, sign * x), m.run(base, sign * x)) < 0.1


def test_a_model_that_is_quantized_already_has_nothing_left(m, measured):
    base = prepare(m.mlp())
    ranges = measured(base, m.Data(x=m.normal(64, 64)))
    done = quantize(base, STEP, U8S8, ranges=ranges).model
    assert quantizable(prepare(done), STEP) == ()
    for step, encoding in ((STEP, U8S8), (QuantizeStep(activations=Activations.NONE), BY_NAME["int8-weights"])):
        with pytest.raises(InputError, match="finds nothing to quantize"):
            quantize(prepare(done), step, encoding, ranges=ranges)
