"""The node's content: compressed blobs, expanded model files, and what belongs to which variant.

```
<root>/blobs/sha256/<hex>      layers and golden files as the registry stores them (+ <hex>.part while they come)
<root>/files/sha256/<hex>      expanded model files
<root>/files/sha256/<hex>.data external data of large ones, under the name by which the model knows them
<root>/variants/<hex>.json     a manifest's digest → its blobs and file
```
Every file appears by rename after its digest was checked, and the digest is checked again each time before the file
is used (`load`), so neither a kill nor a bad disk nor a stranger's edit puts wrong bytes into a server.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from edgemodel_api.artifact import MODEL_FILE, MODEL_FILES, Golden
from edgemodel_api.base import StatusModel
from edgemodel_api.edgemodel import Format
from edgemodel_oci.companion import data_name

from .files import read_json, sha256_of, write_json

PART = ".part"


class Blob(StatusModel):
    """One stored layer."""

    digest: str
    size: int
    media_type: str = ""


class VariantRecord(StatusModel):
    """What a variant's manifest says, kept here so that the registry is not needed again."""

    digest: str
    variant: str
    revision: str
    weight: Blob
    golden: Blob
    golden_spec: Golden
    file_digest: str
    file_size: int
    data_digest: str = ""
    """Of the model's external data; empty: it is one file."""
    data_size: int = 0
    format: Format = Format.ONNX


class Loaded(NamedTuple):
    """Files whose digests were checked just now."""

    model: Path
    golden: Path
    golden_spec: Golden
    data: Path | None = None
    """External data, which lie beside the model."""
    name: str = MODEL_FILE
    """What the layer calls the model, and applications find it under."""


class DamagedError(Exception):
    """A stored file is missing or does not have its digest any more; it was removed and must be fetched again."""


def _hex(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise ValueError(f"{digest!r} is not a sha256 digest")
    return value


class Store:
    """Content of one node below `root`. One writer (the agent that holds the root's lock)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        self.files = root / "files" / "sha256"
        self.variants = root / "variants"
        for folder in (self.blobs, self.files, self.variants):
            folder.mkdir(parents=True, exist_ok=True)
        self._records: dict[str, VariantRecord] = {}

    def blob_path(self, digest: str) -> Path:
        """Where a blob lies, or would lie."""
        return self.blobs / _hex(digest)

    def file_path(self, digest: str) -> Path:
        """Where an expanded file lies, or would lie."""
        return self.files / _hex(digest)

    def data_path(self, digest: str) -> Path:
        """Where external data lie, or would lie."""
        _hex(digest)
        return self.files / data_name(digest)

    def _files_of(self, record: VariantRecord) -> list[tuple[Path, str, int]]:
        """(path, digest, size) of the expanded files of a variant, the external data first."""
        model = (self.file_path(record.file_digest), record.file_digest, record.file_size)
        if not record.data_digest:
            return [model]
        return [(self.data_path(record.data_digest), record.data_digest, record.data_size), model]

    def expanded(self, record: VariantRecord) -> bool:
        """Whether the variant's expanded files are here with their digests; wrong ones are removed."""
        return all(size_of(p) == size and self.intact(p, digest) for p, digest, size in self._files_of(record))

    def free_bytes(self) -> int:
        """Free disk space for this user."""
        return shutil.disk_usage(self.root).free

    def size_bytes(self) -> int:
        """Size of the disk."""
        return shutil.disk_usage(self.root).total

    def record(self, digest: str) -> VariantRecord | None:
        """What is known of the variant with this manifest digest."""
        if digest not in self._records:
            document = read_json(self.variants / f"{_hex(digest)}.json")
            try:
                found = VariantRecord.model_validate(document)
            except ValidationError:
                return None
            if found.digest != digest:
                return None
            self._records[digest] = found
        return self._records[digest]

    def save_record(self, record: VariantRecord) -> None:
        """Remember a variant; before its blobs come, so that their unfinished parts can be told from rubbish."""
        write_json(self.variants / f"{_hex(record.digest)}.json", record.to_json())
        self._records[record.digest] = record

    def complete(self, digest: str) -> bool:
        """Whether the variant's model and golden files are here in full size (their digests are checked by `load`)."""
        record = self.record(digest)
        return (
            record is not None
            and all(size_of(path) == size for path, _, size in self._files_of(record))
            and size_of(self.blob_path(record.golden.digest)) == record.golden.size
        )

    def load(self, digest: str) -> Loaded:
        """The variant's files, after checking their digests.

        Raises:
            DamagedError: a file is missing or wrong; the wrong one is removed.
        """
        record = self.record(digest)
        if record is None:
            raise DamagedError(f"variant {digest} is not known here")
        model, golden = self.file_path(record.file_digest), self.blob_path(record.golden.digest)
        files = [(path, expected) for path, expected, _ in self._files_of(record)]
        for path, expected in (*files, (golden, record.golden.digest)):
            if not self.intact(path, expected):
                raise DamagedError(f"the stored file {path.name} of variant {digest} was damaged: it is fetched again")
        data = self.data_path(record.data_digest) if record.data_digest else None
        return Loaded(model, golden, record.golden_spec, data, MODEL_FILES[record.format])

    def intact(self, path: Path, digest: str) -> bool:
        """Whether the file is there with this digest; a wrong one is removed."""
        try:
            if sha256_of(path) == digest:
                return True
        except OSError:
            pass
        path.unlink(missing_ok=True)
        return False

    def missing_bytes(self, record: VariantRecord) -> tuple[int, int]:
        """(stored, expanded) bytes that a fetch of this variant still has to write."""
        stored = 0
        for blob in (record.weight, record.golden):
            path = self.blob_path(blob.digest)
            if size_of(path) != blob.size:
                stored += max(0, blob.size - max(0, size_of(path.with_name(path.name + PART))))
        expanded = sum(size for path, _, size in self._files_of(record) if size_of(path) != size)
        return stored, expanded

    def collect(self, keep: Iterable[str]) -> int:
        """Remove everything that the variants in `keep` (manifest digests) do not need; freed bytes.

        Unfinished parts of kept blobs stay, to be resumed; other leftovers of killed writers go. Must not run while
        a fetch does.
        """
        wanted = set(keep)
        records = [r for r in (self.record(d) for d in sorted(wanted)) if r is not None]
        blobs = {_hex(b.digest) for r in records for b in (r.weight, r.golden)}
        names = {
            self.blobs: blobs | {b + PART for b in blobs},
            self.files: {path.name for r in records for path, _, _ in self._files_of(r)},
            self.variants: {f"{_hex(r.digest)}.json" for r in records},
        }
        freed = 0
        for folder, kept in names.items():
            for path in sorted(folder.iterdir()):
                if path.name not in kept and path.is_file():
                    # A hard link elsewhere (Files mode) keeps the bytes.
                    freed += path.stat().st_size if path.stat().st_nlink == 1 else 0
                    path.unlink()
        for digest in set(self._records) - {r.digest for r in records}:
            del self._records[digest]
        return freed


def size_of(path: Path) -> int:
    """Bytes of a file; −1 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
