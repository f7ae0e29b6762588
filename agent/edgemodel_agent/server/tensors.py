"""One tensor of an Open Inference Protocol v2 message: JSON data or raw bytes ↔ array. Pure.

Sources: Open Inference Protocol v2 REST (inference_rest), Triton's binary tensor data extension. JSON has no NaN and no
infinity: in JSON outputs they are `null`; the binary extension carries them. FP16, for which the protocol leaves JSON
open, is written as numbers.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgemodel_agent.runtimes.base import DATATYPES, Array
from edgemodel_api.errors import InputError

MAX_RANK = 32
MAX_ELEMENTS = 2**40
#: JSON types of an element. `type(v) is int` tells true from 1; numpy would not, nor does it refuse "1.5" for a float.
_NUMBER, _WHOLE = frozenset({int, float}), frozenset({int})
_TYPES: dict[str, frozenset[type]] = {
    "BOOL": frozenset({bool}), "BYTES": frozenset({str}), "FP16": _NUMBER, "FP32": _NUMBER, "FP64": _NUMBER,
}  # fmt: skip
_WANTED = {"BOOL": "true or false", "BYTES": "strings", "FP16": "numbers", "FP32": "numbers", "FP64": "numbers"}


def check_shape(shape: Any, what: str) -> tuple[int, ...]:
    """A message's `shape`.

    Raises:
        InputError: it is not a list of sizes.
    """
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_RANK
        or not all(type(d) is int and d >= 0 for d in shape)
        or math.prod(d or 1 for d in shape) > MAX_ELEMENTS
    ):
        raise InputError(f"{what}: shape must be a list of at most {MAX_RANK} sizes of 0 or more, got {_short(shape)}")
    return tuple(shape)


def from_json(data: Any, datatype: str, shape: tuple[int, ...], what: str) -> Array:
    """Nested or flat lists, row-major.

    Raises:
        InputError: the elements are of another type, out of range, or not as many as the shape says.
    """
    if not isinstance(data, list):
        raise InputError(f"{what}: data must be a list, got {_short(data)}")
    dtype = DATATYPES[datatype]
    flat = _flatten(data, shape, what)
    if len(flat) != math.prod(shape):
        raise InputError(
            f"{what}: shape {list(shape)} means {math.prod(shape)} elements, data holds {len(flat)}: make them equal"
        )
    complaint = f"{what}: data of {datatype} must be {_WANTED.get(datatype, f'whole numbers that fit {datatype}')}"
    # The types are looked at first: a long string among numbers would make numpy ask for an array of long strings.
    if not set(map(type, flat)) <= _TYPES.get(datatype, _WHOLE):
        raise InputError(complaint)
    try:
        with np.errstate(over="ignore"):
            found: Array = np.array(flat, np.float64 if dtype.kind == "f" else dtype).astype(dtype, copy=False)
    except OverflowError:
        raise InputError(complaint) from None
    return found.reshape(shape)


def _flatten(data: list[Any], shape: tuple[int, ...], what: str) -> list[Any]:
    level = data
    for depth in range(1, len(shape)):
        if list not in set(map(type, level)):
            break
        if not all(type(v) is list and len(v) == shape[depth] for v in level):
            raise InputError(
                f"{what}: nested data must have lists of {shape[depth]} elements, as shape {list(shape)} says"
            )
        level = list(itertools.chain.from_iterable(level))
    return level


def to_json(array: Array, datatype: str) -> list[Any]:
    """The elements, flat and row-major; what is not finite becomes None."""
    flat = array.reshape(-1)
    if datatype == "BYTES":
        return [_text(v) for v in flat.tolist()]
    values = flat.tolist()
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        return [v if math.isfinite(v) else None for v in values]
    return values


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def from_binary(raw: bytes | memoryview, datatype: str, shape: tuple[int, ...], what: str) -> Array:
    """Little-endian elements, row-major; BYTES: each a 4-byte length and UTF-8.

    Raises:
        InputError: there are not as many bytes as the shape says, or they are no UTF-8.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        texts = _strings(raw, count, what)
        found: Array = np.empty(count, np.object_)
        found[:] = texts
        return found.reshape(shape)
    dtype = DATATYPES[datatype].newbyteorder("<")
    if len(raw) != count * dtype.itemsize:
        raise InputError(
            f"{what}: shape {list(shape)} of {datatype} means {count * dtype.itemsize} bytes, got {len(raw)}:"
            " set shape and binary_data_size to what is sent"
        )
    if datatype == "BOOL":
        return np.asarray(np.frombuffer(raw, np.uint8) != 0).reshape(shape)
    return np.frombuffer(raw, dtype).astype(DATATYPES[datatype], copy=False).reshape(shape)


def _strings(raw: bytes | memoryview, count: int, what: str) -> Sequence[str]:
    found: list[str] = []
    at = 0
    if count > len(raw) // 4:
        raise InputError(f"{what}: {count} strings need at least {count * 4} bytes, got {len(raw)}")
    for _ in range(count):
        end = at + 4 + (struct.unpack_from("<I", raw, at)[0] if at + 4 <= len(raw) else len(raw))
        if end > len(raw):
            raise InputError(f"{what}: the bytes end within a string: each needs its 4-byte length before it")
        try:
            found.append(str(raw[at + 4 : end], "utf-8"))
        except UnicodeDecodeError:
            raise InputError(f"{what}: a string is not UTF-8") from None
        at = end
    if at != len(raw):
        raise InputError(f"{what}: {len(raw) - at} bytes follow the last of {count} strings")
    return found


def to_binary(array: Array, datatype: str) -> bytes:
    """As `from_binary` reads it."""
    if datatype == "BYTES":
        texts = [_text(v).encode() for v in array.reshape(-1).tolist()]
        return b"".join(struct.pack("<I", len(t)) + t for t in texts)
    return np.ascontiguousarray(array, DATATYPES[datatype].newbyteorder("<")).tobytes()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
