"""A revision that was built before: the same one is never built twice."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from edgemodel_api.artifact import ANNOTATION_CLASSES, ANNOTATION_VARIANT, REPORT_ARTIFACT_TYPE
from edgemodel_api.edgemodel import Format
from edgemodel_api.errors import InputError
from edgemodel_api.job import JobResult, JobSpec
from edgemodel_api.report import CompressionReport
from edgemodel_oci.artifact import Index, read_index, read_report, read_variant
from edgemodel_oci.descriptor import Descriptor
from edgemodel_oci.repository import Repository
from edgemodel_oci.variants import format_of

from . import summary
from .formats.writers import COREML_PLATFORM

log = logging.getLogger(__name__)


def result_of(
    job: JobSpec, report: CompressionReport, index: Descriptor, variants: tuple[Descriptor, ...], report_digest: str
) -> JobResult:
    """The result of a revision that is in the repository."""
    return summary.succeeded(
        report,
        tuple(_stored(v) for v in variants),
        reference=job.output,
        digest=index.digest,
        report_digest=report_digest,
    )


def find(repo: Repository, job: JobSpec) -> tuple[JobResult, CompressionReport] | None:
    """Result and report of the Job's revision, if its artifact is there and whole; else None.

    Raises:
        TransientError: the repository does not answer.
    """
    try:
        index = read_index(repo, job.revision)
    except InputError:
        return None  # not built yet
    try:
        report, digest = _report(repo, index, job)
        _check_variants(repo, index, job)
    except (InputError, ValidationError, ValueError) as error:
        log.warning("revision %s is stored, but not whole (%s): building it again", job.revision, error)
        return None
    return result_of(job, report, index.descriptor, index.variants, digest), report


def _report(repo: Repository, index: Index, job: JobSpec) -> tuple[CompressionReport, str]:
    content = read_report(repo, index.descriptor.digest)
    if content is None:
        raise InputError("it has no report")
    report = CompressionReport.model_validate_json(content)
    if report.revision != job.revision or index.revision != job.revision:
        raise InputError(f"it says that it is revision {index.revision!r}, its report {report.revision!r}")
    digests = [r.digest for r in repo.referrers(index.descriptor.digest) if r.artifact_type == REPORT_ARTIFACT_TYPE]
    return report, digests[-1]


def _check_variants(repo: Repository, index: Index, job: JobSpec) -> None:
    found = {v.platform for v in index.variants}
    wanted = {COREML_PLATFORM} if set(job.formats) == {Format.COREML} else set(job.platforms)
    missing = sorted(wanted - {p for p in found if p is not None})
    if missing:
        raise InputError(f"it has no variant for {', '.join(missing)}")
    for descriptor in index.variants:
        variant = read_variant(repo, descriptor.digest)
        for blob in (variant.weight, variant.golden):
            if not repo.has_blob(blob.digest):
                raise InputError(f"{variant.name} lacks {blob.digest}")


def _stored(descriptor: Descriptor) -> summary.Stored:
    classes = descriptor.annotations.get(ANNOTATION_CLASSES, "")
    return summary.Stored(
        platform=descriptor.platform or "",
        name=descriptor.annotations.get(ANNOTATION_VARIANT, ""),
        digest=descriptor.digest,
        classes=tuple(c for c in classes.split(",") if c),
        format=format_of(descriptor.annotations, what=f"the variant {descriptor.digest}"),
    )
