"""Reading and writing manifests and indexes as JSON that may be hostile. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from edgemodel_api import reasons
from edgemodel_api.artifact import INDEX, MANIFEST
from edgemodel_api.errors import InputError, TransientError

from .descriptor import Descriptor, is_media_type

#: The distribution spec asks registries to take at least 4 MiB; nothing here comes near.
MANIFEST_LIMIT_BYTES = 4 * 2**20
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES = (MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX)
INDEX_TYPES = (INDEX, DOCKER_INDEX)
#: More entries than this are not read.
ENTRY_LIMIT = 10_000


def sha256_digest(content: bytes) -> str:
    """`sha256:…` of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def canonical(document: dict[str, Any]) -> bytes:
    """The one way in which JSON is written here, so that equal documents have equal digests."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse_object(content: bytes, *, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: it is none.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InputError(f"{what} is no JSON object: it is broken or no artifact, push it again")
    return document


def media_type_of(document: dict[str, Any], *, declared: str | None = None) -> str:
    """The media type of a manifest or index: what the transport declared, which its own member must not contradict.

    Raises:
        InputError: the two differ (the spec's defence against confusing one for the other), or it is none of ours.
    """
    own = document.get("mediaType")
    if own is not None and (not isinstance(own, str) or not is_media_type(own)):
        raise InputError(f"the manifest's mediaType is {str(own)[:100]!r}: it is broken, push it again")
    if own and declared and declared in MANIFEST_TYPES and own != declared:
        raise InputError(f"the manifest calls itself {own} but was sent as {declared}: it is broken, push it again")
    found = own or (declared if declared in MANIFEST_TYPES else None)
    if found is None:
        found = INDEX if "manifests" in document else MANIFEST
    if ("layers" if found in INDEX_TYPES else "manifests") in document:
        raise InputError(f"the manifest says {found} and holds the members of the other kind: it is broken")
    return found


def entries_of(document: dict[str, Any], member: str, *, what: str) -> tuple[Descriptor, ...]:
    """The descriptors of a list member (`layers`, `manifests`).

    Raises:
        InputError: it is no list of descriptors, or holds more than `ENTRY_LIMIT`.
    """
    items = document.get(member)
    if items is None:
        return ()
    if not isinstance(items, list) or len(items) > ENTRY_LIMIT:
        raise InputError(f"{member} of {what} is no list of at most {ENTRY_LIMIT} descriptors: it is broken")
    return tuple(Descriptor.from_json(item, what=f"entry {n} of {member} of {what}") for n, item in enumerate(items))


def subject_of(document: dict[str, Any]) -> str | None:
    """The digest of a manifest's subject, if it has one that can be read."""
    subject = document.get("subject")
    digest = subject.get("digest") if isinstance(subject, dict) else None
    return digest if isinstance(digest, str) else None


def artifact_type_of(document: dict[str, Any]) -> str | None:
    """A manifest's artifact type: its own member, else its config's media type (image spec, referrers)."""
    config = document.get("config")
    found = document.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
    return found if isinstance(found, str) else None


def check_digest(content: bytes, digest: str, *, what: str) -> None:
    """Raises:
    TransientError: reason DigestMismatch.
    """
    actual = sha256_digest(content)
    if actual != digest:
        raise TransientError(
            f"{what} has the digest {actual}, {digest} was asked for: the registry or something before it changed it",
            reason=reasons.DIGEST_MISMATCH,
        )
