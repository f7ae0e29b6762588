"""TFLite files as sources: what is refused, damaged and hostile files, names and layouts."""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path
from types import SimpleNamespace

import flatbuffers
import numpy as np
import pytest

from edgemodel_api.errors import InputError
from edgemodel_api.reasons import NOT_SUPPORTED
from edgemodel_compressor.formats.tflite import read_file, schema
from edgemodel_compressor.formats.tflite.graph import Graph, Op, Quantization, Tensor
from edgemodel_compressor.formats.tflite.read import READ_OPS, read_source, read_tflite, unreadable
from edgemodel_compressor.formats.tflite.read_build import Builder
from edgemodel_compressor.formats.tflite.read_file import read_content

FLOAT = np.dtype(np.float32)


def tensor(name: str, *shape: int, data: np.ndarray | None = None, dtype: np.dtype = FLOAT) -> Tensor:
    return Tensor(name, shape, dtype, data)


def picture_model(rng: np.random.Generator) -> bytes:
    """Convolution, pooling, a dense layer: tables of most kinds."""
    graph = Graph()
    x = graph.inputs["picture"] = tensor("picture", 1, 8, 8, 3)
    w = tensor("w", 4, 3, 3, 3, data=rng.standard_normal((4, 3, 3, 3)).astype(np.float32))
    b = tensor("b", 4, data=rng.standard_normal(4).astype(np.float32))
    c = tensor("c", 1, 8, 8, 4)
    graph.ops.append(Op("CONV_2D", [x, w, b], [c], {"strideH": 1, "strideW": 1, "fusedActivationFunction": 1}))
    axes = tensor("axes", 2, data=np.array([1, 2], np.int32), dtype=np.dtype(np.int32))
    m = tensor("m", 1, 4)
    graph.ops.append(Op("MEAN", [c, axes], [m]))
    w2 = tensor("w2", 5, 4, data=rng.integers(-127, 128, (5, 4)).astype(np.int8), dtype=np.dtype(np.int8))
    w2.quantization = Quantization(np.array([0.01], np.float32), np.array([0], np.int64))
    y = tensor("y", 1, 5)
    graph.ops.append(Op("FULLY_CONNECTED", [m, w2, None], [y]))
    graph.outputs["scores"] = y
    return schema.serialize(graph, description="test")


@pytest.fixture(scope="module")
def content() -> bytes:
    return picture_model(np.random.default_rng(0))


def changed(content: bytes, change) -> bytes:
    model = schema.parse(content)
    change(model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_names_layouts_and_types_are_the_files(content):
    read = read_source(read_content(content))
    graph = read.model.graph
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.input, *graph.output)
    }
    assert shapes == {"picture": ["batch", 8, 8, 3], "scores": ["batch", 5]}
    assert [n.op_type for n in graph.node] == ["Transpose", "Conv", "Relu", "ReduceMean", "Cast", "Mul", "Gemm"]
    assert (read.free_batch, read.kinds) == (True, {"int8 weights"})


def test_names_of_tensors_serve_where_there_is_no_signature(content):
    def drop(model):
        model.signatureDefs = None
        model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].name = "serving_default_x:0"

    read = read_source(read_content(changed(content, drop)))
    assert list(read.inputs) == ["serving_default_x:0"]


def test_the_same_file_gives_the_same_model(content):
    first, again = (read_source(read_content(content)).model.SerializeToString(deterministic=True) for _ in range(2))
    assert first == again


def test_detection_is_by_content(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert read_file.is_tflite(path)
    path.write_bytes(b"\x08\x07TFL3" + content)
    assert not read_file.is_tflite(path)
    path.write_bytes(b"TFL")
    assert not read_file.is_tflite(path)


def test_every_operator_that_is_not_read_is_named(tmp_path, content):
    def replace(model):
        model.operatorCodes[0].builtinCode = schema.enum("BuiltinOperator", "CUSTOM")
        model.operatorCodes[0].deprecatedBuiltinCode = 32
        model.operatorCodes[0].customCode = "TFLite_Detection_PostProcess"
        model.operatorCodes[1].builtinCode = schema.enum("BuiltinOperator", "STABLEHLO_CBRT")
        model.operatorCodes[1].deprecatedBuiltinCode = 127

    path = tmp_path / "m.tflite"
    path.write_bytes(changed(content, replace))
    problems = unreadable(path)
    assert len(problems) == 2
    assert problems[0].startswith("operator #0 (CUSTOM TFLite_Detection_PostProcess) -> 'c': it chooses boxes")
    assert problems[1] == "operator #1 (STABLEHLO_CBRT) -> 'm': it is not read"
    with pytest.raises(InputError, match="parts that are not read: operator #0") as caught:
        read_tflite(path)
    assert caught.value.reason == NOT_SUPPORTED


def test_uses_that_are_not_read_are_all_named(content):
    def change(model):
        model.subgraphs[0].operators[0].builtinOptions.fusedActivationFunction = 4
        model.subgraphs[0].operators[2].builtinOptions.weightsFormat = 1

    # The second stands behind the first, which is told.
    with pytest.raises(InputError, match=r"operator #0 \(CONV_2D\) -> 'c': the fused activation TANH"):
        read_source(read_content(changed(content, change)))


def test_free_dimensions_besides_the_batch_are_refused(content):
    def change(model):
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].shapeSignature = [-1, -1, -1, 3]

    with pytest.raises(InputError, match="free dimensions besides the first"):
        read_source(read_content(changed(content, change)))


BROKEN = {
    "shape and buffer differ": (lambda m: setattr(m.subgraphs[0].tensors[1], "shape", [4, 3, 3, 4]), "bytes are there"),
    "a negative dimension": (lambda m: setattr(m.subgraphs[0].tensors[1], "shape", [4, -3, 3, 3]), "shape"),
    "no such tensor": (lambda m: setattr(m.subgraphs[0].operators[0], "inputs", [0, 1, 77]), "not there"),
    "no such buffer": (lambda m: setattr(m.subgraphs[0].tensors[1], "buffer", 99), "buffer 99"),
    "no such code": (lambda m: setattr(m.subgraphs[0].operators[0], "opcodeIndex", 9), "code 9"),
    "no graph": (lambda m: setattr(m, "subgraphs", []), "no graph"),
    "a long name": (lambda m: setattr(m.subgraphs[0].tensors[1], "name", "x" * 5000), "5000 bytes"),
    "many dimensions": (lambda m: setattr(m.subgraphs[0].tensors[0], "shape", [1] * 9), "9 dimensions"),
    "a tensor made twice": (lambda m: setattr(m.subgraphs[0].operators[1], "outputs", [0]), "there already"),
    "a scale that is none": (
        lambda m: [setattr(t.quantization, "scale", [float("nan")]) for t in m.subgraphs[0].tensors if t.quantization],
        "scales or zero points",
    ),
    "a zero point out of range": (
        lambda m: [setattr(t.quantization, "zeroPoint", [300]) for t in m.subgraphs[0].tensors if t.quantization],
        "scales or zero points",
    ),
    "scales for another axis": (
        lambda m: [setattr(t.quantization, "scale", [0.1, 0.2]) for t in m.subgraphs[0].tensors if t.quantization],
        "2 scales",
    ),
    "a computed tensor before it is": (lambda m: m.subgraphs[0].operators.reverse(), "before it is made"),
    "behind the end": (
        lambda m: [setattr(b, "offset", 10**9) or setattr(b, "size", 108 * 4) for b in m.buffers[1:2]],
        "beyond the end",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_contradictions_are_refused_in_words(content, case):
    change, words = BROKEN[case]
    with pytest.raises(InputError, match=words):
        read_source(read_content(changed(content, change)))


@pytest.mark.parametrize("size", [0, 4, 7, 8, 40, 200, 1000])
def test_cut_files_are_refused(content, tmp_path, size):
    path = tmp_path / "m.tflite"
    path.write_bytes(content[:size])
    with pytest.raises(InputError):
        read_tflite(path)


def test_flipped_bytes_never_give_a_traceback(content):
    """Read, or refused in words."""
    rng = random.Random(0)
    messages = []
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 5)):
            at = rng.randrange(len(damaged) - 4)
            if rng.random() < 0.5:
                damaged[at] ^= 1 << rng.randrange(8)
            else:
                struct.pack_into("<I", damaged, at, rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 65536]))
        try:
            read_source(read_content(bytes(damaged)))
        except InputError as error:
            messages.append(error.message)
    assert 20 < len(messages) < 400
    # Nothing of what Python or the flatbuffers package say.
    said = re.compile(r"\b\w+(Error|Exception)\b|unpack|struct|offset \d|object|attribute|list index|NoneType")
    assert not [m for m in messages if said.search(m)]
    assert max(map(len, messages)) < 5000


def test_a_small_file_cannot_claim_a_billion_operators(content):
    """Vectors are counted before they are walked: here one whose length is overwritten, and one beyond the limit."""
    model = schema.classes().Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    at = graph._tab.Offset(10)
    vector = graph._tab.Vector(at) - 4
    damaged = bytearray(content)
    struct.pack_into("<I", damaged, vector, 2**31)
    with pytest.raises(InputError, match=f"{2**31} operators, and at most {read_file.MAX_OPERATORS}"):
        read_content(bytes(damaged))


def test_constants_cannot_grow_beyond_what_the_file_explains():
    build = Builder([], file_bytes=100)
    build.const(np.arange(2**20, dtype=np.float32))
    for _ in range(3):
        build.const(np.arange(2**20, dtype=np.float32))  # the same one
    others = [np.arange(i, 2**20 + i, dtype=np.float32) for i in range(1, 5)]
    for other in others[:3]:
        build.const(other)
    with pytest.raises(InputError, match="in too many ways"):
        build.const(others[3])


def test_int4_weights_are_unpacked():
    raw = np.array([0x21, 0xF8, 0x07], np.uint8)
    assert read_file._unpacked(raw, 5).tolist() == [1, 2, -8, -1, 7]


def test_the_coverage_table_is_of_operators_that_exist():
    names = vars(schema.classes().BuiltinOperator)
    assert len(READ_OPS) > 100
    assert [code for code in READ_OPS if code not in names] == []


def test_without_the_package_a_source_says_what_is_needed(content, tmp_path, monkeypatch):
    from edgemodel_compressor import original
    from edgemodel_compressor.sources import Fetched

    path = tmp_path / "source.onnx"
    path.write_bytes(content)
    monkeypatch.setattr(original, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _name: None)))
    with pytest.raises(InputError, match=r"needs the extra `edgemodel\[tflite\]`"):
        original.as_onnx(
            Fetched(path, "0" * 64, len(content)), tmp_path, original.Limits(lambda _: 2**32, lambda _: 60)
        )


def test_other_files_are_left_alone(tmp_path):
    from edgemodel_compressor import original
    from edgemodel_compressor.sources import Fetched

    path = Path(tmp_path / "source.onnx")
    path.write_bytes(b"\x08\x09\x12\x00")
    fetched = Fetched(path, "0" * 64, 4)
    assert original.as_onnx(fetched, tmp_path, original.Limits(lambda _: 2**32, lambda _: 60)) == (fetched, None)
