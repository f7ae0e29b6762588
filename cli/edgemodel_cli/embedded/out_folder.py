"""The folder that `edgemodel compress` writes: an OCI image layout with the best model and the report beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgemodel_agent import hardware
from edgemodel_agent.files import write_atomic
from edgemodel_api.artifact import MODEL_FILES
from edgemodel_api.edgemodel import EdgeModel, Format
from edgemodel_api.errors import InputError
from edgemodel_api.hardware import HardwareClass
from edgemodel_api.job import JobResult, VariantSummary
from edgemodel_api.report import CompressionReport
from edgemodel_cli.results import SOURCE

from .staging import OLD

if TYPE_CHECKING:
    from edgemodel_oci.repository import Repository

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
_WRITTEN = frozenset({"oci-layout", "index.json", "blobs", REPORT_JSON, REPORT_HTML})
_MANIFEST_BYTES = 2**18


def check_out(out: Path) -> None:
    """--out may be made, or replaced.

    Raises:
        InputError: it is a file, or a folder with something else in it.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise InputError(f"--out {out} exists and is no folder: name another one")
    ours = (out / "oci-layout").is_file() and (out / REPORT_JSON).is_file()
    if not ours and any(out.iterdir()):
        raise InputError(f"--out {out} holds files of something else: name a new or empty folder")
    strangers = _strangers(out)
    if strangers:
        raise InputError(
            f"--out {out} holds {strangers[0]}"
            + (f" and {len(strangers) - 1} more" if len(strangers) > 1 else "")
            + ", which no compress wrote and which would be lost: move it, or name another folder"
        )


def _strangers(out: Path) -> list[str]:
    """What is not from an earlier compress. A model file is if the artifact beside it names its digest."""
    from edgemodel_oci.files import measure

    found = sorted(p for p in out.iterdir() if p.name not in _WRITTEN)
    if not found:
        return []
    blobs = (out / "blobs" / "sha256").glob("*")
    manifests = b"".join(p.read_bytes() for p in blobs if p.is_file() and p.stat().st_size <= _MANIFEST_BYTES)

    def named(path: Path) -> bool:
        return measure(path)[0].removeprefix("sha256:").encode() in manifests

    return [p.name for p in found if not p.is_file() or p.is_symlink() or not named(p)]


def best_variant(
    variants: tuple[VariantSummary, ...],
    platform: str,
    here: HardwareClass,
    chosen: Collection[str] = (),
    *,
    model_format: Format = Format.ONNX,
) -> VariantSummary | None:
    """The variant of a platform and format to load at once: what was chosen here; else the first accepted compressed one (they
    come in the order of the objective) that is meant for this machine's kind of CPU, or for all; else for any; else
    the source.
    """
    mine = [
        v
        for v in variants
        if (v.platform, v.format or Format.ONNX) == (platform, model_format) and v.digest and v.accepted
    ]
    compressed = [v for v in mine if v.name != SOURCE]
    best = [v for v in compressed if v.name in chosen]
    fitting = [v for v in compressed if not v.hardware_classes or here in v.hardware_classes]
    return next(iter((*best, *fitting, *compressed, *mine)), None)


class ModelFile(NamedTuple):
    """A model file in the folder, the variant that it is, and those of the platform's other formats."""

    name: str
    variant: str
    format: Format = Format.ONNX
    beside: tuple[ModelFile, ...] = ()


def complete(
    layout: Path,
    model: EdgeModel,
    result: JobResult,
    report: CompressionReport | None,
    *,
    without: Collection[Format] = (),
) -> dict[str, ModelFile]:
    """Write what lies beside the image layout; platform → its model file, and beside it those of its other formats.

    Args:
        layout: that the Job wrote.
        model: that was compressed.
        result: of the Job.
        report: of the Job.
        without: formats of which nothing keeps the budget on this machine.
    """
    from edgemodel_oci.reference import Reference
    from edgemodel_oci.repository import open_repository

    here = hardware.detect().hardware_class
    folder = _Folder(layout, model.metadata.name, open_repository(Reference.parse(f"oci-layout://{layout}")))
    chosen = {c.name for c in report.candidates if c.chosen} if report is not None else set()
    files: dict[str, ModelFile] = {}
    for platform in sorted({v.platform for v in result.variants}):
        found = []
        for model_format in (f for f in Format if f not in without):
            best = best_variant(result.variants, platform, here, chosen, model_format=model_format)
            if best is not None and best.digest is not None:
                found.append(ModelFile(folder.unpacked(best.digest, platform, model_format), best.name, model_format))
        if found:
            files[platform] = found[0]._replace(beside=tuple(found[1:]))
    for leftover in ("ingest", "index.json.lock"):  # of writing it; nobody writes to this layout any more
        path = layout / leftover
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    content = report.to_json() if report is not None else {}
    write_atomic(layout / REPORT_JSON, json.dumps(content, indent=1, ensure_ascii=False).encode())
    if report is not None:
        from edgemodel_cli.html_report import render

        write_atomic(layout / REPORT_HTML, render(report, model, (), ()).encode())
    return files


class _Folder:
    """Model files that were unpacked into the layout's folder; equal ones once."""

    def __init__(self, layout: Path, stem: str, repository: Repository) -> None:
        self._layout, self._stem, self._repository = layout, stem, repository
        self._written: dict[tuple[Format, str], str] = {}

    def unpacked(self, digest: str, platform: str, model_format: Format) -> str:
        """The name of the variant's file: the first of its format is the model's name alone."""
        from edgemodel_oci import artifact, pack, pull
        from edgemodel_oci.companion import data_name

        variant = artifact.read_variant(self._repository, digest)
        key = (model_format, variant.file_digest)
        if key in self._written:
            return self._written[key]
        several = any(known is model_format for known, _ in self._written)
        suffix = MODEL_FILES[model_format].removeprefix("model")
        name = f"{self._stem}{'-' + platform.replace('/', '-') if several else ''}{suffix}"
        blob = self._layout / ".layer"
        pull.fetch_blob(self._repository, variant.weight, blob)
        # External data lie beside the model under the name by which it knows them: several models may share some.
        data = None
        if variant.data_digest:
            place = self._layout / data_name(variant.data_digest)
            data = pack.ExternalData(place, variant.data_digest, variant.data_size)
        pack.unpack_file(
            blob, self._layout / name, file_digest=variant.file_digest, file_size=variant.file_size, data=data
        )
        blob.unlink()
        self._written[key] = name
        return name


def publish(made: Path, out: Path) -> None:
    """Put the complete folder in the place of the old one."""
    aside = made.parent / OLD
    if out.exists():
        os.rename(out, aside)
    try:
        os.rename(made, out)
    except OSError:
        if aside.exists():
            os.rename(aside, out)
        raise
