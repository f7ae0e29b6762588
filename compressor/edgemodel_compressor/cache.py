"""What was measured before, by content: a second run, or one with another budget, measures only what is new.

An entry's key is the sha256 of everything that decides it: the source, the data, the recipe, the seed, the CPU, the
versions of the libraries and of this package. So an entry is never out of date; it is only used no more. One file each:
the sha256 of its body, then the body as JSON. Whatever does not fit (a damaged file, a link, another owner's) is as if it
were not there, and nothing in it is ever run. Numbers of clocks are not kept but for the plot: they hold for the moment.

Trained networks are kept, too, each as an ONNX file, which is read as carefully as a source. The folder is bounded: what
was not used for longest goes first.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import platform
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from edgemodel_api.base import StatusModel
from edgemodel_api.errors import InputError
from edgemodel_api.report import Verification
from edgemodel_oci.files import measure, open_regular, put, replacing

from .formats.datafile import goes_outside
from .formats.onnx_model import load_model, save_model
from .package_digest import package_digest
from .training.checkpoint import content_key

__all__ = ["Cache", "Entry", "Network", "content_key", "context_of", "model_digest"]

log = logging.getLogger(__name__)

MOST_BYTES = 2**30
#: One entry: a number for each sample, and names of nodes.
ENTRY_BYTES = 16 * 2**20
NETWORK_BYTES = 256 * 2**20
LIBRARIES = ("numpy", "onnx", "onnxruntime", "jax", "jaxlib", "optax")
_TYPES = frozenset({"|b1", "<i4", "<i8", "<u4", "<f4", "<f8", "|u1", "|i1", "<i2", "<u2"})


class Entry(StatusModel):
    """One candidate, measured."""

    file_digest: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    file_bytes: int = Field(0, ge=0)
    size_bytes: int = Field(0, ge=0)
    quantized: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sparsity: float | None = Field(None, ge=0, le=1)
    failure: str = ""
    complete: bool = False
    row_type: str = ""
    rows: str = ""
    slowdown: float | None = None
    slowdown_low: float | None = None
    p99: float | None = None

    def array(self, samples: int) -> np.ndarray[Any, Any] | None:
        """The rows; None: there are none, or not these numbers of them."""
        if not self.rows or self.row_type not in _TYPES:
            return None
        with contextlib.suppress(ValueError):
            found: np.ndarray[Any, Any] = np.frombuffer(base64.b64decode(self.rows, validate=True), self.row_type)
            if len(found) == samples and (found.dtype.kind != "f" or np.isfinite(found).all()):
                return found
        return None


class Network(StatusModel):
    """A trained network beside its entry."""

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cache:
    """A folder; None: nothing is kept.

    Attributes:
        folder: of this user, and writable for nobody else.
        context: of all keys: what decides the numbers besides the recipe.
        work_dir: for networks, while they are read.
        most_bytes: of all that is kept.
    """

    folder: Path | None
    context: str = ""
    work_dir: Path | None = None
    most_bytes: int = MOST_BYTES

    @classmethod
    def at(cls, folder: str | None, context: str, work_dir: Path) -> Cache:
        """The cache in a folder, which is made; off, with a line in the log, where it is not safe or cannot be made."""
        if folder is None:
            return cls(None)
        path = Path(folder)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = path.stat()
        except OSError as error:
            log.warning("the cache %s cannot be used: %s", path, error.strerror)
            return cls(None)
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            log.warning("the cache %s is not used: it must belong to this user and be writable for nobody else", path)
            return cls(None)
        return cls(path, context, work_dir)

    @property
    def on(self) -> bool:
        """Whether anything is kept."""
        return self.folder is not None

    def entry(self, key: str) -> Entry | None:
        """What is known of a candidate."""
        content = self._read(key, ENTRY_BYTES)
        with contextlib.suppress(ValidationError):
            return None if content is None else Entry.model_validate_json(content)
        return None

    def keep(self, key: str, entry: Entry) -> None:
        """Remember it. A disk that refuses is no reason to fail."""
        content = entry.model_dump_json(by_alias=True, exclude_defaults=True).encode()
        if len(content) <= ENTRY_BYTES:
            self._write(key, content)

    def verification(self, key: str) -> Verification | None:
        """What a file came to on a kind of CPU."""
        content = self._read(key, ENTRY_BYTES)
        with contextlib.suppress(ValidationError):
            return None if content is None else Verification.model_validate_json(content)
        return None

    def keep_verification(self, key: str, row: Verification) -> None:
        """Remember it."""
        self._write(key, row.model_dump_json(by_alias=True, exclude_none=True).encode())

    def network(self, key: str) -> tuple[Any, tuple[str, ...]] | None:
        """(ModelProto, notes) of a trained network."""
        content = self._read(key, ENTRY_BYTES)
        if content is None or self.folder is None or self.work_dir is None:
            return None
        path = self.folder / f"{key}.onnx"
        with contextlib.suppress(ValidationError, InputError, OSError):
            about = Network.model_validate_json(content)
            if measure(path)[0].removeprefix("sha256:") == about.digest:
                model = load_model(path, work_dir=self.work_dir, max_bytes=NETWORK_BYTES)
                os.utime(path)
                return model.proto, about.notes
        return None

    def keep_network(self, key: str, model: Any, notes: tuple[str, ...]) -> None:
        """Remember a trained network, unless it is large."""
        if self.folder is None or goes_outside(model) or model.ByteSize() > NETWORK_BYTES:
            return
        with contextlib.suppress(InputError, OSError):
            digest, _ = save_model(model, self.folder / f"{key}.onnx")
            self._write(key, Network(digest=digest, notes=notes).model_dump_json(by_alias=True).encode())

    def trim(self) -> None:
        """Let what was not used for longest go, until the rest is within the bound."""
        if self.folder is None:
            return
        files = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as found:
            for item in found:
                if item.is_file(follow_symlinks=False) and item.name.endswith((".json", ".onnx")):
                    about = item.stat(follow_symlinks=False)
                    files.append((about.st_mtime, item.name, about.st_size))
        left = sum(size for _, _, size in files)
        for _, name, size in sorted(files):
            if left <= self.most_bytes:
                break
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()
            left -= size

    def _read(self, key: str, most: int) -> bytes | None:
        if self.folder is None:
            return None
        path = self.folder / f"{key}.json"
        with contextlib.suppress(OSError, InputError):
            with open_regular(path) as file:
                content = file.read(most + 1)
            digest, _, body = content.partition(b"\n")
            if len(content) <= most and digest == hashlib.sha256(body).hexdigest().encode():
                os.utime(path)
                return body
        return None

    def _write(self, key: str, body: bytes) -> None:
        if self.folder is None:
            return
        path = self.folder / f"{key}.json"
        with contextlib.suppress(OSError, InputError), replacing(path) as file:
            put(file, hashlib.sha256(body).hexdigest().encode() + b"\n" + body, path)


def encoded(rows: np.ndarray[Any, Any]) -> tuple[str, str]:
    """(type, text) of rows, for an entry; empty where the type is not one that is kept."""
    plain = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
    kind = plain.dtype.str
    return (kind, base64.b64encode(plain.tobytes()).decode()) if kind in _TYPES and plain.ndim == 1 else ("", "")


def context_of(files: Mapping[str, Path], settings: object, cpu: str) -> str:
    """What decides every number besides the recipe.

    Args:
        files: everything that was fetched.
        settings: of data and seed; JSON.
        cpu: on which it is measured.
    """
    digests = {}
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return content_key(digests, settings, cpu, platform.python_version(), versions(), package_digest())


def versions() -> dict[str, str]:
    """Of the libraries that decide numbers."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def model_digest(model: Any) -> str:
    """sha256 (hex) of a ModelProto; one that is kept outside is never equal to another."""
    if goes_outside(model):
        return os.urandom(32).hex()
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
