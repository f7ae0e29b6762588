"""The file itself: bytes, names, shapes, versions."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.runner import runner
from edgemodel_compressor.formats import tflite
from edgemodel_compressor.formats.equivalence import compare_runs
from edgemodel_compressor.formats.onnx_model import open_session
from edgemodel_compressor.formats.tflite import schema
from edgemodel_compressor.formats.tflite.graph import Graph, Op, Quantization, Tensor
from edgemodel_compressor.formats.tflite.versions import version_of

FLOAT, INT8 = np.dtype(np.float32), np.dtype(np.int8)


@pytest.fixture
def convolutional(build):
    nodes = [
        build.node("Conv", ["picture", "w1", "b1"], "a", pads=[1, 1, 1, 1]), build.node("Relu", ["a"], "r"),
        build.node("Conv", ["r", "w2"], "b", pads=[1, 1, 1, 1]), build.node("Add", ["b", "r"], "s"),
        build.node("GlobalAveragePool", ["s"], "p"), build.node("Flatten", ["p"], "f"),
        build.node("Gemm", ["f", "w3", "b3"], "scores", transB=1),
    ]  # fmt: skip
    constants = {
        "w1": build.weights(8, 3, 3, 3), "b1": build.weights(8), "w2": build.weights(8, 8, 3, 3),
        "w3": build.weights(5, 8), "b3": build.weights(5),
    }  # fmt: skip
    return build.model(nodes, {"picture": ["N", 3, 8, 8]}, constants, outputs=("scores",))


@pytest.mark.parametrize("encoding", tflite.ENCODINGS)
def test_same_model_same_bytes(build, convolutional, encoding):
    rows = {"picture": np.random.default_rng(1).standard_normal((6, 3, 8, 8)).astype(np.float32)}
    first = build.convert(convolutional, encoding=encoding, calibration=rows)
    content = first.path.read_bytes()
    again = build.convert(convolutional, encoding=encoding, calibration=rows)
    assert again.path.read_bytes() == content
    assert (again.size_bytes, again.encoding) == (len(content), encoding)


def test_names_shapes_and_types_are_the_models(build, convolutional):
    made = schema.parse(build.convert(convolutional).path.read_bytes())
    graph, signature = made.subgraphs[0], made.signatureDefs[0]
    assert signature.signatureKey == b"serving_default"
    for maps, places, name, shape in (
        (signature.inputs, graph.inputs, b"picture", [-1, 3, 8, 8]),
        (signature.outputs, graph.outputs, b"scores", [-1, 5]),
    ):
        assert [(m.name, m.tensorIndex) for m in maps] == [(name, places[0])]
        tensor = graph.tensors[places[0]]
        assert (tensor.name, tensor.shapeSignature.tolist()) == (name, shape)


@pytest.mark.parametrize("encoding", ["float32", "int8-weights"])
def test_every_tensor_of_a_float_file_has_a_name_of_its_own(build, encoding):
    """Tools that quantize go by names; in what is quantized, those of an unrolled sequence would be a tenth of the file."""
    constants = {"w": build.weights(1, 64, 40), "r": build.weights(1, 64, 16)}
    made = build.convert(
        build.model([build.node("LSTM", ["x", "w", "r"], ["y"], hidden_size=16)], {"x": [12, "N", 40]}, constants),
        encoding=encoding,
        feeds={"x": build.rng.standard_normal((12, 2, 40)).astype(np.float32)},
    )
    names = [t.name for t in schema.parse(made.path.read_bytes()).subgraphs[0].tensors]
    given = [n for n in names if n]
    assert len(set(given)) == len(given)
    assert (len(given) == len(names)) == (encoding == "float32")
    assert sum(map(len, given)) < 5 * len(names)


def test_a_chain_of_convolutions_has_one_transposition(build, convolutional):
    made = schema.parse(build.convert(convolutional).path.read_bytes())
    codes = [
        schema.name_of("BuiltinOperator", made.operatorCodes[o.opcodeIndex].builtinCode)
        for o in made.subgraphs[0].operators
    ]
    assert codes == ["TRANSPOSE", "CONV_2D", "CONV_2D", "ADD", "MEAN", "RESHAPE", "FULLY_CONNECTED"]


def test_constants_are_aligned_and_stored_once(build):
    weight = build.weights(6, 6)
    nodes = [build.node("MatMul", ["x", "w"], "h"), build.node("MatMul", ["h", "same"], "y")]
    path = build.convert(build.model(nodes, {"x": ["N", 6]}, {"w": weight, "same": weight.copy()})).path
    content = path.read_bytes()
    stored = weight.T.tobytes()
    at = content.find(stored)
    assert at > 0
    assert at % 16 == 0
    assert content.find(stored, at + 1) == -1


def test_any_batch_can_be_run(build, convolutional):
    path = build.convert(convolutional).path
    rows = np.random.default_rng(2).standard_normal((5, 3, 8, 8)).astype(np.float32)
    together = tflite.run(path, {"picture": rows})["scores"]
    run = tflite.open_run(path, threads=2)
    apart = np.concatenate([run({"picture": rows[i : i + 1]})["scores"] for i in range(5)])
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)


def test_a_batch_that_cannot_be_free_is_fixed_and_said(build):
    nodes = [build.node("Reshape", ["x", "shape"], "r"), build.node("Relu", ["r"])]
    made = build.convert(build.model(nodes, {"x": ["N", 6]}, {"shape": np.asarray([1, 2, 3])}))
    assert not made.free_batch
    assert any("fixed to 1" in n for n in made.notes)


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "TFL3"), (b"\x00" * 64, "TFL3"), (b"\x1c\x00\x00\x00TFL3" + b"\xff" * 40, "damaged")],
)
def test_other_bytes_are_refused(content, word):
    with pytest.raises(InputError, match=word):
        schema.parse(content)


def _op(code: str, *shapes: tuple[int, ...], dtype: np.dtype = FLOAT, **options: object) -> Op:
    quantization = Quantization(np.ones(1, np.float32), np.zeros(1, np.int64)) if dtype == INT8 else None
    inputs = [Tensor("t", s, dtype, None, quantization) for s in shapes]
    return Op(code, list(inputs), [Tensor("o", shapes[0], dtype, None, quantization)], dict(options))


#: (operator, version): TensorFlow's op_version.cc.
VERSIONS = (
    (_op("CONV_2D", (1, 4, 4, 8), (2, 1, 1, 8)), 1),
    (_op("CONV_2D", (1, 4, 4, 8), (2, 1, 1, 8), dtype=INT8), 3),
    (_op("DEPTHWISE_CONV_2D", (1, 4, 4, 8), (1, 3, 3, 8), dilationHFactor=2), 2),
    (_op("FULLY_CONNECTED", (1, 4), (2, 4), (2,)), 1),
    (_op("FULLY_CONNECTED", (1, 4), (2, 4)), 6),
    (_op("FULLY_CONNECTED", (1, 3, 4), (2, 4), (2,), keepNumDims=True), 5),
    (_op("TRANSPOSE", (1, 2, 3, 4, 5)), 4),
    (_op("RESIZE_BILINEAR", (1, 4, 4, 8), halfPixelCenters=True), 3),
    (_op("MAX_POOL_2D", (1, 4, 4, 8), dtype=INT8), 2),
    (_op("BROADCAST_TO", (1, 4)), 2),
    (_op("ADD", (4,), (4,), dtype=np.dtype(np.int64)), 4),
)


@pytest.mark.parametrize(("op", "version"), VERSIONS, ids=lambda v: getattr(v, "code", str(v)))
def test_versions_are_the_least_that_know_it(op, version):
    assert version_of(op) == version


def test_dequantize_of_channels_has_its_version():
    scales = Quantization(np.ones(3, np.float32), np.zeros(3, np.int64), 0)
    stored = Tensor("w", (3, 2), INT8, np.zeros((3, 2), np.int8), scales)
    assert version_of(Op("DEQUANTIZE", [stored], [Tensor("f", (3, 2), FLOAT)])) == 5
    half = Tensor("h", (3, 2), np.dtype(np.float16), np.zeros((3, 2), np.float16))
    assert version_of(Op("DEQUANTIZE", [half], [Tensor("f", (3, 2), FLOAT)])) == 3


def test_a_field_that_the_schema_lacks_is_no_silent_loss():
    graph = Graph([_op("SOFTMAX", (1, 4), gamma=1.0)])
    graph.outputs["y"] = graph.ops[0].outputs[0]
    with pytest.raises(AttributeError, match="SoftmaxOptions has no field gamma"):
        schema.serialize(graph, description="")


def test_equivalence_of_two_files(build, convolutional):
    written = tflite.open_run(build.convert(convolutional).path)
    rows = {"picture": np.random.default_rng(4).standard_normal((5, 3, 8, 8)).astype(np.float32)}
    source = runner(open_session(convolutional.SerializeToString()))
    same = compare_runs(source, written, rows, ran_with=tflite.runtime())
    assert (same.cases, same.agreement, same.ran_with) == (5, 1.0, tflite.runtime())
    assert same.max_error < 1e-5
    other = build.model([build.node("Conv", ["picture", "w"], "a"), build.node("ReduceMean", ["a"], "scores", axes=[2, 3], keepdims=0)],
                        {"picture": ["N", 3, 8, 8]}, {"w": build.weights(5, 3, 1, 1)}, outputs=("scores",))  # fmt: skip
    source = runner(open_session(other.SerializeToString()))
    assert compare_runs(source, written, rows, ran_with=tflite.runtime()).max_error > 0.1


_IMPORTED = """
import sys
import edgemodel_compressor.formats.tflite as tflite
loaded = sorted({"ai_edge_litert", "flatbuffers"} & set(sys.modules))
sys.modules["ai_edge_litert"] = None
import onnx
from edgemodel_api.errors import InputError
try:
    tflite.convert(onnx.load(sys.argv[1]), sys.argv[2])
except InputError as error:
    print(loaded, error)
"""


def test_the_package_is_needed_only_to_write_and_run(build, convolutional, tmp_path):
    source = tmp_path / "model.onnx"
    source.write_bytes(convolutional.SerializeToString())
    code = f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n{_IMPORTED}"
    command = [sys.executable, "-c", code, source, tmp_path / "m.tflite"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "[] formats: TFLite needs the extra `edgemodel[tflite]`: install it\n"
