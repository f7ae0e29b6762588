"""The compression Job of the wanted revision: started once, tried again when it failed, never when it was refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from edgemodel_api import reasons
from edgemodel_api.edgemodel_status import (
    ANNOTATION_RETRY,
    ArtifactRef,
    CandidateStatus,
    EdgeModelStatus,
    JobStatus,
)
from edgemodel_api.formats import RUNTIMES_OF, Format
from edgemodel_api.job import JobResult, JobSpec, Outcome, VariantSummary
from edgemodel_api.quantities import counted, format_bytes

from .actions import StartJob
from .backoff import backoff
from .choose import SOURCE
from .observed import JobState, Observed
from .text import clock, listed, shortened

#: Tries of one revision's Job before it stalls.
JOB_TRIES = 5
#: 10 s, 20 s, 40 s, … as Kubernetes' own Jobs.
JOB_BACKOFF = timedelta(seconds=10)
JOB_BACKOFF_MAX = timedelta(minutes=6)
#: A Job that was started so recently may not be visible yet.
START_GRACE = timedelta(seconds=30)


@dataclass(frozen=True)
class Compressed:
    """Where the Job is.

    `done`: the artifact is there. `stalled`: it will not be, until somebody changes something. Otherwise work is under
    way, or another try is due at `wake_at`.
    """

    status: EdgeModelStatus
    reason: str
    message: str
    done: bool = False
    stalled: bool = False
    start: StartJob | None = None
    wake_at: datetime | None = None


def compress(observed: Observed, status: EdgeModelStatus, platforms: tuple[str, ...]) -> Compressed:
    """The Job's part of a pass. `status` is that of the wanted revision already.

    A status whose `job.reason` is Retrying wants a Job even though the last one was refused.
    """
    if status.artifact is not None:
        return _done(status)
    view = observed.job if observed.job is not None and observed.job.revision == status.revision else None
    job = status.job or JobStatus()
    result = view.result if view is not None and view.state is JobState.FINISHED else None
    if view is not None and view.state is JobState.RUNNING:
        return _running(observed, status, job, note=view.note)
    if result is not None and result.outcome is Outcome.SUCCEEDED and _usable(result):
        return _done(_with_artifact(observed, status, result))
    if job.stalled:
        return Compressed(status, job.reason, job.message, stalled=True)
    if result is not None and result.outcome in (Outcome.REFUSED, Outcome.INVALID) and job.reason != reasons.RETRYING:
        return _refused(status, job, result)
    if job.failed_at is not None:
        return _try_again(observed, status, job, platforms)
    if job.tries == 0 and (view is None or job.reason == reasons.RETRYING):
        return _start(observed, status, job, platforms)
    if view is None:
        visible_by = (job.started_at or observed.now) + START_GRACE
        if observed.now < visible_by:
            return _running(observed, status, job, wake_at=visible_by)
        return _failed(observed, status, job, platforms, "the Job has disappeared")
    if view.state is JobState.LOST:
        lost = "the Job ended without a result (it was killed or evicted)"
        return _failed(observed, status, job, platforms, lost, at_once=job.tries <= 1)
    return _failed(observed, status, job, platforms, _what_failed(result))


def _usable(result: JobResult) -> bool:
    return result.digest is not None and any(v.digest is not None for v in result.variants)


def _what_failed(result: JobResult | None) -> str:
    if result is None:
        return "the Job left no result that can be read"
    if result.outcome is Outcome.SUCCEEDED:
        return "the Job says that it succeeded, but names no artifact"
    return f"{result.reason}: {result.message}" if result.reason else result.message or "no reason was given"


def _done(status: EdgeModelStatus) -> Compressed:
    accepted = [c for c in status.candidates if c.accepted]
    if not accepted:
        return Compressed(
            status, reasons.COMPRESSION_SUCCEEDED, "the artifact of an earlier rollout is used", done=True
        )
    for_nodes = [c for c in accepted if RUNTIMES_OF[c.format or Format.ONNX]]
    where = ", ".join(status.platforms)
    message = f"{counted(len(for_nodes), 'accepted variant')} for {where}"
    if for_nodes:
        smallest = min(for_nodes, key=lambda c: (c.size_bytes, c.name))
        source = next((c for c in status.candidates if c.name == SOURCE), None)
        beside = f", the source {format_bytes(source.size_bytes)}" if source is not None else ""
        message += f"; the smallest, {smallest.name}, has {format_bytes(smallest.size_bytes)}{beside}"
    if others := [c for c in accepted if c not in for_nodes]:
        kinds = listed(sorted({f"{c.format} for {c.platform}" for c in others}))
        message += f"; and {len(others)} of {kinds}, which no node gets, as none has a runtime for it"
    return Compressed(status, reasons.COMPRESSION_SUCCEEDED, shortened(message), done=True)


def _with_artifact(observed: Observed, status: EdgeModelStatus, result: JobResult) -> EdgeModelStatus:
    candidates = tuple(_candidate(v, v.digest) for v in result.variants if v.digest is not None)
    return status.replace(
        artifact=ArtifactRef(reference=result.reference or observed.settings.output, digest=result.digest or ""),
        candidates=candidates,
        variant_count=sum(c.accepted for c in candidates),
    )


def _candidate(v: VariantSummary, digest: str) -> CandidateStatus:
    return CandidateStatus(
        platform=v.platform,
        name=v.name,
        digest=digest,
        size_bytes=v.size_bytes,
        file_bytes=v.file_bytes,
        format=v.format,
        quality=None if v.quality is None else f"{v.quality:.6f}".rstrip("0").rstrip("."),
        accepted=v.accepted,
        reason=shortened(v.reason, 256),
        hardware_classes=v.hardware_classes,
    )


def _refused(status: EdgeModelStatus, job: JobStatus, result: JobResult) -> Compressed:
    """The same spec gives the same answer: no other try."""
    default = reasons.BUDGET_EXCEEDED if result.outcome is Outcome.REFUSED else reasons.INVALID_INPUT
    reason = reasons.BUDGET_EXCEEDED if result.outcome is Outcome.REFUSED else result.reason or default
    message = shortened(result.message or f"the Job was {str(result.outcome).lower()} without a message")
    job = job.replace(tries=max(1, job.tries), stalled=True, reason=reason, message=message)
    return Compressed(status.replace(job=job), reason, message, stalled=True)


def _running(
    observed: Observed, status: EdgeModelStatus, job: JobStatus, *, wake_at: datetime | None = None, note: str = ""
) -> Compressed:
    job = JobStatus(tries=max(1, job.tries), started_at=job.started_at or observed.now)
    message = shortened(_compressing(status, job) + (f"; {note}" if note else ""))
    return Compressed(status.replace(job=job), reasons.COMPRESSING, message, wake_at=wake_at)


def _compressing(status: EdgeModelStatus, job: JobStatus) -> str:
    again = f", try {job.tries}/{JOB_TRIES}" if job.tries > 1 else ""
    since = f" since {clock(job.started_at)}" if job.started_at is not None else ""
    return f"the Job of revision {status.revision} works for {', '.join(status.platforms)}{since}{again}"


def _start(observed: Observed, status: EdgeModelStatus, job: JobStatus, platforms: tuple[str, ...]) -> Compressed:
    started = JobStatus(tries=job.tries + 1, started_at=observed.now)
    return Compressed(
        status.replace(job=started),
        reasons.COMPRESSING,
        _compressing(status, started),
        start=StartJob(job_spec(observed, status.revision, platforms)),
        wake_at=observed.now + START_GRACE,
    )


def _failed(
    observed: Observed,
    status: EdgeModelStatus,
    job: JobStatus,
    platforms: tuple[str, ...],
    what: str,
    *,
    at_once: bool = False,
) -> Compressed:
    job = JobStatus(
        tries=max(1, job.tries),
        started_at=job.started_at,
        failed_at=observed.now,
        reason=reasons.COMPRESSION_FAILED,
        message=shortened(what, 512),
    )
    if at_once:
        return _start(observed, status, job, platforms)
    return _try_again(observed, status.replace(job=job), job, platforms)


def _try_again(observed: Observed, status: EdgeModelStatus, job: JobStatus, platforms: tuple[str, ...]) -> Compressed:
    if job.tries >= JOB_TRIES or job.failed_at is None:
        message = shortened(
            f"{counted(job.tries, 'try', 'tries')} of {JOB_TRIES} failed, the last one: {job.message}; change the spec,"
            f" or set the annotation {ANNOTATION_RETRY} to a new value"
        )
        job = job.replace(stalled=True, message=message)
        return Compressed(status.replace(job=job), reasons.COMPRESSION_FAILED, message, stalled=True)
    due = job.failed_at + backoff(JOB_BACKOFF, job.tries, JOB_BACKOFF_MAX)
    if observed.now >= due:
        return _start(observed, status, job, platforms)
    message = f"try {job.tries}/{JOB_TRIES} failed: {job.message}; the next one follows at {clock(due)}"
    return Compressed(status, reasons.WAITING_FOR_RETRY, shortened(message), wake_at=due)


def job_spec(observed: Observed, revision: str, platforms: tuple[str, ...]) -> JobSpec:
    """The Job's contract for this spec."""
    settings = observed.settings
    return JobSpec.of(
        observed.model, revision=revision, platforms=platforms, output=settings.output, base_dir=settings.base_dir
    )
