"""A manifest on disk → an EdgeModel whose `file:` URIs carry their sha256, so that a changed file is a new revision."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgemodel_api.edgemodel import EdgeModel, RemoteFile, Source, Step
from edgemodel_api.errors import InputError
from edgemodel_api.manifest import load
from edgemodel_api.yaml_text import MAX_BYTES

CHUNK = 1 << 20


@dataclass(frozen=True)
class LocalFile:
    """A file that the manifest names by a `file:` URI; `field` as in `spec.data.calibration`."""

    field: str
    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class ManifestFile:
    """A manifest that can be used.

    `model`: with sha256 for every local file. `base_dir`: the folder against which relative URIs are resolved: the
    manifest's own (the current one, if it came from standard input).
    """

    model: EdgeModel
    base_dir: Path
    files: tuple[LocalFile, ...]


def read_text(path: Path, what: str) -> tuple[bytes, str]:
    """(content, name for messages); `-` is standard input. At most one byte more than a manifest may have is read.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(MAX_BYTES + 1), "standard input"
        with open(path, "rb") as f:
            return f.read(MAX_BYTES + 1), str(path)
    except IsADirectoryError:
        raise InputError(f"{what} {path} is a folder: name the file in it") from None
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}; check the path") from None
    except ValueError as error:
        raise InputError(f"{what} {str(path)!r} is no file name: {error}") from None


def load_manifest(path: Path) -> tuple[EdgeModel, Path]:
    """(model, base_dir) of a manifest; the files that it names are not looked at.

    Raises:
        InputError: the manifest cannot be read or is wrong.
    """
    content, name = read_text(path, "the manifest")
    return load(content, file=name), Path.cwd() if str(path) == "-" else path.absolute().parent


def read_manifest(path: Path) -> ManifestFile:
    """Load, check, and digest the local files that it names.

    Raises:
        InputError: the manifest is wrong, or a local file is missing, unreadable, or not the one whose sha256 is given.
    """
    model, base_dir = load_manifest(path)
    _check_rollout(model)
    return digested(model, base_dir)


def digested(model: EdgeModel, base_dir: Path) -> ManifestFile:
    """The model with the digests of the local files that it names.

    Raises:
        InputError: a local file is missing, unreadable, or not the one whose sha256 is given.
    """
    files: list[LocalFile] = []
    changed: dict[str, RemoteFile] = {}
    for field, remote in remote_files(model):
        found = _local_file(field, remote, base_dir)
        if found is not None:
            files.append(found)
            changed[field] = remote.replace(sha256=found.sha256)
            if isinstance(remote, Source):
                changed[field] = _with_data_digest(field, remote.replace(sha256=found.sha256), found.path)
    return ManifestFile(_with_files(model, changed), base_dir, tuple(files))


def _with_data_digest(field: str, remote: Source, path: Path) -> Source:
    """Changed external data are a new revision, too: the ONNX file's own digest does not cover them."""
    from edgemodel_compressor.formats.walk import external_names

    with open(path, "rb") as f:
        if not external_names(f.fileno(), os.fstat(f.fileno()).st_size):
            return remote
    from edgemodel_compressor.formats.external import digest_of  # only now: it loads onnx

    try:
        actual = digest_of(path)
    except InputError as error:
        raise InputError(f"{field}.uri: {remote.uri}: {error.message}", reason=error.reason) from None
    if remote.data_sha256 not in (None, actual):
        raise InputError(
            f"{field}.dataSha256: the external data of {path} have sha256 {actual}, but the manifest says"
            f" {remote.data_sha256}: use the files that are meant, or correct the manifest"
        )
    return remote.replace(data_sha256=actual)


def _with_files(model: EdgeModel, changed: dict[str, RemoteFile]) -> EdgeModel:
    """The model with other files, by field as `remote_files` names them."""
    spec = model.spec
    data = spec.data.replace(
        training=changed.get("spec.data.training", spec.data.training),
        calibration=changed.get("spec.data.calibration", spec.data.calibration),
        validation=changed.get("spec.data.validation", spec.data.validation),
    )
    steps = spec.compression.steps
    if steps is not None:
        steps = tuple(_with_student(step, changed.get(_student(index))) for index, step in enumerate(steps))
    spec = spec.replace(
        source=changed.get("spec.source", spec.source), data=data, compression=spec.compression.replace(steps=steps)
    )
    return model.replace(spec=spec)


def _with_student(step: Step, file: RemoteFile | None) -> Step:
    if file is None or step.distill is None:
        return step
    student = step.distill.student.replace(sha256=file.sha256)
    return step.replace(distill=step.distill.replace(student=student))


def _student(index: int) -> str:
    return f"spec.compression.steps[{index}].distill.student"


def _check_rollout(model: EdgeModel) -> None:
    """What a schema cannot say of schedules, time zones and conditions, the plan's own readers say."""
    if model.spec.rollout.analysis:
        from edgemodel_operator.domain.analysis import check

        check(model)
    if model.spec.rollout.windows:
        from edgemodel_operator.domain.windows import window_state  # only where there are any: it loads cronsim

        window_state(model.spec.rollout.windows, datetime.now(UTC))


def remote_files(model: EdgeModel) -> Iterator[tuple[str, RemoteFile]]:
    """(field, file) of everything that the manifest names by URI and compression may read."""
    yield "spec.source", model.spec.source
    if model.spec.data.training is not None:
        yield "spec.data.training", model.spec.data.training
    if model.spec.data.calibration is not None:
        yield "spec.data.calibration", model.spec.data.calibration
    if model.spec.data.validation is not None:
        yield "spec.data.validation", model.spec.data.validation
    for index, step in enumerate(model.spec.compression.steps or ()):
        if step.distill is not None and step.distill.student.file is not None:
            yield _student(index), step.distill.student.file


def local_path(uri: str, base_dir: Path) -> Path | None:
    """`file:x` → base_dir/x, `file:///x` → /x; None: not a `file:` URI. As `edgemodel_compressor.sources` reads it.

    Raises:
        InputError: a `file:` URI with a host.
    """
    if not uri.startswith("file:"):
        return None
    if not uri.startswith("file://"):
        return base_dir / unquote(uri.removeprefix("file:"))
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise InputError(f"{uri} is no URI: {error}") from None
    if parts.netloc not in ("", "localhost"):
        raise InputError(
            f"{uri} names a host ({parts.netloc}): write file:{parts.netloc}{parts.path} for a path beside the manifest, "
            "or file:///… for an absolute one"
        )
    return Path(unquote(parts.path))


def _local_file(field: str, remote: RemoteFile, base_dir: Path) -> LocalFile | None:
    try:
        path = local_path(remote.uri, base_dir)
        if path is None:
            return None
        digest, size = sha256_of(path)
    except InputError as error:
        raise InputError(f"{field}.uri: {error.message}") from None
    except FileNotFoundError:
        raise InputError(f"{field}.uri: {remote.uri}: there is no file {path}: check the name") from None
    except IsADirectoryError:
        raise InputError(f"{field}.uri: {remote.uri}: {path} is a folder: name the file in it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{field}.uri: {remote.uri}: {path} cannot be read: {error}; check it") from None
    if remote.sha256 not in (None, digest):
        raise InputError(
            f"{field}.sha256: {path} has sha256 {digest}, but the manifest says {remote.sha256}: "
            "use the file that is meant, or correct the manifest"
        )
    return LocalFile(field, path, size, digest)


def sha256_of(path: Path) -> tuple[str, int]:
    """(hex digest, bytes) of a regular file, read in chunks.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file (a pipe or device has no digest that would stay).
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError("it is no regular file")
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size
