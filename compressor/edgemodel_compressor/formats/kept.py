"""Tensors of large models: their numbers stay in files of the work folder and are read one tensor at a time.

Such a tensor is an external one of ONNX whose location is the absolute path of a file that this process wrote itself
and has registered here; nothing else is ever opened. So a ModelProto stays what every step works on, and a copy of it
costs next to nothing. What steps make of a kept tensor is kept as well (`put`), until `release` says that its model is
no longer needed. `formats.datafile` writes such models; no location of this kind is ever in a file.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import format_bytes
from edgemodel_api.reasons import NOT_SUPPORTED
from edgemodel_oci.files import put as write_chunk
from edgemodel_oci.files import replacing

#: Models with less than this are held in memory and stored as one file.
LARGE_BYTES = 256 * 2**20
#: Smaller tensors stay inside: their shape may be read by shape inference, and their room does not matter.
SMALL_TENSOR_BYTES = 4096
#: protobuf's own: no message can be serialized beyond it.
PROTOBUF_LIMIT = 2**31 - 1
_CHUNK = 2**22
#: Files that may be opened; True: written by `put`, so that `release` may remove it.
_FILES: dict[str, bool] = {}
_LOCK = threading.Lock()
_COUNT = itertools.count()


def is_kept(tensor: Any) -> bool:
    """Whether the tensor's numbers are in a file of ours."""
    return bool(tensor.data_location == TensorProto.EXTERNAL and _entries(tensor).get("location") in _FILES)


def register(path: Path) -> None:
    """Tensors may refer to this file from now on; it is nobody else's and does not change."""
    with _LOCK:
        _FILES.setdefault(os.path.abspath(path), False)


def refer(tensor: Any, path: Path, offset: int, length: int) -> None:
    """Point a tensor to bytes of a registered file; its own go."""
    set_external(tensor, os.path.abspath(path), offset, length)


def set_external(tensor: Any, location: str, offset: int, length: int) -> None:
    """Make a tensor external, whatever it was."""
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def length_of(tensor: Any) -> int:
    """Bytes of a kept tensor."""
    return int(_entries(tensor)["length"])


def array_of(tensor: Any) -> npt.NDArray[Any]:
    """The numbers of a kept tensor, read now: a writable array of its own.

    Raises:
        InputError: the file is gone or shorter than it was.
    """
    raw = bytearray(length_of(tensor))
    _read_into(tensor, memoryview(raw))
    shape = tuple(tensor.dims)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if len(raw) == math.prod(shape) * dtype.itemsize and tensor.data_type != TensorProto.BFLOAT16:
        return np.frombuffer(raw, dtype=dtype.newbyteorder("<")).reshape(shape)
    inside = TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=bytes(raw))
    return np.asarray(numpy_helper.to_array(inside))


def chunks_of(tensor: Any) -> Iterator[bytes]:
    """The bytes of a kept tensor in pieces, for copying.

    Raises:
        InputError: the file is gone or shorter than it was.
    """
    at, left = int(_entries(tensor)["offset"]), length_of(tensor)
    with _opened(tensor) as f:
        while left:
            part = os.pread(f.fileno(), min(left, _CHUNK), at)
            if not part:
                raise _gone(tensor)
            yield part
            at += len(part)
            left -= len(part)


def put(tensor: Any, array: npt.NDArray[Any], *, beside: Any = None) -> None:
    """Give a tensor new numbers (and their shape and type); its name stays.

    Args:
        tensor: changed in place.
        array: C order is made of it.
        beside: a kept tensor: the new one is kept in the same folder, if it is not small. Default: `tensor` itself.

    Raises:
        InputError: the disk refuses.
    """
    name = tensor.name
    folder = folder_of(tensor if beside is None else beside)
    if folder is None or array.nbytes < SMALL_TENSOR_BYTES:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return
    dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
    content = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    path = folder / f"kept-{os.getpid()}-{next(_COUNT)}.bin"
    with replacing(path) as f:
        for start in range(0, content.nbytes, _CHUNK):
            write_chunk(f, content.reshape(-1).view(np.uint8)[start : start + _CHUNK].tobytes(), path)
    with _LOCK:
        _FILES[os.path.abspath(path)] = True
    tensor.Clear()
    tensor.name, tensor.data_type = name, dtype
    tensor.dims.extend(array.shape)
    refer(tensor, path, 0, content.nbytes)


def folder_of(tensor: Any) -> Path | None:
    """Where a kept tensor lies; None: it is inside its model."""
    return Path(_entries(tensor)["location"]).parent if is_kept(tensor) else None


def kept_tensors(model: Any) -> Iterator[Any]:
    """Of the model's main graph: nothing else is kept."""
    return (t for t in model.graph.initializer if is_kept(t))


def inlined(model: Any, *, what: str = "this step") -> Any:
    """A copy with all numbers inside, for code that knows no kept tensors; the model itself where none is kept.

    Raises:
        InputError: it is larger than a message of protobuf may be (reason NotSupported).
    """
    found = list(kept_tensors(model))
    if not found:
        return model
    total = sum(length_of(t) for t in found)
    if total >= PROTOBUF_LIMIT - 2**20:
        raise InputError(
            f"{what} needs the whole model in one message, and protobuf's limit is 2 GiB: its weights take"
            f" {format_bytes(total)}; use weights-only quantization (activations: None) or pruning, which work tensor by"
            " tensor",
            reason=NOT_SUPPORTED,
        )
    made = ModelProto()
    made.CopyFrom(model)
    for tensor in kept_tensors(made):
        raw = b"".join(chunks_of(tensor))
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = raw
    return made


def release(model: Any, *, keep: Iterable[Any] = ()) -> int:
    """Remove the files that `put` wrote for a model that is no longer needed, unless a model in `keep` refers to them.

    Returns:
        Bytes that were freed.
    """
    needed = {_entries(t)["location"] for other in keep for t in kept_tensors(other)}
    freed = 0
    for location in {_entries(t)["location"] for t in kept_tensors(model)} - needed:
        with _LOCK:
            if not _FILES.get(location):
                continue
            del _FILES[location]
        try:
            freed += os.stat(location).st_size
            os.unlink(location)
        except OSError:
            continue
    return freed


def _read_into(tensor: Any, view: memoryview) -> None:
    at, done = int(_entries(tensor)["offset"]), 0
    with _opened(tensor) as f:
        while done < len(view):
            count = os.preadv(f.fileno(), [view[done : done + 2**30]], at + done)
            if not count:
                raise _gone(tensor)
            done += count


def _opened(tensor: Any) -> Any:
    location = _entries(tensor).get("location", "")
    if location not in _FILES:
        raise InputError(f"tensor {tensor.name!r} lies in another file, which was not checked: load the model again")
    try:
        return open(location, "rb", buffering=0)
    except OSError:
        raise _gone(tensor) from None


def _gone(tensor: Any) -> InputError:
    return InputError(
        f"tensor {tensor.name!r}: its file in the work folder is gone or was cut off: leave the work folder alone and try again"
    )


def _entries(tensor: Any) -> dict[str, str]:
    return {e.key: e.value for e in tensor.external_data}
