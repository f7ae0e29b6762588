"""The second file of a large model: its external data, named by their own digest.

The ONNX file names them (`HEX.data` as the location of its tensors, and `sha256:HEX SIZE` in its metadata), so the ONNX
file's digest covers all bytes, files of several models may lie in one folder, and switching the ONNX file by a rename
switches both. Here the metadata are read without parsing the model: only ModelProto's own fields are walked.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgemodel_api.artifact import DATA_PROPERTY, DATA_SUFFIX
from edgemodel_api.errors import InputError

from .files import open_regular

#: Field numbers of ModelProto.metadata_props, and of StringStringEntryProto's key and value (onnx.proto).
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
_FIELD_LIMIT = 100_000
_ENTRY_LIMIT_BYTES = 4096
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DECLARED = re.compile(r"(sha256:[0-9a-f]{64}) (0|[1-9][0-9]{0,15})")


@dataclass(frozen=True)
class Companion:
    """External data beside a model file.

    Attributes:
        path: beside the model file.
        digest: that the model file promises, `sha256:…`; not checked here.
        size: bytes, as on the disk and as promised.
    """

    path: Path
    digest: str
    size: int


def data_name(digest: str) -> str:
    """The file name of external data with this digest.

    >>> data_name("sha256:" + 64 * "0")[60:]
    '0000.data'
    """
    return digest.partition(":")[2] + DATA_SUFFIX


def property_of(digest: str, size: int) -> str:
    """What the ONNX file's metadata say under `DATA_PROPERTY`."""
    return f"{digest} {size}"


def declared(text: str) -> tuple[str, int] | None:
    """(digest, size) of such a property; None: it is none."""
    found = _DECLARED.fullmatch(text)
    return (found[1], int(found[2])) if found is not None else None


def companion(model_file: Path) -> Companion | None:
    """The external data that a model file of ours declares; None: it is whole by itself, or no ONNX file.

    Raises:
        InputError: it declares some that are not beside it, or have another size.
        OSError: the model file cannot be read.
    """
    with open_regular(model_file) as f:
        found = declared(_property(f))
    if found is None:
        return None
    digest, size = found
    path = model_file.with_name(data_name(digest))
    try:
        actual = os.stat(path).st_size
    except OSError:
        raise InputError(f"{model_file} needs its external data {path.name} beside it: copy both files") from None
    if actual != size:
        raise InputError(
            f"{model_file} needs {size} bytes of external data, but {path.name} beside it has {actual}: copy it again"
        )
    return Companion(path, digest, size)


def file_bytes(model_file: Path) -> int:
    """What a model takes on the disk: the file, and its external data.

    Raises:
        InputError: as of `companion`.
        OSError: the model file cannot be read.
    """
    data = companion(model_file)
    return os.stat(model_file).st_size + (data.size if data is not None else 0)


def remove_model(model_file: Path) -> None:
    """Remove a model file, and its external data unless another model in the folder needs the same ones."""
    try:
        data = companion(model_file)
    except (InputError, OSError):
        data = None
    model_file.unlink(missing_ok=True)
    if data is None:
        return
    for other in model_file.parent.glob("*.onnx"):
        try:
            shared = companion(other)
        except (InputError, OSError):
            continue
        if shared is not None and shared.path == data.path:
            return
    data.path.unlink(missing_ok=True)


def _property(f: BinaryIO) -> str:
    """The property's text; empty: none, or the bytes are no ModelProto."""
    size = os.fstat(f.fileno()).st_size
    for _ in range(_FIELD_LIMIT):
        tag = _varint(f)
        if tag is None:
            return ""
        wire = tag & 7
        if wire == _VARINT:
            if _varint(f) is None:
                return ""
        elif wire in (_FIXED64, _FIXED32):
            f.seek(8 if wire == _FIXED64 else 4, os.SEEK_CUR)
        elif wire == _BYTES:
            length = _varint(f)
            if length is None or f.tell() + length > size:
                return ""
            if tag >> 3 == _METADATA_PROPS and length <= _ENTRY_LIMIT_BYTES:
                entry = _strings(f.read(length))
                if entry.get(_KEY) == DATA_PROPERTY:
                    return entry.get(_VALUE, "")
            else:
                f.seek(length, os.SEEK_CUR)
        else:
            return ""
    return ""


def _strings(entry: bytes) -> dict[int, str]:
    """Field number → text, of a message that has only strings."""
    found: dict[int, str] = {}
    at = 0
    while at + 2 <= len(entry):
        tag, length = entry[at], entry[at + 1]
        if tag & 7 != _BYTES or length >= 0x80:
            break
        found[tag >> 3] = entry[at + 2 : at + 2 + length].decode("utf-8", "replace")
        at += 2 + length
    return found


def _varint(f: BinaryIO) -> int | None:
    value = 0
    for shift in range(0, 70, 7):
        byte = f.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None
