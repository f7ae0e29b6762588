"""Files that are whole or absent, and what a disk that says no means to a user."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgemodel_api import reasons
from edgemodel_api.errors import InputError

CHUNK = 1 << 20


def write_error(error: OSError, path: Path) -> InputError:
    """What to tell about a failed write to `path`: reason DiskFull where room would help."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return InputError(
            f"the disk became full while writing {path} ({error.strerror}): free space there, or choose another folder",
            reason=reasons.DISK_FULL,
        )
    return InputError(f"cannot write {path} ({error.strerror or error}): make its folder writable, or choose another")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the file system's errors of the block into `InputError`s about `path`."""
    try:
        yield
    except OSError as error:
        raise write_error(error, path) from None


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def replacing(dest: Path, *, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """A new file that takes `dest`'s name in one durable step at the end of the block, or leaves nothing.

    Args:
        dest: the final path; its folder must exist.
        temporary: where to write meanwhile, on the same file system; default: a hidden name beside `dest`.

    Raises:
        InputError: the file system says no (reason DiskFull when it is full).
    """
    temporary = temporary or dest.with_name(f".{dest.name}.tmp")
    try:
        with writing(temporary):
            # A symbolic link that a stranger left under this name must not be followed.
            temporary.unlink(missing_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            f = os.fdopen(fd, "wb")
        with _closing(f, temporary):
            yield f
            with writing(temporary):
                f.flush()
                os.fsync(f.fileno())
        with writing(dest):
            os.replace(temporary, dest)
            sync_folder(dest.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _closing(f: BinaryIO, path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        # Closing writes what is buffered, which may fail again: the first error is the one that matters.
        with contextlib.suppress(OSError):
            f.close()
        raise
    with writing(path):
        f.close()


def put(f: BinaryIO, chunk: bytes, path: Path) -> None:
    """Write one chunk; `path` is for the message.

    Raises:
        InputError: as `writing`.
    """
    rest = memoryview(chunk)
    with writing(path):
        while rest:
            # An unbuffered file may take only a part, as on a disk that fills up just now.
            rest = rest[f.write(rest) :]


def open_regular(path: Path) -> BinaryIO:
    """Open an existing regular file for reading; a pipe or device, on which reading may hang, is refused.

    Raises:
        OSError: as of `open`.
        InputError: it is no regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InputError(f"{path} is no regular file: give the file itself")
    return os.fdopen(fd, "rb")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (made if absent), waiting for another holder.

    Raises:
        InputError: the file cannot be made.
    """
    with writing(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with writing(path):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def measure(content: Path | bytes) -> tuple[str, int]:
    """(`sha256:…`, bytes) of a file or of bytes.

    Raises:
        InputError: the file cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    for chunk in chunks_of(content):
        digest.update(chunk)
        size += len(chunk)
    return f"sha256:{digest.hexdigest()}", size


def chunks_of(content: Path | bytes, *, offset: int = 0, size: int | None = None) -> Iterator[bytes]:
    """The bytes from `offset` on, at most `size` of them, in chunks.

    Raises:
        InputError: the file cannot be read.
    """
    if isinstance(content, bytes):
        yield content[offset : None if size is None else offset + size]
        return
    try:
        with open_regular(content) as f:
            f.seek(offset)
            while chunk := f.read(CHUNK if size is None else min(CHUNK, size)):
                size = None if size is None else size - len(chunk)
                yield chunk
    except OSError as error:
        raise InputError(f"cannot read {content} ({error.strerror}): check the file and its rights") from None
