"""Hostile `.npz` files: what they hold, judged by headers, and members streamed out to plain files.

An npz is a zip of `.npy` members. Nothing is unpickled, no member's name becomes a path, and no more bytes are read or
written than the headers (which must agree with each other) declare.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted, format_bytes
from edgemodel_oci.files import put, replacing

from .reading import CHUNK_BYTES, open_to_read

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
#: Of the list of members: thousands of arrays.
MAX_DIRECTORY_BYTES = 2**20
MAX_HEADER_BYTES = 64 * 2**10
_SUFFIX = ".npy"
#: What zipfile and its decompressors raise on damaged or strange archives.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError, struct.error,
    OverflowError, KeyError, IndexError,
)  # fmt: skip


@dataclass(frozen=True)
class ArrayHeader:
    """One member, as it declares itself.

    Attributes:
        dtype: without objects.
        shape: all axes.
        fortran: column-major.
        offset: of the numbers in the member, bytes.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int

    @property
    def size_bytes(self) -> int:
        """Of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """An opened npz; a context manager. Member names are those of the arrays, without `.npy`."""

    def __init__(self, path: Path, *, what: str, max_bytes: int) -> None:
        """Opens it and reads the list of members.

        Args:
            path: of the file.
            what: "data.calibration", for messages.
            max_bytes: of the arrays that will be read, together.

        Raises:
            InputError: missing, not readable, or no npz.
        """
        self._what = what
        self._max_bytes = max_bytes
        self._total = 0
        self._file = open_to_read(path, what)
        try:
            self._zip = self._open(path)
            self._members = self._named()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arrays, in the file's order."""
        return tuple(self._members)

    def header(self, name: str) -> ArrayHeader:
        """What the array declares, after a check that its member has room for exactly that.

        Raises:
            InputError: pickled objects, a damaged header, sizes that do not agree, or more than `max_bytes`.
        """
        info = self._members[name]
        with self._reading(name), self._zip.open(info) as member:
            header = self._parse(name, member)
        declared = info.file_size - header.offset
        if header.size_bytes != declared:
            raise InputError(
                f"{self._what}: array {name!r} declares shape {list(header.shape)} of {header.dtype}"
                f" ({counted(header.size_bytes, 'byte')}), but its member holds {declared}: write the file again with"
                " numpy.savez"
            )
        self._total += header.size_bytes
        if self._total > self._max_bytes:
            raise InputError(
                f"{self._what}: array {name!r} unpacks to {format_bytes(header.size_bytes)}, the arrays together to"
                f" {self._total} bytes, and at most {self._max_bytes} ({format_bytes(self._max_bytes)}) are allowed:"
                " give fewer samples"
            )
        return header

    def extract(self, header: ArrayHeader, dest: Path) -> None:
        """Stream the array's numbers to `dest`: row-major, without a header, in its own dtype. Memory is bounded.

        Raises:
            InputError: the member is damaged, or the disk refuses.
        """
        raw = dest.with_name(dest.name + ".columns") if header.fortran and len(header.shape) > 1 else dest
        try:
            with self._reading(header.name):
                self._stream(header, raw)
            if raw is not dest:
                _to_rows(raw, header, dest)
        finally:
            if raw is not dest:
                raw.unlink(missing_ok=True)

    def _stream(self, header: ArrayHeader, dest: Path) -> None:
        left = header.size_bytes
        with self._zip.open(self._members[header.name]) as member, replacing(dest) as out:
            member.read(header.offset)
            while left > 0:
                chunk = member.read(min(CHUNK_BYTES, left))
                if not chunk:
                    raise EOFError(f"{counted(left, 'byte is', 'bytes are')} missing")
                put(out, chunk, dest)
                left -= len(chunk)
            # To the end, so that the checksum is compared.
            if member.read(1):
                raise zipfile.BadZipFile("more bytes than declared")

    def _parse(self, name: str, member: IO[bytes]) -> ArrayHeader:
        try:
            version = np.lib.format.read_magic(member)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version, _read_header_3)
            shape, fortran, dtype = read(member, max_header_size=MAX_HEADER_BYTES)
        except RecursionError:
            raise ValueError("its header is nested too deeply") from None
        except (SyntaxError, TypeError, MemoryError, AttributeError, UnicodeDecodeError) as error:
            raise ValueError(f"its header makes no sense ({type(error).__name__})") from None
        if dtype.hasobject:
            raise InputError(
                f"{self._what}: array {name!r} holds pickled Python objects, which are never loaded: make it an array"
                " of numbers (rows of equal length, numpy.stack) or of text (astype(str))"
            )
        if dtype.fields is not None or dtype.subdtype is not None or dtype.kind not in "biufUS":
            raise InputError(f"{self._what}: array {name!r} is of {dtype}, which no model takes: give plain numbers")
        if dtype.itemsize == 0 or any(d < 0 for d in shape) or len(shape) > 32:
            raise InputError(
                f"{self._what}: array {name!r} declares the impossible shape {list(shape)[:40]} of {dtype}"
            )
        return ArrayHeader(name, dtype, tuple(int(d) for d in shape), bool(fortran), member.tell())

    def _reading(self, name: str) -> _Damage:
        return _Damage(
            f"{self._what}: array {name[:200]!r} cannot be read", "the file is damaged: write it again with numpy.savez"
        )

    def _open(self, path: Path) -> zipfile.ZipFile:
        size = self._file.seek(0, 2)
        self._file.seek(0)
        start = self._file.read(8)
        if size == 0:
            raise InputError(f"{self._what}: {path.name} is empty (0 bytes): write it with numpy.savez")
        if start[:6] == b"\x93NUMPY":
            raise InputError(
                f"{self._what}: {path.name} is a single array (.npy), so it has no names: write"
                " numpy.savez(FILE, INPUT=array) with the model's input names"
            )
        if start[:4] not in (b"PK\x03\x04", b"PK\x05\x06"):
            raise InputError(
                f"{self._what}: {path.name} is no .npz (it begins with {start!r}): write it with numpy.savez(FILE,"
                " INPUT=array)"
            )
        advice = "truncated or damaged: copy it again, or write it again with numpy.savez"
        with _Damage(f"{self._what}: {path.name} ({counted(size, 'byte')}) is no whole zip archive", advice):
            self._check_directory(size)
            return zipfile.ZipFile(self._file)

    def _check_directory(self, size: int) -> None:
        """Zipfile reads the whole list of members into memory: its size is looked at first."""
        tail_size = min(size, 65536 + _END.size + _LOCATOR.size)
        self._file.seek(size - tail_size)
        tail = self._file.read(tail_size)
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < _END.size:
            raise zipfile.BadZipFile("its end is missing")
        listed = _END.unpack_from(tail, at)[5]
        if at >= _LOCATOR.size and tail[at - _LOCATOR.size :][:4] == b"PK\x06\x07":
            offset = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)[2]
            for place in (offset, size - tail_size + at - _LOCATOR.size - _END64.size):
                self._file.seek(max(0, min(place, size)))
                record = self._file.read(_END64.size)
                if len(record) == _END64.size and record[:4] == b"PK\x06\x06":
                    listed = max(listed if listed != 0xFFFFFFFF else 0, _END64.unpack(record)[8])
        if listed > MAX_DIRECTORY_BYTES:
            raise InputError(
                f"{self._what}: the archive's list of members takes {listed} bytes, at most {MAX_DIRECTORY_BYTES} are"
                " allowed: give one array per model input"
            )
        self._file.seek(0)

    def _named(self) -> dict[str, zipfile.ZipInfo]:
        found: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name = info.filename.removesuffix(_SUFFIX)
            if name in found:
                raise InputError(f"{self._what}: two arrays are named {name[:200]!r}: write the file again")
            found[name] = info
        return found


class _Damage:
    """Turns what damaged archives raise into a message."""

    def __init__(self, problem: str, advice: str) -> None:
        self._problem = problem
        self._advice = advice

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        # LZMAError and others derive from Exception directly.
        if isinstance(error, _DAMAGE) or type(error).__name__ == "LZMAError":
            text = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"{self._problem} ({text}): {self._advice}") from None


def _read_header_3(member: IO[bytes], *, max_header_size: int) -> tuple[Any, Any, Any]:
    raise ValueError("its format version is not 1.0 or 2.0")


def _to_rows(raw: Path, header: ArrayHeader, dest: Path) -> None:
    """Column-major → row-major, a block of rows at a time."""
    row = max(1, header.size_bytes // max(1, header.shape[0]))
    rows = max(1, 32 * CHUNK_BYTES // row)
    with replacing(dest) as out:
        for begin in range(0, header.shape[0], rows):
            # Mapped anew each time, so that pages that were read do not stay ours.
            columns = np.memmap(raw, dtype=header.dtype, mode="r", shape=header.shape, order="F")
            put(out, np.ascontiguousarray(columns[begin : begin + rows]).tobytes(), dest)
            del columns


def blocks(count: int, row_bytes: int, *, limit: int = 8 * CHUNK_BYTES) -> Iterator[tuple[int, int]]:
    """Ranges of rows that together stay under `limit` bytes: `(begin, end)`."""
    rows = max(1, limit // max(1, row_bytes))
    for begin in range(0, count, rows):
        yield begin, min(count, begin + rows)
