"""A look at protobuf bytes before they are parsed: is it whole, what will it cost in memory.

Parsing multiplies: an empty message takes 2 bytes in the file and some 100 in memory, a packed zero 1 and 8. So the
fields are walked first, by the schema, without building anything (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NoReturn

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted, format_bytes

#: Exports of large language models have some 500 000.
MAX_MESSAGES = 2_000_000
#: Numbers that are not packed are a field each.
MAX_FIELDS = 20_000_000
#: Bytes that one parsed message takes, about.
MESSAGE_BYTES = 150
#: The parsers' own limit is 100.
MAX_DEPTH = 90
_VARINT, _FIXED64, _BYTES, _START, _END, _FIXED32 = range(6)
_STRING = 9
_VARINT_TYPES = frozenset({3, 4, 5, 8, 13, 14, 17, 18})


@dataclass(frozen=True)
class Cost:
    """What parsing will build.

    Attributes:
        messages: number of them.
        memory_bytes: an estimate.
    """

    messages: int
    memory_bytes: int


def scan(data: bytes | bytearray, descriptor: Any, *, what: str, max_memory: int) -> Cost:
    """Walk all fields.

    Args:
        data: the file.
        descriptor: of the message that it holds, such as `onnx.ModelProto.DESCRIPTOR`.
        what: for messages.
        max_memory: bytes that the parsed message may take.

    Raises:
        InputError: truncated, no protobuf, nested too deeply, or too costly.
    """
    stack: list[tuple[int, Any]] = [(len(data), descriptor)]
    fields = _fields(descriptor)
    end = len(data)
    messages, count, extra = 1, 0, 0
    at = 0
    while True:
        while at == end:
            if len(stack) == 1:
                return Cost(messages, len(data) + extra + messages * MESSAGE_BYTES)
            stack.pop()
            end, fields = stack[-1][0], _fields(stack[-1][1])
        start = at
        count += 1
        if count > MAX_FIELDS:
            raise InputError(f"{what}: more than {MAX_FIELDS} fields: export the model again (weights as raw_data)")
        tag, at = _varint(data, at, end, what)
        number, wire = tag >> 3, tag & 7
        kind, message, name = fields.get(number, (0, None, ""))
        if number == 0 or wire in (_START, _END, 6, 7):
            _garbled(what, start, len(data))
        if wire == _VARINT:
            _, at = _varint(data, at, end, what)
            extra += 8
        elif wire == _FIXED64:
            at += 8
            extra += 8
        elif wire == _FIXED32:
            at += 4
            extra += 4
        else:
            length, at = _varint(data, at, end, what)
            if at + length > end:
                _cut(
                    what,
                    start,
                    (length, end - at, len(data)),
                    field=name or f"number {number}",
                    outermost=len(stack) == 1,
                )
            if message is not None:
                messages += 1
                if len(stack) >= MAX_DEPTH:
                    raise InputError(
                        f"{what}: messages nested more than {MAX_DEPTH} deep at byte {start} (subgraphs in subgraphs):"
                        " export the model with flatter control flow"
                    )
                stack.append((at + length, message))
                end, fields = at + length, _fields(message)
                if messages * MESSAGE_BYTES + extra > max_memory or messages > MAX_MESSAGES:
                    _bomb(what, messages, messages * MESSAGE_BYTES + extra, max_memory)
                continue
            if kind == _STRING:
                _check_text(data[at : at + length], what, name, start)
            elif kind in _VARINT_TYPES:
                extra += 8 * length
            else:
                extra += 32
            at += length
        if at > end:
            _cut(
                what,
                start,
                (at - start, end - start, len(data)),
                field=name or f"number {number}",
                outermost=len(stack) == 1,
            )
        if extra > max_memory:
            _bomb(what, messages, messages * MESSAGE_BYTES + extra, max_memory)


@functools.cache
def _fields(descriptor: Any) -> dict[int, tuple[int, Any, str]]:
    return {f.number: (f.type, f.message_type, f.name) for f in descriptor.fields}


def _varint(data: bytes | bytearray, at: int, end: int, what: str) -> tuple[int, int]:
    value, shift, start = 0, 0, at
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    if shift >= 70:
        _garbled(what, start, len(data))
    return _cut(what, start, (1, 0, len(data)), field="", outermost=end == len(data))


def _check_text(text: bytes | bytearray, what: str, name: str, at: int) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise InputError(
            f"{what}: {name} at byte {at} is no UTF-8 text ({bytes(text[:20])!r}): the file is damaged or no ONNX model:"
            " export or copy it again"
        ) from None


def _cut(what: str, at: int, sizes: tuple[int, int, int], *, field: str, outermost: bool) -> NoReturn:
    """`sizes`: bytes that are needed, that are left, and of the file."""
    length, left, size = sizes
    if not outermost:
        _garbled(what, at, size)
    field = f"field {field!r} at byte {at}" if field else f"a number at byte {at}"
    raise InputError(
        f"{what}: truncated, or no ONNX model: {field} needs {counted(length, 'byte')} and {left} are left of the"
        f" file's {size}: export or copy it again, and compare sha256sum at both ends"
    )


def _garbled(what: str, at: int, size: int) -> NoReturn:
    raise InputError(
        f"{what}: no ONNX model, or a damaged one: byte {at} of {size} begins no protobuf field: give a file that"
        " onnx.load can read, and compare sha256sum at both ends"
    )


def _bomb(what: str, messages: int, memory: int, limit: int) -> NoReturn:
    raise InputError(
        f"{what}: would unpack to more than {format_bytes(memory)} in {messages} or more messages; at most"
        f" {format_bytes(limit)} and {MAX_MESSAGES} are allowed: export the model again (weights as raw_data)"
    )
