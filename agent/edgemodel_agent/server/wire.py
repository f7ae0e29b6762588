"""Messages on the control socket: a length-prefixed JSON object, and the bytes of arrays behind it.

```
4 bytes  length of the JSON, big-endian      8 bytes  length of the payload
JSON     {"do": …} or {"error": …} or a result; {"arrays": [{name, dtype, shape}]} describes the payload
payload  the arrays' bytes, row-major, one after the other
```
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgemodel_agent.runtimes.base import Array, Arrays
from edgemodel_api.errors import InputError, TransientError

_PREFIX = struct.Struct("!IQ")
MAX_JSON = 1 << 20
#: A message with golden arrays; the golden file is limited to a quarter of it.
MAX_PAYLOAD = 256 << 20
#: Linux takes up to 253.
FDS_PER_MESSAGE = 128


class ControlError(TransientError):
    """The other side does not answer as it should."""

    reason = "Unavailable"


def send(connection: socket.socket, message: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
    """Write one message.

    Raises:
        OSError: the connection is gone, or its timeout is over.
    """
    described, payload = _pack(arrays or {})
    text = json.dumps({**message, "arrays": described}).encode()
    connection.sendall(_PREFIX.pack(len(text), len(payload)) + text)
    if payload:
        connection.sendall(payload)


def receive(connection: socket.socket, deadline: float | None = None) -> tuple[dict[str, Any], Arrays] | None:
    """Read one message; None: the other side closed the connection.

    Args:
        connection: a stream.
        deadline: `time.monotonic()` at which to give up; None: each read has the socket's own timeout.

    Raises:
        OSError: the connection broke, or the time is over.
        ControlError: this is no message.
    """
    prefix = _exactly(connection, _PREFIX.size, deadline)
    if not prefix:
        return None
    text_size, payload_size = _PREFIX.unpack(prefix)
    if text_size > MAX_JSON or payload_size > MAX_PAYLOAD:
        raise ControlError(f"a control message of {text_size} + {payload_size} bytes is too long")
    text, payload = _exactly(connection, text_size, deadline), _exactly(connection, payload_size, deadline)
    if len(text) != text_size or len(payload) != payload_size:
        raise ControlError("the control connection ended within a message")
    try:
        message = json.loads(text)
        return message, _unpack(message.pop("arrays"), payload)
    except (ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        raise ControlError(f"a control message cannot be read: {error}") from None


def send_fds(connection: socket.socket, fds: Sequence[int]) -> None:
    """Pass descriptors (SCM_RIGHTS); the receiver must know their number."""
    for start in range(0, len(fds), FDS_PER_MESSAGE):
        socket.send_fds(connection, [b"\0"], list(fds[start : start + FDS_PER_MESSAGE]))


def receive_fds(connection: socket.socket, count: int) -> list[int]:
    """Receive `count` descriptors; the caller closes them. Each read has the socket's own timeout.

    Raises:
        OSError: the connection broke.
        ControlError: fewer came.
    """
    found: list[int] = []
    try:
        while len(found) < count:
            # One byte a message: the next message's descriptors cannot come with it.
            _, fds, _, _ = socket.recv_fds(connection, 1, FDS_PER_MESSAGE)
            found += fds
            if not fds:
                break
        for fd in found:
            os.set_inheritable(fd, False)
    except OSError:
        close_fds(found)
        raise
    if len(found) != count:
        close_fds(found)
        raise ControlError(f"{len(found)} of {count} descriptors were passed")
    return found


def close_fds(fds: Iterable[int]) -> None:
    """Close descriptors, whatever became of them."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _exactly(connection: socket.socket, size: int, deadline: float | None) -> bytearray:
    """`size` bytes, or none at all where the stream ended."""
    buffer = bytearray()
    while len(buffer) < size:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the time for a control message is over")
            connection.settimeout(left)
        chunk = connection.recv(min(1 << 20, size - len(buffer)))
        if not chunk:
            return bytearray()
        buffer += chunk
    return buffer


def _pack(arrays: Mapping[str, Array]) -> tuple[list[dict[str, Any]], bytes]:
    described, parts = [], []
    for name, array in arrays.items():
        # Strings of models are objects: numpy's own text type has a size per element, and no pickle in it.
        plain = array.astype(np.str_) if array.dtype.kind == "O" else np.ascontiguousarray(array)
        described.append({"name": name, "dtype": plain.dtype.str, "shape": list(array.shape)})
        parts.append(plain.tobytes())
    return described, b"".join(parts)


def _unpack(described: list[dict[str, Any]], payload: bytearray) -> Arrays:
    arrays: Arrays = {}
    at = 0
    for one in described:
        dtype, shape = np.dtype(one["dtype"]), [int(d) for d in one["shape"]]
        if dtype.kind not in "biufU" or any(d < 0 for d in shape):
            raise InputError(f"array {one['name']!r} has dtype {dtype} and shape {shape}")
        count = math.prod(shape)
        end = at + count * dtype.itemsize
        if end > len(payload):
            raise InputError(f"array {one['name']!r} is longer than the message")
        if dtype.itemsize == 0:
            arrays[one["name"]] = np.zeros(shape, dtype)
            continue
        arrays[one["name"]] = np.frombuffer(payload, dtype, count, at).reshape(shape)
        at = end
    return arrays
