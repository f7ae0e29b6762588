"""Opening what users name: a regular file, or a sentence that says what to change."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from edgemodel_api.errors import InputError

CHUNK_BYTES = 2**20
MESSAGE_CHARACTERS = 900


def open_to_read(path: Path, what: str, *, follow: bool = True) -> FileIO:
    """A regular file, unbuffered. Devices and pipes, which may never end, are refused.

    Args:
        path: of the file.
        what: for messages, such as "source" or "data.calibration".
        follow: False: a symbolic link is refused.

    Raises:
        InputError: missing, a folder, not a regular file, or not readable for us.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        raise InputError(f"{what}: there is no file {path}: correct the path{_neighbours(path)}") from None
    except PermissionError:
        raise InputError(
            f"{what}: no permission to read {path}: make the file readable for user {os.geteuid()} (chmod a+r), and"
            " its folders passable"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        text = getattr(error, "strerror", None) or error
        raise InputError(f"{what}: cannot open {str(path)[:300]!r} ({text}): correct the path") from None
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file (a device, pipe or socket)"
        raise InputError(f"{what}: {path} is {kind}: name the file itself")
    return FileIO(fd, "rb")


@contextlib.contextmanager
def concise() -> Iterator[None]:
    """Names in a hostile file may be megabytes long or steer a terminal: messages about it are cut and made plain.

    Raises:
        InputError: in place of another one.
    """
    try:
        yield
    except InputError as error:
        text = "".join(c if c.isprintable() else "?" for c in error.message)
        if len(text) > MESSAGE_CHARACTERS:
            half = MESSAGE_CHARACTERS // 2
            text = f"{text[:half]} … {text[-half:]}"
        raise InputError(text, reason=error.reason) from None


def _neighbours(path: Path) -> str:
    """Files of the same kind beside the missing one: mostly one of them was meant."""
    try:
        same = sorted(p.name for p in path.parent.iterdir() if p.suffix == path.suffix and p.is_file())[:5]
    except (OSError, ValueError):
        return f" (its folder {str(path.parent)[:300]} cannot be listed either)"
    return f" (beside it: {', '.join(same)})" if same else ""
