"""Weights that a model keeps in files beside it: read only from inside its folder, and only what they say.

Paths, offsets and lengths in a model are an attacker's choice (CVE-2022-25882, CVE-2024-5187 of onnx): absolute paths,
`..`, links that lead out, pipes that never end, lengths beyond the file.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

from onnx import TensorProto

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import format_bytes
from edgemodel_compressor.reading import open_to_read

from .tensors import Located, declared_bytes, tensors


def fold_external(model: Any, folder: Path | None, *, max_bytes: int) -> int:
    """Put external tensors into the model. Only inside `folder`, which None says there is not.

    Args:
        model: a ModelProto; changed in place.
        folder: the model's own.
        max_bytes: of all external tensors together.

    Returns:
        How many tensors were folded in.

    Raises:
        InputError: paths that leave the folder, missing or short files, sizes that do not fit.
    """
    external = [t for t in tensors(model) if is_external(t.tensor)]
    total = 0
    for located in external:
        # Before anything is read: many tensors may point to the same large region.
        total += declared_bytes(located)
        if total > max_bytes:
            raise InputError(
                f"external data of {located.where} and those before it come to {format_bytes(total)} ({total} bytes);"
                f" a model may have {format_bytes(max_bytes)} ({max_bytes} bytes): give a smaller model"
            )
    for located in external:
        _fold(located, folder)
    return len(external)


def is_external(tensor: Any) -> bool:
    """Whether the tensor's bytes are in another file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data))


def _fold(located: Located, folder: Path | None) -> None:
    tensor = located.tensor
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in entries:
            raise InputError(f"{located.where}: external data has the entry {entry.key!r} twice: export it again")
        entries[entry.key] = entry.value
    location = entries.get("location", "")
    expected = declared_bytes(located)
    offset = _number(located, entries, "offset", 0)
    length = _number(located, entries, "length", expected)
    if tensor.data_type == TensorProto.STRING:
        raise InputError(f"{located.where} is text, which external data cannot hold: export it again")
    if length != expected:
        raise InputError(
            f"{located.where}: external data of {length} bytes, but its shape {list(tensor.dims)} of"
            f" {TensorProto.DataType.Name(tensor.data_type)} needs {expected}: export the model again"
        )
    path = _inside(located, location, folder)
    with open_to_read(path, f"{located.where}: external data", follow=False) as file:
        size = os.fstat(file.fileno()).st_size
        if offset + length > size:
            raise InputError(
                f"{located.where}: external data {location!r} has {size} bytes, but bytes {offset} to"
                f" {offset + length} are asked for: the file is truncated; copy it again"
            )
        content = _read(file.fileno(), offset, length)
    if len(content) != length:
        raise InputError(f"{located.where}: external data {location!r} changed while it was read: try again")
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = content


def _read(fd: int, offset: int, length: int) -> bytes:
    parts: list[bytes] = []
    while length > 0:
        part = os.pread(fd, min(length, 2**26), offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def _number(located: Located, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None or text == "":
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise InputError(
            f"{located.where}: external data has {key} {text[:40]!r}, which is no number of bytes: export it again"
        )
    return int(text)


def _inside(located: Located, location: str, folder: Path | None) -> Path:
    """The file, after links, which must still be under the folder."""
    where = f"{located.where}: external data {location[:200]!r}"
    relative = PurePosixPath(location)
    if not location or "\0" in location or "\\" in location:
        raise InputError(f"{where} is no path of a file: save the model again with the data beside it")
    if relative.is_absolute() or ".." in relative.parts:
        raise InputError(
            f"{where} leaves the model's folder: only files in the folder are read; save the model again with the data"
            " beside it, or as one file"
        )
    if folder is None:
        raise InputError(
            f"{where} lies in another file, and only the model file itself was fetched: save it as one file"
            " (onnx.save_model(model, path, save_as_external_data=False))"
        )
    try:
        root = folder.resolve(strict=True)
        path = (folder / location).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise InputError(f"{where} cannot be found ({error}): put the file beside the model") from None
    if not path.is_relative_to(root):
        raise InputError(
            f"{where} is a link that leaves the model's folder {root}: copy the file itself beside the model"
        )
    if not path.exists():
        raise InputError(f"{where} is missing in {root}: put the file beside the model, or save the model as one file")
    return path
