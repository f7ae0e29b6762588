"""Large ONNX files taken apart while they are read: weights go straight into a data file, the small rest is parsed.

Parsing a file of 1.9 GiB as a whole takes twice that. So the fields on the way to the weights (ModelProto.graph,
GraphProto.initializer, TensorProto.raw_data) are walked in the file, and a message without the weights is put together
from what is left. It has not been judged yet: `wire` and all other checks come afterwards, as for small files.
"""

from __future__ import annotations

import os

from . import kept
from .datafile import DataFile
from .walk import (
    BYTES,
    GRAPH_INITIALIZER,
    MODEL_GRAPH,
    TENSOR_EXTERNAL,
    VARINT,
    Field,
    NotProtobufError,
    ProtobufFile,
)

_TENSOR_RAW_DATA, _TENSOR_LOCATION = 9, 14


def split(fd: int, size: int, data: DataFile, mark: str) -> bytes:
    """The model's message without its large initializers, whose bytes go into `data`.

    Args:
        fd: of the file, open for reading.
        size: its bytes.
        data: takes the weights.
        mark: the location that these tensors get for now: a text that no file can know.

    Raises:
        NotProtobufError: no protobuf of this kind, cut off, or changed meanwhile; `data` is of no use then.
    """
    file = ProtobufFile(fd, size)
    out: list[bytes] = []
    for field in file.fields(0, size):
        if field.number == MODEL_GRAPH and field.wire == BYTES:
            out.append(_message(MODEL_GRAPH, _graph(file, field, data, mark)))
        else:
            out.append(file.read(field.start, field.end))
    if os.fstat(fd).st_size != size:
        raise NotProtobufError
    return b"".join(out)


def _graph(file: ProtobufFile, graph: Field, data: DataFile, mark: str) -> bytes:
    out: list[bytes] = []
    for field in file.fields(graph.content, graph.end):
        if field.number == GRAPH_INITIALIZER and field.wire == BYTES and _long(field):
            out.append(_message(GRAPH_INITIALIZER, _tensor(file, field, data, mark)))
        else:
            out.append(file.read(field.start, field.end))
    return b"".join(out)


def _tensor(file: ProtobufFile, tensor: Field, data: DataFile, mark: str) -> bytes:
    fields = list(file.fields(tensor.content, tensor.end))
    raw = [f for f in fields if f.number == _TENSOR_RAW_DATA and f.wire == BYTES]
    # Stored twice, or elsewhere too: the checks of whole files have words for that.
    if len(raw) != 1 or not _long(raw[0]) or any(f.number in (TENSOR_EXTERNAL, _TENSOR_LOCATION) for f in fields):
        return file.read(tensor.content, tensor.end)
    offset, length = data.add(file.chunks(raw[0].content, raw[0].end))
    out = [file.read(f.start, f.end) for f in fields if f is not raw[0]]
    for key, value in (("location", mark), ("offset", str(offset)), ("length", str(length))):
        out.append(_message(TENSOR_EXTERNAL, _message(1, key.encode()) + _message(2, value.encode())))
    out.append(bytes([_TENSOR_LOCATION << 3 | VARINT, 1]))
    return b"".join(out)


def _long(field: Field) -> bool:
    return field.end - field.content >= kept.SMALL_TENSOR_BYTES


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
