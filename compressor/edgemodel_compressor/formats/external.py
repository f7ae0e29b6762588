"""Weights that a model keeps in files beside it: read only from inside its folder, and only what they say.

Paths, offsets and lengths in a model are an attacker's choice (CVE-2022-25882, CVE-2024-5187 of onnx): absolute paths,
`..`, links that lead out, pipes that never end, lengths beyond the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from onnx import TensorProto

from edgemodel_api.artifact import DATA_PROPERTY
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted, format_bytes
from edgemodel_api.reasons import DIGEST_MISMATCH
from edgemodel_compressor.reading import open_to_read
from edgemodel_oci.companion import data_name, declared

from . import kept
from .datafile import DataFile
from .tensors import Located, declared_bytes, tensors
from .walk import external_names

_CHUNK = 2**22


@dataclass(frozen=True)
class ExternalRules:
    """What external data may be.

    Attributes:
        folder: the model's own, out of which nothing is read; None: there may be no external data.
        max_bytes: of all external tensors together.
        sha256: what `digest_of` must say of the files; None: not known.
        pinned: whether they may do without that.
    """

    folder: Path | None
    max_bytes: int
    sha256: str | None = None
    pinned: bool = True


def fold_external(model: Any, rules: ExternalRules, *, into: DataFile | None = None) -> int:
    """Put external tensors into the model.

    Args:
        model: a ModelProto; changed in place.
        rules: for them.
        into: takes the initializers of the main graph, which stay outside; None: all are folded in.

    Returns:
        How many tensors were external.

    Raises:
        InputError: paths that leave the folder, missing or short files, sizes that do not fit, another digest
            (reason DigestMismatch), files that change while they are read.
    """
    external = [t for t in tensors(model) if is_external(t.tensor)]
    declared_total(external, max_bytes=rules.max_bytes)
    if not external:
        if rules.sha256 is not None:
            raise InputError("dataSha256 is given, but the model has no external data: take it out of the manifest")
        return 0
    files = _Files(rules.folder, _promised(model))
    locations = {_entries(t).get("location", ""): t for t in external}
    paths = {location: files.open(t, location) for location, t in locations.items()}
    if rules.sha256 is not None:
        _check_digest(paths, rules.sha256)
    elif not rules.pinned and any(name != files.own_name for name in paths):
        raise InputError(
            f"sha256 in the manifest is that of the ONNX file, which does not cover its external data"
            f" ({', '.join(sorted(paths))[:200]}): add dataSha256: {_digest(paths)}"
        )
    outside = {id(t) for t in model.graph.initializer} if into is not None else set()
    for located in external:
        if into is not None and id(located.tensor) in outside and declared_bytes(located):
            into.take(located.tensor, _content(located, files))
        else:
            _fold(located, b"".join(_content(located, files)))
    files.check_unchanged()
    return len(external)


def declared_total(external: Iterable[Located], *, max_bytes: int) -> int:
    """What external tensors come to, by their shapes.

    Raises:
        InputError: it is more than `max_bytes`.
    """
    total = 0
    for located in external:
        # Before anything is read: many tensors may point to the same large region.
        total += declared_bytes(located)
        if total > max_bytes:
            raise InputError(
                f"external data of {located.where} and those before it come to {format_bytes(total)} ({total} bytes);"
                f" a model may have {format_bytes(max_bytes)} ({max_bytes} bytes): give a smaller model"
            )
    return total


def digest_of(model_file: Path) -> str | None:
    """What dataSha256 means: the sha256 (hex) of a model's external data; None: it has none.

    Of one file it is what `sha256sum FILE` says. Of several, it is the sha256 of the lines that `sha256sum` prints for
    them, in the order of their names (`sha256sum A B | sha256sum`).

    Raises:
        InputError: a path that leaves the model's folder, or a file that is missing or changes meanwhile.
    """
    with open_to_read(model_file, f"model {model_file.name}") as f:
        names = external_names(f.fileno(), os.fstat(f.fileno()).st_size)
    if not names:
        return None
    files = _Files(model_file.parent, None)
    paths = {name: files.open(Located(f"initializer {tensor!r}", None, True), name) for name, tensor in names.items()}
    found = _digest(paths)
    files.check_unchanged()
    return found


def _digest(paths: dict[str, Path]) -> str:
    lines = [f"{_sha256(paths[name])}  {name}\n" for name in sorted(paths)]
    return lines[0].split()[0] if len(lines) == 1 else hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_digest(paths: dict[str, Path], sha256: str) -> None:
    actual = _digest(paths)
    if actual != sha256:
        raise InputError(
            f"the external data ({', '.join(sorted(paths))[:200]}) have sha256 {actual}, but dataSha256 in the manifest is"
            f" {sha256}: if the files are the right ones, correct the manifest; if not, find out who changed them",
            reason=DIGEST_MISMATCH,
        )


def _sha256(path: Path) -> str:
    with open_to_read(path, f"external data {path.name}", follow=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _promised(model: Any) -> str | None:
    """The digest that a large model of ours promises of its data."""
    texts = [declared(p.value) for p in model.metadata_props if p.key == DATA_PROPERTY]
    return texts[0][0] if texts and texts[0] is not None else None


@dataclass
class _Files:
    """External files of one model: found once, and the same at the end as at the beginning."""

    folder: Path | None
    promised: str | None
    _seen: dict[Path, tuple[int, int, int, int]] = field(default_factory=dict)

    @property
    def own_name(self) -> str | None:
        """Of external data that the ONNX file itself promises: their digest was checked by `open`."""
        return data_name(self.promised) if self.promised is not None else None

    def open(self, located: Located, location: str) -> Path:
        """The path of a location, checked."""
        path = _inside(located, location, self.folder)
        if path not in self._seen:
            self._seen[path] = self._state(located.where, path)
            if self.promised is not None and location == self.own_name:
                actual = f"sha256:{_sha256(path)}"
                if actual != self.promised:
                    raise InputError(
                        f"external data {location!r} have the digest {actual}, not the one in their name: the file was"
                        " changed or damaged; copy it again",
                        reason=DIGEST_MISMATCH,
                    )
        return path

    def check_unchanged(self) -> None:
        """Raises: InputError: a file is not the one it was, or was written to."""
        for path, before in self._seen.items():
            if self._state(path.name, path) != before:
                raise InputError(f"external data {path.name!r} changed while it was read: let it rest and try again")

    @staticmethod
    def _state(where: str, path: Path) -> tuple[int, int, int, int]:
        with open_to_read(path, f"{where}: external data", follow=False) as file:
            found = os.fstat(file.fileno())
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def is_external(tensor: Any) -> bool:
    """Whether the tensor's bytes are in another file that is not ours."""
    external = tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data)
    return bool(external) and not kept.is_kept(tensor)


def refuse_kept(model: Any) -> None:
    """No tensor of a file that was just read may name a file of this process.

    Raises:
        InputError: one does.
    """
    for located in tensors(model):
        if kept.is_kept(located.tensor):
            _inside(located, _entries(located).get("location", ""), None)


def _entries(located: Located) -> dict[str, str]:
    entries: dict[str, str] = {}
    for entry in located.tensor.external_data:
        if entry.key in entries:
            raise InputError(f"{located.where}: external data has the entry {entry.key!r} twice: export it again")
        entries[entry.key] = entry.value
    return entries


def _fold(located: Located, content: bytes) -> None:
    tensor = located.tensor
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = content


def _content(located: Located, files: _Files) -> Iterator[bytes]:
    """The bytes of one external tensor, after all that it says about them was checked."""
    tensor, entries = located.tensor, _entries(located)
    location = entries.get("location", "")
    expected = declared_bytes(located)
    offset = _number(located, entries, "offset", 0)
    length = _number(located, entries, "length", expected)
    if tensor.data_type == TensorProto.STRING:
        raise InputError(f"{located.where} is text, which external data cannot hold: export it again")
    if length != expected:
        raise InputError(
            f"{located.where}: external data of {counted(length, 'byte')}, but its shape {list(tensor.dims)} of"
            f" {TensorProto.DataType.Name(tensor.data_type)} needs {expected}: export the model again"
        )
    path = files.open(located, location)
    with open_to_read(path, f"{located.where}: external data", follow=False) as file:
        size = os.fstat(file.fileno()).st_size
        if offset + length > size:
            raise InputError(
                f"{located.where}: external data {location!r} has {counted(size, 'byte')}, but bytes {offset} to"
                f" {offset + length} are asked for: the file is truncated; copy it again"
            )
        while length:
            part = os.pread(file.fileno(), min(length, _CHUNK), offset)
            if not part:
                raise InputError(f"{located.where}: external data {location!r} changed while it was read: try again")
            yield part
            offset += len(part)
            length -= len(part)


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
