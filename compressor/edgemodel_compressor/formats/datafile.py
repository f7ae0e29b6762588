"""Large models on the disk: a small ONNX file, and its tensors in a second one beside it, named by its own digest.

Layout of the data: tensors in the order of the graph, each at a multiple of 4096 bytes (so that a runtime can map it),
zeros between. The same model gives the same bytes. The ONNX file names the data by their digest, so its own sha256
covers them (see `edgemodel_oci.companion`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from edgemodel_api.artifact import DATA_PROPERTY
from edgemodel_api.errors import InputError
from edgemodel_oci.companion import companion, data_name, property_of
from edgemodel_oci.files import put, replacing, sync_folder, writing

from . import kept
from .tensors import Located, declared_bytes

ALIGNMENT = 4096
#: What is left of a large model below this is one file, as other small models are.
_TINY_BYTES = 2**20


class DataFile:
    """Takes tensors one after the other; see `data_file`.

    Attributes:
        path: where they lie, once the block has ended.
        digest: `sha256:…`, then.
        size: bytes so far.
    """

    def __init__(self, out: Any, path: Path) -> None:
        self._out, self._hash = out, hashlib.sha256()
        self.path, self.digest, self.size = path, "", 0
        self._refers: list[tuple[Any, int, int]] = []

    def add(self, parts: Iterable[bytes]) -> tuple[int, int]:
        """Append a tensor: (offset, length).

        Raises:
            InputError: the disk refuses.
        """
        self._write(bytes(-self.size % ALIGNMENT))
        start = self.size
        for part in parts:
            self._write(part)
        return start, self.size - start

    def take(self, tensor: Any, parts: Iterable[bytes]) -> None:
        """Append a tensor's bytes, and let it refer to them when the block has ended."""
        self._refers.append((tensor, *self.add(parts)))

    def _write(self, part: bytes) -> None:
        if part:
            put(self._out, part, self.path)
            self._hash.update(part)
            self.size += len(part)

    def finish(self) -> None:
        """Give the file its name and register it. Called by `data_file`."""
        self.digest = f"sha256:{self._hash.hexdigest()}"
        incoming, self.path = self.path, self.path.with_name(data_name(f"sha256:{self._hash.hexdigest()}"))
        with writing(self.path):
            os.replace(incoming, self.path)
            sync_folder(self.path.parent)
        kept.register(self.path)
        for tensor, offset, length in self._refers:
            kept.refer(tensor, self.path, offset, length)


@contextmanager
def data_file(folder: Path, stem: str) -> Iterator[DataFile]:
    """A new data file in `folder`; it has its name when the block has ended, and after an error there is nothing.

    Raises:
        InputError: the disk refuses (reason DiskFull when it is full).
    """
    incoming = folder / f".{stem}.incoming"
    with replacing(incoming) as out:
        made = DataFile(out, incoming)
        yield made
    made.finish()


def goes_outside(model: Any) -> bool:
    """Whether a model is stored as two files: it is large, or was made of a large one and is not tiny now."""
    total = sum(_bytes_of(t) for t in model.graph.initializer)
    return total >= kept.LARGE_BYTES or (total >= _TINY_BYTES and any(True for _ in kept.kept_tensors(model)))


def save_large(model: Any, path: Path) -> tuple[str, int]:
    """Write a model as two files, one tensor at a time.

    Returns:
        sha256 (hex) of the ONNX file, which covers the data by their name; size in bytes of both.

    Raises:
        InputError: what is no initializer exceeds protobuf's limit of 2 GiB, or the disk refuses.
    """
    skeleton, outside = _skeleton(model)
    with data_file(path.parent, path.name) as data:
        places = [(t, *data.add(_chunks(source))) for t, source in outside]
    for tensor, offset, length in places:
        kept.set_external(tensor, data.path.name, offset, length)
    return _write(skeleton, path, data.digest, data.size)


def save_kept(model: Any, path: Path, data: DataFile) -> tuple[str, int]:
    """Write the ONNX file of a model all of whose kept tensors lie in `data` already, in the same folder."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in kept.kept_tensors(made):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = data.path.name
    return _write(made, path, data.digest, data.size)


def read_saved(path: Path) -> Any:
    """A model that we wrote, its external data kept and not read: changing the file afterwards is not allowed.

    Raises:
        InputError: it cannot be read, or its data are not there.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
        data = companion(path)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name} cannot be read as ONNX: {error}") from None
    if data is None:
        return model
    kept.register(data.path)
    drop_property(model)
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {e.key: e.value for e in tensor.external_data}
            kept.refer(tensor, data.path, int(entries["offset"]), int(entries["length"]))
    return model


@contextmanager
def beside(model: Any) -> Iterator[Path]:
    """A file of a model with kept tensors, which refers to their files as they are; gone at the end of the block.

    Raises:
        InputError: they do not lie in one folder, or the disk refuses.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    folders = set()
    for tensor in kept.kept_tensors(made):
        for entry in tensor.external_data:
            if entry.key == "location":
                folders.add(Path(entry.value).parent)
                entry.value = Path(entry.value).name
    if len(folders) != 1:
        raise InputError(f"the tensors of a large model lie in {len(folders)} folders: load the model again")
    handle, name = tempfile.mkstemp(prefix="session-", suffix=".onnx", dir=folders.pop())
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            put(file, made.SerializeToString(deterministic=True), path)
        yield path
    finally:
        path.unlink(missing_ok=True)


def drop_property(model: Any) -> bool:
    """Take the note on external data out of the metadata; whether there was one."""
    others = [p for p in model.metadata_props if p.key != DATA_PROPERTY]
    if len(others) == len(model.metadata_props):
        return False
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    return True


def _skeleton(model: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """A copy without the numbers of large initializers, and (its tensor, the model's) for each of them.

    Field by field: a copy of everything would take the numbers along.
    """
    made = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy_field(made, field, value)
    outside = []
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy_field(made.graph, field, value)
    for tensor in model.graph.initializer:
        new = made.graph.initializer.add()
        if _bytes_of(tensor) >= kept.SMALL_TENSOR_BYTES and (kept.is_kept(tensor) or tensor.HasField("raw_data")):
            new.name, new.data_type = tensor.name, tensor.data_type
            new.dims.extend(tensor.dims)
            outside.append((new, tensor))
        elif kept.is_kept(tensor):
            new.CopyFrom(tensor)
            new.ClearField("data_location")
            del new.external_data[:]
            new.raw_data = b"".join(kept.chunks_of(tensor))
        else:
            new.CopyFrom(tensor)
    return made, outside


def _copy_field(message: Any, field: Any, value: Any) -> None:
    if field.message_type is None and not hasattr(value, "extend"):
        setattr(message, field.name, value)
    elif hasattr(value, "extend"):
        getattr(message, field.name).extend(value)
    else:
        getattr(message, field.name).CopyFrom(value)


def _chunks(tensor: Any) -> Iterable[bytes]:
    return kept.chunks_of(tensor) if kept.is_kept(tensor) else (tensor.raw_data,)


def _bytes_of(tensor: Any) -> int:
    if kept.is_kept(tensor):
        return kept.length_of(tensor)
    try:
        return declared_bytes(Located("", tensor, True))
    except InputError:
        return 0


def _write(skeleton: Any, path: Path, digest: str, size: int) -> tuple[str, int]:
    drop_property(skeleton)
    entry = skeleton.metadata_props.add()
    entry.key, entry.value = DATA_PROPERTY, property_of(digest, size)
    try:
        content: bytes = skeleton.SerializeToString(deterministic=True)
    except Exception as error:  # upb: EncodeError or ValueError, by version
        raise InputError(
            f"the model without its weights is larger than protobuf's limit of 2 GiB ({error}): turn its large Constant"
            " nodes into initializers"
        ) from None
    with replacing(path) as file:
        put(file, content, path)
    return hashlib.sha256(content).hexdigest(), len(content) + size
