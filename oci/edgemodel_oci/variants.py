"""Reading an artifact's index and variants, as if a stranger had written them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from edgemodel_api.artifact import (
    ANNOTATION_CLASSES,
    ANNOTATION_DATA_DIGEST,
    ANNOTATION_DATA_SIZE,
    ANNOTATION_ENCODING,
    ANNOTATION_FILE_DIGEST,
    ANNOTATION_FILE_SIZE,
    ANNOTATION_FORMAT,
    ANNOTATION_GOLDEN,
    ANNOTATION_PLATFORM,
    ANNOTATION_REVISION,
    ANNOTATION_VARIANT,
    GOLDEN_LAYER,
    MODEL_FILES,
    WEIGHT_LAYER,
    Golden,
)
from edgemodel_api.edgemodel import Format
from edgemodel_api.errors import InputError

from .descriptor import SIZE_LIMIT, Descriptor, annotations_of, is_platform
from .manifests import INDEX_TYPES, entries_of, parse_object
from .reference import is_digest
from .repository import Repository


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
        data_digest: of the external data that lie in the same layer; empty: the model is one file.
        data_size: their bytes.
        format: what the model file is.
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
    data_digest: str = ""
    data_size: int = 0
    format: Format = Format.ONNX

    @property
    def file_name(self) -> str:
        """The model file's, in the layer and wherever applications look for it."""
        return MODEL_FILES[self.format]


@dataclass(frozen=True)
class Index:
    """A revision's index; `variants` as they were written: each with platform and annotations."""

    descriptor: Descriptor
    revision: str
    variants: tuple[Descriptor, ...]


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
    if not _is_size(size):
        raise InputError(f"{what} declares a model file of {size[:50]!r} bytes: push the artifact again")
    data_digest, data_size = _data(weight, what)
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
        data_digest=data_digest,
        data_size=data_size,
        format=format_of(annotations, what=what),
    )


def format_of(annotations: Mapping[str, str], *, what: str) -> Format:
    """What the annotations of a variant's manifest, or of its entry in the index, say that the model file is.

    Raises:
        InputError: a format that this version does not know.
    """
    text = annotations.get(ANNOTATION_FORMAT, Format.ONNX.value)
    try:
        return Format(text)
    except ValueError:
        known = ", ".join(f.value for f in Format)
        raise InputError(
            f"{what} holds a model of the format {text[:50]!r}, and this version knows {known}: update EdgeModel"
        ) from None


def _data(weight: Descriptor, what: str) -> tuple[str, int]:
    digest, size = (weight.annotations.get(k) for k in (ANNOTATION_DATA_DIGEST, ANNOTATION_DATA_SIZE))
    if digest is None and size is None:
        return "", 0
    if digest is None or size is None or not is_digest(digest) or not _is_size(size):
        raise InputError(
            f"{what} declares external data of {str(size)[:50]!r} bytes with the digest {str(digest)[:80]!r}: push the"
            " artifact again"
        )
    return digest, int(size)


def _is_size(text: str) -> bool:
    """Longer numbers take long to read, and mean nothing."""
    return text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= SIZE_LIMIT


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


def _only(layers: Iterable[Descriptor], media_type: str, what: str) -> Descriptor:
    found = [layer for layer in layers if layer.media_type == media_type]
    if len(found) != 1:
        raise InputError(
            f"{what} has {len(found)} layers of type {media_type} where one is expected: it was not written by EdgeModel"
        )
    return found[0]
