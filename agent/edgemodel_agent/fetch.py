"""Bring one variant onto the disk: manifest → golden and weight blobs → expanded file. Resumes; checks the room first."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from edgemodel_api import reasons
from edgemodel_api.edgenode import ArtifactTarget
from edgemodel_api.errors import EdgeModelError, InputError, TransientError
from edgemodel_api.quantities import format_bytes
from edgemodel_oci.artifact import read_variant
from edgemodel_oci.pack import ExternalData, unpack_file
from edgemodel_oci.pull import fetch_blob
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import open_repository

from .decide import RETRY_BASE, RETRY_MAX, doubled
from .state import Retry
from .store import Blob, Store, VariantRecord, size_of

#: Errors that are the artifact's or the reference's own are tried so often before the target counts as failed:
#: a mirror may lag behind for some minutes.
INPUT_ERROR_LIMIT = 10

Progress = Callable[[int], None]


def _ignore(_count: int) -> None:
    pass


@dataclass(frozen=True)
class Fetched:
    """What a fetch cost: bytes over the wire, seconds, and breaks that were resumed inside it."""

    bytes: int = 0
    seconds: float = 0.0
    retries: int = 0


def check_room(store: Store, *, what: str, stored: int, expanded: int, reserve: int) -> None:
    """Refuse before a byte is written if the disk cannot hold it all.

    Raises:
        TransientError: reason DiskFull, with all the numbers.
    """
    free = store.free_bytes()
    if stored + expanded == 0 or stored + expanded + reserve <= free:
        return
    raise TransientError(
        f"the disk is too full for {what}: {format_bytes(stored)} to download and {format_bytes(expanded)} expanded"
        f" with {format_bytes(reserve)} in reserve need {format_bytes(stored + expanded + reserve)},"
        f" {format_bytes(free)} are free: free {format_bytes(stored + expanded + reserve - free)} on the node",
        reason=reasons.DISK_FULL,
    )


def fetch_variant(
    store: Store,
    target: ArtifactTarget,
    *,
    reserve: int,
    progress: Progress,
    received: Progress = _ignore,
    no_disk: bool = False,
) -> Fetched:
    """Everything of `target` that is not here yet. Safe to kill and to call again at any time.

    Args:
        store: where to.
        target: the variant, by the digest of its manifest.
        reserve: bytes of disk that must stay free.
        progress: called with the bytes that are here of the blobs; may raise to stop.
        received: called with the bytes that came in since the last call.
        no_disk: pretend that nothing is free (a rehearsed fault).

    Raises:
        TransientError: worth another try later; with reason DiskFull, after room was made.
        InputError: the artifact is wrong.
    """
    what = f"variant {target.variant} of revision {target.revision}"
    if no_disk:
        raise TransientError(
            f"the disk is too full for {what}: rehearsed fault NoDisk, 0 B are free", reason=reasons.DISK_FULL
        )
    record = store.record(target.digest)
    if record is None:
        check_room(store, what=what, stored=target.size_bytes, expanded=target.file_bytes, reserve=reserve)
        record = _read_record(target)
        store.save_record(record)
    stored, expanded = store.missing_bytes(record)
    check_room(store, what=what, stored=stored, expanded=expanded, reserve=reserve)
    cost = Fetched()
    before = 0
    for blob in (record.golden, record.weight):
        cost = _add(cost, _fetch_blob(store, target, blob, _telling(before, progress, received)))
        before += blob.size
        progress(before)
    model = store.file_path(record.file_digest)
    if not store.expanded(record):
        data = None
        if record.data_digest:
            data = ExternalData(store.data_path(record.data_digest), record.data_digest, record.data_size)
        unpack_file(
            store.blob_path(record.weight.digest),
            model,
            file_digest=record.file_digest,
            file_size=record.file_size,
            data=data,
        )
    return cost


def _telling(before: int, progress: Progress, received: Progress) -> Callable[[int, int], None]:
    """For one blob, of which the first call tells what an earlier fetch had left."""
    last: int | None = None

    def tell(done: int, _total: int) -> None:
        nonlocal last
        if last is not None and done > last:
            received(done - last)
        last = done
        progress(before + done)

    return tell


def _read_record(target: ArtifactTarget) -> VariantRecord:
    found = read_variant(open_repository(Reference.parse(target.reference)), target.digest)

    def blob(layer: object) -> Blob:
        return Blob.model_validate(layer, from_attributes=True)

    return VariantRecord(
        digest=target.digest,
        variant=found.name,
        revision=target.revision,
        weight=blob(found.weight),
        golden=blob(found.golden),
        golden_spec=found.golden_spec,
        file_digest=found.file_digest,
        file_size=found.file_size,
        data_digest=found.data_digest,
        data_size=found.data_size,
        format=found.format,
    )


def _fetch_blob(store: Store, target: ArtifactTarget, blob: Blob, progress: Callable[[int, int], None]) -> Fetched:
    path = store.blob_path(blob.digest)
    if size_of(path) == blob.size and store.intact(path, blob.digest):
        return Fetched()
    from edgemodel_oci.descriptor import Descriptor

    descriptor = Descriptor(media_type=blob.media_type, digest=blob.digest, size=blob.size)
    stats = fetch_blob(open_repository(Reference.parse(target.reference)), descriptor, path, progress=progress)
    return Fetched(stats.bytes, stats.seconds, stats.retries)


def _add(a: Fetched, b: Fetched) -> Fetched:
    return Fetched(a.bytes + b.bytes, a.seconds + b.seconds, a.retries + b.retries)


def failure_of(error: Exception, tries: int) -> tuple[bool, str, str]:
    """(given up, reason, message) for a fetch that failed for the `tries`-th time in a row.

    A link that is down is never given up; a full disk and wrong bytes are at once (the operator may raise `attempt`).
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True, reasons.DISK_FULL, f"the disk became full while writing: {error}; free space on the node"
    if isinstance(error, EdgeModelError):
        if error.reason in (reasons.DISK_FULL, reasons.DIGEST_MISMATCH):
            return True, error.reason, error.message
        if isinstance(error, InputError):
            return tries >= INPUT_ERROR_LIMIT, reasons.DOWNLOAD_FAILED, error.message
        return False, reasons.DOWNLOAD_FAILED, error.message
    return False, reasons.DOWNLOAD_FAILED, f"{type(error).__name__}: {error}"


def next_retry(digest: str, count: int, now: datetime, reason: str, message: str, *, seed: str) -> Retry:
    """When to try again: 0.5 s doubled each time up to a minute, ± a quarter that differs from node to node.

    The spread is drawn from `seed` (the node's name), so that a fleet does not come back to the registry in one beat.
    """
    spread = random.Random(f"{seed}/{digest}/{count}").uniform(0.75, 1.25)
    wait = doubled(RETRY_BASE, count, RETRY_MAX) * spread
    return Retry(
        digest=digest,
        count=count,
        at=now,
        not_before=now + max(wait, timedelta(seconds=0.1)),
        reason=reason,
        message=message,
    )
