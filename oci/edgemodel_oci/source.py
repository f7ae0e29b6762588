"""The one model file of any artifact: what an `oci:` or `oci-layout:` source means.

Understood: ModelPack weight layers (raw, tar, tar+gzip, tar+zstd), files pushed by `oras` (their name is the layer's
title, whatever its media type says), and artifacts or images of one layer.
"""

from __future__ import annotations

import contextlib
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from edgemodel_api.artifact import ANNOTATION_FILEPATH, ANNOTATION_VARIANT
from edgemodel_api.errors import InputError

from .archive import Member, Readable, gzip_reader, regular_files, zstd_reader
from .descriptor import Descriptor
from .files import open_regular, put, replacing, writing
from .manifests import INDEX_TYPES, entries_of, parse_object
from .pack import ANNOTATION_TITLE
from .pull import fetch_blob
from .repository import Repository

_WEIGHTS = ("application/vnd.cncf.model.weight.v1.", "application/vnd.cnai.model.weight.v1.")
#: ModelPack and its predecessor: layers of these that are not weights are not models.
_MODELPACK = ("application/vnd.cncf.model.", "application/vnd.cnai.model.")
#: oras sets this on folders, which it packs as tar+gzip.
_ANNOTATION_UNPACK = "io.deis.oras.content.unpack"
_SUFFIX = ".onnx"
_SOURCE = "source"
#: `zstd -19` needs 8 MiB, `--ultra -22` and `--long` 128 MiB.
_MAX_WINDOW_BYTES = 128 * 2**20


def fetch_model_file(
    repo: Repository,
    tag_or_digest: str,
    dest: Path,
    *,
    max_bytes: int,
    progress: Callable[[int, int], None] | None = None,
    beside: Path | None = None,
) -> Path | None:
    """Bring the artifact's model file to `dest`, which appears whole; the layer's digest is checked on the way.

    Of an index, the variant `source` is taken, or the only manifest.

    Args:
        repo: where from.
        tag_or_digest: the artifact.
        dest: where to; its folder must exist and have room for the layer beside the file.
        max_bytes: neither layer nor file may be larger.
        progress: called with (bytes that are here, size) of the layer.
        beside: a folder to be made, for what else is in the layer's archive: external data may be among it.

    Returns:
        The folder in `beside` that the model lay in; None: it came alone.

    Raises:
        InputError: there is no such artifact, it does not hold exactly one model file, it is too large, or hostile.
        TransientError: the link or the registry.
    """
    what = f"the artifact {tag_or_digest} in {repo.reference}"
    layer = _model_layer(_layers(repo, tag_or_digest, what), what)
    if layer.size > max_bytes:
        raise InputError(f"{what} has a model layer of {layer.size} bytes, more than the limit of {max_bytes}")
    with writing(dest.parent), tempfile.TemporaryDirectory(prefix=".oci-", dir=dest.parent) as folder:
        blob = Path(folder) / "layer"
        fetch_blob(repo, layer, blob, progress=progress)
        kind = _kind(layer)
        if kind == "raw":
            # The same file system: one rename, no copy.
            with writing(dest):
                blob.replace(dest)
            return None
        with open_regular(blob) as f:
            name = _extract(_decompressed(f, kind), dest, max_bytes=max_bytes, what=what, beside=beside)
    if beside is None or not beside.is_dir():
        return None
    return beside / posixpath.dirname(name)


def _layers(repo: Repository, tag_or_digest: str, what: str, *, depth: int = 0) -> tuple[Descriptor, ...]:
    descriptor, content = repo.manifest(tag_or_digest)
    document = parse_object(content, what=what)
    if descriptor.media_type not in INDEX_TYPES:
        return entries_of(document, "layers", what=what)
    manifests = {m.digest: m for m in entries_of(document, "manifests", what=what)}
    sources = [d for d, m in manifests.items() if m.annotations.get(ANNOTATION_VARIANT) == _SOURCE]
    # Sources of several platforms are the same file in different manifests.
    chosen = sources[:1] or list(manifests)
    if len(chosen) != 1 or depth:
        listed = ", ".join(chosen[:10]) + (" …" if len(chosen) > 10 else "")
        raise InputError(
            f"{what} is an index of {len(chosen)} manifests: add @DIGEST of one of them ({listed or 'none'})"
        )
    return _layers(repo, chosen[0], what, depth=depth + 1)


def _model_layer(layers: Sequence[Descriptor], what: str) -> Descriptor:
    found = [layer for layer in layers if layer.media_type.startswith(_WEIGHTS)]
    if not found:
        found = [layer for layer in layers if not layer.media_type.startswith(_MODELPACK)]
        named = [layer for layer in found if _name(layer).endswith(_SUFFIX)]
        found = named or found
    if len(found) != 1:
        names = ", ".join(_name(layer) or layer.media_type for layer in found[:10])
        raise InputError(
            f"{what} has {len(found)} layers that may be the model{f' ({names})' if names else ''}:"
            f" push one file that ends in {_SUFFIX}, with external data folded in"
        )
    return found[0]


def _name(layer: Descriptor) -> str:
    return layer.annotations.get(ANNOTATION_TITLE) or layer.annotations.get(ANNOTATION_FILEPATH) or ""


def _kind(layer: Descriptor) -> str:
    """`raw`, `tar`, `tar+gzip` or `tar+zstd`."""
    weights = layer.media_type.startswith(_WEIGHTS)
    if not weights and ANNOTATION_TITLE in layer.annotations and layer.annotations.get(_ANNOTATION_UNPACK) != "true":
        # oras sends files with the media type of tar layers unless it is told otherwise.
        return "raw"
    for ending, kind in (
        ("tar+gzip", "tar+gzip"),
        ("tar.gzip", "tar+gzip"),
        ("tar+zstd", "tar+zstd"),
        (".tar", "tar"),
    ):
        if layer.media_type.endswith(ending):
            return kind
    return "raw"


def _decompressed(f: BinaryIO, kind: str) -> Readable:
    if kind == "tar+gzip":
        return gzip_reader(f)
    return zstd_reader(f, max_window_bytes=_MAX_WINDOW_BYTES) if kind == "tar+zstd" else f


def _extract(stream: Readable, dest: Path, *, max_bytes: int, what: str, beside: Path | None) -> str:
    """The only regular file of the archive, or the only one that ends in .onnx; its name. Others go into `beside`."""
    passed: list[str] = []
    total = 0
    chosen: str | None = None
    with contextlib.ExitStack() as stack:
        out: BinaryIO | None = None
        for member in regular_files(stream, what=what):
            total += member.size
            if total > max_bytes:
                raise InputError(f"{what} expands to more than the limit of {max_bytes} bytes")
            model = member.base_name.endswith(_SUFFIX)
            if chosen is not None and model and chosen.endswith(_SUFFIX):
                raise InputError(f"{what} holds {chosen[:100]!r} and {member.name[:100]!r}: pack one model file")
            if not model and beside is not None:
                # Names were checked, the folder is new, and no member is a link: nothing leads out of it.
                passed.append(member.name)
                _put_beside(member, beside)
                continue
            if chosen is not None and not model:
                passed.append(member.name)
                continue
            if chosen is not None:
                passed.append(chosen)
                out = cast("BinaryIO", out)
                out.seek(0)
                out.truncate()
            out = out or stack.enter_context(replacing(dest))
            chosen = member.name
            _copy(member, out, dest)
        if chosen is None and beside is not None and len(passed) == 1:
            # Alone in its archive, a file is the model whatever its name is.
            with writing(dest):
                (beside / passed[0]).replace(dest)
                shutil.rmtree(beside)
            return passed[0]
        if chosen is None or (passed and not chosen.endswith(_SUFFIX)):
            raise InputError(
                f"{what} holds {len(passed) + (chosen is not None)} files and none that ends in {_SUFFIX}: pack the model alone"
            )
        return chosen


def _put_beside(member: Member, folder: Path) -> None:
    path = folder / member.name
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as out:
        _copy(member, out, path)


def _copy(member: Member, out: BinaryIO, dest: Path) -> None:
    for chunk in member.chunks():
        put(out, chunk, dest)
