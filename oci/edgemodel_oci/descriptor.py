"""Content descriptors (OCI image spec 1.1, descriptor.md): media type, digest, size. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from edgemodel_api.errors import InputError

from .reference import is_digest

#: Larger sizes are not meant seriously (a petabyte).
SIZE_LIMIT = 10**15
_PLATFORM = re.compile(r"[a-z0-9_]+/[a-z0-9_]+(?:/[a-z0-9._]+)?")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


@dataclass(frozen=True)
class Descriptor:
    """What to fetch, and how to know that it is right.

    Attributes:
        media_type: RFC 6838 media type of the content.
        digest: `sha256:…`.
        size: bytes.
        platform: `os/architecture[/variant]`, for the manifests of an index.
        annotations: as in the JSON.
        artifact_type: of a manifest.
    """

    media_type: str
    digest: str
    size: int
    platform: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The OCI JSON object, without empty members."""
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        if self.platform:
            os, architecture, *variant = self.platform.split("/")
            document["platform"] = {"architecture": architecture, "os": os}
            if variant:
                document["platform"]["variant"] = variant[0]
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document

    @classmethod
    def from_json(cls, document: object, *, what: str = "descriptor") -> Self:
        """Read an OCI JSON object that may be hostile; unknown members are ignored, as the spec asks.

        Raises:
            InputError: a member is missing or of the wrong type; `what` names the place.
        """
        if not isinstance(document, dict):
            raise InputError(f"the {what} is no JSON object: the artifact is broken, push it again")
        media_type, digest, size = (document.get(k) for k in ("mediaType", "digest", "size"))
        if not isinstance(media_type, str) or not is_media_type(media_type):
            raise InputError(f"the {what} has the media type {str(media_type)[:100]!r}: the artifact is broken")
        if not isinstance(digest, str) or not is_digest(digest):
            raise InputError(f"the {what} has the digest {str(digest)[:100]!r}: only sha256 is supported")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= SIZE_LIMIT:
            raise InputError(f"the {what} has the size {str(size)[:100]!r}: the artifact is broken")
        artifact_type = document.get("artifactType")
        return cls(
            media_type=media_type,
            digest=digest,
            size=size,
            platform=_platform(document.get("platform")),
            annotations=annotations_of(document),
            artifact_type=artifact_type if isinstance(artifact_type, str) and artifact_type else None,
        )


def is_media_type(text: str) -> bool:
    """Whether `text` is `type/subtype` of RFC 6838, without parameters."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def is_platform(text: str) -> bool:
    """Whether `text` is `os/architecture[/variant]`."""
    return _PLATFORM.fullmatch(text) is not None


def annotations_of(document: Mapping[str, Any]) -> dict[str, str]:
    """The string annotations of a manifest or descriptor; others are dropped."""
    found = document.get("annotations")
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def _platform(document: object) -> str | None:
    if not isinstance(document, dict):
        return None
    parts = [document.get("os"), document.get("architecture"), document.get("variant")]
    text = "/".join(p for p in parts if isinstance(p, str) and p)
    return text if is_platform(text) else None
