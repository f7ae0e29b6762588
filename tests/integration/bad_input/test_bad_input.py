"""Bad input: one table. Each case says how to make it and what the message must say; nothing half-written stays.

Every case goes through the functions, and (unless it needs other limits than the command's) through the command.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.edgemodel import RemoteFile
from edgemodel_api.errors import EXIT_BAD_INPUT, EXIT_FAILED, EdgeModelError
from edgemodel_api.yaml_text import dump
from edgemodel_cli.main import main
from edgemodel_compressor.data import open_dataset
from edgemodel_compressor.formats.onnx_model import load_model
from edgemodel_compressor.formats.probe import probe
from edgemodel_compressor.sources import fetch_source

MAX_BYTES = 64 * 2**20
SHA = "0" * 64
Spec = dict[str, Any]


# ---------------------------------------------------------------- good things, to be made bad


def weights(name: str = "w", shape: tuple[int, ...] = (3, 4)) -> Any:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def float_value(name: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(
    nodes: list[Any] | None = None,
    *,
    inputs: list[Any] | None = None,
    outputs: list[Any] | None = None,
    initializers: list[Any] | None = None,
    opset: int = 17,
    ir: int = 8,
    domains: tuple[str, ...] = (),
    functions: tuple[Any, ...] = (),
) -> Any:
    """y = x · w, unless something else is said."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")] if nodes is None else nodes,
        "g",
        [float_value("x", ["N", 3])] if inputs is None else inputs,
        [float_value("y", None)] if outputs is None else outputs,
        [weights()] if initializers is None else initializers,
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    made = helper.make_model(graph, opset_imports=imports, functions=list(functions))
    made.ir_version = ir
    return made


def node(op: str, inputs: list[str], output: str = "y", *, name: str = "", **attributes: Any) -> Any:
    return helper.make_node(op, inputs, [output], name=name, **attributes)


@dataclass
class Workshop:
    """Where a case is made."""

    folder: Path
    request: pytest.FixtureRequest
    work_dir: Path
    #: For the first run: more than a busy machine needs to start the runtime.
    seconds: float = 60
    close: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def server(self) -> Any:
        return self.request.getfixturevalue("server")

    def file(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return f"file:{name}"

    def source(self, made: Any) -> Spec:
        content = made if isinstance(made, bytes) else made.SerializeToString()
        return {"source": {"uri": self.file("model.onnx", content)}}

    def data(self, content: bytes | None = None, *, labels: str | None = None, **arrays: Any) -> Spec:
        """The good model, and validation data."""
        if content is None:
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)
            content = buffer.getvalue()
        validation = {"uri": self.file("data.npz", content), **({"labels": labels} if labels else {})}
        return {**self.source(model()), "data": {"validation": validation}}

    def remote(self, how: str, name: str = "model.onnx", sha256: str | None = None) -> Spec:
        content = model().SerializeToString()
        uri = self.server.put(name, content, how)
        return {"source": {"uri": uri, "sha256": sha256 or hashlib.sha256(content).hexdigest()}}


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        make: in the workshop; gives the manifest's source and data.
        words: that the message must have.
        exit_code: 3 where a server failed for now.
        command: False: needs limits that the command does not have, or that its process cannot be given.
    """

    make: Callable[[Workshop], Spec]
    words: tuple[str, ...]
    exit_code: int = EXIT_BAD_INPUT
    command: bool = True


CASES: dict[str, Case] = {}


def case(name: str, *words: str, exit_code: int = EXIT_BAD_INPUT, command: bool = True) -> Any:
    def add(make: Callable[[Workshop], Spec]) -> Callable[[Workshop], Spec]:
        assert name not in CASES
        CASES[name] = Case(make, words, exit_code, command)
        return make

    return add


# ---------------------------------------------------------------- the model's bytes


@case("empty model file", "source.onnx|model.onnx", "empty (0 bytes)")
def _(w: Workshop) -> Spec:
    return w.source(b"")


@case("truncated model", "truncated", "bytes", "sha256sum")
def _(w: Workshop) -> Spec:
    content = model().SerializeToString()
    return w.source(content[: len(content) // 2])


@case("text instead of a model", "no ONNX model", "onnx.load")
def _(w: Workshop) -> Spec:
    return w.source(b"import torch\nmodel = torch.load('x')\n" * 20)


@case("other protobuf", "no ONNX model", "of 59 begins no protobuf field")
def _(w: Workshop) -> Spec:
    return w.source(weights().SerializeToString())


@case("protobuf bomb", "unpack to more than", "messages")
def _(w: Workshop) -> Spec:
    nodes = b"\x0a\x00" * 2_200_000  # 4.4 MB of empty nodes
    return w.source(b"\x08\x08\x3a" + helper_varint(len(nodes)) + nodes)


def helper_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@case("name that is no text", "no UTF-8 text")
def _(w: Workshop) -> Spec:
    made = model([node("MatMul", ["x", "w"], name="strange")])
    return w.source(made.SerializeToString().replace(b"strange", b"\xff\xfe\xff\xfe\xff\xfe\xff"))


# ---------------------------------------------------------------- versions, operators, structure


@case("opset from the future", "opset 99", "7 to 28", "opset_version")
def _(w: Workshop) -> Spec:
    return w.source(model(opset=99))


@case("opset of long ago", "opset 3", "7 to 28")
def _(w: Workshop) -> Spec:
    return w.source(model(opset=3))


@case("IR version from the future", "IR version 77", "3 to 14")
def _(w: Workshop) -> Spec:
    return w.source(model(ir=77))


@case("unknown operator", "node 'odd' (MatMull)", "no operator 'MatMull' in opset 17", "did you mean MatMul?")
def _(w: Workshop) -> Spec:
    return w.source(model([node("MatMull", ["x", "w"], name="odd")]))


@case("operator of a later opset", "node #0 (Gelu)", "came with opset 20")
def _(w: Workshop) -> Spec:
    return w.source(model([node("Gelu", ["x"])]))


@case("unknown domain", "node 'fft' (Magic)", "'ai.acme'", "no node has")
def _(w: Workshop) -> Spec:
    return w.source(model([node("Magic", ["x"], name="fft", domain="ai.acme")], domains=("ai.acme",)))


@case("domain that is not imported", "node 'n' (Scaler)", "does not import", "opset_import")
def _(w: Workshop) -> Spec:
    return w.source(model([node("Scaler", ["x"], name="n", domain="ai.onnx.ml", offset=[0.0], scale=[1.0])]))


@case("unknown contrib operator", "no valid model", "NoSuchOp")
def _(w: Workshop) -> Spec:
    return w.source(model([node("NoSuchOp", ["x"], name="n", domain="com.microsoft")], domains=("com.microsoft",)))


@case("saved optimized for one machine", "'com.microsoft.nchwc'", "Basic")
def _(w: Workshop) -> Spec:
    domain = "com.microsoft.nchwc"
    return w.source(model([node("Conv", ["x", "w"], name="n", domain=domain)], domains=(domain,)))


@case("wrong attribute", "no valid model", "axis|attribute type")
def _(w: Workshop) -> Spec:
    return w.source(model([node("Softmax", ["x"], name="s", axis="last")]))


@case("wrong number of inputs", "no valid model", "MatMul")
def _(w: Workshop) -> Spec:
    return w.source(model([node("MatMul", ["x"], name="mm")]))


@case("cyclic graph", "cycle", "node 'a' (Add)", "node 'b' (Relu)")
def _(w: Workshop) -> Spec:
    return w.source(model([node("Add", ["x", "q"], "p", name="a"), node("Relu", ["p"], "q", name="b"),
                           node("MatMul", ["q", "w"])]))  # fmt: skip


@case("node that feeds itself", "cycle", "node 'a' (Relu)")
def _(w: Workshop) -> Spec:
    return w.source(model([node("Relu", ["y"], name="a")]))


@case("unsorted nodes", "node 'late' (Relu) stands before node 'early' (Neg)", "sorted topologically")
def _(w: Workshop) -> Spec:
    return w.source(model([node("Relu", ["h"], name="late"), node("Neg", ["x"], "h", name="early")]))


@case("input that nothing makes", "node 'mm' (MatMul) needs 'weigths', which nothing makes", "did you mean 'weights'?")
def _(w: Workshop) -> Spec:
    nodes = [node("Relu", ["x"], "weights"), node("MatMul", ["x", "weigths"], name="mm")]
    return w.source(model(nodes))


@case("value made twice", "makes 'y', which is made already")
def _(w: Workshop) -> Spec:
    return w.source(model([node("Relu", ["x"]), node("Neg", ["x"])]))


@case("two initializers of one name", "two initializers named 'w'")
def _(w: Workshop) -> Spec:
    return w.source(model(initializers=[weights(), weights()]))


@case("two inputs of one name", "two inputs named 'x'")
def _(w: Workshop) -> Spec:
    return w.source(model(inputs=[float_value("x", ["N", 3])] * 2))


@case("output that nothing makes", "output 'z' is made by no node")
def _(w: Workshop) -> Spec:
    return w.source(model(outputs=[float_value("z", None)]))


@case("no outputs", "has no outputs")
def _(w: Workshop) -> Spec:
    return w.source(model(outputs=[]))


@case("no inputs", "has no inputs")
def _(w: Workshop) -> Spec:
    return w.source(model([node("Relu", ["w"])], inputs=[]))


@case("no nodes", "has no nodes")
def _(w: Workshop) -> Spec:
    return w.source(model([], outputs=[float_value("x", ["N", 3])]))


@case("deeply nested subgraphs", "nested", "at most 16")
def _(w: Workshop) -> Spec:
    inner = helper.make_graph([node("Identity", ["x"], "o")], "leaf", [], [float_value("o", None)])
    for depth in range(20):
        branch = helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=_leaf(depth))
        inner = helper.make_graph([branch], f"d{depth}", [], [float_value("o", None)])
    constant = numpy_helper.from_array(np.array(True), "c")
    outermost = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=_leaf(99))
    return w.source(model([outermost], initializers=[constant]))


def _leaf(depth: int) -> Any:
    return helper.make_graph([node("Identity", ["x"], f"e{depth}")], "e", [], [float_value(f"e{depth}", None)])


@case("nested beyond the parser", "nested more than 90 deep")
def _(w: Workshop) -> Spec:
    content = b""
    for _depth in range(50):  # graph → node → attribute → graph …
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            content = tag + helper_varint(len(content)) + content
    return w.source(b"\x08\x08\x3a" + helper_varint(len(content)) + content)


def _function(name: str, *calls: str) -> Any:
    names = ["i", *(f"v{k}" for k in range(len(calls) - 1)), "o"]
    nodes = [node(c, [names[k]], names[k + 1], domain="local") for k, c in enumerate(calls)]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["i"], ["o"], nodes, imports)


@case("functions that call themselves", "call themselves ('A' → 'B' → 'A')")
def _(w: Workshop) -> Spec:
    functions = (_function("A", "B"), _function("B", "A"))
    return w.source(model([node("A", ["x"], domain="local")], domains=("local",), functions=functions))


@case("functions that multiply", "more than 1000000 nodes")
def _(w: Workshop) -> Spec:
    relu = helper.make_function("local", "F0", ["i"], ["o"], [node("Relu", ["i"], "o")], [helper.make_opsetid("", 17)])
    functions = (relu, *(_function(f"F{k}", *[f"F{k - 1}"] * 10) for k in range(1, 10)))
    return w.source(model([node("F9", ["x"], domain="local")], domains=("local",), functions=functions))


# ---------------------------------------------------------------- inputs and outputs


def _typed_input(kind: Any) -> Any:
    value = onnx.ValueInfoProto(name="x")
    value.type.CopyFrom(kind)
    return value


@case("sequence input", "input 'x' is a sequence", "only tensors")
def _(w: Workshop) -> Spec:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [3]))
    return w.source(model([node("ConcatFromSequence", ["x"], axis=0)], inputs=[_typed_input(kind)]))


@case("optional input", "input 'x' is an optional value", "only tensors")
def _(w: Workshop) -> Spec:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [3]))
    return w.source(model([node("OptionalGetElement", ["x"])], inputs=[_typed_input(kind)]))


@case("map input", "input 'x' is a map", "only tensors")
def _(w: Workshop) -> Spec:
    kind = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    made = model([node("CastMap", ["x"], domain="ai.onnx.ml")], inputs=[_typed_input(kind)], domains=("ai.onnx.ml",))
    return w.source(made)


@case("zipmap output", "output 'y' is a sequence", "zipmap")
def _(w: Workshop) -> Spec:
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    output = onnx.ValueInfoProto(name="y")
    output.type.CopyFrom(kind)
    zipmap = node("ZipMap", ["x"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
    return w.source(model([zipmap], outputs=[output], domains=("ai.onnx.ml",)))


@case("bfloat16 input", "input 'x' has element type BFLOAT16", "cast it to FLOAT")
def _(w: Workshop) -> Spec:
    return w.source(model(inputs=[helper.make_tensor_value_info("x", TensorProto.BFLOAT16, ["N", 3])]))


@case("scalar input", "input 'x' is a scalar", "first axis")
def _(w: Workshop) -> Spec:
    return w.source(model([node("Relu", ["x"])], inputs=[float_value("x", [])]))


@case("gigantic input", "input 'x'", "one request would take", "1.0 GiB")
def _(w: Workshop) -> Spec:
    return w.source(model([node("Relu", ["x"])], inputs=[float_value("x", ["N", 2**40, 2**20])]))


@case("inputs of different batches", "differ in their first dimension", "x [2, 3], z [5, 3]")
def _(w: Workshop) -> Spec:
    inputs = [float_value("x", [2, 3]), float_value("z", [5, 3])]
    return w.source(model([node("Concat", ["x", "z"], axis=0)], inputs=inputs))


# ---------------------------------------------------------------- tensors


@case("weights of the wrong size", "initializer 'w' holds 40 bytes", "[3, 4] of FLOAT needs 48")
def _(w: Workshop) -> Spec:
    tensor = weights()
    tensor.raw_data = tensor.raw_data[:-8]
    return w.source(model(initializers=[tensor]))


@case("weights of gigantic shape", "initializer 'w' holds 48 bytes", str(2**82))
def _(w: Workshop) -> Spec:
    tensor = weights()
    tensor.dims[:] = [2**40, 2**40]
    return w.source(model(initializers=[tensor]))


@case("weights of negative shape", "initializer 'w' has shape [3, -4]", "negative")
def _(w: Workshop) -> Spec:
    tensor = weights()
    tensor.dims[:] = [3, -4]
    return w.source(model(initializers=[tensor]))


@case("weights of no type", "initializer 'w' has the unknown data type 99")
def _(w: Workshop) -> Spec:
    tensor = weights()
    tensor.data_type = 99
    return w.source(model(initializers=[tensor]))


@case("too few typed numbers", "initializer 'w' holds 2 numbers in float_data", "needs 12")
def _(w: Workshop) -> Spec:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 4], float_data=[1.0, 2.0])
    return w.source(model(initializers=[tensor]))


@case("NaN weights", "initializer 'w' holds 2 NaN and 1 Inf among its 12 numbers", "flat index 1")
def _(w: Workshop) -> Spec:
    values = np.ones((3, 4), np.float32)
    values.reshape(-1)[[1, 5, 7]] = np.nan, np.inf, np.nan
    return w.source(model(initializers=[numpy_helper.from_array(values, "w")]))


@case("sparse weights", "initializer 'w' is sparse", "dense")
def _(w: Workshop) -> Spec:
    made = model(initializers=[])
    values, indices = weights(shape=(2,)), numpy_helper.from_array(np.array([0, 5]), "i")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**40, 2**40]))
    return w.source(made)


def _external(w: Workshop, location: str, *, size: int = 48, **entries: Any) -> Spec:
    tensor = weights()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "length": size, **entries}.items():
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))
    return w.source(model(initializers=[tensor]))


@case("external data by absolute path", "initializer 'w'", "'/etc/passwd' leaves the model's folder")
def _(w: Workshop) -> Spec:
    return _external(w, "/etc/passwd")


@case("external data by dots", "initializer 'w'", "'a/../../secret' leaves the model's folder")
def _(w: Workshop) -> Spec:
    return _external(w, "a/../../secret")


@case("external data through a link", "initializer 'w'", "link that leaves the model's folder")
def _(w: Workshop) -> Spec:
    (w.folder.parent / "secret.bin").write_bytes(bytes(48))
    (w.folder / "innocent.bin").symlink_to("../secret.bin")
    return _external(w, "innocent.bin")


@case("external data in a linked folder", "initializer 'w'", "link that leaves the model's folder")
def _(w: Workshop) -> Spec:
    (w.folder / "sub").symlink_to("/etc")
    return _external(w, "sub/passwd")


@case("external data that is missing", "'weights.bin' is missing")
def _(w: Workshop) -> Spec:
    return _external(w, "weights.bin")


@case("external data that is a pipe", "no regular file")
def _(w: Workshop) -> Spec:
    os.mkfifo(w.folder / "pipe")
    return _external(w, "pipe")


@case("external data beyond the file", "'weights.bin' has 100 bytes, but bytes 90 to 138 are asked for")
def _(w: Workshop) -> Spec:
    w.file("weights.bin", bytes(100))
    return _external(w, "weights.bin", offset=90)


@case("external data of another length", "external data of 4096 bytes", "needs 48")
def _(w: Workshop) -> Spec:
    w.file("weights.bin", bytes(100))
    return _external(w, "weights.bin", size=4096)


@case("external data at no number", "offset '-1', which is no number of bytes")
def _(w: Workshop) -> Spec:
    w.file("weights.bin", bytes(100))
    return _external(w, "weights.bin", offset=-1)


@case("external data again and again", "external data of initializer", "a model may have 64.0 MiB", command=False)
def _(w: Workshop) -> Spec:
    with open(w.folder / "weights.bin", "wb") as file:
        file.truncate(2**23)  # sparse: 8 MiB that take no room
    tensors = []
    for index in range(20):
        tensor = TensorProto(
            name=f"w{index}", data_type=TensorProto.FLOAT, dims=[2**21], data_location=TensorProto.EXTERNAL
        )
        for key, value in {"location": "weights.bin", "length": str(2**23)}.items():
            tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
        tensors.append(tensor)
    return w.source(model([node("Relu", ["x"])], initializers=tensors))


# ---------------------------------------------------------------- what only a run shows


def _grown(w: Workshop, op: str, inputs: list[str], shape: list[int], **attributes: Any) -> Spec:
    sizes = numpy_helper.from_array(np.array(shape, np.int64), "sizes")
    return w.source(model([node(op, inputs, name="grow", **attributes)], initializers=[sizes]))


@case("gigantic ConstantOfShape", "memory", "ConstantOfShape")
def _(w: Workshop) -> Spec:
    return _grown(w, "ConstantOfShape", ["sizes"], [2**20, 2**21])


@case("gigantic Expand", "memory")
def _(w: Workshop) -> Spec:
    return _grown(w, "Expand", ["x", "sizes"], [2**40, 1, 3])


@case("gigantic Tile", "memory|more than")
def _(w: Workshop) -> Spec:
    return _grown(w, "Tile", ["x", "sizes"], [2**20, 2**20])


@case("loop without end", "did not end within 3 s", "loops", command=False)
def _(w: Workshop) -> Spec:
    body = helper.make_graph(
        [node("Identity", ["keep"], "keep_on"), node("Identity", ["v"], "v_out")],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("keep", TensorProto.BOOL, []), float_value("v", None)],
        [helper.make_tensor_value_info("keep_on", TensorProto.BOOL, []), float_value("v_out", None)],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["", "always", "x"], ["y"], name="for-ever", body=body)
    w.seconds = 3
    return w.source(model([loop], initializers=[numpy_helper.from_array(np.array(True), "always")]))


@case("shapes that do not fit each other", "no valid model")
def _(w: Workshop) -> Spec:
    return w.source(model(initializers=[weights(shape=(5, 4))]))


# ---------------------------------------------------------------- data

GOOD_ROWS = np.ones((10, 3), np.float32)


def _npz(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _npy(array: Any, shape: tuple[int, ...] | None = None) -> bytes:
    """An array, which may declare another shape than it has."""
    buffer = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(buffer, {**header, "shape": shape or array.shape})
    return buffer.getvalue() + array.tobytes()


@case("empty data file", "data.validation", "empty (0 bytes)")
def _(w: Workshop) -> Spec:
    return w.data(b"")


@case("truncated data", "data.validation", "no whole zip archive", "truncated")
def _(w: Workshop) -> Spec:
    return w.data(_npz({"x.npy": _npy(GOOD_ROWS)})[:-30])


@case("data with flipped bytes", "data.validation", "array 'x' cannot be read", "damaged")
def _(w: Workshop) -> Spec:
    content = bytearray(_npz({"x.npy": _npy(GOOD_ROWS)}))
    content[content.index(GOOD_ROWS.tobytes()) + 5] ^= 0xFF
    return w.data(bytes(content))


@case("csv instead of npz", "data.validation", "no .npz", "numpy.savez")
def _(w: Workshop) -> Spec:
    return w.data(b"a,b,c\n1,2,3\n")


@case("npy instead of npz", "data.validation", "single array", "numpy.savez")
def _(w: Workshop) -> Spec:
    buffer = io.BytesIO()
    np.save(buffer, GOOD_ROWS)
    return w.data(buffer.getvalue())


class _Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/edgemodel-was-here",)


@case("pickled data", "array 'x' holds pickled Python objects", "never loaded")
def _(w: Workshop) -> Spec:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return w.data(_npz({"x.npy": buffer.getvalue() + pickle.dumps(_Bomb())}))


@case("object array", "array 'x' holds pickled Python objects", "numpy.stack")
def _(w: Workshop) -> Spec:
    rows = np.empty(2, object)
    rows[0], rows[1] = [1.0], [1.0, 2.0]
    return w.data(x=rows)


@case("records", "array 'x' is of", "plain numbers")
def _(w: Workshop) -> Spec:
    return w.data(x=np.zeros(3, [("a", "f4"), ("b", "i4")]))


@case("zip bomb", "array 'x' unpacks to 600.0 MiB", "67108864", command=False)
def _(w: Workshop) -> Spec:
    rows = 50 * 2**20
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        header = _npy(np.empty((0, 3), np.float32), (rows, 3))
        member.write(header)
        for _part in range(600):
            member.write(bytes(2**20))
    assert len(buffer.getvalue()) < 2**20
    return w.data(buffer.getvalue())


@case("zip that declares too little", "array 'x' cannot be read", "damaged")
def _(w: Workshop) -> Spec:
    content = bytearray(_npz({"x.npy": _npy(GOOD_ROWS)}))
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (140).to_bytes(4, "little")
    return w.data(bytes(content))


@case("array of gigantic shape", "array 'x' declares shape [1099511627776, 3]", "holds 120")
def _(w: Workshop) -> Spec:
    return w.data(_npz({"x.npy": _npy(GOOD_ROWS, (2**40, 3))}))


@case("two arrays of one name", "two arrays are named 'x'")
def _(w: Workshop) -> Spec:
    # zipfile warns of a second one, so it gets its name afterwards.
    content = _npz({"x.npy": _npy(GOOD_ROWS), "z.npy": _npy(GOOD_ROWS)})
    return w.data(content.replace(b"z.npy", b"x.npy"))


@case("names that are paths", "no array for the model's input 'x', only '../../x'")
def _(w: Workshop) -> Spec:
    return w.data(_npz({"../../x.npy": _npy(GOOD_ROWS)}))


@case("misspelt name", "no array for the model's input 'x', only 'X', 'y'", "did you mean 'X'?")
def _(w: Workshop) -> Spec:
    return w.data(X=GOOD_ROWS, y=np.zeros(10))


@case("archive without arrays", "data.validation", "holds no arrays")
def _(w: Workshop) -> Spec:
    return w.data(_npz({}))


@case("wrong rank", "array 'x' has 4 axes ([10, 3, 1, 1])", "the model takes 2, [samples, 3]")
def _(w: Workshop) -> Spec:
    return w.data(x=np.ones((10, 3, 1, 1), np.float32))


@case("no axis for samples", "array 'x' has 1 axis ([3])", "array[None]")
def _(w: Workshop) -> Spec:
    return w.data(x=np.ones(3, np.float32))


@case("wrong shape", "array 'x' has shape [10, 4]", "[samples, 3]", "axis 1 is 4 and must be 3")
def _(w: Workshop) -> Spec:
    return w.data(x=np.ones((10, 4), np.float32))


@case("single number", "array 'x' is a single number (0-d)")
def _(w: Workshop) -> Spec:
    return w.data(x=np.float32(1))


@case("no samples", "hold no samples (0 rows)")
def _(w: Workshop) -> Spec:
    return w.data(x=np.ones((0, 3), np.float32))


@case("wrong type", "array 'x' is of int64, but the model takes float32", "astype('float32')")
def _(w: Workshop) -> Spec:
    return w.data(x=np.ones((10, 3), np.int64))


@case("complex numbers", "array 'x' is of complex128")
def _(w: Workshop) -> Spec:
    return w.data(x=np.ones((10, 3), np.complex128))


@case("NaN data", "array 'x' holds 2 numbers that are NaN", "first in sample 4")
def _(w: Workshop) -> Spec:
    rows = GOOD_ROWS.copy()
    rows[4, 1] = rows[7, 0] = np.nan
    return w.data(x=rows)


@case("numbers beyond float32", "array 'x' holds 1 number that is NaN", "too large for float32", "first in sample 9")
def _(w: Workshop) -> Spec:
    rows = GOOD_ROWS.astype(np.float64)
    rows[9, 2] = 1e300
    return w.data(x=rows)


@case("labels that are missing", "data.validation.labels is 'label'", "did you mean 'labels'?")
def _(w: Workshop) -> Spec:
    content = _npz({"x.npy": _npy(GOOD_ROWS), "labels.npy": _npy(np.zeros(10, np.int64))})
    return w.data(content, labels="label")


@case("labels of another number", "data.validation.labels: array 'y' has 9 rows for 10 samples")
def _(w: Workshop) -> Spec:
    return w.data(x=GOOD_ROWS, y=np.zeros(9, np.int64), labels="y")


@case("NaN labels", "data.validation.labels: array 'y' holds 1 number that is NaN")
def _(w: Workshop) -> Spec:
    return w.data(x=GOOD_ROWS, y=np.array([np.nan] + [0.0] * 9), labels="y")


@case("different numbers of samples", "different numbers of samples (x 10, z 9)")
def _(w: Workshop) -> Spec:
    made = model([node("Add", ["x", "z"])], inputs=[float_value("x", ["N", 3]), float_value("z", ["N", 3])])
    return {**w.data(x=GOOD_ROWS, z=GOOD_ROWS[:9]), **w.source(made)}


@case("fewer samples than the batch", "10 samples, but the model takes 16 at a time")
def _(w: Workshop) -> Spec:
    return {**w.data(x=GOOD_ROWS), **w.source(model(inputs=[float_value("x", [16, 3])]))}


# ---------------------------------------------------------------- where it comes from


@case("missing file", "file:model.onx", "there is no file", "beside it: other.onx|check the name")
def _(w: Workshop) -> Spec:
    w.file("other.onx", b"x")
    return {"source": {"uri": "file:model.onx"}}


@case("folder instead of a file", "is a folder", "name the file itself|name the file in it")
def _(w: Workshop) -> Spec:
    (w.folder / "models").mkdir()
    return {"source": {"uri": "file:models"}}


@case("device instead of a file", "no regular file")
def _(w: Workshop) -> Spec:
    return {"source": {"uri": "file:/dev/zero"}}


@case("pipe instead of data", "file:data.npz", "no regular file")
def _(w: Workshop) -> Spec:
    os.mkfifo(w.folder / "data.npz")
    return {**w.source(model()), "data": {"calibration": {"uri": "file:data.npz"}}}


@case("file URI with a host", "'share' is read as a host name|names a host (share)", "file:share/model.onnx")
def _(w: Workshop) -> Spec:
    return {"source": {"uri": "file://share/model.onnx"}}


@case("file of another digest", "model.onnx", "sha256 is|has sha256", "the manifest says 0000")
def _(w: Workshop) -> Spec:
    return {"source": {**w.source(model())["source"], "sha256": SHA}}


@case("file without permission", "no permission to read", "chmod a+r", command=False)
def _(w: Workshop) -> Spec:
    path = Path(w.close.enter_context(tempfile.TemporaryDirectory())) / "private.onnx"
    path.parent.chmod(0o755)
    path.write_bytes(model().SerializeToString())
    path.chmod(0)
    if os.geteuid() == 0:
        # Root may read everything: be nobody for a while, with a work folder of nobody's.
        w.work_dir = path.parent / "work"
        w.work_dir.mkdir()
        os.chown(w.work_dir, 65534, 65534)
        w.close.callback(os.seteuid, 0)
        os.seteuid(65534)
    return {"source": {"uri": f"file://{path}"}}


@case("larger than allowed", "70000000 bytes", "at most 67108864", command=False)
def _(w: Workshop) -> Spec:
    with open(w.folder / "model.onnx", "wb") as file:
        file.truncate(70_000_000)
    return {"source": {"uri": "file:model.onnx"}}


@case("claim on a single machine", "pvc://claim/model.onnx", "EDGEMODEL_VOLUMES")
def _(w: Workshop) -> Spec:
    return {"source": {"uri": "pvc://claim/model.onnx"}}


@case("download of another digest", "sha256 is", "the manifest says 0000")
def _(w: Workshop) -> Spec:
    return w.remote("good", sha256=SHA)


@case("404", "404 Not Found", "correct the URI")
def _(w: Workshop) -> Spec:
    return w.remote("status", "404")


@case("403", "403 Forbidden", "credentialsSecretRef")
def _(w: Workshop) -> Spec:
    return w.remote("status", "403")


@case("500 for ever", "500 Internal Server Error", "4 tries", exit_code=EXIT_FAILED)
def _(w: Workshop) -> Spec:
    return w.remote("status", "500")


@case("redirect to plain http", "redirects to http://localhost", "not https")
def _(w: Workshop) -> Spec:
    return w.remote("nothttps")


@case("redirects in a circle", "more than 5 redirects")
def _(w: Workshop) -> Spec:
    return w.remote("loop")


@case("server that stops in the middle", "broke off", "4 tries", exit_code=EXIT_FAILED)
def _(w: Workshop) -> Spec:
    return w.remote("stops")


@case("server that announces too much", "broke off", exit_code=EXIT_FAILED)
def _(w: Workshop) -> Spec:
    return w.remote("long")


@case("server that announces too little", "sha256 is", "the manifest says")
def _(w: Workshop) -> Spec:
    return w.remote("short")


@case("server that announces terabytes", "10000000000000 bytes", "at most")
def _(w: Workshop) -> Spec:
    return w.remote("huge")


@case("endless server", "more than 67108864 bytes", command=False)
def _(w: Workshop) -> Spec:
    return w.remote("endless")


@case("compressed transfer", "Content-Encoding gzip")
def _(w: Workshop) -> Spec:
    return w.remote("gzip")


@case("port where nobody listens", "cannot connect to localhost:1", "4 tries", "host and port")
def _(w: Workshop) -> Spec:
    return {"source": {"uri": "https://localhost:1/model.onnx", "sha256": SHA}}


@case("certificate that nobody trusts", "not trusted", "SSL_CERT_FILE")
def _(w: Workshop) -> Spec:
    spec = w.remote("good")
    w.request.getfixturevalue("monkeypatch").delenv("SSL_CERT_FILE")
    return spec


@case("host that the certificate does not name", "not trusted", "127.0.0.1")
def _(w: Workshop) -> Spec:
    spec = w.remote("good")
    spec["source"]["uri"] = spec["source"]["uri"].replace("localhost", "127.0.0.1")
    return spec


@case("layout that is missing", "oci-layout")
def _(w: Workshop) -> Spec:
    return {"source": {"uri": f"oci-layout://{w.folder}/nowhere:v1"}}


@case("disk full", "free", "another folder|on another disk", command=False)
def _(w: Workshop) -> Spec:
    spec = w.source(model(initializers=[weights(shape=(3, 40_000))]))
    w.work_dir = w.request.getfixturevalue("full_disk")
    return spec


@case("disk full in the middle of a download", "free", command=False)
def _(w: Workshop) -> Spec:
    w.work_dir = w.request.getfixturevalue("full_disk")
    return w.remote("endless")


@case("disk full while unpacking", "free", command=False)
def _(w: Workshop) -> Spec:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros((20_000, 3), np.float32))
    spec = w.data(buffer.getvalue())
    w.work_dir = w.request.getfixturevalue("full_disk")
    return spec


@case("read-only work folder", "cannot write", command=False)
def _(w: Workshop) -> Spec:
    w.work_dir = w.request.getfixturevalue("read_only")
    return w.source(model())


@case("work folder that is missing", "cannot write", command=False)
def _(w: Workshop) -> Spec:
    w.work_dir = w.folder / "nowhere"
    return w.source(model())


# ---------------------------------------------------------------- the tests


@pytest.fixture
def workshop(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Workshop]:
    for name in ("in", "work"):
        (tmp_path / name).mkdir()
    made = Workshop(tmp_path / "in", request, tmp_path / "work")
    with made.close:
        yield made


def _listing(folder: Path) -> set[Path]:
    return set(folder.rglob("*")) if folder.parts[:2] != ("/", "sys") else set()


@contextlib.contextmanager
def _leaves_nothing(folder: Path) -> Iterator[None]:
    before = _listing(folder)
    try:
        yield
    except EdgeModelError:
        assert _listing(folder) == before
        raise


def bring(spec: Spec, folder: Path, work_dir: Path, seconds: float = 60) -> None:
    """What the Job does before it compresses."""

    def fetch(remote: Spec, name: str) -> Any:
        file = RemoteFile(uri=remote["uri"], sha256=remote.get("sha256"))
        with _leaves_nothing(work_dir):
            return fetch_source(file, work_dir / name, base_dir=folder, max_bytes=MAX_BYTES)

    fetched = fetch(spec["source"], "source.onnx")
    with _leaves_nothing(work_dir):
        loaded = load_model(fetched.path, work_dir=work_dir, max_bytes=MAX_BYTES, external_dir=fetched.folder)
    with _leaves_nothing(work_dir):
        probe(loaded.path, loaded.inputs, work_dir=work_dir, memory_bytes=2**29, timeout=seconds)
    for kind, remote in spec.get("data", {}).items():
        path = fetch(remote, f"{kind}.npz").path
        with _leaves_nothing(work_dir):
            open_dataset(
                path,
                loaded.inputs,
                labels=remote.get("labels"),
                work_dir=work_dir,
                max_bytes=MAX_BYTES,
                what=f"data.{kind}",
            )


def _check_message(text: str, wanted: Case) -> None:
    for words in wanted.words:
        assert any(w in text for w in words.split("|")), f"{words!r} is not in: {text}"
    assert "Traceback" not in text
    assert "\n" not in text.strip()
    assert len(text) < 1000


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 35


def test_good_input_is_taken(workshop: Workshop) -> None:
    bring(workshop.data(x=GOOD_ROWS, y=np.zeros(10, np.int64), labels="y"), workshop.folder, workshop.work_dir)


@pytest.mark.parametrize("name", CASES)
def test_functions(name: str, workshop: Workshop) -> None:
    wanted = CASES[name]
    spec = wanted.make(workshop)
    with pytest.raises(EdgeModelError) as caught:
        bring(spec, workshop.folder, workshop.work_dir, workshop.seconds)
    _check_message(caught.value.message, wanted)
    assert caught.value.exit_code == wanted.exit_code
    assert not Path("/tmp/edgemodel-was-here").exists()


def _manifest(workshop: Workshop, spec: Spec) -> Path:
    path = workshop.folder / "manifest.yaml"
    document = {
        "apiVersion": "edgemodel.dev/v1alpha1",
        "kind": "EdgeModel",
        "metadata": {"name": "bad-input"},
        "spec": {**spec, "compression": {"steps": []}},
    }
    path.write_text(dump(document))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.command])
def test_command(name: str, workshop: Workshop, capfd: pytest.CaptureFixture[str]) -> None:
    wanted = CASES[name]
    manifest = _manifest(workshop, wanted.make(workshop))
    out = workshop.work_dir / "out"
    with pytest.raises(SystemExit) as caught:
        main(["compress", "-f", str(manifest), "--out", str(out)])
    printed = capfd.readouterr()
    # Before the message there may be lines of progress, with the time in front.
    progress, _, message = printed.err.rpartition("edgemodel: ")
    _check_message(message, wanted)
    assert all(re.match(r"^\d\d:\d\d:\d\d ", line) for line in progress.splitlines()), printed.err
    assert printed.out == ""
    assert caught.value.code == wanted.exit_code
    assert list(workshop.work_dir.iterdir()) == []
    assert not Path("/tmp/edgemodel-was-here").exists()
