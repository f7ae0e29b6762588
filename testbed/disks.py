"""A node's disk as an ext4 file system of limited size in a sparse file, so that it can be filled."""

from __future__ import annotations

import os
import re
from pathlib import Path

from processes import StartError, run

UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
SMALLEST = 256 * 2**20


def size(text: str) -> int:
    """Bytes of a quantity like 2Gi or 800Mi.

    Raises:
        StartError: it is none.
    """
    match = re.fullmatch(r"(\d+)(|Ki|Mi|Gi)", text)
    if not match:
        raise StartError(f"{text!r} is no size: write it like 2Gi or 800Mi")
    return int(match[1]) * UNITS[match[2]]


def make(image: Path, length: int) -> None:
    """A file system without a journal in `image`.

    Raises:
        StartError: too small for a node.
    """
    if length < SMALLEST:
        raise StartError(f"a disk of {length} bytes is too small for a node: at least {SMALLEST // 2**20}Mi")
    image.touch(mode=0o600)
    os.truncate(image, length)
    run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", image)


def attach(image: Path, folder: Path) -> None:
    """Mount it; the loop device goes with the mount."""
    run("mount", "-o", "loop", image, folder)


def detach(folder: Path) -> None:
    """Unmount it, if it is mounted."""
    if folder.is_mount():
        run("umount", folder)


def fill(ballast: Path, *, leave: int) -> None:
    """Allocate a file that leaves so many bytes free."""
    ballast.unlink(missing_ok=True)
    found = os.statvfs(ballast.parent)
    length = found.f_bavail * found.f_frsize - leave
    if length > 0:
        run("fallocate", "--length", str(length), ballast)
