"""Files that are whole or absent, whatever is killed when: temp + fsync + rename + fsync of the folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
#: Every temporary name ends so; what a killed writer left is recognised by it.
TEMPORARY = ".tmp"


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `content` in one step; a reader sees the old or the new bytes, never a mixture.

    `durable=False` leaves out fsync: for what is written again within seconds anyway.

    Raises:
        OSError: as of the file system (ENOSPC, EROFS, …); `path` is then unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    try:
        with open(temporary, "wb") as f:
            f.write(content)
            f.flush()
            if durable:
                os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def remove_folder(folder: Path) -> None:
    """With all that is in it; the one above it goes, too, if nothing else is there."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def remove_file(path: Path) -> None:
    """If it is there; the folder goes, too, if nothing else is in it."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """`write_atomic` of canonical JSON."""
    write_atomic(path, json.dumps(value, sort_keys=True, separators=(",", ":")).encode(), durable=durable)


def read_json(path: Path) -> Any | None:
    """The JSON in `path`; None if there is no such file or it is not JSON (a damaged file counts as absent)."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def sha256_of(path: Path) -> str:
    """`sha256:…` of a file, read in chunks."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
