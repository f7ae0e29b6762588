"""The weight layer: a deterministic tar with the model file, and a large model's external data, compressed with zstd.

Tar: GNU format, mode 0644, owner 0, time 0. Zstd: level 16, the first with an optimal parser (measured: below it,
INT8 weights with 60 % zeros take 50 % of their bytes instead of 45 %, INT4 values in INT8 storage 47 % instead of 45 %,
float32 with 60 % zeros 44 % instead of 42 %; above it nothing is gained), window at most 8 MiB, checksum. The bytes do
not depend on the number of threads, as long as libzstd's multi-threaded mode is always used; another version of
libzstd may give others.

A model with external data (`companion`) takes a second member behind the ONNX file: the data under the name by which the
model knows them, `<hex of their sha256>.data`. These are hundreds of megabytes and more, which level 16 packs at 1 MB/s
and level 1 at 50 (measured: float32 and int8 weights take the same bytes; with 60 % zeros float32 takes 48 % instead of
44 %, int8 51 % instead of 47 %).
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from edgemodel_api.artifact import (
    ANNOTATION_DATA_DIGEST,
    ANNOTATION_DATA_SIZE,
    ANNOTATION_FILE_DIGEST,
    ANNOTATION_FILE_SIZE,
    ANNOTATION_FILEPATH,
    WEIGHT_LAYER,
)
from edgemodel_api.errors import InputError

from .archive import BLOCK, Member, regular_files, zstd_reader
from .companion import Companion, companion
from .descriptor import Descriptor
from .files import CHUNK, open_regular, put, replacing

#: `oras pull` gives this name to the layer's file.
ANNOTATION_TITLE = "org.opencontainers.image.title"
_LEVEL = 16
_LEVEL_WITH_DATA = 1
#: What the level takes for large files, and the most that a node accepts.
_WINDOW_LOG = 23
_NAME_LIMIT = 100
_THREADS = max(1, min(4, os.cpu_count() or 1))


@dataclass(frozen=True)
class PackedFile:
    """A packed model file.

    Attributes:
        descriptor: of the layer, with its annotations.
        file_digest: of the file inside, `sha256:…`.
        file_size: its bytes.
        diff_id: digest of the tar before compression (ModelPack's `modelfs.diffIds`).
        data_digest: of the external data; empty: there are none.
        data_size: their bytes.
    """

    descriptor: Descriptor
    file_digest: str
    file_size: int
    diff_id: str
    data_digest: str = ""
    data_size: int = 0


def pack_file(model_file: Path, dest: Path, *, name: str) -> PackedFile:
    """Write the layer for `model_file` to `dest`; equal files and names give equal bytes.

    Args:
        model_file: the file; external data that it declares must lie beside it.
        dest: where to; appears whole or not at all.
        name: the file's name inside the archive: ASCII, no slash, at most 100 characters.

    Raises:
        InputError: the file cannot be read, changes meanwhile, or `dest` cannot be written.
    """
    with replacing(dest) as f:
        return pack_stream(model_file, f, name=name, path=dest)


def pack_stream(model_file: Path, out: BinaryIO, *, name: str, path: Path) -> PackedFile:
    """As `pack_file`, into an open file; `path` is for messages."""
    if not name.isascii() or not name or "/" in name or len(name) > _NAME_LIMIT or name in (".", ".."):
        raise InputError(f"{name[:150]!r} is no plain file name of at most {_NAME_LIMIT} ASCII characters")
    layer, tar_digest = _Hashed(out, path), hashlib.sha256()
    try:
        data = companion(model_file)
        size = os.stat(model_file).st_size
        whole = size + 4 * BLOCK + (data.size + 2 * BLOCK if data is not None else 0)
        # The size lets small files do with small tables, which is faster and takes less memory.
        parameters = zstandard.ZstdCompressionParameters.from_level(
            _LEVEL if data is None else _LEVEL_WITH_DATA,
            source_size=whole,
            threads=_THREADS,
            write_checksum=True,
            write_content_size=False,
        )
        with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(
            cast("BinaryIO", layer), closefd=False
        ) as z:

            def write(part: bytes) -> None:
                tar_digest.update(part)
                z.write(part)

            digest = _member(model_file, name, size, write)
            if data is not None:
                _data_member(data, write)
            # Two zero blocks end an archive.
            write(bytes(2 * BLOCK))
    except OSError as error:
        raise InputError(
            f"cannot read {model_file} ({error.strerror or error}): check the file and its rights"
        ) from None
    annotations = {
        ANNOTATION_FILEPATH: name,
        ANNOTATION_FILE_DIGEST: digest,
        ANNOTATION_FILE_SIZE: str(size),
        ANNOTATION_TITLE: f"{name}.tar.zst",
    }
    if data is not None:
        annotations |= {ANNOTATION_DATA_DIGEST: data.digest, ANNOTATION_DATA_SIZE: str(data.size)}
    return PackedFile(
        descriptor=Descriptor(WEIGHT_LAYER, layer.digest, layer.size, annotations=annotations),
        file_digest=digest,
        file_size=size,
        diff_id=f"sha256:{tar_digest.hexdigest()}",
        data_digest=data.digest if data is not None else "",
        data_size=data.size if data is not None else 0,
    )


def _member(file: Path, name: str, size: int, write: Callable[[bytes], None]) -> str:
    """One file of the archive, with its padding; its digest."""
    digest, read = hashlib.sha256(), 0
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o644
    write(header.tobuf(tarfile.GNU_FORMAT))
    with open_regular(file) as f:
        while chunk := f.read(CHUNK):
            read += len(chunk)
            digest.update(chunk)
            write(chunk)
    if read != size:
        raise InputError(f"{file} changed from {size} to {read} bytes while it was packed: let it rest")
    write(bytes(-size % BLOCK))
    return f"sha256:{digest.hexdigest()}"


def _data_member(data: Companion, write: Callable[[bytes], None]) -> None:
    actual = _member(data.path, data.path.name, data.size, write)
    if actual != data.digest:
        raise InputError(
            f"the external data {data.path} have the digest {actual}, not the one in their name: they were changed or damaged"
        )


def packed_size(model_file: Path, *, name: str) -> int:
    """Bytes of the layer that `pack_file` would write, without writing it.

    Raises:
        InputError: the file cannot be read.
    """
    return pack_stream(model_file, _Nowhere(), name=name, path=model_file).descriptor.size


@dataclass(frozen=True)
class ExternalData:
    """External data to be unpacked beside a model file.

    Attributes:
        dest: where to, on the file system of the model file.
        digest: what they must be, `sha256:…`.
        size: their bytes.
    """

    dest: Path
    digest: str
    size: int


def unpack_file(blob: Path, dest: Path, *, file_digest: str, file_size: int, data: ExternalData | None = None) -> None:
    """Expand a weight layer. Never writes more than it promises; `dest` appears whole, checked and durable.

    Args:
        blob: the layer.
        dest: the model file; names inside the archive are not used.
        file_digest: what it must be, `sha256:…`.
        file_size: its bytes.
        data: its external data, which appear, checked and durable, before `dest` does; None: it has none.

    Raises:
        InputError: the archive is not these files, each of that size and digest, or the disk says no (reason DiskFull).
    """
    what = f"the layer {blob.name}"
    try:
        f = open_regular(blob)
    except OSError as error:
        raise InputError(f"cannot read {blob} ({error.strerror}): fetch it again") from None
    with f:
        # Only frames with the window that pack_file uses: a node's memory must not depend on the registry.
        members = regular_files(zstd_reader(f, max_window_bytes=1 << _WINDOW_LOG), what=what)
        with ExitStack() as stack:
            member = _expected(next(members, None), file_size, what)
            _write_member(member, stack.enter_context(replacing(dest)), dest, file_digest, what)
            if data is not None:
                member = _expected(next(members, None), data.size, what)
                out = stack.enter_context(replacing(data.dest))
                _write_member(member, out, data.dest, data.digest, what)
            if (more := next(members, None)) is not None:
                number = "second" if data is None else "third"
                raise InputError(f"{what} holds a {number} file, {more.name[:100]!r}: push the artifact again")
            # The stack ends backwards: the data have their name before the model that needs them.


def _expected(member: Member | None, size: int, what: str) -> Member:
    if member is None or member.size != size:
        raise InputError(
            f"{what} holds {'no file' if member is None else f'a file of {member.size} bytes'} where its manifest"
            f" promises {size} bytes: push the artifact again"
        )
    return member


def _write_member(member: Member, out: BinaryIO, dest: Path, promised: str, what: str) -> None:
    digest = hashlib.sha256()
    for chunk in member.chunks():
        digest.update(chunk)
        put(out, chunk, dest)
    actual = f"sha256:{digest.hexdigest()}"
    if actual != promised:
        raise InputError(f"the file in {what} has the digest {actual}, not {promised}: push the artifact again")


class _Hashed(io.RawIOBase):
    """Counts and hashes what goes through."""

    def __init__(self, out: BinaryIO, path: Path) -> None:
        super().__init__()
        self._out, self._path, self._digest, self.size = out, path, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, part: bytes) -> int:  # type: ignore[override]
        put(self._out, part, self._path)
        self._digest.update(part)
        self.size += len(part)
        return len(part)

    @property
    def digest(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"


class _Nowhere(io.BytesIO):
    """Takes everything, keeps nothing."""

    def write(self, part: bytes) -> int:  # type: ignore[override]
        return len(part)
