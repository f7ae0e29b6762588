"""An OCI image layout: a folder as registry (image spec 1.1, image-layout.md).

```
<folder>/oci-layout            {"imageLayoutVersion": "1.0.0"}
<folder>/index.json            every manifest, tags as org.opencontainers.image.ref.name
<folder>/blobs/sha256/<hex>    blobs and manifests
<folder>/ingest/               files that are being written; renamed into blobs when whole
```
Readers need no lock: everything appears by rename. Writers of index.json hold a lock on `index.json.lock`.
index.json also names untagged manifests (as oras writes it), sorted, so that equal content gives equal folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgemodel_api.artifact import INDEX
from edgemodel_api.errors import InputError, TransientError

from .descriptor import Descriptor, annotations_of
from .files import CHUNK, chunks_of, locked, measure, open_regular, put, replacing, writing
from .manifests import (
    MANIFEST_LIMIT_BYTES,
    MANIFEST_TYPES,
    artifact_type_of,
    canonical,
    check_digest,
    entries_of,
    media_type_of,
    parse_object,
    subject_of,
)
from .reference import Reference, hex_of, is_digest, is_tag
from .repository import Repository

ANNOTATION_TAG = "org.opencontainers.image.ref.name"
_INDEX_LIMIT_BYTES = 64 * 2**20
_OWN_NAMES = frozenset({"oci-layout", "index.json", "index.json.lock", "blobs", "ingest"})
#: What a killed writer left is removed after a day; a living one is long done by then.
_STALE_SECONDS = 24 * 3600


class Layout(Repository):
    """One image layout."""

    def __init__(self, reference: Reference, *, create: bool = False) -> None:
        self.reference = reference.without_target()
        self.folder = Path(reference.repository)
        self._blobs = self.folder / "blobs" / "sha256"
        self._ingest = self.folder / "ingest"
        self._index = self.folder / "index.json"
        if create:
            self._create()
        self._check()

    def manifest(self, tag_or_digest: str) -> tuple[Descriptor, bytes]:
        """See `Repository`."""
        entries = self._entries()
        if is_digest(tag_or_digest):
            digest = tag_or_digest
            known = next((e for e in entries if e.digest == digest), None)
        else:
            known = next((e for e in entries if e.annotations.get(ANNOTATION_TAG) == tag_or_digest), None)
            if known is None:
                tags = sorted({e.annotations[ANNOTATION_TAG] for e in entries if ANNOTATION_TAG in e.annotations})
                raise InputError(
                    f"the image layout {self.folder} has no tag {tag_or_digest[:150]!r}: it has {_listed(tags)}"
                )
            digest = known.digest
        content = self._small_blob(digest)
        document = parse_object(content, what=f"manifest {digest} in {self.folder}")
        media_type = media_type_of(document, declared=known.media_type if known else None)
        return (
            Descriptor(
                media_type,
                digest,
                len(content),
                annotations=annotations_of(document),
                artifact_type=artifact_type_of(document),
            ),
            content,
        )

    def open_blob(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        """See `Repository`."""
        path = self._blob(digest)
        try:
            with open_regular(path) as f:
                f.seek(offset)
                while chunk := f.read(CHUNK):
                    yield chunk
        except FileNotFoundError:
            raise self._missing(digest) from None
        except OSError as error:
            raise TransientError(f"cannot read {path} ({error.strerror}): check the disk and its rights") from None

    def has_blob(self, digest: str) -> bool:
        """See `Repository`."""
        return self._blob(digest).is_file()

    def put_blob(self, content: Path | bytes, *, media_type: str = "application/octet-stream") -> Descriptor:
        """See `Repository`. A stored blob that lost its digest is written again."""
        digest, size = measure(content)
        path = self._blob(digest)
        if not _has(path, digest, size):
            with writing(path):
                self._ingest.mkdir(exist_ok=True)
                fd, name = tempfile.mkstemp(dir=self._ingest)
                os.close(fd)
            with replacing(path, temporary=Path(name)) as f:
                actual = hashlib.sha256()
                for chunk in chunks_of(content):
                    actual.update(chunk)
                    put(f, chunk, path)
                if f"sha256:{actual.hexdigest()}" != digest:
                    raise TransientError(f"{content!s:.200} changed while it was stored: let it rest and try again")
        return Descriptor(media_type, digest, size)

    def put_manifest(self, content: bytes, media_type: str, tag: str | None = None) -> Descriptor:
        """See `Repository`."""
        document = parse_object(content, what="the manifest")
        if tag is not None and not is_tag(tag):
            raise InputError(f"{tag[:150]!r} is not a tag: use letters, digits, _ . and -")
        blob = self.put_blob(content, media_type=media_type)
        found = replace(blob, artifact_type=artifact_type_of(document), annotations=annotations_of(document))
        entry = replace(blob, artifact_type=_explicit_artifact_type(document))
        if tag is not None:
            entry = replace(entry, annotations={ANNOTATION_TAG: tag})
        with self._locked():
            self._write_index(_merged(self._entries(), entry))
        return found

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """See `Repository`."""
        hex_of(digest)
        found: dict[str, Descriptor] = {}
        for entry in self._entries():
            if entry.media_type not in MANIFEST_TYPES or entry.digest in found:
                continue
            # A manifest that is gone or broken is none of the caller's: it asked for those that refer to its own.
            with contextlib.suppress(InputError, TransientError):
                document = parse_object(self._small_blob(entry.digest), what=entry.digest)
                if subject_of(document) == digest:
                    found[entry.digest] = replace(
                        entry, annotations=annotations_of(document), artifact_type=artifact_type_of(document)
                    )
        return tuple(found[d] for d in sorted(found))

    def _create(self) -> None:
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            names = set(os.listdir(self.folder))
        if "oci-layout" not in names and not names <= _OWN_NAMES:
            raise InputError(
                f"the folder {self.folder} is not empty and no image layout ({min(names - _OWN_NAMES)[:100]!r} is"
                " in it): name an empty or a new folder"
            )
        if {"oci-layout", "index.json", "blobs"} <= names and self._blobs.is_dir():
            self._remove_stale()
            return
        with self._locked(), writing(self.folder):
            self._blobs.mkdir(parents=True, exist_ok=True)
            if not self._index.exists():
                self._write_index([])
            if not (self.folder / "oci-layout").exists():
                with replacing(self.folder / "oci-layout") as f:
                    f.write(canonical({"imageLayoutVersion": "1.0.0"}))

    def _check(self) -> None:
        try:
            with open_regular(self.folder / "oci-layout") as f:
                document = parse_object(f.read(4096), what=f"{self.folder}/oci-layout")
        except OSError:
            raise InputError(
                f"there is no image layout in {self.folder} (no readable oci-layout file): check the folder's name"
            ) from None
        version = document.get("imageLayoutVersion")
        if version != "1.0.0":
            raise InputError(
                f"the image layout {self.folder} has version {str(version)[:50]!r}: only 1.0.0 is supported"
            )

    def _remove_stale(self) -> None:
        # Only tidying: whatever another process does here at the same time is right as well.
        with contextlib.suppress(OSError):
            for item in os.scandir(self._ingest):
                if item.stat(follow_symlinks=False).st_mtime < time.time() - _STALE_SECONDS:
                    os.unlink(item.path)

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return locked(self.folder / "index.json.lock")

    def _entries(self) -> list[Descriptor]:
        try:
            with open_regular(self._index) as f:
                content = f.read(_INDEX_LIMIT_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot read {self._index} ({error.strerror}): it is no whole image layout") from None
        if len(content) > _INDEX_LIMIT_BYTES:
            raise InputError(f"{self._index} is larger than {_INDEX_LIMIT_BYTES} bytes: remove old revisions from it")
        document = parse_object(content, what=str(self._index))
        return list(entries_of(document, "manifests", what=str(self._index)))

    def _write_index(self, entries: list[Descriptor]) -> None:
        ordered = sorted(entries, key=lambda e: (e.annotations.get(ANNOTATION_TAG, ""), e.digest))
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [e.to_json() for e in ordered]}
        with replacing(self._index) as f:
            put(f, canonical(document), self._index)

    def _blob(self, digest: str) -> Path:
        return self._blobs / hex_of(digest)

    def _missing(self, digest: str) -> InputError:
        return InputError(f"the image layout {self.folder} does not hold {digest}: push the artifact again")

    def _small_blob(self, digest: str) -> bytes:
        path = self._blob(digest)
        try:
            with open_regular(path) as f:
                content = f.read(MANIFEST_LIMIT_BYTES + 1)
        except FileNotFoundError:
            raise self._missing(digest) from None
        except OSError as error:
            raise TransientError(f"cannot read {path} ({error.strerror}): check the disk and its rights") from None
        if len(content) > MANIFEST_LIMIT_BYTES:
            raise InputError(f"{path} is larger than {MANIFEST_LIMIT_BYTES} bytes: it is no manifest")
        check_digest(content, digest, what=str(path))
        return content


def _merged(entries: list[Descriptor], new: Descriptor) -> list[Descriptor]:
    """The index with `new` in it: its tag moves to it, and what had the tag stays, without it."""
    tag = new.annotations.get(ANNOTATION_TAG)
    if tag is None:
        return entries if any(e.digest == new.digest for e in entries) else [*entries, new]
    tagged = [e for e in entries if e.annotations.get(ANNOTATION_TAG) not in (None, tag)] + [new]
    untagged = {e.digest: replace(e, annotations={}) for e in entries}
    for e in tagged:
        untagged.pop(e.digest, None)
    return [*tagged, *untagged.values()]


def _explicit_artifact_type(document: dict[str, Any]) -> str | None:
    found = document.get("artifactType")
    return found if isinstance(found, str) else None


def _has(path: Path, digest: str, size: int) -> bool:
    try:
        return path.stat().st_size == size and measure(path)[0] == digest
    except (OSError, InputError):
        return False


def _listed(tags: list[str]) -> str:
    shown = ", ".join(tags[:20]) + (" …" if len(tags) > 20 else "")
    return shown or "no tags"
