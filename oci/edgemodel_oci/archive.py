"""Tar archives as streams that may be hostile: never seeks, never writes a name, never holds more than a header.

`tarfile` reads extension headers whole, whatever size they declare; here each has a limit. Formats: POSIX.1-1988
(ustar), POSIX.1-2001 (pax) and GNU long names and sizes.
"""

from __future__ import annotations

import gzip
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import zstandard

from edgemodel_api.errors import InputError

BLOCK = tarfile.BLOCKSIZE
_EXTENSION_LIMIT_BYTES = 1 << 20
#: Zeros that may follow the archive: tar pads to 10 KiB, some tools to more.
_PADDING_LIMIT_BYTES = 1 << 20
_MEMBER_LIMIT = 10_000
_CHUNK = 1 << 18
_PAX_RECORD = re.compile(rb"(\d{1,10}) ([^=]{1,256})=")


class Readable(Protocol):
    """Anything with `read`."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; nothing at the end."""


@dataclass(frozen=True)
class Member:
    """One regular file of an archive, to be read before the next is asked for.

    Attributes:
        name: as the archive spells it.
        size: bytes, as the header declares.
        chunks: gives the content, exactly `size` bytes.
    """

    name: str
    size: int
    chunks: Callable[[], Iterator[bytes]]

    @property
    def base_name(self) -> str:
        """The last part of the name."""
        return posixpath.basename(self.name)


def zstd_reader(f: BinaryIO, *, max_window_bytes: int) -> Readable:
    """Decompress zstd; a frame that needs a larger window (memory) is refused when it is read."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=max_window_bytes)
    return decompressor.stream_reader(f, read_across_frames=True, closefd=False)


def gzip_reader(f: BinaryIO) -> Readable:
    """Decompress gzip."""
    return gzip.GzipFile(fileobj=f)


def regular_files(stream: Readable, *, what: str) -> Iterator[Member]:
    """The regular files of a tar archive, in its order; folders are passed over, everything else is refused.

    Args:
        stream: the (decompressed) archive.
        what: names the archive in messages.

    Raises:
        InputError: not a tar archive, cut off, a name that leaves the folder, a link or device, too many members, or
            something other than zeros behind it.
    """
    source = _Source(stream, what)
    extensions: dict[str, str] = {}
    for _ in range(_MEMBER_LIMIT):
        block = source.block()
        if block is None:
            return
        header = _parse(block, what)
        if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE):
            records = _pax_records(source.small(header.size), what)
            # Global records (comments of git archive) say nothing that is needed here.
            extensions.update({} if header.type == tarfile.XGLTYPE else records)
            continue
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            text = source.small(header.size).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            if header.type == tarfile.GNUTYPE_LONGNAME:
                extensions["path"] = text
            continue
        name, size = extensions.get("path", header.name), _size(extensions, header.size, what)
        if any(key.startswith("GNU.sparse") for key in extensions) or header.type == tarfile.GNUTYPE_SPARSE:
            raise InputError(f"{what} holds the sparse file {_shown(name)}: pack it without --sparse")
        extensions = {}
        _check_name(name, what)
        if header.type == tarfile.DIRTYPE:
            continue
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            raise InputError(f"{what} holds {_shown(name)}, which is no regular file: pack plain files only, no links")
        if header.type == tarfile.AREGTYPE and name.endswith("/"):
            continue
        source.open(size)
        yield Member(name, size, source.content)
        source.skip()
    raise InputError(f"{what} holds more than {_MEMBER_LIMIT} members: pack the model file alone")


class _Source:
    """Exact reads from a stream, with one open member at a time."""

    def __init__(self, stream: Readable, what: str) -> None:
        self._stream = stream
        self._what = what
        self._left = 0
        self._padding = 0

    def block(self) -> bytes | None:
        """The next header; None after checking the end of the archive."""
        block = self._read(BLOCK)
        if len(block) == BLOCK and block.strip(b"\0"):
            return block
        if len(block) < BLOCK:
            raise InputError(f"{self._what} ends before its archive does: it is cut off, push it again")
        seen = 0
        while chunk := self._read(_CHUNK):
            seen += len(chunk)
            if seen > _PADDING_LIMIT_BYTES or chunk.strip(b"\0"):
                raise InputError(f"{self._what} goes on behind the end of its archive: pack it again")
        return None

    def small(self, size: int) -> bytes:
        """The content of an extension header."""
        if not 0 <= size <= _EXTENSION_LIMIT_BYTES:
            raise InputError(f"{self._what} has a header of {size} bytes, more than {_EXTENSION_LIMIT_BYTES}: refused")
        self.open(size)
        content = b"".join(self.content())
        self.skip()
        return content

    def open(self, size: int) -> None:
        """Begin a member."""
        self._left, self._padding = size, -size % BLOCK

    def content(self) -> Iterator[bytes]:
        """The rest of the open member."""
        while self._left:
            chunk = self._read(min(_CHUNK, self._left))
            if not chunk:
                raise InputError(f"{self._what} lacks {self._left} bytes that its archive declares: it is cut off")
            self._left -= len(chunk)
            yield chunk

    def skip(self) -> None:
        """Pass over what was not read, and the padding."""
        for _ in self.content():
            pass
        if len(self._read(self._padding)) < self._padding:
            raise InputError(f"{self._what} ends before its archive does: it is cut off, push it again")

    def _read(self, size: int) -> bytes:
        parts = []
        while size > 0:
            try:
                chunk = self._stream.read(size)
            except (zstandard.ZstdError, zlib.error, EOFError, gzip.BadGzipFile) as error:
                raise InputError(f"{self._what} cannot be decompressed ({error}): push it again") from None
            if not chunk:
                break
            parts.append(chunk)
            size -= len(chunk)
        return b"".join(parts)


def _parse(block: bytes, what: str) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise InputError(f"{what} is no tar archive ({error}): pack the model file with tar") from None
    if header.size < 0:
        raise InputError(f"{what} declares a size of {header.size} bytes: it is broken, pack it again")
    return header


def _size(extensions: dict[str, str], size: int, what: str) -> int:
    text = extensions.get("size")
    if text is None:
        return size
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise InputError(f"{what} declares a size of {text[:50]!r} bytes: it is broken, pack it again")
    return int(text)


def _pax_records(content: bytes, what: str) -> dict[str, str]:
    records: dict[str, str] = {}
    position = 0
    while position < len(content) and content[position] != 0:
        match = _PAX_RECORD.match(content, position)
        length = int(match[1]) if match else 0
        end = position + length
        if match is None or not match.end() <= end - 1 < len(content) or content[end - 1 : end] != b"\n":
            raise InputError(f"{what} has a broken pax header: pack it again")
        key = match[2].decode("utf-8", "surrogateescape")
        records[key] = content[match.end() : end - 1].decode("utf-8", "surrogateescape")
        position = end
    return records


def _check_name(name: str, what: str) -> None:
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise InputError(f"{what} holds {_shown(name)}, a name that leaves its folder: pack plain file names")


def _shown(name: str) -> str:
    return repr(name[:100])
