"""The artifact: an OCI index per revision with a ModelPack manifest per (platform, variant), and its report.

What lies where is said in `edgemodel_api.artifact`. Sources: OCI image spec 1.1 (index, manifest, referrers), CNCF
ModelPack model-spec (config, layers). Equal variants give equal bytes: no time, no revision, no host in a manifest.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from edgemodel_api.artifact import (
    ANNOTATION_CLASSES,
    ANNOTATION_ENCODING,
    ANNOTATION_FILE_DIGEST,
    ANNOTATION_FILE_SIZE,
    ANNOTATION_FILEPATH,
    ANNOTATION_GOLDEN,
    ANNOTATION_PLATFORM,
    ANNOTATION_REVISION,
    ANNOTATION_VARIANT,
    EMPTY_CONFIG,
    GOLDEN_FILE,
    GOLDEN_LAYER,
    INDEX,
    MANIFEST,
    MODEL_ARTIFACT_TYPE,
    MODEL_CONFIG,
    MODEL_FILE,
    REPORT_ARTIFACT_TYPE,
    REPORT_LAYER,
    WEIGHT_LAYER,
    Golden,
)
from edgemodel_api.errors import InputError

from . import pack
from .descriptor import SIZE_LIMIT, Descriptor, annotations_of, is_platform
from .files import measure
from .manifests import INDEX_TYPES, artifact_type_of, canonical, check_digest, entries_of, parse_object
from .pack import ANNOTATION_TITLE, PackedFile, pack_file
from .reference import is_digest
from .repository import Repository
from .source import fetch_model_file

__all__ = [
    "ArtifactWriter",
    "Index",
    "Variant",
    "attach_report",
    "fetch_model_file",
    "packed_size",
    "read_index",
    "read_report",
    "read_variant",
]

ANNOTATION_CREATED = "org.opencontainers.image.created"
REPORT_FILE = "report.json"
#: Reports of thousands of candidates stay far below.
REPORT_LIMIT_BYTES = 64 * 2**20
_MODEL_FORMAT = "onnx"


@dataclass(frozen=True)
class Variant:
    """What a variant's manifest says.

    Attributes:
        name: `source`, or the variant's.
        revision: always empty: a variant may belong to several.
        platform: `os/architecture[/variant]`.
        weight: descriptor of the compressed layer.
        golden: descriptor of the golden cases.
        golden_spec: how to judge by them.
        file_digest: of the expanded model file.
        file_size: its bytes.
        classes: hardware classes that the variant is meant for; empty: all of the platform.
        encoding: as in `steps/encodings`.
    """

    name: str
    revision: str
    platform: str
    weight: Descriptor
    golden: Descriptor
    golden_spec: Golden
    file_digest: str
    file_size: int
    classes: tuple[str, ...]
    encoding: str


@dataclass(frozen=True)
class Index:
    """A revision's index; `variants` as they were written: each with platform and annotations."""

    descriptor: Descriptor
    revision: str
    variants: tuple[Descriptor, ...]


class ArtifactWriter:
    """Writes one revision: variants first, then the index. Equal files are packed and stored once.

    Args:
        repo: where to.
        work_dir: for packed files until they are stored; default: the system's temporary folder.
    """

    def __init__(self, repo: Repository, *, work_dir: Path | None = None) -> None:
        self._repo = repo
        self._work_dir = work_dir
        self._scratch: Path | None = None
        self._packed: dict[str, PackedFile] = {}
        self._stored: set[str] = set()
        self._variants: list[Descriptor] = []

    def add_variant(
        self,
        *,
        platform: str,
        name: str,
        model_file: Path,
        golden_file: Path,
        golden: Golden,
        classes: Iterable[str],
        encoding: str,
        source_name: str,
    ) -> Descriptor:
        """Store one variant and remember it for the index.

        Args:
            platform: `os/architecture[/variant]`.
            name: unique among the platform's variants.
            model_file: the ONNX file.
            golden_file: its golden cases.
            golden: how to judge by them.
            classes: hardware classes that it is meant for.
            encoding: how its weights are stored.
            source_name: the model's name, for people.

        Returns:
            The descriptor of its manifest, with platform and annotations.

        Raises:
            InputError: a file cannot be read, the platform is none, or the name is taken.
            TransientError: the repository.
        """
        if not is_platform(platform):
            raise InputError(f"{platform!r} is no platform: write os/architecture[/variant], as linux/arm64")
        if not name:
            raise InputError("the variant has no name: give one")
        if any(v.platform == platform and v.annotations[ANNOTATION_VARIANT] == name for v in self._variants):
            raise InputError(f"the artifact has a variant {name} for {platform} already: name it otherwise")
        packed = self._pack(model_file)
        self._store_packed(packed)
        annotations = {
            ANNOTATION_VARIANT: name,
            ANNOTATION_PLATFORM: platform,
            ANNOTATION_CLASSES: ",".join(dict.fromkeys(str(c) for c in classes)),
            ANNOTATION_ENCODING: encoding,
        }
        annotations = {key: value for key, value in annotations.items() if value}
        golden_layer = replace(
            self._repo.put_blob(golden_file, media_type=GOLDEN_LAYER),
            annotations={
                ANNOTATION_FILEPATH: GOLDEN_FILE,
                ANNOTATION_TITLE: GOLDEN_FILE,
                ANNOTATION_GOLDEN: canonical(golden.to_json()).decode(),
            },
        )
        config = {
            "descriptor": {"name": source_name or "model", "title": f"{source_name or 'model'} {name}"},
            "config": {"format": _MODEL_FORMAT, **({"precision": encoding} if encoding else {})},
            "modelfs": {"type": "layers", "diffIds": [packed.diff_id, golden_layer.digest]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": MODEL_ARTIFACT_TYPE,
            "config": self._repo.put_blob(canonical(config), media_type=MODEL_CONFIG).to_json(),
            "layers": [packed.descriptor.to_json(), golden_layer.to_json()],
            "annotations": annotations,
        }
        stored = self._repo.put_manifest(canonical(manifest), MANIFEST)
        found = replace(stored, platform=platform, annotations=annotations, artifact_type=MODEL_ARTIFACT_TYPE)
        self._variants.append(found)
        return found

    def stored_size(self, model_file: Path) -> int:
        """Bytes that a node will download for this file: its weight layer. The packed file is kept for `add_variant`.

        Raises:
            InputError: the file cannot be read.
        """
        return self._pack(model_file).descriptor.size

    def finish(self, *, revision: str, tag: str) -> Descriptor:
        """Store the index of all variants, in the order in which they were added, and tag it.

        Raises:
            InputError: there is no variant.
            TransientError: the repository.
        """
        if not self._variants:
            raise InputError("the artifact has no variant: nothing passed, so there is nothing to store")
        document = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "artifactType": MODEL_ARTIFACT_TYPE,
            "manifests": [v.to_json() for v in self._variants],
            "annotations": {ANNOTATION_REVISION: revision},
        }
        descriptor = self._repo.put_manifest(canonical(document), INDEX, tag)
        self.close()
        return descriptor

    def close(self) -> None:
        """Remove packed files that were not stored."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
        self._packed.clear()

    def _pack(self, model_file: Path) -> PackedFile:
        digest, _ = measure(model_file)
        if digest not in self._packed:
            packed = pack_file(model_file, self._scratch_file(digest), name=MODEL_FILE)
            if packed.file_digest != digest:
                raise InputError(f"{model_file} changed while it was packed: let it rest and try again")
            self._packed[digest] = packed
        return self._packed[digest]

    def _store_packed(self, packed: PackedFile) -> None:
        if packed.file_digest in self._stored:
            return
        path = self._scratch_file(packed.file_digest)
        self._repo.put_blob(path, media_type=WEIGHT_LAYER)
        self._stored.add(packed.file_digest)
        path.unlink(missing_ok=True)

    def _scratch_file(self, digest: str) -> Path:
        if self._scratch is None:
            try:
                self._scratch = Path(tempfile.mkdtemp(prefix="edgemodel-pack-", dir=self._work_dir))
            except OSError as error:
                raise InputError(
                    f"cannot make a temporary folder ({error.strerror}): set TMPDIR to a writable one with room"
                ) from None
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        return self._scratch / digest.partition(":")[2]


def packed_size(model_file: Path) -> int:
    """Bytes of the weight layer that `ArtifactWriter.add_variant` would store for this file.

    Raises:
        InputError: the file cannot be read.
    """
    return pack.packed_size(model_file, name=MODEL_FILE)


def read_variant(repo: Repository, digest: str) -> Variant:
    """What the manifest of a variant says, checked: it may come from a stranger.

    Raises:
        InputError: it is no variant of ours, or is not there.
        TransientError: the repository.
    """
    descriptor, content = repo.manifest(digest)
    what = f"the manifest {descriptor.digest}"
    document = parse_object(content, what=what)
    if descriptor.media_type in INDEX_TYPES:
        raise InputError(f"{what} is an index: name the digest of one of its variants")
    layers = entries_of(document, "layers", what=what)
    weight, golden = (_only(layers, media_type, what) for media_type in (WEIGHT_LAYER, GOLDEN_LAYER))
    annotations = annotations_of(document)
    name, platform = annotations.get(ANNOTATION_VARIANT, ""), annotations.get(ANNOTATION_PLATFORM, "")
    file_digest, size = (weight.annotations.get(k, "") for k in (ANNOTATION_FILE_DIGEST, ANNOTATION_FILE_SIZE))
    if not name or not is_platform(platform) or not is_digest(file_digest):
        raise InputError(f"{what} lacks its variant, platform or file digest: it was not written by EdgeModel")
    # Longer numbers take long to read, and mean nothing.
    if not size.isascii() or not size.isdigit() or len(size) > 16 or int(size) > SIZE_LIMIT:
        raise InputError(f"{what} declares a model file of {size[:50]!r} bytes: push the artifact again")
    try:
        spec = Golden.model_validate_json(golden.annotations.get(ANNOTATION_GOLDEN, ""))
    except ValidationError:
        raise InputError(f"{what} does not say how its golden cases are judged: push the artifact again") from None
    return Variant(
        name=name,
        revision="",
        platform=platform,
        weight=weight,
        golden=golden,
        golden_spec=spec,
        file_digest=file_digest,
        file_size=int(size),
        classes=tuple(c for c in annotations.get(ANNOTATION_CLASSES, "").split(",") if c),
        encoding=annotations.get(ANNOTATION_ENCODING, ""),
    )


def read_index(repo: Repository, tag_or_digest: str) -> Index:
    """The index of a revision.

    Raises:
        InputError: it is no index, or is not there.
        TransientError: the repository.
    """
    descriptor, content = repo.manifest(tag_or_digest)
    what = f"the artifact {tag_or_digest}"
    if descriptor.media_type not in INDEX_TYPES:
        raise InputError(f"{what} is a single manifest, no index: name the revision's tag or the index's digest")
    document = parse_object(content, what=what)
    return Index(
        descriptor=descriptor,
        revision=annotations_of(document).get(ANNOTATION_REVISION, ""),
        variants=entries_of(document, "manifests", what=what),
    )


def attach_report(
    repo: Repository, index: Descriptor, content: bytes, *, created: datetime | None = None
) -> Descriptor:
    """Store a compression report (JSON) as a referrer of the index.

    Args:
        repo: where the index is.
        index: its descriptor.
        content: the report.
        created: when it was made; default: now. The newest report counts.

    Raises:
        InputError: the report is larger than `REPORT_LIMIT_BYTES`.
        TransientError: the repository.
    """
    if len(content) > REPORT_LIMIT_BYTES:
        raise InputError(f"the report has {len(content)} bytes, more than {REPORT_LIMIT_BYTES}: shorten it")
    layer = repo.put_blob(content, media_type=REPORT_LAYER)
    moment = (created or datetime.now(UTC)).astimezone(UTC)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": REPORT_ARTIFACT_TYPE,
        "config": repo.put_blob(b"{}", media_type=EMPTY_CONFIG).to_json(),
        "layers": [replace(layer, annotations={ANNOTATION_TITLE: REPORT_FILE}).to_json()],
        "subject": Descriptor(index.media_type, index.digest, index.size).to_json(),
        "annotations": {ANNOTATION_CREATED: moment.isoformat(timespec="microseconds").replace("+00:00", "Z")},
    }
    return repo.put_manifest(canonical(manifest), MANIFEST)


def read_report(repo: Repository, index_digest: str) -> bytes | None:
    """The newest report that refers to the index; None if there is none.

    Raises:
        InputError, TransientError: the repository, or a report that is broken or too large.
    """
    reports = [r for r in repo.referrers(index_digest) if r.artifact_type == REPORT_ARTIFACT_TYPE]
    if not reports:
        return None
    newest = max(reports, key=lambda r: (r.annotations.get(ANNOTATION_CREATED, ""), r.digest))
    descriptor, content = repo.manifest(newest.digest)
    what = f"the report {descriptor.digest}"
    document = parse_object(content, what=what)
    layers = entries_of(document, "layers", what=what)
    if artifact_type_of(document) != REPORT_ARTIFACT_TYPE or len(layers) != 1:
        raise InputError(f"{what} has {len(layers)} layers where one is expected: attach it again")
    return read_small(repo, layers[0], limit=REPORT_LIMIT_BYTES)


def read_small(repo: Repository, descriptor: Descriptor, *, limit: int) -> bytes:
    """A blob in memory, its size and digest checked.

    Raises:
        InputError: it is larger than `limit`.
        TransientError: the repository, or wrong bytes (reason DigestMismatch).
    """
    if descriptor.size > limit:
        raise InputError(f"{descriptor.digest} has {descriptor.size} bytes, more than {limit}: it is not read")
    content = bytearray()
    for chunk in repo.open_blob(descriptor.digest):
        content += chunk
        if len(content) > descriptor.size:
            break
    check_digest(bytes(content), descriptor.digest, what=f"a blob from {repo.reference}")
    return bytes(content)


def _only(layers: Iterable[Descriptor], media_type: str, what: str) -> Descriptor:
    found = [layer for layer in layers if layer.media_type == media_type]
    if len(found) != 1:
        raise InputError(
            f"{what} has {len(found)} layers of type {media_type} where one is expected: it was not written by EdgeModel"
        )
    return found[0]
