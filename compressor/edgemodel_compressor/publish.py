"""Storing: variants (the source first), the index, the report; and the result that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemodel_api.artifact import Golden
from edgemodel_api.edgemodel import Format
from edgemodel_api.job import JobResult, JobSpec, Progress
from edgemodel_api.report import CompressionReport
from edgemodel_oci.artifact import ArtifactWriter, attach_report
from edgemodel_oci.descriptor import Descriptor
from edgemodel_oci.repository import Repository

from . import stored
from .bench import Outcome
from .conversions import Made
from .progress import Report
from .recipe import FLOAT32
from .summary import SOURCE

#: Platform to what goes into the artifact, the smallest first.
Finalists = dict[str, tuple[Outcome, ...]]


@dataclass(frozen=True)
class Files:
    """What is stored besides the candidates.

    Attributes:
        source: the source model.
        golden: golden.npz.
        limits: how nodes judge a model file by the golden cases.
        work_dir: for packed files.
    """

    source: Path
    golden: Path
    limits: Callable[[Path], Golden]
    work_dir: Path


@dataclass(frozen=True)
class _Entry:
    platform: str
    name: str
    path: Path
    encoding: str
    golden: Golden
    classes: tuple[str, ...] = ()
    format: Format = Format.ONNX


def publish(
    job: JobSpec,
    repo: Repository,
    report: CompressionReport,
    *,
    finalists: Finalists,
    files: Files,
    progress: Report,
    conversions: Sequence[Made] = (),
) -> tuple[JobResult, CompressionReport]:
    """Store everything; the result, and the report with the variants' digests.

    Args:
        job: what was asked for.
        repo: where to.
        report: without digests.
        finalists: ONNX files; stored where the Job wants ONNX.
        files: what else is stored.
        progress: called often.
        conversions: files of other formats.

    Raises:
        InputError: the output cannot be written.
        TransientError: the registry does not answer.
    """
    writer = ArtifactWriter(repo, work_dir=files.work_dir)
    variants: list[Descriptor] = []
    digests: dict[tuple[Format, str], str] = {}
    entries = [*(_onnx(job.platforms, finalists, files) if Format.ONNX in job.formats else ()), *_others(conversions)]
    for entry in entries:
        progress(
            Progress(
                stage="store", done=len(variants), total=len(entries) + 1, message=f"{entry.platform} {entry.name}"
            )
        )
        descriptor = writer.add_variant(
            platform=entry.platform,
            name=entry.name,
            model_file=entry.path,
            golden_file=files.golden,
            golden=entry.golden,
            classes=entry.classes,
            encoding=entry.encoding,
            source_name=job.name,
            model_format=entry.format,
        )
        variants.append(descriptor)
        digests.setdefault((entry.format, entry.name), descriptor.digest)
    index = writer.finish(revision=job.revision, tag=job.revision)
    report = report.replace(
        candidates=tuple(c.replace(digest=digests.get((Format.ONNX, c.name))) for c in report.candidates),
        conversions=tuple(c.replace(digest=digests.get((Format(c.format), c.name))) for c in report.conversions),
    )
    progress(Progress(stage="store", done=len(entries), total=len(entries) + 1, message="report"))
    attached = attach_report(repo, index, report.model_dump_json(by_alias=True, exclude_none=True).encode())
    return stored.result_of(job, report, index, tuple(variants), attached.digest), report


def _onnx(platforms: Iterable[str], finalists: Finalists, files: Files) -> Iterator[_Entry]:
    """For each platform the source, then the others."""
    limits: dict[Path, Golden] = {}

    def golden(path: Path) -> Golden:
        if path not in limits:
            limits[path] = files.limits(path)
        return limits[path]

    for platform in sorted(set(platforms)):
        yield _Entry(platform, SOURCE, files.source, FLOAT32, golden(files.source))
        for o in finalists.get(platform, ()):
            if o.path is not None:
                classes = o.classes_on(platform) or ()
                yield _Entry(platform, o.name, o.path, o.recipe.encoding, golden(o.path), classes=classes)


def _others(conversions: Sequence[Made]) -> Iterator[_Entry]:
    """For each format its platforms, and for each of these its files."""
    for wanted in dict.fromkeys(m.format for m in conversions):
        mine = [m for m in conversions if m.format is wanted]
        for platform in dict.fromkeys(p for m in mine for p in m.row.platforms):
            for m in mine:
                if m.path is not None and m.golden is not None:
                    yield _Entry(platform, m.row.name, m.path, m.row.encoding, m.golden, format=wanted)
