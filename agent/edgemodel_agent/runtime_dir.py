"""A short, private folder for control sockets: a unix socket's path holds about 100 bytes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from edgemodel_api.errors import InputError

#: sun_path holds 108 bytes on Linux; names of sockets here take up to 40.
LONGEST_FOLDER = 64
#: Name of the folder in the root that agents of several pods share.
SHARED = "run"


def root_hash(root: Path) -> str:
    """The name of a root's folder: 12 hex digits of its resolved path."""
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:12]


def _private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise InputError(f"{folder} is not a folder of user {os.getuid()}: remove it, or set XDG_RUNTIME_DIR")
    if stat.S_IMODE(found.st_mode) != 0o700:
        os.chmod(folder, 0o700)


def runtime_dir(root: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_RUNTIME_DIR/edgemodel/<hash>`, or `/tmp/edgemodel-<uid>/<hash>`; made with mode 0700.

    Raises:
        InputError: the folder belongs to somebody else, is a link, or cannot be made.
    """
    given = environment.get("XDG_RUNTIME_DIR", "")
    base = Path(given) / "edgemodel" if given and os.access(given, os.W_OK | os.X_OK) else None
    if base is None or len(os.fsencode(base)) + 13 > LONGEST_FOLDER:
        base = Path("/tmp") / f"edgemodel-{os.getuid()}"  # noqa: S108 - short; made private and checked below
    try:
        for folder in (base, base / root_hash(root)):
            _private(folder)
    except OSError as error:
        raise InputError(f"no private folder for control sockets: {error}; set XDG_RUNTIME_DIR to one") from error
    return base / root_hash(root)


def shared_dir(root: Path) -> Path:
    """`<root>/run`, for agents that hand over to each other from pod to pod: they share nothing but the root.

    Raises:
        InputError: its path is too long for sockets, or the folder cannot be made.
    """
    folder = root / SHARED
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        raise InputError(f"--root {root} is too long for control sockets in it: at most {LONGEST_FOLDER - 4} bytes")
    try:
        root.mkdir(parents=True, exist_ok=True)
        _private(folder)
    except OSError as error:
        raise InputError(f"no folder for control sockets in --root {root}: {error}") from error
    return folder
