"""The weight layer: a deterministic tar with the one model file, compressed with zstd.

Tar: GNU format, mode 0644, owner 0, time 0. Zstd: level 16, the first with an optimal parser (measured: below it,
INT8 weights with 60 % zeros take 50 % of their bytes instead of 45 %, INT4 values in INT8 storage 47 % instead of 45 %,
float32 with 60 % zeros 44 % instead of 42 %; above it nothing is gained), window at most 8 MiB, checksum. The bytes do
not depend on the number of threads, as long as libzstd's multi-threaded mode is always used; another version of
libzstd may give others.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from edgemodel_api.artifact import ANNOTATION_FILE_DIGEST, ANNOTATION_FILE_SIZE, ANNOTATION_FILEPATH, WEIGHT_LAYER
from edgemodel_api.errors import InputError

from .archive import BLOCK, regular_files, zstd_reader
from .descriptor import Descriptor
from .files import CHUNK, open_regular, put, replacing

#: `oras pull` gives this name to the layer's file.
ANNOTATION_TITLE = "org.opencontainers.image.title"
_LEVEL = 16
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
    """

    descriptor: Descriptor
    file_digest: str
    file_size: int
    diff_id: str


def pack_file(model_file: Path, dest: Path, *, name: str) -> PackedFile:
    """Write the layer for `model_file` to `dest`; equal files and names give equal bytes.

    Args:
        model_file: the file.
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
    layer, tar_digest, file_digest = _Hashed(out, path), hashlib.sha256(), hashlib.sha256()
    try:
        with open_regular(model_file) as f:
            size = os.fstat(f.fileno()).st_size
            header = tarfile.TarInfo(name)
            header.size, header.mode = size, 0o644
            # The size lets small files do with small tables, which is faster and takes less memory.
            parameters = zstandard.ZstdCompressionParameters.from_level(
                _LEVEL, source_size=size + 4 * BLOCK, threads=_THREADS, write_checksum=True, write_content_size=False
            )
            with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(
                cast("BinaryIO", layer), closefd=False
            ) as z:

                def write(part: bytes) -> None:
                    tar_digest.update(part)
                    z.write(part)

                write(header.tobuf(tarfile.GNU_FORMAT))
                read = 0
                while chunk := f.read(CHUNK):
                    read += len(chunk)
                    file_digest.update(chunk)
                    write(chunk)
                if read != size:
                    raise InputError(
                        f"{model_file} changed from {size} to {read} bytes while it was packed: let it rest"
                    )
                # Two zero blocks end an archive.
                write(bytes(-size % BLOCK + 2 * BLOCK))
    except OSError as error:
        raise InputError(
            f"cannot read {model_file} ({error.strerror or error}): check the file and its rights"
        ) from None
    digest = f"sha256:{file_digest.hexdigest()}"
    annotations = {
        ANNOTATION_FILEPATH: name,
        ANNOTATION_FILE_DIGEST: digest,
        ANNOTATION_FILE_SIZE: str(size),
        ANNOTATION_TITLE: f"{name}.tar.zst",
    }
    return PackedFile(
        descriptor=Descriptor(WEIGHT_LAYER, layer.digest, layer.size, annotations=annotations),
        file_digest=digest,
        file_size=size,
        diff_id=f"sha256:{tar_digest.hexdigest()}",
    )


def packed_size(model_file: Path, *, name: str) -> int:
    """Bytes of the layer that `pack_file` would write, without writing it.

    Raises:
        InputError: the file cannot be read.
    """
    return pack_stream(model_file, _Nowhere(), name=name, path=model_file).descriptor.size


def unpack_file(blob: Path, dest: Path, *, file_digest: str, file_size: int) -> None:
    """Expand a weight layer. Never writes more than `file_size` bytes; `dest` appears whole, checked and durable.

    Args:
        blob: the layer.
        dest: the model file; names inside the archive are not used.
        file_digest: what it must be, `sha256:…`.
        file_size: its bytes.

    Raises:
        InputError: the archive is not one file of that size and digest, or the disk says no (reason DiskFull).
    """
    what = f"the layer {blob.name}"
    try:
        f = open_regular(blob)
    except OSError as error:
        raise InputError(f"cannot read {blob} ({error.strerror}): fetch it again") from None
    with f:
        # Only frames with the window that pack_file uses: a node's memory must not depend on the registry.
        members = regular_files(zstd_reader(f, max_window_bytes=1 << _WINDOW_LOG), what=what)
        member = next(members, None)
        if member is None or member.size != file_size:
            raise InputError(
                f"{what} holds {'no file' if member is None else f'a file of {member.size} bytes'} where its manifest"
                f" promises {file_size} bytes: push the artifact again"
            )
        with replacing(dest) as out:
            digest = hashlib.sha256()
            for chunk in member.chunks():
                digest.update(chunk)
                put(out, chunk, dest)
            actual = f"sha256:{digest.hexdigest()}"
            if actual != file_digest:
                raise InputError(
                    f"the file in {what} has the digest {actual}, not {file_digest}: push the artifact again"
                )
            if (second := next(members, None)) is not None:
                raise InputError(f"{what} holds a second file, {second.name[:100]!r}: push the artifact again")


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
