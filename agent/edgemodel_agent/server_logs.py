"""What model servers print: a file for each variant of a model that was started, kept few and small."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

#: Of one model; the newest ones: what runs, what ran before it, and what was refused lately.
KEEP = 4
#: A log longer than this loses its beginning: what a server says last tells why it ended.
MAX_BYTES = 1 << 20
TAIL_BYTES = MAX_BYTES // 4


def log_path(root: Path, key: str, digest: str) -> Path:
    """Of a server. `key`: NAMESPACE/NAME; `digest`: of its variant's manifest."""
    return root / "logs" / f"{_prefix(key)}-{digest.partition(':')[2][:12]}.log"


def _prefix(key: str) -> str:
    """No name in Kubernetes has an underscore."""
    return key.replace("/", "_")


def tidy(root: Path, keys: Collection[str]) -> None:
    """Remove the logs of models other than `keys` and all but the newest of each; shorten long ones.

    A server that still prints into a removed file is no worse off. Files that are not ours stay.

    Raises:
        OSError: as of the file system.
    """
    of_model: dict[str, list[tuple[float, Path]]] = defaultdict(list)
    for path in (root / "logs").glob("*_*-*.log"):
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            of_model[path.stem.rpartition("-")[0]].append((found.st_mtime, path))
            if found.st_size > MAX_BYTES:
                _shorten(path)
    wanted = {_prefix(key) for key in keys}
    for prefix, logs in of_model.items():
        for _, path in sorted(logs)[: -KEEP if prefix in wanted else None]:
            path.unlink(missing_ok=True)


def _shorten(path: Path) -> None:
    """Leave the last bytes, in place: a server appends to this very file. What it says at that moment may be lost."""
    with open(path, "r+b") as f:
        f.seek(-TAIL_BYTES, os.SEEK_END)
        tail = f.read(TAIL_BYTES)
        f.seek(0)
        f.truncate()
        f.write(b"...\n" + tail.partition(b"\n")[2])
