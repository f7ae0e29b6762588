"""Operators and uses of them that our writer does not make, in files made by hand: read as ONNX, beside LiteRT."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgemodel_api.edgemodel import Format
from edgemodel_api.errors import InputError
from edgemodel_compressor.formats import check_operators
from edgemodel_compressor.formats.tflite import read_file, schema
from edgemodel_compressor.formats.tflite.graph import Free, Graph, Op, Quantization, Tensor
from edgemodel_compressor.formats.tflite.read import read_source
from edgemodel_compressor.steps.prepare import prepare

RELU, RELU_N1, RELU6, TANH = 1, 2, 3, 4
SAME, VALID = 0, 1


class Hand:
    """A file of a few operators.

    >>> h = Hand()
    >>> x = h.input("x", (1, 4, 4, 3))
    >>> h.output("y", h.op("ABS", [x], (1, 4, 4, 3)))
    """

    def __init__(self, seed: int = 0) -> None:
        self.graph = Graph()
        self.rng = np.random.default_rng(seed)
        self.variables: set[str] = set()
        self.feeds: dict[str, np.ndarray] = {}

    def input(
        self, name: str, shape: tuple[int, ...], dtype: Any = np.float32, q: Any = None, rows: Any = None
    ) -> Tensor:
        tensor = Tensor(name, shape, np.dtype(dtype), None, q)
        self.graph.inputs[name] = tensor
        count = 4 if int(shape[0]) == 1 else int(shape[0])
        whole = (count, *map(int, shape[1:]))
        if rows is not None:
            self.feeds[name] = np.asarray(rows, dtype=dtype)
        elif np.dtype(dtype).kind == "f":
            self.feeds[name] = self.rng.standard_normal(whole).astype(dtype)
        elif np.dtype(dtype).kind == "b":
            self.feeds[name] = self.rng.random(whole) > 0.5
        else:
            low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if q is not None else (1, 9)
            self.feeds[name] = self.rng.integers(low, high, whole).astype(dtype)
        return tensor

    def const(self, values: Any, dtype: Any = np.float32, q: Any = None, name: str = "c") -> Tensor:
        array = np.asarray(values, dtype=dtype)
        return Tensor(name, array.shape, array.dtype, array, q)

    def weights(self, *shape: int) -> Tensor:
        return self.const(self.rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:]))))

    def ints(self, *values: int) -> Tensor:
        return self.const(list(values), np.int32)

    def op(
        self, code: str, inputs: list[Tensor | None], shape: Any, dtype: Any = np.float32, q: Any = None, **options: Any
    ) -> Tensor:
        return self.ops(code, inputs, [shape], dtype, q, **options)[0]

    def ops(
        self,
        code: str,
        inputs: list[Tensor | None],
        shapes: list[Any],
        dtype: Any = np.float32,
        q: Any = None,
        **options: Any,
    ) -> list[Tensor]:
        made = [Tensor(f"{code.lower()}{i}", tuple(s), np.dtype(dtype), None, q) for i, s in enumerate(shapes)]
        self.graph.ops.append(Op(code, list(inputs), list(made), options))
        return made

    def output(self, name: str, tensor: Tensor) -> None:
        tensor.name = name
        self.graph.outputs[name] = tensor

    def content(self) -> bytes:
        content = schema.serialize(self.graph, description="by hand")
        if self.variables:
            content = edited(
                content,
                lambda m: [
                    setattr(t, "isVariable", True)
                    for t in m.subgraphs[0].tensors
                    if t.name and t.name.decode() in self.variables
                ],
            )
        return content


def edited(content: bytes, change: Any) -> bytes:
    """A file with something else in its tables."""
    import flatbuffers

    model = schema.parse(content)
    change(model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def quant(scale: float, zero: int = 0) -> Quantization:
    return Quantization(np.array([scale], np.float32), np.array([zero], np.int64))


@pytest.fixture
def hand(build, tmp_path):
    """Writes, reads and compares."""

    def done(h: Hand, tensor: Tensor | None = None, *, tolerance: float = 1e-5, free: bool | None = True):
        if tensor is not None:
            h.output("y", tensor)
        path = tmp_path / "hand.tflite"
        path.write_bytes(h.content())
        read = build.read_back(path, h.feeds, tolerance=tolerance)
        if free is not None:
            assert read.free_batch is free, read.notes
        return read

    return done


PICTURE = (1, 7, 6, 4)


@pytest.mark.parametrize("activation", [0, RELU, RELU_N1, RELU6])
@pytest.mark.parametrize("padding", [SAME, VALID])
def test_conv_and_its_activation(hand, activation, padding):
    h = Hand()
    x = h.input("x", PICTURE)
    size = (4, 3) if padding == SAME else (3, 2)
    y = h.op("CONV_2D", [x, h.weights(5, 3, 3, 4), h.weights(5)], (1, *size, 5), padding=padding, strideH=2, strideW=2,
             fusedActivationFunction=activation)  # fmt: skip
    read = hand(h, y)
    assert [n.op_type for n in read.model.graph.node][:2] == ["Transpose", "Conv"]


def test_grouped_conv(hand):
    h = Hand()
    y = h.op(
        "CONV_2D", [h.input("x", PICTURE), h.weights(6, 3, 3, 2), h.weights(6)], (1, 7, 6, 6), strideH=1, strideW=1
    )
    # No kernel of LiteRT's beside XNNPACK has groups, so shapes alone are looked at where it refuses.
    hand(h, y)


@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise(hand, multiplier):
    h = Hand()
    out = 4 * multiplier
    y = h.op("DEPTHWISE_CONV_2D", [h.input("x", PICTURE), h.weights(1, 3, 3, out), h.weights(out)], (1, 7, 6, out),
             strideH=1, strideW=1, depthMultiplier=multiplier, dilationHFactor=2, dilationWFactor=1)  # fmt: skip
    hand(h, y)


@pytest.mark.parametrize(
    ("padding", "size", "stride"), [(SAME, (14, 12), 2), (SAME, (13, 11), 2), (VALID, (15, 13), 2), (SAME, (7, 6), 1)]
)
def test_transpose_conv(hand, padding, size, stride):
    h = Hand()
    y = h.op("TRANSPOSE_CONV", [h.ints(1, *size, 5), h.weights(5, 3, 3, 4), h.input("x", PICTURE)], (1, *size, 5),
             padding=padding, strideH=stride, strideW=stride)  # fmt: skip
    hand(h, y)


@pytest.mark.parametrize("code", ["MAX_POOL_2D", "AVERAGE_POOL_2D", "L2_POOL_2D"])
@pytest.mark.parametrize("padding", [SAME, VALID])
def test_pools(hand, code, padding):
    h = Hand()
    size = (4, 3) if padding == SAME else (3, 2)
    y = h.op(code, [h.input("x", PICTURE)], (1, *size, 4), padding=padding, strideH=2, strideW=2, filterHeight=3,
             filterWidth=3, fusedActivationFunction=RELU)  # fmt: skip
    hand(h, y)


@pytest.mark.parametrize("keep", [False, True])
def test_fully_connected_of_several_dimensions(hand, keep):
    h = Hand()
    shape = (1, 3, 5) if keep else (3, 5)
    y = h.op("FULLY_CONNECTED", [h.input("x", (1, 3, 4)), h.weights(5, 4), h.weights(5)], shape, keepNumDims=keep,
             fusedActivationFunction=RELU)  # fmt: skip
    hand(h, y, free=True)


@pytest.mark.parametrize(("x_flip", "y_flip"), [(False, False), (True, True)])
def test_batch_matmul(hand, x_flip, y_flip):
    h = Hand()
    a, b = (
        h.input("a", (1, 2, 5, 3) if x_flip else (1, 2, 3, 5)),
        h.input("b", (1, 2, 4, 5) if y_flip else (1, 2, 5, 4)),
    )
    hand(h, h.op("BATCH_MATMUL", [a, b], (1, 2, 3, 4), adjX=x_flip, adjY=y_flip))


UNARY = ["ABS", "NEG", "EXP", "SIN", "COS", "FLOOR", "CEIL", "ROUND", "SIGN", "ELU", "RELU", "RELU6", "RELU_N1_TO_1",
         "RELU_0_TO_1", "TANH", "LOGISTIC", "HARD_SWISH", "SQUARE", "ZEROS_LIKE", "L2_NORMALIZATION", "GELU", "SOFTMAX", "LOG_SOFTMAX"]  # fmt: skip


@pytest.mark.parametrize("code", UNARY)
def test_unary(hand, code):
    h = Hand()
    options = {"SOFTMAX": {"beta": 0.7}, "GELU": {"approximate": True}}.get(code, {})
    hand(h, h.op(code, [h.input("x", PICTURE)], PICTURE, **options), tolerance=2e-5)


@pytest.mark.parametrize("code", ["SQRT", "RSQRT", "LOG"])
def test_of_positive_numbers(hand, code):
    h = Hand()
    hand(h, h.op(code, [h.op("EXP", [h.input("x", PICTURE)], PICTURE)], PICTURE))


BINARY = [
    "ADD",
    "SUB",
    "MUL",
    "DIV",
    "MAXIMUM",
    "MINIMUM",
    "SQUARED_DIFFERENCE",
    "FLOOR_DIV",
    "FLOOR_MOD",
    "POW",
    "ATAN2",
]


@pytest.mark.parametrize("code", BINARY)
@pytest.mark.parametrize("other", [(4,), (1, 1, 4), (7, 1, 1), (7, 6, 4)])
def test_binary_behind_a_convolution(hand, code, other):
    h = Hand()
    c = h.op("CONV_2D", [h.input("x", PICTURE), h.weights(4, 1, 1, 4), h.weights(4)], PICTURE, strideH=1, strideW=1)
    base = h.op("EXP", [c], PICTURE) if code == "POW" else c
    k = h.const(np.abs(h.rng.standard_normal(other)) + 0.5)
    if code == "ATAN2":
        k = h.op("BROADCAST_TO", [k, h.ints(*PICTURE)], PICTURE)
    # LiteRT rounds a quotient and what is left of it in float32, so a whole number may fall to either side.
    hand(h, h.op(code, [base, k], PICTURE), tolerance=2e-3 if code.startswith("FLOOR") else 1e-5)


@pytest.mark.parametrize("code", ["ADD", "SUB", "MUL", "DIV", "FLOOR_DIV", "FLOOR_MOD", "MAXIMUM"])
def test_binary_of_integers(hand, code):
    h = Hand()
    x, k = h.input("x", (1, 6), np.int32), h.const([[-3, 2, 5, -4, 1, 7]], np.int32)
    negative = h.op("SUB", [x, h.const(5, np.int32)], (1, 6), np.int32)
    hand(h, h.op(code, [negative, k], (1, 6), np.int32), tolerance=0)


@pytest.mark.parametrize("code", ["EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"])
def test_comparisons_and_choices(hand, code):
    h = Hand()
    x, z = h.input("x", (1, 5)), h.input("z", (1, 5))
    truth = h.op(code, [x, z], (1, 5), np.bool_)
    other = h.op("LOGICAL_NOT", [truth], (1, 5), np.bool_)
    both = h.op("LOGICAL_OR", [truth, h.op("LOGICAL_AND", [other, other], (1, 5), np.bool_)], (1, 5), np.bool_)
    h.output("a", h.op("SELECT", [truth, x, z], (1, 5)))
    h.output("b", h.op("SELECT_V2", [other, x, h.const(0.5)], (1, 5)))
    h.output("all", h.op("REDUCE_ALL", [both, h.ints(1)], (1,), np.bool_))
    h.output("any", h.op("REDUCE_ANY", [truth, h.ints(1)], (1, 1), np.bool_, keepDims=True))
    hand(h)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("code", ["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"])
@pytest.mark.parametrize("axes", [(1, 2), (3,), (-1, 1)])
def test_reductions_behind_a_convolution(hand, code, axes, keep):
    h = Hand()
    c = h.op("CONV_2D", [h.input("x", PICTURE), h.weights(4, 1, 1, 4), h.weights(4)], PICTURE, strideH=1, strideW=1)
    gone = {a % 4 for a in axes}
    shape = [1 if a in gone else d for a, d in enumerate(PICTURE) if keep or a not in gone]
    hand(h, h.op(code, [c, h.ints(*axes)], shape, keepDims=keep))


def test_cutting_and_joining(hand):
    h = Hand()
    c = h.op("CONV_2D", [h.input("x", PICTURE), h.weights(4, 1, 1, 4), h.weights(4)], PICTURE, strideH=1, strideW=1)
    part = h.op("SLICE", [c, h.ints(0, 1, 0, 1), h.ints(-1, 4, -1, 2)], (1, 4, 6, 2))
    left, right = h.ops("SPLIT", [h.const(2, np.int32), part], [(1, 4, 3, 2)] * 2, numSplits=2)
    joined = h.op("CONCATENATION", [left, right, left], (1, 4, 3, 6), axis=-1)
    turned = h.op("REVERSE_V2", [joined, h.ints(1)], (1, 4, 3, 6))
    a, b, c2 = h.ops(
        "SPLIT_V",
        [turned, h.ints(1, 2, 3), h.const(3, np.int32)],
        [(1, 4, 3, 1), (1, 4, 3, 2), (1, 4, 3, 3)],
        numSplits=3,
    )
    flat = h.op("SQUEEZE", [a], (1, 4, 3), squeezeDims=[3])
    wide = h.op("EXPAND_DIMS", [flat, h.ints(1)], (1, 1, 4, 3))
    h.output("wide", wide)
    h.output("packed", h.op("PACK", [flat, flat], (1, 2, 4, 3), axis=1, valuesCount=2))
    rows = h.ops("UNPACK", [b], [(1, 4, 2)] * 3, num=3, axis=2)
    h.output("row", h.op("ADD_N", rows, (1, 4, 2)))
    h.output("tiled", h.op("TILE", [c2, h.ints(1, 2, 1, 1)], (1, 8, 3, 3)))
    hand(h)


#: (begin, end, strides, masks, shape of the result) of (1, 7, 6, 4).
STRIDED = {
    "all": ((0, 0, 0, 0), (0, 0, 0, 0), (1, 1, 1, 1), {"beginMask": 15, "endMask": 15}, (1, 7, 6, 4)),
    "steps": ((0, 1, -1, 0), (0, 6, -7, 4), (1, 2, -2, 1), {"endMask": 1}, (1, 3, 3, 4)),
    "shrink": ((0, 2, 0, -1), (1, 3, 6, 0), (1, 1, 1, 1), {"endMask": 1, "shrinkAxisMask": 10}, (1, 6)),
    "ellipsis": ((0, 0, 1), (0, 0, 3), (1, 1, 1), {"beginMask": 1, "endMask": 1, "ellipsisMask": 2}, (1, 7, 6, 2)),
    "new": ((0, 0, 2), (0, 0, 5), (1, 1, 1), {"beginMask": 1, "endMask": 1, "newAxisMask": 2}, (1, 1, 3, 6, 4)),
}  # fmt: skip


@pytest.mark.parametrize("case", STRIDED)
def test_strided_slices(hand, case):
    begin, end, strides, masks, shape = STRIDED[case]
    h = Hand()
    c = h.op("CONV_2D", [h.input("x", PICTURE), h.weights(4, 1, 1, 4), h.weights(4)], PICTURE, strideH=1, strideW=1)
    hand(h, h.op("STRIDED_SLICE", [c, h.ints(*begin), h.ints(*end), h.ints(*strides)], shape, **masks))


@pytest.mark.parametrize("code", ["PAD", "PADV2", "REFLECT", "SYMMETRIC"])
def test_pads(hand, code):
    h = Hand()
    pads = h.const([[0, 0], [1, 2], [0, 3], [0, 0]], np.int32)
    shape = (1, 10, 9, 4)
    c = h.op("CONV_2D", [h.input("x", PICTURE), h.weights(4, 1, 1, 4), h.weights(4)], PICTURE, strideH=1, strideW=1)
    if code in ("REFLECT", "SYMMETRIC"):
        hand(h, h.op("MIRROR_PAD", [c, pads], shape, mode=int(code == "SYMMETRIC")))
    else:
        hand(h, h.op(code, [c, pads, *([h.const(1.5)] if code == "PADV2" else [])], shape))


@pytest.mark.parametrize("code", ["RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"])
@pytest.mark.parametrize(
    "options", [{}, {"alignCorners": True}, {"halfPixelCenters": True}], ids=["plain", "corners", "half"]
)
@pytest.mark.parametrize("size", [(14, 12), (3, 4), (11, 5)])
def test_resizes(hand, code, options, size):
    h = Hand()
    hand(h, h.op(code, [h.input("x", PICTURE), h.ints(*size)], (1, *size, 4), **options))


def test_lookups(hand):
    h = Hand()
    ids = h.input("ids", (1, 5), np.int32)
    vectors = h.op("GATHER", [h.weights(9, 3), ids], (1, 5, 3), axis=0)
    h.output("turned", h.op("GATHER", [vectors, h.ints(2, 0)], (1, 5, 2), axis=2))
    h.output("hot", h.op("ONE_HOT", [ids, h.const(6, np.int32), h.const(2.0), h.const(-1.0)], (1, 5, 6), axis=-1))
    values, places = h.ops("TOPK_V2", [vectors, h.const(2, np.int32)], [(1, 5, 2)] * 2)
    places.dtype = np.dtype(np.int32)
    h.output("values", values)
    h.output("places", places)
    h.output("best", h.op("ARG_MAX", [vectors, h.const(-1, np.int32)], (1, 5), np.int32, outputType=2))
    h.output("sums", h.op("CUMSUM", [vectors, h.const(1, np.int32)], (1, 5, 3), exclusive=True, reverse=True))
    hand(h)


def test_embedding_lookup_and_batch_dimensions(hand):
    h = Hand()
    ids = h.input("ids", (4,), np.int32)
    h.output("rows", h.op("EMBEDDING_LOOKUP", [ids, h.weights(9, 3)], (4, 3)))
    table = h.op("RESHAPE", [ids, h.ints(2, 2)], (2, 2), np.int32)
    picked = h.op(
        "GATHER",
        [h.weights(2, 5, 3), h.op("MINIMUM", [table, h.const(4, np.int32)], (2, 2), np.int32)],
        (2, 2, 3),
        axis=1,
        batchDims=1,
    )
    h.output("picked", picked)
    hand(h, free=False)


def test_sizes_that_follow_from_the_batch(hand):
    """As converters write `tf.reshape(x, [tf.shape(x)[0], -1])` and `tf.zeros([tf.shape(x)[0], 2])`."""
    h = Hand()
    x = h.input("x", (Free(1), 3, 4))
    sizes = h.op("SHAPE", [x], (3,), np.int32, outType=2)
    batch = h.op("STRIDED_SLICE", [sizes, h.ints(0), h.ints(1), h.ints(1)], (), np.int32, shrinkAxisMask=1)
    flat = h.op(
        "RESHAPE",
        [x, h.op("PACK", [batch, h.const(12, np.int32)], (2,), np.int32, valuesCount=2, axis=0)],
        (Free(1), 12),
    )
    zeros = h.op(
        "FILL",
        [h.op("PACK", [batch, h.const(2, np.int32)], (2,), np.int32, valuesCount=2, axis=0), h.const(3.0)],
        (Free(1), 2),
    )
    hand(h, h.op("CONCATENATION", [flat, zeros], (Free(1), 14), axis=1))


def test_what_mixes_samples_keeps_its_batch(hand):
    h = Hand()
    read = hand(h, h.op("SUM", [h.input("x", (1, 3, 4)), h.ints(0)], (3, 4)), free=False)
    assert "along the batch" in read.notes[0]


def test_other_batches_stay(hand):
    h = Hand()
    hand(h, h.op("ABS", [h.input("x", (3, 4))], (3, 4)), free=False)


@pytest.mark.parametrize("major", [False, True])
@pytest.mark.parametrize("peepholes", [False, True])
def test_lstm(hand, major, peepholes):
    h = Hand()
    x = h.input(
        "x", (6, 1, 3) if major else (1, 6, 3), rows=None if not major else Hand().rng.standard_normal((6, 1, 3))
    )
    states = [Tensor(n, (1, 5), np.dtype(np.float32)) for n in ("state", "cell")]
    h.variables = {"state", "cell"}
    parts = [*(h.weights(5, 3) for _ in range(4)), *(h.weights(5, 5) for _ in range(4)),
             *(h.weights(5) if peepholes else None for _ in range(3)), *(h.weights(5) for _ in range(4)), None, None, *states,
             None, None, None, None]  # fmt: skip
    y = h.op(
        "UNIDIRECTIONAL_SEQUENCE_LSTM", [x, *parts], (*x.shape[:2], 5), timeMajor=major, fusedActivationFunction=TANH
    )
    # The file's own states stay from run to run; one run is compared.
    h.feeds = {n: a[: 6 if major else 1] for n, a in h.feeds.items()}
    read = hand(h, y, free=False)
    assert any("states" in n for n in read.notes)


def test_rnn(hand):
    h = Hand()
    x = h.input("x", (1, 6, 3))
    state = Tensor("state", (1, 5), np.dtype(np.float32))
    h.variables = {"state"}
    y = h.op("UNIDIRECTIONAL_SEQUENCE_RNN", [x, h.weights(5, 3), h.weights(5, 5), h.weights(5), state], (1, 6, 5),
             fusedActivationFunction=TANH)  # fmt: skip
    h.feeds = {n: a[:1] for n, a in h.feeds.items()}
    hand(h, y, free=False)


def per_channel(values: np.ndarray, axis: int) -> tuple[np.ndarray, Quantization]:
    others = tuple(a for a in range(values.ndim) if a != axis)
    scale = (np.abs(values).max(axis=others) / 127).astype(np.float32)
    shape = [-1 if a == axis else 1 for a in range(values.ndim)]
    return np.rint(values / scale.reshape(shape)).astype(np.int8), Quantization(
        scale, np.zeros(len(scale), np.int64), axis
    )


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("activation", [0, RELU, RELU6])
def test_int8_convolution_with_a_scale_a_channel(depthwise, activation):
    h = Hand()
    qx, qy = quant(0.03, 4), quant(0.02, -128 if activation else 3)
    numbers, qw = per_channel(
        h.rng.standard_normal((1, 3, 3, 4) if depthwise else (4, 3, 3, 4)) / 4, 3 if depthwise else 0
    )
    bias = Quantization(qw.scale * np.float32(0.03), np.zeros(4, np.int64), 0)
    inputs = [
        h.input("x", PICTURE, np.int8, qx),
        h.const(numbers, np.int8, qw),
        h.const([100, -50, 0, 900], np.int32, bias),
    ]
    code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    more = {"depthMultiplier": 1} if depthwise else {}
    h.output(
        "y", h.op(code, inputs, PICTURE, np.int8, qy, strideH=1, strideW=1, fusedActivationFunction=activation, **more)
    )
    read = close(h)
    counts = [n.op_type for n in read.model.graph.node]
    # With a zero point of −128 and a scale of 0.02 the integers hold [0, 5.1], which is within both.
    assert not {"Relu", "Clip"} & set(counts)


def close(h: Hand, steps: int = 1) -> Any:
    """Integers: the same but for a step."""
    import onnxruntime

    from edgemodel_compressor.formats import tflite
    from edgemodel_compressor.formats.tflite import read_file
    from edgemodel_compressor.formats.tflite.read import read_source

    content = h.content()
    read = read_source(read_file.read_content(content))
    session = onnxruntime.InferenceSession(read.model.SerializeToString())
    run = tflite.open_run(content)
    for i in range(len(next(iter(h.feeds.values())))):
        row = {n: a[i : i + 1] for n, a in h.feeds.items()}
        want = run(row)
        got = dict(zip(want, session.run(list(want), row), strict=True))
        for name, answer in want.items():
            assert got[name].dtype == answer.dtype
            assert np.abs(got[name].astype(int) - answer.astype(int)).max() <= steps, name
    return read


def test_what_cannot_be_written_again_is_named_as_in_the_file():
    """Of a file that computes with integers: its operators, each once, not the nodes that they were read as."""
    h = Hand()
    q = quant(0.1)
    x = h.input("x", (1, 8), np.int8, q)
    first = h.op("ADD", [x, x], (1, 8), np.int8, q)
    first.name = "block/add"
    h.output("y", h.op("LOGISTIC", [first], (1, 8), np.int8, quant(1 / 256, -128)))
    read = read_source(read_file.read_content(h.content()))
    assert all(node.name in read.origins for node in read.model.graph.node if node.op_type != "Identity")
    with pytest.raises(InputError) as refused:
        check_operators(prepare(read.model), [Format.ONNX, Format.TFLITE], h.feeds, origins=read.origins)
    message = refused.value.message
    integers = "computes with integers: give the float model that the file was made of"
    assert f"operator #0 (ADD) -> 'block/add' {integers}" in message
    assert message.count("operator #0") == 1
    assert "node " not in message


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_quantized_operators(dtype):
    """Eight bits in and out, as the file has them."""
    h = Hand()
    middle = 0 if dtype == np.int8 else 128
    q, q2, unit = quant(0.05, middle + 3), quant(0.09, middle), quant(1 / 256, middle - 128)
    x, z = h.input("x", PICTURE, dtype, q), h.input("z", PICTURE, dtype, q2)
    total = h.op("ADD", [x, z], PICTURE, dtype, quant(0.12, middle))
    product = h.op("MUL", [x, z], PICTURE, dtype, quant(0.4, middle))
    pool = h.op(
        "AVERAGE_POOL_2D",
        [total],
        (1, 3, 3, 4),
        dtype,
        quant(0.12, middle),
        strideH=2,
        strideW=2,
        filterHeight=2,
        filterWidth=2,
        padding=VALID,
    )
    h.output("pool", pool)
    h.output("joined", h.op("CONCATENATION", [x, x], (1, 7, 6, 8), dtype, q, axis=3))
    h.output("gate", h.op("LOGISTIC", [product], PICTURE, dtype, unit))
    flat = h.op("RESHAPE", [x, h.ints(1, 168)], (1, 168), dtype, q)
    h.output("shares", h.op("SOFTMAX", [flat], (1, 168), dtype, unit, beta=1.0))
    h.output("mean", h.op("MEAN", [x, h.ints(1, 2)], (1, 4), dtype, q))
    h.output("padded", h.op("PAD", [x, h.const([[0, 0], [1, 1], [0, 0], [0, 0]], np.int32)], (1, 9, 6, 4), dtype, q))
    h.output("other", h.op("QUANTIZE", [x], PICTURE, dtype, q2))
    close(h, steps=2)


def test_fully_connected_with_integer_bias():
    h = Hand()
    numbers, qw = per_channel(h.rng.standard_normal((5, 8)) / 3, 0)
    qw = Quantization(qw.scale[:1], np.zeros(1, np.int64))
    bias = h.const([10, 20, -30, 0, 5], np.int32, quant(float(qw.scale[0]) * 0.03))
    y = h.op(
        "FULLY_CONNECTED",
        [h.input("x", (1, 8), np.int8, quant(0.03)), h.const(numbers, np.int8, qw), bias],
        (1, 5),
        np.int8,
        quant(0.05, 2),
    )
    h.output("y", y)
    close(h)


def test_float16_weights(hand):
    h = Hand()
    half = h.const(h.rng.standard_normal((5, 3, 3, 4)) / 6, np.float16)
    w = h.op("DEQUANTIZE", [half], (5, 3, 3, 4))
    y = h.op("CONV_2D", [h.input("x", PICTURE), w, h.weights(5)], (1, 7, 6, 5), strideH=1, strideW=1)
    read = hand(h, y)
    assert read.kinds == {"float16 weights"}
    assert len(read.model.SerializeToString()) < 2500


def test_hybrid_weights(hand):
    """LiteRT rounds the activations to 8 bits; the ONNX model does not."""
    h = Hand()
    numbers, q = per_channel(h.rng.standard_normal((16, 32)) / 6, 0)
    q = Quantization(q.scale.max(keepdims=True), np.zeros(1, np.int64))
    y = h.op("FULLY_CONNECTED", [h.input("x", (1, 32)), h.const(numbers, np.int8, q), h.weights(16)], (1, 16))
    read = hand(h, y, tolerance=0.02)
    assert read.kinds == {"int8 weights"}


@pytest.mark.parametrize("crop", [0, 1])
@pytest.mark.parametrize("depthwise", [False, True])
def test_a_dilated_convolution_by_way_of_the_batch(hand, depthwise, crop):
    """7 x 6, padded by 2 and (3, 2) to 12 x 10 blocks of 2: a window of 3 with dilation 2."""
    h = Hand()
    pads, crops = h.const([[2, 3], [2, 2]], np.int32), h.const([[0, 1 + crop], [0, 0]], np.int32)
    parts = h.op("SPACE_TO_BATCH_ND", [h.input("x", PICTURE), h.ints(2, 2), pads], (4, 6, 5, 4))
    code, w = ("DEPTHWISE_CONV_2D", h.weights(1, 3, 3, 4)) if depthwise else ("CONV_2D", h.weights(4, 3, 3, 4))
    more = {"depthMultiplier": 1} if depthwise else {}
    c = h.op(
        code,
        [parts, w, h.weights(4)],
        (4, 4, 3, 4),
        padding=VALID,
        strideH=1,
        strideW=1,
        fusedActivationFunction=RELU,
        **more,
    )
    y = h.op("BATCH_TO_SPACE_ND", [c, h.ints(2, 2), crops], (1, 7 - crop, 6, 4))
    read = hand(h, y)
    (conv,) = [n for n in read.model.graph.node if n.op_type == "Conv"]
    assert [list(a.ints) for a in conv.attribute if a.name == "dilations"] == [[2, 2]]


def test_space_to_batch_alone(hand):
    h = Hand()
    x = h.input("x", PICTURE)
    parts = h.op("SPACE_TO_BATCH_ND", [x, h.ints(2, 3), h.const([[1, 0], [0, 3]], np.int32)], (6, 4, 3, 4))
    h.output("parts", h.op("NEG", [parts], (6, 4, 3, 4)))
    h.output("whole", h.op("BATCH_TO_SPACE_ND", [parts, h.ints(2, 3), h.const([[1, 0], [0, 3]], np.int32)], PICTURE))
    h.feeds = {n: a[:1] for n, a in h.feeds.items()}
    hand(h, free=False)


def csr(table: Any, values: list[list[int]]) -> None:
    """Segments and indices of 16 and 8 bits."""
    s = schema.classes()
    table.format = s.DimensionType.SPARSE_CSR
    table.arraySegmentsType, table.arraySegments = s.SparseIndexVector.Uint16Vector, s.Uint16VectorT()
    table.arrayIndicesType, table.arrayIndices = s.SparseIndexVector.Uint8Vector, s.Uint8VectorT()
    table.arraySegments.values, table.arrayIndices.values = (
        np.array(v, t) for v, t in zip(values, (np.uint16, np.uint8), strict=True)
    )


def sparse(order: list[int], blocks: list[int], levels: list[Any]) -> Any:
    """A level is a size, or segments and indices."""
    s = schema.classes()
    made = s.SparsityParametersT()
    made.traversalOrder, made.blockMap, made.dimMetadata = order, blocks or None, []
    for level in levels:
        table = s.DimensionMetadataT()
        if isinstance(level, int):
            table.denseSize = level
        else:
            csr(table, level)
        made.dimMetadata.append(table)
    return made


#: (levels, what is stored, what it means), all of 4 x 6.
ROWS = [[0, 5, 0, 0, 0, 6], [0] * 6, [7, 0, 0, 0, 0, 0], [0, 0, 8, 9, 0, 0]]
BLOCKS = [[0, 0, 1, 2, 0, 0], [0, 0, 3, 4, 0, 0], [5, 6, 0, 0, 7, 8], [9, 10, 0, 0, 11, 12]]
SPARSE = {
    "rows": (([0, 1], [], [4, [[0, 2, 2, 3, 5], [1, 5, 0, 2, 3]]]), [5, 6, 7, 8, 9], ROWS),
    "columns": (([1, 0], [], [6, [[0, 1, 2, 3, 4, 4, 5], [2, 0, 3, 3, 0]]]), [7, 5, 8, 9, 6], ROWS),
    "blocks": (
        ([0, 1, 2, 3], [0, 1], [2, [[0, 1, 3], [1, 0, 2]], 2, 2]),
        [1, 2, 3, 4, 5, 6, 9, 10, 7, 8, 11, 12],
        BLOCKS,
    ),
}


def stored_sparse(case: str) -> tuple[Hand, bytes]:
    parameters, stored, _ = SPARSE[case]
    h = Hand()
    weight = h.const(np.zeros((4, 6)), name="sparse")
    dense = h.op("DENSIFY", [weight], (4, 6))
    h.output("y", h.op("FULLY_CONNECTED", [h.input("x", (1, 6)), dense, h.const(np.zeros(4))], (1, 4)))

    def change(model: Any) -> None:
        (tensor,) = [t for t in model.subgraphs[0].tensors if t.name == b"sparse"]
        tensor.sparsity = sparse(*parameters)
        model.buffers[tensor.buffer].data = np.frombuffer(np.array(stored, np.float32).tobytes(), np.uint8)

    return h, edited(h.content(), change)


@pytest.mark.parametrize("case", SPARSE)
def test_sparse_weights(build, tmp_path, case):
    h, content = stored_sparse(case)
    path = tmp_path / "sparse.tflite"
    path.write_bytes(content)
    read = build.read_back(path, h.feeds)
    (weight,) = [t for t in read.model.graph.initializer if list(t.dims) == [6, 4]]
    assert np.frombuffer(weight.raw_data, np.float32).reshape(6, 4).T.tolist() == SPARSE[case][2]


@pytest.mark.parametrize("case", SPARSE)
def test_sparse_tables_that_contradict_each_other(case):
    """Each of their numbers changed: read, or refused in words."""
    from edgemodel_api.errors import InputError
    from edgemodel_compressor.formats.tflite.read import read_source
    from edgemodel_compressor.formats.tflite.read_file import read_content

    _, content = stored_sparse(case)
    messages = []
    for at in range(12):
        for value in (0, 7, 255):

            def change(model: Any, at: int = at, value: int = value) -> None:
                (tensor,) = [t for t in model.subgraphs[0].tensors if t.name == b"sparse"]
                tables = [
                    v for d in tensor.sparsity.dimMetadata if d.arraySegments for v in (d.arraySegments, d.arrayIndices)
                ]
                numbers = np.array(tables[at % 2].values)
                numbers[at // 2 % len(numbers)] = value
                tables[at % 2].values = numbers

            try:
                read_source(read_content(edited(content, change)))
            except InputError as error:
                messages.append(error.message)
    assert len(messages) > 10
    assert all("sparse numbers contradict" in m for m in messages)
