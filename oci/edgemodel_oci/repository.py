"""A place that holds blobs and manifests: an image layout (a folder) or a repository in a registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .credentials import Credentials
from .descriptor import Descriptor
from .reference import Reference

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True)
class Access:
    """How a registry is spoken to, where that is not the user's own configuration.

    Attributes:
        context: whose certificates count; None: the system's authorities or SSL_CERT_FILE's.
        advice: what to change when it refuses us, such as `correct the Secret pull`; empty: docker login.
    """

    context: ssl.SSLContext | None = None
    advice: str = ""


class Repository(ABC):
    """What both kinds can do. A context manager; without `with`, it closes when nobody holds it any more.

    Errors of all methods: InputError (not there, not allowed, not valid: trying again gives the same),
    TransientError (link, registry; wrong bytes with reason DigestMismatch).
    """

    reference: Reference
    """Where it is, without tag and digest."""

    @abstractmethod
    def manifest(self, tag_or_digest: str) -> tuple[Descriptor, bytes]:
        """A manifest or index with its descriptor, its digest checked, at most 4 MiB."""

    @abstractmethod
    def open_blob(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        """The blob's bytes from `offset` on, in chunks, **not** checked: use `pull.fetch_blob`.

        Close the iterator (or exhaust it) to give the connection back.
        """

    @abstractmethod
    def has_blob(self, digest: str) -> bool:
        """Whether the blob is there."""

    @abstractmethod
    def put_blob(self, content: Path | bytes, *, media_type: str = "application/octet-stream") -> Descriptor:
        """Store a file's bytes, unless they are there; their descriptor."""

    @abstractmethod
    def put_manifest(self, content: bytes, media_type: str, tag: str | None = None) -> Descriptor:
        """Store a manifest or index, after everything that it names; a tag is moved to it."""

    @abstractmethod
    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """Descriptors (with artifact type and annotations) of the manifests whose subject is `digest`."""

    def close(self) -> None:  # noqa: B027  a layout has nothing to close
        """Give back connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_repository(
    ref: Reference, *, create: bool = False, credentials: Credentials | None = None, access: Access | None = None
) -> Repository:
    """The repository that `ref` names (its tag and digest do not matter).

    Args:
        ref: where.
        create: make an image layout if there is none. A registry makes repositories by itself.
        credentials: for a registry; default: what the user's `docker login`, `podman login` or `oras login` stored.
        access: of a registry.

    Raises:
        InputError: there is no such layout, or the folder holds something else.
    """
    if ref.is_layout:
        from .layout import Layout

        return Layout(ref, create=create)
    # An agent on a layout (tests, one machine) needs no HTTP client in its memory.
    from .registry import Registry

    return Registry(ref, credentials=credentials, access=access)
