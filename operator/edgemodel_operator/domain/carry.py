"""From the last pass's status to the one that this pass works on: what a new revision, spec or retry does away with."""

from __future__ import annotations

from datetime import datetime

from edgemodel_api import reasons
from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgemodel_status import ANNOTATION_RETRY, EdgeModelStatus, JobStatus, RevisionResult
from edgemodel_api.hardware import HardwareClass

from . import history
from .waves import wave_counts


def carried_over(
    model: EdgeModel,
    revision: str,
    platforms: tuple[str, ...],
    *,
    classes: frozenset[HardwareClass],
    pool_size: int,
    now: datetime,
) -> EdgeModelStatus:
    """The status of the wanted revision, as far as it is known.

    * Another revision: what ran of the old one goes into the history as Superseded; the new one starts from nothing,
      or from the history if it was rolled out before and its variants cover the pool's classes.
    * Another generation of the spec, or a new value of the retry annotation: what was given up is tried again.
    """
    before = model.status
    value = model.metadata.annotations.get(ANNOTATION_RETRY, "")
    asked_again = value not in ("", before.retry) and before.observed_generation > 0
    edited = before.observed_generation not in (0, model.metadata.generation)
    status = before.replace(observed_generation=model.metadata.generation, retry=value or before.retry)
    if not revision:
        return status
    if revision != before.revision:
        status = _superseded(status, revision, platforms, now)
        return _restored(status, classes)
    status = status.replace(platforms=platforms)
    if asked_again or edited:
        status = _given_another_chance(status, now, anything=asked_again)
    if edited:
        status = _reopened(status, model, pool_size)
    return status


def _superseded(status: EdgeModelStatus, revision: str, platforms: tuple[str, ...], now: datetime) -> EdgeModelStatus:
    rollout = status.rollout
    if rollout is not None and rollout.finished_at is None:
        message = f"revision {revision} followed in wave {rollout.wave + 1}/{rollout.waves}, with {rollout.admitted} nodes let in"
        entry = history.entry_of(status, RevisionResult.SUPERSEDED, reasons.SUPERSEDED, message, now)
        status = status.replace(history=history.added(status.history, entry))
    return status.replace(
        revision=revision,
        platforms=platforms,
        job=None,
        artifact=None,
        candidates=(),
        variants=(),
        variant_count=0,
        rollout=None,
    )


def _restored(status: EdgeModelStatus, classes: frozenset[HardwareClass]) -> EdgeModelStatus:
    """What the history knows of this revision: it is not built, and not measured, twice."""
    entry = next((h for h in status.history if h.revision == status.revision and history.is_good(h)), None)
    if entry is None or (not entry.candidates and not classes <= {v.hardware_class for v in entry.variants}):
        return status
    return status.replace(
        artifact=entry.artifact,
        candidates=entry.candidates,
        variants=tuple(v for v in entry.variants if v.accepted),
        variant_count=sum(c.accepted for c in entry.candidates),
    )


def _given_another_chance(status: EdgeModelStatus, now: datetime, *, anything: bool) -> EdgeModelStatus:
    """`anything`: a refusal too, which only somebody who asks for it can want again (the same spec, the same answer)."""
    job = status.job
    if job is not None and status.artifact is None and (anything or job.reason == reasons.COMPRESSION_FAILED):
        job = JobStatus(reason=reasons.RETRYING)
    rollout = status.rollout
    if rollout is not None:
        rollout = None if rollout.rolled_back else rollout.replace(retried_at=now if rollout.failed_nodes else None)
    return status.replace(job=job, rollout=rollout, variants=tuple(v for v in status.variants if v.accepted))


def _reopened(status: EdgeModelStatus, model: EdgeModel, pool_size: int) -> EdgeModelStatus:
    """Waves that reach further now: a wave that was full is not any more, a rollout that had finished goes on."""
    rollout = status.rollout
    counts = wave_counts(model.spec.rollout, pool_size)
    if rollout is None:
        return status
    if rollout.finished_at is None:
        is_full = counts[min(rollout.wave, len(counts) - 1)] <= rollout.admitted
        return status if is_full else status.replace(rollout=rollout.replace(wave_complete_at=None))
    if counts[-1] <= rollout.desired:
        return status
    wave = next((i for i, count in enumerate(counts) if count >= rollout.admitted), len(counts) - 1)
    return status.replace(rollout=rollout.replace(wave=wave, finished_at=None, wave_complete_at=None))
