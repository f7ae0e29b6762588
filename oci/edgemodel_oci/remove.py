"""Deleting everything of a repository that belongs to an EdgeModel: tags, indexes, variants, reports. Bounded in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar

import httpx

from edgemodel_api.errors import InputError, TransientError

from .credentials import find_credentials
from .manifests import INDEX_TYPES, entries_of, parse_object
from .reference import Reference, is_digest
from .registry import Registry, endpoint
from .transport import Transport

T = TypeVar("T")
#: Of one request: whoever waits for a deletion waits for a person's patience, not for a slow link.
_TIMEOUT = httpx.Timeout(connect=4, read=8, write=8, pool=4)
_PAUSE_SECONDS = 2.0
#: Manifests that are looked at: far more than any history holds; a hostile registry may name ever more.
_MOST = 10_000


@dataclass(frozen=True)
class Removed:
    """What was deleted. `blob_bytes`: of the layers that the manifests named, each counted once."""

    tags: int
    manifests: int
    blob_bytes: int


def remove_all(reference: Reference, known: Iterable[str], *, within: timedelta) -> Removed:
    """Delete all tags of the repository, the manifests of these digests, and what they name and what refers to them.

    Blobs are the registry's to collect. What is gone already is fine, so it may be called again after a failure; where
    the registry cannot be reached it is tried again until the time is over.

    Args:
        reference: the repository, in a registry.
        known: digests of manifests that may have lost their tags.
        within: about as long as this takes at most.

    Raises:
        InputError: the registry does not let us (`registry.NotDeletableError`: nobody), or it is a folder.
        TransientError: it could not be reached, or the time was over before all was deleted.
    """
    if reference.is_layout:
        raise InputError(f"{reference} is a folder, and only registries are tidied up: remove it by hand")
    deadline = time.monotonic() + within.total_seconds()
    host = reference.host
    http = Transport(endpoint(host), lambda: find_credentials(host), timeout=_TIMEOUT, tries=1)
    with Registry(reference, transport=http) as registry:
        found = _patiently(partial(_look, registry, tuple(known), deadline), deadline)
        deleted = sum(_patiently(partial(registry.delete_manifest, d), deadline) for d in found.manifests)
    # Tags of the form sha256-… are lists of referrers, and nobody's own.
    named = [tag for tag in found.tags if not tag.startswith("sha256-")]
    return Removed(len(named), deleted, sum(found.blobs.values()))


@dataclass(frozen=True)
class _Found:
    """`manifests` in the order of their deletion: what names others before what is named, as some registries demand."""

    tags: tuple[str, ...]
    manifests: tuple[str, ...]
    blobs: dict[str, int]


def _look(registry: Registry, known: Iterable[str], deadline: float) -> _Found:
    tags = registry.tags()
    todo, order, blobs = [*tags, *known], dict[str, bool](), dict[str, int]()
    seen: set[str] = set()
    while todo and len(order) < _MOST:
        _check(deadline)
        target = todo.pop(0)
        if target in seen:
            continue
        seen.add(target)
        try:
            descriptor, content = registry.manifest(target)
        except InputError:
            # Deleted already, or nothing that can be read: then its digest alone is deleted, if that is what we have.
            if is_digest(target):
                order.setdefault(target, False)
                todo += [d.digest for d in registry.referrers(target)]
            continue
        is_index = descriptor.media_type in INDEX_TYPES
        order[descriptor.digest] = is_index
        seen.add(descriptor.digest)
        what = f"the manifest {descriptor.digest}"
        document = parse_object(content, what=what)
        if is_index:
            todo += [d.digest for d in entries_of(document, "manifests", what=what)]
        else:
            blobs |= {d.digest: d.size for d in entries_of(document, "layers", what=what)}
        todo += [d.digest for d in registry.referrers(descriptor.digest)]
    return _Found(tags, tuple(sorted(order, key=lambda d: not order[d])), blobs)


def _patiently(do: Callable[[], T], deadline: float) -> T:
    """Again while the registry cannot be reached and there is time."""
    while True:
        _check(deadline)
        try:
            return do()
        except TransientError:
            if time.monotonic() + _PAUSE_SECONDS >= deadline:
                raise
            time.sleep(_PAUSE_SECONDS)


def _check(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise TransientError("the registry took too long")
