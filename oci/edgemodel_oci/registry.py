"""A repository in a registry: the OCI distribution spec 1.1 over HTTP."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from edgemodel_api import reasons
from edgemodel_api.artifact import INDEX
from edgemodel_api.errors import InputError, TransientError

from .answers import unreachable
from .credentials import Credentials, find_credentials
from .descriptor import Descriptor, annotations_of
from .files import measure
from .manifests import (
    INDEX_TYPES,
    MANIFEST_LIMIT_BYTES,
    MANIFEST_TYPES,
    artifact_type_of,
    canonical,
    check_digest,
    entries_of,
    media_type_of,
    parse_object,
    sha256_digest,
    subject_of,
)
from .reference import Reference, hex_of, is_digest, is_tag
from .repository import Access, Repository
from .transport import Transport
from .upload import CHUNK_BYTES, upload

_NOT_FOUND = frozenset({404})
#: Pages of a referrers list that are followed.
_MAX_PAGES = 20


class NotDeletableError(InputError):
    """The registry has no deletion, or was told to have none."""


class Registry(Repository):
    """One repository in a registry.

    Args:
        reference: `oci://host/repo`.
        credentials: default: what is stored for the host, looked up when the registry asks.
        access: other authorities than the system's, and where the credentials are from.
        transport: for tests.
        chunk_bytes: blobs larger than this are sent in chunks, so that a break does not cost the whole.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        credentials: Credentials | None = None,
        access: Access | None = None,
        transport: Transport | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.reference = reference.without_target()
        host = reference.host
        self._http = transport or Transport(
            endpoint(host), lambda: credentials or find_credentials(host), access=access
        )
        self._base = f"/v2/{reference.repository}"
        self._pull = f"repository:{reference.repository}:pull"
        self._push = f"repository:{reference.repository}:pull,push"
        self._delete = f"repository:{reference.repository}:delete,pull"
        self._chunk_bytes = chunk_bytes
        self._finalizer = weakref.finalize(self, self._http.close)

    def close(self) -> None:
        """See `Repository`."""
        self._finalizer()

    def manifest(self, tag_or_digest: str) -> tuple[Descriptor, bytes]:
        """See `Repository`."""
        found = self._manifest(tag_or_digest)
        if found is None:
            raise InputError(
                f"{self.reference} has no manifest {tag_or_digest[:150]}: check the name, or push the artifact"
            )
        return found

    def open_blob(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        """See `Repository`. A server that knows no ranges sends everything; what was asked to be left out is."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._http.stream("GET", self._blob(digest), scope=self._pull, headers=headers) as response:
            skip = _to_skip(response, offset)
            try:
                # Without a chunk size: httpx would gather chunks, and lose what it has when the connection breaks.
                for chunk in response.iter_raw():
                    if skip >= len(chunk):
                        skip -= len(chunk)
                        continue
                    yield chunk[skip:]
                    skip = 0
            except httpx.TransportError as error:
                raise unreachable(self._http.host, error) from None

    def has_blob(self, digest: str) -> bool:
        """See `Repository`."""
        response = self._http.request("HEAD", self._blob(digest), scope=self._pull, accept=_NOT_FOUND)
        return response.status_code != HTTPStatus.NOT_FOUND

    def put_blob(self, content: Path | bytes, *, media_type: str = "application/octet-stream") -> Descriptor:
        """See `Repository`."""
        digest, size = measure(content)
        # Asked with the right to push: so one token serves the whole.
        found = self._http.request("HEAD", self._blob(digest), scope=self._push, accept=_NOT_FOUND)
        if found.status_code == HTTPStatus.NOT_FOUND:
            response = upload(
                self._http,
                f"{self._base}/blobs/uploads/",
                content,
                digest=digest,
                size=size,
                scope=self._push,
                chunk_bytes=self._chunk_bytes,
            )
            self._cross_check(response, digest)
        return Descriptor(media_type, digest, size)

    def put_manifest(self, content: bytes, media_type: str, tag: str | None = None) -> Descriptor:
        """See `Repository`. Where the registry does not serve referrers, the fallback tag is kept up to date."""
        document = parse_object(content, what="the manifest")
        if tag is not None and not is_tag(tag):
            raise InputError(f"{tag[:150]!r} is not a tag: use letters, digits, _ . and -")
        digest = sha256_digest(content)
        response = self._http.request(
            "PUT",
            f"{self._base}/manifests/{tag or digest}",
            scope=self._push,
            headers={"Content-Type": media_type},
            body=lambda: content,
        )
        self._cross_check(response, digest)
        descriptor = Descriptor(
            media_type,
            digest,
            len(content),
            annotations=annotations_of(document),
            artifact_type=artifact_type_of(document),
        )
        subject = subject_of(document)
        if subject is not None and is_digest(subject) and response.headers.get("OCI-Subject") != subject:
            self._add_to_fallback(subject, descriptor)
        return descriptor

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """See `Repository`: the referrers API, else the fallback tag (distribution spec, "Referrers Tag Schema")."""
        hex_of(digest)
        url: str | httpx.URL = f"{self._base}/referrers/{digest}"
        found: dict[str, Descriptor] = {}
        for page in range(_MAX_PAGES):
            response = self._http.request(
                "GET", url, scope=self._pull, headers={"Accept": INDEX}, accept=frozenset({400, 404, 405})
            )
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            if not response.is_success or (page == 0 and media_type != INDEX):
                # Some registries answer unknown paths with a page of HTML.
                if page == 0:
                    return self._fallback(digest)
                break
            document = parse_object(response.content, what=f"the referrers of {digest}")
            found.update((d.digest, d) for d in entries_of(document, "manifests", what=f"the referrers of {digest}"))
            following = response.links.get("next", {}).get("url")
            if not following or not self._http.is_own(response.url.join(following)):
                break
            url = response.url.join(following)
        return tuple(found[d] for d in sorted(found))

    def tags(self) -> tuple[str, ...]:
        """All tags, sorted; none where there is no such repository.

        Raises:
            InputError, TransientError: as `Repository`.
        """
        url: str | httpx.URL = f"{self._base}/tags/list"
        found: set[str] = set()
        for _ in range(_MAX_PAGES):
            response = self._http.request("GET", url, scope=self._pull, accept=_NOT_FOUND)
            if response.status_code == HTTPStatus.NOT_FOUND:
                break
            listed = parse_object(response.content, what=f"the list of tags of {self.reference}").get("tags")
            found.update(
                tag for tag in (listed if isinstance(listed, list) else ()) if isinstance(tag, str) and is_tag(tag)
            )
            following = response.links.get("next", {}).get("url")
            if not following or not self._http.is_own(response.url.join(following)):
                break
            url = response.url.join(following)
        return tuple(sorted(found))

    def delete_manifest(self, digest: str) -> bool:
        """Delete a manifest and, with it, its tags; False: it was not there.

        Raises:
            NotDeletableError: the registry deletes nothing.
            InputError: it does not let us.
            TransientError: as `Repository`.
        """
        hex_of(digest)
        response = self._http.request(
            "DELETE",
            f"{self._base}/manifests/{digest}",
            scope=self._delete,
            accept=_NOT_FOUND | {HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED},
        )
        if response.status_code in (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED):
            raise NotDeletableError(
                f"{self._http.host} answers {response.status_code} to DELETE: it deletes nothing; allow it there (for the"
                " distribution registry: REGISTRY_STORAGE_DELETE_ENABLED=true)"
            )
        return response.status_code != HTTPStatus.NOT_FOUND

    def _manifest(self, tag_or_digest: str) -> tuple[Descriptor, bytes] | None:
        if not is_digest(tag_or_digest) and not is_tag(tag_or_digest):
            raise InputError(f"{tag_or_digest[:150]!r} is neither tag nor sha256 digest: correct the reference")
        response = self._http.request(
            "GET",
            f"{self._base}/manifests/{tag_or_digest}",
            scope=self._pull,
            headers={"Accept": ", ".join(MANIFEST_TYPES)},
            accept=_NOT_FOUND,
            limit=MANIFEST_LIMIT_BYTES,
        )
        if response.status_code == HTTPStatus.NOT_FOUND:
            return None
        content = response.content
        digest = tag_or_digest
        if not is_digest(digest):
            stated = response.headers.get("Docker-Content-Digest", "")
            digest = stated if is_digest(stated) else sha256_digest(content)
        check_digest(content, digest, what=f"the manifest {tag_or_digest} from {self.reference}")
        declared = response.headers.get("Content-Type", "").partition(";")[0].strip()
        document = parse_object(content, what=f"the manifest {tag_or_digest} from {self.reference}")
        return (
            Descriptor(
                media_type_of(document, declared=declared),
                digest,
                len(content),
                annotations=annotations_of(document),
                artifact_type=artifact_type_of(document),
            ),
            content,
        )

    def _fallback_document(self, digest: str) -> dict[str, Any] | None:
        found = self._manifest(_fallback_tag(digest))
        if found is None or found[0].media_type not in INDEX_TYPES:
            return None
        return parse_object(found[1], what=f"the referrers of {digest}")

    def _fallback(self, digest: str) -> tuple[Descriptor, ...]:
        document = self._fallback_document(digest)
        entries = entries_of(document or {}, "manifests", what=f"the referrers of {digest}")
        return tuple(sorted({d.digest: d for d in entries}.values(), key=lambda d: d.digest))

    def _add_to_fallback(self, subject: str, new: Descriptor) -> None:
        # Two writers at the same moment can lose one entry: the spec has no lock for it, and says so.
        entries = [d for d in self._fallback(subject) if d.digest != new.digest]
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [d.to_json() for d in [*entries, new]]}
        content = canonical(document)
        response = self._http.request(
            "PUT",
            f"{self._base}/manifests/{_fallback_tag(subject)}",
            scope=self._push,
            headers={"Content-Type": INDEX},
            body=lambda: content,
        )
        self._cross_check(response, sha256_digest(content))

    def _blob(self, digest: str) -> str:
        hex_of(digest)
        return f"{self._base}/blobs/{digest}"

    def _cross_check(self, response: httpx.Response, digest: str) -> None:
        """The registry must have stored what we meant, where it says what it stored."""
        stated = response.headers.get("Docker-Content-Digest", "")
        if is_digest(stated) and stated != digest:
            raise TransientError(
                f"{self.reference} stored {stated} where {digest} was sent: something on the way changed it",
                reason=reasons.DIGEST_MISMATCH,
            )


def endpoint(host: str) -> str:
    """Docker Hub's registry has another name than its images."""
    return "registry-1.docker.io" if host in ("docker.io", "index.docker.io") else host


def _fallback_tag(digest: str) -> str:
    return digest.replace(":", "-")


def _to_skip(response: httpx.Response, offset: int) -> int:
    """How many of the bytes that come now lie before `offset`."""
    if response.status_code != HTTPStatus.PARTIAL_CONTENT:
        return offset
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    if start != str(offset):
        raise TransientError(f"the registry sent a range from {start[:20]!r} where {offset} was asked for: try again")
    return 0
