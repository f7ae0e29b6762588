"""The compression report: a referrer of the index, so that what was timed does not change the artifact's digest."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from edgemodel_api.artifact import EMPTY_CONFIG, MANIFEST, REPORT_ARTIFACT_TYPE, REPORT_LAYER
from edgemodel_api.errors import InputError

from .descriptor import Descriptor
from .manifests import artifact_type_of, canonical, check_digest, entries_of, parse_object
from .pack import ANNOTATION_TITLE
from .repository import Repository

ANNOTATION_CREATED = "org.opencontainers.image.created"
REPORT_FILE = "report.json"
#: Reports of thousands of candidates stay far below.
REPORT_LIMIT_BYTES = 64 * 2**20


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
