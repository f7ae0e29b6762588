"""Storing: variants (the source first), the index, the report; and the result that follows from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgemodel_api.artifact import Golden
from edgemodel_api.job import JobResult, JobSpec, Progress
from edgemodel_api.report import CompressionReport
from edgemodel_oci.artifact import ArtifactWriter, attach_report
from edgemodel_oci.descriptor import Descriptor
from edgemodel_oci.repository import Repository

from . import stored
from .bench import Outcome
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
    name: str
    path: Path
    classes: tuple[str, ...]
    encoding: str


def publish(
    job: JobSpec,
    repo: Repository,
    report: CompressionReport,
    *,
    finalists: Finalists,
    files: Files,
    progress: Report,
) -> tuple[JobResult, CompressionReport]:
    """Store everything; the result, and the report with the variants' digests.

    Raises:
        InputError: the output cannot be written.
        TransientError: the registry does not answer.
    """
    writer = ArtifactWriter(repo, work_dir=files.work_dir)
    limits: dict[Path, Golden] = {}
    variants: list[Descriptor] = []
    digests: dict[str, str] = {}
    total = sum(len(some) + 1 for some in finalists.values())
    for platform, some in finalists.items():
        for entry in _entries(platform, some, files):
            progress(Progress(stage="store", done=len(variants), total=total, message=f"{platform} {entry.name}"))
            if entry.path not in limits:
                limits[entry.path] = files.limits(entry.path)
            descriptor = writer.add_variant(
                platform=platform,
                name=entry.name,
                model_file=entry.path,
                golden_file=files.golden,
                golden=limits[entry.path],
                classes=entry.classes,
                encoding=entry.encoding,
                source_name=job.name,
            )
            variants.append(descriptor)
            digests.setdefault(entry.name, descriptor.digest)
    index = writer.finish(revision=job.revision, tag=job.revision)
    report = report.replace(candidates=tuple(c.replace(digest=digests.get(c.name)) for c in report.candidates))
    progress(Progress(stage="store", done=total, total=total, message="report"))
    attached = attach_report(repo, index, report.model_dump_json(by_alias=True, exclude_none=True).encode())
    return stored.result_of(job, report, index, tuple(variants), attached.digest), report


def _entries(platform: str, some: tuple[Outcome, ...], files: Files) -> list[_Entry]:
    found = [_Entry(SOURCE, files.source, (), FLOAT32)]
    found += [
        _Entry(o.name, o.path, o.classes_on(platform) or (), o.recipe.encoding) for o in some if o.path is not None
    ]
    return found
