"""Where an artifact lies: `oci://host[:port]/repo[:tag][@sha256:…]` or `oci-layout:///dir[:tag][@sha256:…]`. Pure.

Names follow the OCI distribution spec 1.1 ("Pulling manifests"): repository names are lower case, a tag has at most
128 characters. With tag and digest, the digest decides and the tag is a note for people.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self

from edgemodel_api.errors import InputError

REGISTRY = "oci"
LAYOUT = "oci-layout"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
#: What stands after the last `@`, if it is meant as a digest.
_DIGEST_PART = re.compile(r"(?P<rest>.*)@(?P<digest>sha(?:1|256|384|512):[^/@]*)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REPOSITORY_LIMIT = 255
_HOW = (
    "write oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST] for a registry"
    " or oci-layout:///FOLDER[:TAG][@sha256:DIGEST] for an image layout"
)


def is_digest(text: str) -> bool:
    """Whether `text` is `sha256:` and 64 lower-case hex digits: the only algorithm that is used here."""
    return _DIGEST.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether `text` may be a tag."""
    return _TAG.fullmatch(text) is not None


def hex_of(digest: str) -> str:
    """The hex digits of a digest.

    Raises:
        InputError: it is not a sha256 digest.
    """
    if not is_digest(digest):
        raise InputError(f"{digest[:100]!r} is not a digest: write sha256: and 64 lower-case hex digits")
    return digest.removeprefix("sha256:")


@dataclass(frozen=True)
class Reference:
    """A repository, and maybe one manifest in it.

    Attributes:
        scheme: `oci` (registry) or `oci-layout` (folder).
        host: `host[:port]`, lower case; empty for a layout.
        repository: name in the registry, or the layout's absolute folder.
        tag: None, or a tag.
        digest: None, or `sha256:…`.
    """

    scheme: str
    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference; `str` gives it back.

        Raises:
            InputError: it is not one; the message says how to write it.
        """
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in (REGISTRY, LAYOUT):
            raise InputError(f"{_shown(text)} names no registry and no image layout: {_HOW}")
        if _CONTROL.search(text):
            raise InputError(f"{_shown(text)} holds control characters: {_HOW}")
        digest = None
        if match := _DIGEST_PART.fullmatch(rest):
            rest, digest = match["rest"], match["digest"]
            if not is_digest(digest):
                raise InputError(f"{_shown(text)} ends in a digest that is not sha256: and 64 hex digits: {_HOW}")
        name, tag = _split_tag(text, rest)
        if scheme == LAYOUT:
            return cls(LAYOUT, "", _folder(text, name), tag, digest)
        host, _, repository = name.partition("/")
        host = host.lower()
        if _HOST.fullmatch(host) is None:
            raise InputError(f"{_shown(text)} has no host name after oci://: {_HOW}")
        if _REPOSITORY.fullmatch(repository) is None or len(repository) > _REPOSITORY_LIMIT:
            raise InputError(
                f"{_shown(text)} has the repository name {repository[:100]!r}: it must be lower-case letters and digits,"
                f" parted by . _ - or /, at most {_REPOSITORY_LIMIT} in all; {_HOW}"
            )
        return cls(REGISTRY, host, repository, tag, digest)

    @property
    def is_layout(self) -> bool:
        """Whether it is a folder."""
        return self.scheme == LAYOUT

    @property
    def target(self) -> str | None:
        """What to ask a repository for: the digest, else the tag, else None."""
        return self.digest or self.tag

    def with_digest(self, digest: str) -> Self:
        """The manifest with this digest in the same repository.

        Raises:
            InputError: it is not a digest.
        """
        hex_of(digest)
        return replace(self, digest=digest)

    def with_tag(self, tag: str) -> Self:
        """The manifest with this tag in the same repository (a digest, which would win, is dropped).

        Raises:
            InputError: it is not a tag.
        """
        if not is_tag(tag):
            raise InputError(
                f"{tag[:150]!r} is not a tag: use 1 to 128 letters, digits, _ . or -, not starting by . or -"
            )
        return replace(self, tag=tag, digest=None)

    def without_target(self) -> Self:
        """The repository alone."""
        return replace(self, tag=None, digest=None)

    def __str__(self) -> str:
        name = self.repository if self.is_layout else f"{self.host}/{self.repository}"
        if self.is_layout and ":" in name.rpartition("/")[2]:
            name += "/"  # else the last part of the folder's name would be read as a tag
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.scheme}://{name}{tag}{digest}"


def _split_tag(text: str, rest: str) -> tuple[str, str | None]:
    folder, slash, last = rest.rpartition("/")
    name, colon, tag = last.rpartition(":")
    if not colon or not slash:
        return rest, None
    if not is_tag(tag):
        raise InputError(
            f"{_shown(text)} has the tag {tag[:150]!r}: a tag has 1 to 128 letters, digits, _ . or -; {_HOW}"
            " (a folder whose own name holds a colon needs a slash at the end)"
        )
    return folder + slash + name, tag


def _folder(text: str, name: str) -> str:
    folder = name.rstrip("/")
    if not name.startswith("/") or not folder:
        raise InputError(f"{_shown(text)} names no absolute folder (three slashes: oci-layout:///folder): {_HOW}")
    return folder


def _shown(text: str) -> str:
    return repr(text if len(text) <= 300 else f"{text[:300]}…")
