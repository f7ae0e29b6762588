"""Where models and data come from: a URI → a file in the work folder, whole, checked, or nothing.

`file:` relative to the manifest's folder, `pvc:`, `https:`, `s3:`, `oci:` and `oci-layout:`. Sizes are limited by what is
announced and by what arrives; the sha256 is computed while the bytes stream by.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from edgemodel_api.edgemodel import RemoteFile
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted, format_bytes
from edgemodel_api.reasons import DIGEST_MISMATCH, DISK_FULL
from edgemodel_oci.credentials import Credentials
from edgemodel_oci.files import put, replacing
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import Access, open_repository
from edgemodel_oci.source import fetch_model_file

from .credentials import CredentialsError, Secret, authorities, registry_credentials
from .download import Download
from .reading import CHUNK_BYTES, open_to_read
from .remote import Asked, HttpsFile, S3File

Progress = Callable[[int, int], None]
_ASKED: dict[str, type[HttpsFile | S3File]] = {"https": HttpsFile, "s3": S3File}


@dataclass(frozen=True)
class Fetched:
    """A file that is here.

    Attributes:
        path: in the work folder.
        sha256: hex.
        size: bytes.
        folder: where it lay, for `file:` and `pvc:` URIs, or what came with it, for `oci:` ones; None for others. A model's
            external data may lie there.
        pinned: whether what names the file also fixes what lies in `folder`; else its external data need a digest of
            their own.
    """

    path: Path
    sha256: str
    size: int
    folder: Path | None = None
    pinned: bool = False


def fetch_source(
    remote: RemoteFile,
    dest: Path,
    *,
    base_dir: Path,
    max_bytes: int,
    progress: Progress | None = None,
    secret: Secret | None = None,
    volumes_dir: Path | None = None,
    in_pod: bool = False,
) -> Fetched:
    """Bring the file to `dest`.

    Args:
        remote: URI and, for remote ones, sha256.
        dest: where to; its folder must exist. After an error nothing is left there.
        base_dir: against which relative `file:` URIs are resolved.
        max_bytes: more is refused.
        progress: called with (bytes that are here, size; 0: unknown).
        secret: for https, s3 and registries.
        volumes_dir: holds a folder for each claim.
        in_pod: whether `file:` URIs can hardly be meant.

    Raises:
        InputError: the URI, the file, its size or its digest are not what they must be; or the disk refuses.
        TransientError: a server answered and then failed, several times.
    """
    say: Progress = progress or (lambda _done, _total: None)
    scheme = remote.uri.partition(":")[0]
    if scheme in ("file", "pvc"):
        path = claim_path(remote.uri, volumes_dir) if scheme == "pvc" else local_path(remote.uri, base_dir)
        if scheme == "file" and in_pod and not path.exists():
            raise InputError(
                f"{remote.shown}: file: names a file of a single machine, which no pod sees: use pvc://CLAIM/PATH, s3:, oci: or"
                " https:"
            )
        digest, size = _copy(path, dest, remote, max_bytes, say)
        return Fetched(dest, digest, size, path.parent, pinned=remote.sha256 is None)
    if scheme in _ASKED:
        _require_digest(remote)
        digest, size = _download(dest, remote, max_bytes, say, _ASKED[scheme](remote, secret))
        return Fetched(dest, digest, size)
    if scheme == "oci":
        _require_digest(remote)
    return _pull(dest, remote, max_bytes, say, secret)


def check_credentials(remote: RemoteFile, secret: Secret | None) -> None:
    """Before anything is fetched: is the Secret there, and does it hold what this file's scheme needs?

    Raises:
        InputError: as said.
    """
    scheme = remote.uri.partition(":")[0]
    if scheme in _ASKED:
        _ASKED[scheme](remote, secret)
    elif scheme == "oci":
        _access(Reference.parse(remote.uri), secret)


def claim_path(uri: str, volumes_dir: Path | None) -> Path:
    """The file of a `pvc:` URI, links resolved.

    Raises:
        InputError: there are no claims here, or the path leads out of its claim.
    """
    claim, _, inside = uri.removeprefix("pvc://").partition("/")
    if volumes_dir is None:
        raise InputError(
            f"{uri}: a claim is mounted in a cluster only: use file: here, or name a folder that holds one folder for each"
            " claim in EDGEMODEL_VOLUMES"
        )
    root = Path(os.path.realpath(volumes_dir / claim))
    path = Path(os.path.realpath(root / inside))
    if not path.is_relative_to(root):
        raise InputError(f"{uri}: is a link that leads out of the claim {claim}: name the file itself")
    if not root.is_dir():
        raise InputError(f"{uri}: there is no folder {root} for the claim {claim}: correct the name")
    return path


def local_path(uri: str, base_dir: Path) -> Path:
    """The file of a `file:` URI: `file:x` and `file:./x` are relative, `file:/x` and `file:///x` absolute (RFC 8089).

    Raises:
        InputError: it names another host, or nothing.
    """
    rest = uri.removeprefix("file:")
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise InputError(
                f"{uri}: {host!r} is read as a host name: write file:{host}{slash}{path} for a relative path, or"
                f" file:///{host}{slash}{path} for an absolute one"
            )
        rest = slash + path
    path = unquote(rest)
    if not path.strip("/"):
        raise InputError(f"{uri}: names no file: write file:PATH")
    return base_dir / path


def _copy(path: Path, dest: Path, remote: RemoteFile, max_bytes: int, progress: Progress) -> tuple[str, int]:
    with open_to_read(path, remote.shown) as file:
        size = file.seek(0, 2)
        file.seek(0)
        _check_size(remote, size, max_bytes, dest)

        def chunks() -> Iterator[bytes]:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

        return _store(chunks(), dest, remote, max_bytes, lambda done: progress(done, size))


def _store(
    chunks: Iterator[bytes], dest: Path, remote: RemoteFile, max_bytes: int, progress: Callable[[int], None]
) -> tuple[str, int]:
    """Write what comes, counted and hashed; it takes its name only when both are right."""
    digest, done = hashlib.sha256(), 0
    with replacing(dest) as out:
        for chunk in chunks:
            done += len(chunk)
            if done > max_bytes:
                raise _too_large(remote, f"more than {max_bytes}", max_bytes)
            digest.update(chunk)
            put(out, chunk, dest)
            progress(done)
        _check_digest(remote, digest.hexdigest(), done)
    return digest.hexdigest(), done


def _download(dest: Path, remote: RemoteFile, max_bytes: int, progress: Progress, file: Asked) -> tuple[str, int]:
    with replacing(dest) as out, Download(file) as download:
        sink = _Sink(out, dest, remote, max_bytes, progress)
        download.run(sink)
        _check_digest(remote, sink.digest, sink.done)
    return sink.digest, sink.done


class _Sink:
    """What a download writes into: may have to begin anew."""

    def __init__(self, out: BinaryIO, dest: Path, remote: RemoteFile, max_bytes: int, progress: Progress) -> None:
        self._out, self._dest, self._remote, self._max_bytes = out, dest, remote, max_bytes
        self._progress = progress
        self._hash = hashlib.sha256()
        self._total = 0
        self.done = 0

    @property
    def digest(self) -> str:
        """Hex, of all bytes so far."""
        return self._hash.hexdigest()

    def announce(self, total: int | None) -> None:
        """The size that the server promises.

        Raises:
            InputError: it is too large for us, or for the disk.
        """
        self._total = total or 0
        if total is not None:
            _check_size(self._remote, total, self._max_bytes, self._dest, here=self.done)

    def restart(self) -> None:
        """Forget everything."""
        self._out.seek(0)
        self._out.truncate()
        self._hash, self.done = hashlib.sha256(), 0

    def write(self, chunk: bytes) -> None:
        """Append.

        Raises:
            InputError: too much by now, or the disk refuses.
        """
        if self.done + len(chunk) > self._max_bytes:
            raise _too_large(self._remote, f"more than {self._max_bytes}", self._max_bytes)
        put(self._out, chunk, self._dest)
        self._hash.update(chunk)
        self.done += len(chunk)
        self._progress(self.done, self._total)


def _pull(dest: Path, remote: RemoteFile, max_bytes: int, progress: Progress, secret: Secret | None) -> Fetched:
    reference = Reference.parse(remote.uri)
    target = reference.target
    if target is None:
        raise InputError(f"{remote.shown}: names no artifact: append :TAG or @sha256:DIGEST")
    incoming, beside = dest.with_name(f".{dest.name}.incoming"), dest.with_name(f".{dest.name}.beside")
    try:
        credentials, access = _access(reference, secret)
        with open_repository(reference, credentials=credentials, access=access) as repository:
            try:
                folder = fetch_model_file(
                    repository, target, incoming, max_bytes=max_bytes, progress=progress, beside=beside
                )
            except InputError as error:
                refused = bool(access.advice) and access.advice in error.message
                raise CredentialsError(error.message, reason=error.reason) if refused else error from None
        digest, size = _copy(incoming, dest, remote, max_bytes, lambda _done, _total: None)
    finally:
        incoming.unlink(missing_ok=True)
    return Fetched(dest, digest, size, folder, pinned=reference.digest is not None or remote.sha256 is None)


def _access(reference: Reference, secret: Secret | None) -> tuple[Credentials | None, Access]:
    if reference.is_layout:
        return None, Access()
    if secret is None:
        host = reference.host
        return None, Access(advice=f"name a Secret for {host} in credentialsSecretRef, or run `docker login {host}`")
    found = registry_credentials(secret, reference.host)
    return found, Access(authorities(secret), f"correct {secret}" if found is not None else "")


def _require_digest(remote: RemoteFile) -> None:
    if remote.sha256 is None:
        raise InputError(
            f"{remote.shown}: sha256 is required for remote files: add the hex digest of the file (sha256sum FILE)"
        )


def _check_digest(remote: RemoteFile, actual: str, size: int) -> None:
    if remote.sha256 is not None and remote.sha256 != actual:
        raise InputError(
            f"{remote.shown}: sha256 is {actual} ({counted(size, 'byte')}), but the manifest says {remote.sha256}: if"
            " the file is the right one, correct the manifest; if not, find out who changed it",
            reason=DIGEST_MISMATCH,
        )


def _check_size(remote: RemoteFile, size: int, max_bytes: int, dest: Path, *, here: int = 0) -> None:
    if size > max_bytes:
        raise _too_large(remote, str(size), max_bytes)
    try:
        disk = shutil.disk_usage(dest.parent)
    except OSError:
        return  # the write will say it better
    # A file system of no size is none that can be written, which the write will say as well.
    if disk.total and size - here > disk.free:
        raise InputError(
            f"{remote.shown}: {format_bytes(size)} do not fit into {dest.parent}, where {format_bytes(disk.free)} are free:"
            " free some space there, or name a work folder on another disk",
            reason=DISK_FULL,
        )


def _too_large(remote: RemoteFile, size: str, max_bytes: int) -> InputError:
    return InputError(
        f"{remote.shown}: {size} bytes, and at most {max_bytes} ({format_bytes(max_bytes)}) are allowed: give a smaller"
        " file, or raise maxSourceBytes of the Job"
    )
