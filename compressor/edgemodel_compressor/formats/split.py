"""Large ONNX files taken apart while they are read: weights go straight into a data file, the small rest is parsed.

Parsing a file of 1.9 GiB as a whole takes twice that. So the fields on the way to the weights (ModelProto.graph,
GraphProto.initializer, TensorProto.raw_data) are walked in the file (protobuf.dev/programming-guides/encoding), and a
message without the weights is put together from what is left. It has not been judged yet: `wire` and all other checks
come afterwards, as for small files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from . import kept
from .datafile import DataFile

#: Field numbers in onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_TENSOR_RAW_DATA, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 9, 13, 14
_MODEL_FUNCTION, _GRAPH_NODE, _NODE_ATTRIBUTE, _FUNCTION_NODE = 25, 1, 5, 7
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_CHUNK = 2**22
_WINDOW = 2**16
#: Message → field number → message, on the ways to tensors.
_WAYS: dict[str, dict[int, str]] = {
    "model": {_MODEL_GRAPH: "graph", _MODEL_FUNCTION: "function"},
    "function": {_FUNCTION_NODE: "node", 11: "attribute"},
    "graph": {_GRAPH_NODE: "node", _GRAPH_INITIALIZER: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {_NODE_ATTRIBUTE: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 6: "graph", 11: "graph", 22: "sparse", 23: "sparse"},
    "tensor": {_TENSOR_EXTERNAL: "entry"},
}
_MAX_DEPTH = 90
_MAX_NAMES, _MAX_NAME_BYTES = 10_000, 4096


class NotSplitError(Exception):
    """The bytes are not as they should be: whoever reads them as a whole says it better."""


@dataclass(frozen=True)
class _Field:
    number: int
    wire: int
    #: Where the tag, the content and the next field begin.
    start: int
    content: int
    end: int


class _File:
    """Random reads through a small window."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self.size = fd, size
        self._at, self._window = 0, b""

    def byte(self, at: int) -> int:
        if not self._at <= at < self._at + len(self._window):
            self._at, self._window = at, os.pread(self._fd, _WINDOW, at)
            if not self._window:
                raise NotSplitError
        return self._window[at - self._at]

    def read(self, start: int, end: int) -> bytes:
        return b"".join(self.chunks(start, end))

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            part = os.pread(self._fd, min(_CHUNK, end - start), start)
            if not part:
                raise NotSplitError
            yield part
            start += len(part)

    def fields(self, start: int, end: int) -> Iterator[_Field]:
        at = start
        while at < end:
            tag, content = self._varint(at, end)
            wire = tag & 7
            if wire == _VARINT:
                _, after = self._varint(content, end)
            elif wire == _FIXED64:
                after = content + 8
            elif wire == _FIXED32:
                after = content + 4
            elif wire == _BYTES:
                length, content = self._varint(content, end)
                after = content + length
            else:
                raise NotSplitError
            if after > end or not tag >> 3:
                raise NotSplitError
            yield _Field(tag >> 3, wire, at, content, after)
            at = after

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self.byte(at)
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise NotSplitError


def split(fd: int, size: int, data: DataFile, mark: str) -> bytes:
    """The model's message without its large initializers, whose bytes go into `data`.

    Args:
        fd: of the file, open for reading.
        size: its bytes.
        data: takes the weights.
        mark: the location that these tensors get for now: a text that no file can know.

    Raises:
        NotSplitError: no protobuf of this kind, cut off, or changed meanwhile; `data` is of no use then.
    """
    file = _File(fd, size)
    out: list[bytes] = []
    for field in file.fields(0, size):
        if field.number == _MODEL_GRAPH and field.wire == _BYTES:
            out.append(_message(_MODEL_GRAPH, _graph(file, field, data, mark)))
        else:
            out.append(file.read(field.start, field.end))
    if os.fstat(fd).st_size != size:
        raise NotSplitError
    return b"".join(out)


def _graph(file: _File, graph: _Field, data: DataFile, mark: str) -> bytes:
    out: list[bytes] = []
    for field in file.fields(graph.content, graph.end):
        if field.number == _GRAPH_INITIALIZER and field.wire == _BYTES and _long(field):
            out.append(_message(_GRAPH_INITIALIZER, _tensor(file, field, data, mark)))
        else:
            out.append(file.read(field.start, field.end))
    return b"".join(out)


def _tensor(file: _File, tensor: _Field, data: DataFile, mark: str) -> bytes:
    fields = list(file.fields(tensor.content, tensor.end))
    raw = [f for f in fields if f.number == _TENSOR_RAW_DATA and f.wire == _BYTES]
    # Stored twice, or elsewhere too: the checks of whole files have words for that.
    if len(raw) != 1 or not _long(raw[0]) or any(f.number in (_TENSOR_EXTERNAL, _TENSOR_LOCATION) for f in fields):
        return file.read(tensor.content, tensor.end)
    offset, length = data.add(file.chunks(raw[0].content, raw[0].end))
    out = [file.read(f.start, f.end) for f in fields if f is not raw[0]]
    for key, value in (("location", mark), ("offset", str(offset)), ("length", str(length))):
        out.append(_message(_TENSOR_EXTERNAL, _message(1, key.encode()) + _message(2, value.encode())))
    out.append(bytes([_TENSOR_LOCATION << 3 | _VARINT, 1]))
    return b"".join(out)


def _long(field: _Field) -> bool:
    return field.end - field.content >= kept.SMALL_TENSOR_BYTES


def _message(number: int, content: bytes) -> bytes:
    out = bytearray()
    for value in (number << 3 | _BYTES, len(content)):
        while value >= 0x80:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out) + content


def external_names(fd: int, size: int) -> tuple[str, ...]:
    """The locations of a model's external data, each once, in order of appearance; of a file that may be hostile.

    Read without parsing the model. What is no protobuf has none. The names are not checked.
    """
    found: dict[str, None] = {}
    try:
        _names(_File(fd, size), 0, size, "model", found, 0)
    except NotSplitError:
        return ()
    return tuple(found)


def _names(file: _File, start: int, end: int, kind: str, found: dict[str, None], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise NotSplitError
    ways = _WAYS[kind]
    for field in file.fields(start, end):
        inner = ways.get(field.number) if field.wire == _BYTES else None
        if inner == "entry":
            texts = {
                f.number: file.read(f.content, min(f.end, f.content + _MAX_NAME_BYTES))
                for f in file.fields(field.content, field.end)
            }
            if texts.get(1) == b"location" and len(found) < _MAX_NAMES:
                found[texts.get(2, b"").decode("utf-8", "replace")] = None
        elif inner is not None:
            _names(file, field.content, field.end, inner, found, depth + 1)
