"""An .mlpackage as one file: a zip of the folder with the same bytes for the same model.

Core ML's package is a folder. An artifact's layer is one file, so the folder is stored in a zip, uncompressed (layers
are compressed anyway), entries sorted, all dated 1980-01-01: Finder, `unzip` and `ditto -x -k` give the folder back,
which is what Xcode and `MLModel.compileModel` take. coremltools writes random identifiers into Manifest.json and the
day into the model's metadata; here identifiers derive from the paths, and there is no day.
"""

from __future__ import annotations

import json
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import format_bytes
from edgemodel_oci.files import put, replacing

from .blob import WeightFile
from .library import coremltools, quiet

#: What the folder within the zip is called.
FOLDER = "model.mlpackage"
_SPEC = "com.apple.CoreML/model.mlmodel"
_WEIGHTS = "com.apple.CoreML/weights"
_WEIGHT_FILE = f"{_WEIGHTS}/weight.bin"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAX_FILES = 64
_MAX_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Package:
    """A package, in memory.

    Attributes:
        spec: a `Model` of Core ML's Model.proto.
        weights: its weight.bin; empty where the program has no large constants.
    """

    spec: Any
    weights: WeightFile


def write_package(spec: Any, weights: bytes, dest: Path) -> int:
    """Write the zip; it appears whole, and the same model gives the same bytes.

    Args:
        spec: a `Model`; stays as it is.
        weights: content of weight.bin.
        dest: usually `*.mlpackage.zip`.

    Returns:
        size in bytes.

    Raises:
        InputError: the disk refuses.
    """
    files = {
        f"{FOLDER}/Data/{_SPEC}": spec.SerializeToString(deterministic=True),
        f"{FOLDER}/Manifest.json": _manifest(has_weights=bool(weights)),
    }
    if weights:
        files[f"{FOLDER}/Data/{_WEIGHT_FILE}"] = weights
    with replacing(dest) as file:
        with zipfile.ZipFile(_Written(file, dest), "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.create_system = 3
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, files[name])
        return file.tell()


def read_package(path: Path) -> Package:
    """From a zip, or from a folder as coremltools and Xcode have it.

    Raises:
        InputError: no such package, or a damaged one.
    """
    files = _read_folder(path) if path.is_dir() else _read_zip(path)
    manifest = files.get("Manifest.json")
    if manifest is None:
        raise InputError(f"{path.name}: no Manifest.json: this is no .mlpackage")
    name = _root(manifest, path)
    content = files.get(f"Data/{name}")
    if content is None:
        raise InputError(f"{path.name}: Data/{name} is missing: copy the package again")
    coremltools()
    with quiet():
        from coremltools.proto import Model_pb2  # type: ignore[import-untyped]
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    spec = Model_pb2.Model()
    try:
        spec.ParseFromString(content)
    except DecodeError as error:
        raise InputError(f"{path.name}: Data/{name} is no Core ML model ({error}): copy the package again") from None
    return Package(spec, WeightFile(files.get(f"Data/{_WEIGHT_FILE}", b""), f"{path.name}: weight.bin"))


def unpack(path: Path, folder: Path) -> Path:
    """The zip's package as a folder, for Xcode or coremltools.

    Returns:
        the .mlpackage.

    Raises:
        InputError: no such package, or it is there already.
    """
    root = folder / FOLDER
    if root.exists():
        raise InputError(f"{root} is there already: remove it, or give another folder")
    for name, content in sorted(_read_zip(path).items()):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root


def _manifest(*, has_weights: bool) -> bytes:
    items = {_SPEC: ("model.mlmodel", "CoreML Model Specification")}
    if has_weights:
        items[_WEIGHTS] = ("weights", "CoreML Model Weights")
    entries = {
        str(uuid.uuid5(uuid.NAMESPACE_URL, f"edgemodel:{path}")).upper(): {
            "author": "com.apple.CoreML",
            "description": description,
            "name": name,
            "path": path,
        }
        for path, (name, description) in items.items()
    }
    root = next(identifier for identifier, entry in entries.items() if entry["path"] == _SPEC)
    text = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": root}
    return json.dumps(text, indent=4, sort_keys=True).encode()


def _root(manifest: bytes, path: Path) -> str:
    try:
        document = json.loads(manifest)
        name = document["itemInfoEntries"][document["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path.name}: Manifest.json names no model: copy the package again") from None
    if not isinstance(name, str):
        raise InputError(f"{path.name}: Manifest.json names no model: copy the package again")
    return name


def _read_zip(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [e for e in archive.infolist() if not e.is_dir()]
            _check_size(path, len(entries), sum(e.file_size for e in entries))
            roots = {e.filename.split("/")[0] for e in entries}
            if len(roots) != 1 or not next(iter(roots)).endswith(".mlpackage"):
                raise InputError(
                    f"{path.name}: a zip with exactly one .mlpackage in it is needed, this has {len(roots)} roots"
                )
            files = {}
            for entry in entries:
                parts = entry.filename.split("/")[1:]
                if not parts or any(p in ("", ".", "..") for p in parts) or entry.flag_bits & 1:
                    raise InputError(f"{path.name}: {entry.filename!r} cannot be part of a package")
                files["/".join(parts)] = archive.read(entry)
            return files
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise InputError(f"{path.name}: no zip of an .mlpackage ({error}): copy it again") from None
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error.strerror or error}): check the path") from None


def _read_folder(path: Path) -> dict[str, bytes]:
    found = sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink())
    _check_size(path, len(found), sum(p.stat().st_size for p in found))
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in found}


def _check_size(path: Path, count: int, size: int) -> None:
    if count > _MAX_FILES or size > _MAX_BYTES:
        raise InputError(
            f"{path.name}: {count} files with {format_bytes(size)}, but a package has at most {_MAX_FILES} files and"
            f" {format_bytes(_MAX_BYTES)}"
        )


class _Written:
    """What zipfile needs of a file, with our errors."""

    def __init__(self, file: Any, path: Path) -> None:
        self._file, self._path = file, path

    def write(self, data: bytes) -> int:
        put(self._file, data, self._path)
        return len(data)

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def seekable(self) -> bool:
        return True

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """`replacing` closes it."""
