"""Protobuf files walked without being parsed: where fields lie, and the little that must be known of a model early.

Only what is asked for is read, through a small window, so that a file of gigabytes costs no memory. Encoding:
protobuf.dev/programming-guides/encoding; field numbers: onnx.proto. Files may be hostile: what is no protobuf ends the walk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_NAME, TENSOR_EXTERNAL = 7, 5, 8, 13
_CHUNK = 2**22
_WINDOW = 2**16
#: Message → field number → message, on the ways to tensors.
_WAYS: dict[str, dict[int, str]] = {
    "model": {MODEL_GRAPH: "graph", 25: "function"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", GRAPH_INITIALIZER: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 6: "graph", 11: "graph", 22: "sparse", 23: "sparse"},
    "tensor": {TENSOR_EXTERNAL: "entry"},
}
_MAX_DEPTH = 90
#: As in `wire`: numbers that are not packed are a field each.
MAX_FIELDS = 20_000_000
_MAX_NAMES, _MAX_NAME_BYTES = 10_000, 4096
#: Bytes of an element, by TensorProto.DataType, where it is not 4.
_ELEMENT_BYTES = {2: 1, 3: 1, 4: 2, 5: 2, 7: 8, 9: 1, 10: 2, 11: 8, 13: 8, 14: 8, 15: 16, 16: 2}
_MAX_BYTES = 2**50


class NotProtobufError(Exception):
    """The bytes are not as they should be: whoever reads them as a whole says it better."""


@dataclass(frozen=True)
class Field:
    """One field of a message.

    Attributes:
        number: of the field.
        wire: how it is encoded.
        start: of its tag, in the file.
        content: where its content begins.
        end: where the next field begins.
    """

    number: int
    wire: int
    start: int
    content: int
    end: int


class ProtobufFile:
    """Random reads through a small window."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self.size = fd, size
        self._at, self._window, self._fields = 0, b"", 0

    def byte(self, at: int) -> int:
        """Raises: NotProtobufError: the file ends before it."""
        if not self._at <= at < self._at + len(self._window):
            self._at, self._window = at, os.pread(self._fd, _WINDOW, at)
            if not self._window:
                raise NotProtobufError
        return self._window[at - self._at]

    def read(self, start: int, end: int) -> bytes:
        """Some bytes."""
        return b"".join(self.chunks(start, end))

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """Some bytes, in pieces.

        Raises:
            NotProtobufError: the file ends before them.
        """
        while start < end:
            part = os.pread(self._fd, min(_CHUNK, end - start), start)
            if not part:
                raise NotProtobufError
            yield part
            start += len(part)

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of a message.

        Raises:
            NotProtobufError: the bytes are none, or a bomb of fields.
        """
        at = start
        while at < end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise NotProtobufError
            tag, content = self.varint(at, end)
            wire = tag & 7
            if wire == VARINT:
                _, after = self.varint(content, end)
            elif wire == FIXED64:
                after = content + 8
            elif wire == FIXED32:
                after = content + 4
            elif wire == BYTES:
                length, content = self.varint(content, end)
                after = content + length
            else:
                raise NotProtobufError
            if after > end or not tag >> 3:
                raise NotProtobufError
            yield Field(tag >> 3, wire, at, content, after)
            at = after

    def number(self, at: int, end: int) -> int:
        """The number at a place."""
        return self.varint(at, end)[0]

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The number at a place, and where it ends.

        Raises:
            NotProtobufError: there is none.
        """
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self.byte(at)
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise NotProtobufError


def external_names(fd: int, size: int) -> dict[str, str]:
    """The locations of a model's external data, in order of appearance, each with the first tensor that lies there.

    Read without parsing the model, whose file may be hostile. What is no protobuf has none. The names are not checked.
    """
    found: dict[str, str] = {}
    try:
        _names(ProtobufFile(fd, size), (0, size), "model", found, 0)
    except NotProtobufError:
        return {}
    return found


def _names(file: ProtobufFile, within: tuple[int, int], kind: str, found: dict[str, str], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise NotProtobufError
    ways = _WAYS[kind]
    for field in file.fields(*within):
        inner = ways.get(field.number) if field.wire == BYTES else None
        if inner == "entry":
            texts = {
                f.number: file.read(f.content, min(f.end, f.content + _MAX_NAME_BYTES))
                for f in file.fields(field.content, field.end)
            }
            if texts.get(1) == b"location" and len(found) < _MAX_NAMES:
                location = texts.get(2, b"").decode("utf-8", "replace")
                if location not in found:
                    found[location] = _name_of(file, within)
        elif inner is not None:
            _names(file, (field.content, field.end), inner, found, depth + 1)


def _name_of(file: ProtobufFile, tensor: tuple[int, int]) -> str:
    for field in file.fields(*tensor):
        if field.number == TENSOR_NAME and field.wire == BYTES:
            return file.read(field.content, min(field.end, field.content + _MAX_NAME_BYTES)).decode("utf-8", "replace")
    return ""


def weight_sizes(fd: int, size: int) -> tuple[int, int]:
    """(bytes of all initializers, of the largest), by their shapes; of a file that may be hostile: an estimate.

    Read without parsing the model. What is no protobuf has none.
    """
    total = largest = 0
    file = ProtobufFile(fd, size)
    try:
        for graph in file.fields(0, size):
            if graph.number != MODEL_GRAPH or graph.wire != BYTES:
                continue
            for field in file.fields(graph.content, graph.end):
                if field.number == GRAPH_INITIALIZER and field.wire == BYTES:
                    found = min(_declared(file, field), _MAX_BYTES)
                    total, largest = total + found, max(largest, found)
    except NotProtobufError:
        pass
    return total, largest


def _declared(file: ProtobufFile, tensor: Field) -> int:
    count, kind = 1, 1
    for field in file.fields(tensor.content, tensor.end):
        if field.number == 1 and field.wire == VARINT:
            count = min(count * file.number(field.content, field.end), _MAX_BYTES)
        elif field.number == 1 and field.wire == BYTES:
            at = field.content
            while at < field.end:
                value, at = file.varint(at, field.end)
                count = min(count * value, _MAX_BYTES)
        elif field.number == 2 and field.wire == VARINT:
            kind = file.number(field.content, field.end)
    return count * _ELEMENT_BYTES.get(kind, 4)
