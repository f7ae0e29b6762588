"""The EdgeNodeStatus, built in one place from what is so; and when it is worth writing. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from edgemodel_api import reasons
from edgemodel_api.edgemodel import ServingMode
from edgemodel_api.edgenode import (
    AssignedModel,
    AssignedTrial,
    EdgeNodeStatus,
    ModelStatus,
    RunningModel,
    Swap,
    TargetState,
    TrialStatus,
)

from . import decide
from .decide import Facts, Work
from .measured import number
from .state import ModelState, Shown, TrialState

#: The operator calls a node offline after 60 s without a report.
HEARTBEAT = timedelta(seconds=3)


def progress_of(desired: AssignedModel, state: ModelState, facts: Facts, now: datetime) -> tuple[TargetState, str, str]:
    """(state, reason, message) of the assigned target."""
    bad = decide.verdict(desired, state, now)
    if bad is not None:
        return TargetState.FAILED, bad.reason, bad.message
    if decide.switched(desired, state.running):
        if facts.alive:
            return TargetState.SERVING, reasons.SERVING, ""
        if state.crashes:
            return TargetState.DOWNLOADED, reasons.SERVER_CRASHED, f"the server is started again; {state.trouble}"
        return TargetState.DOWNLOADED, "", "the server is started again"
    if decide.failed(desired, state) and state.failure is not None:
        return TargetState.FAILED, state.failure.reason, state.failure.message
    mine = facts.digest == desired.target.digest
    if mine and facts.work is Work.CHECK:
        return TargetState.CHECKING, "", ""
    if desired.target.digest in facts.present:
        if desired.swap is Swap.PREFETCH:
            return TargetState.DOWNLOADED, "", "downloaded and verified; waiting for the permission to switch"
        return TargetState.DOWNLOADED, "", ""
    retry = state.retry
    if retry is not None and retry.digest == desired.target.digest:
        message = f"try {retry.count} failed, the next one follows at {retry.not_before:%H:%M:%S} UTC: {retry.message}"
        return TargetState.DOWNLOADING, retry.reason, message
    if mine and facts.work is Work.FETCH:
        return TargetState.DOWNLOADING, "", ""
    return TargetState.PENDING, "", ""


def shown(desired: AssignedModel, state: ModelState, facts: Facts, now: datetime) -> tuple[Shown, str]:
    """What to show, and its message; `at` moves only when the target, its state or the reason changes."""
    what, reason, message = progress_of(desired, state, facts, now)
    new = Shown(digest=desired.target.digest, attempt=desired.attempt, state=what, reason=reason, at=now)
    old = state.shown
    if old is not None and old.replace(at=now) == new:
        new = old
    return new, message


def model_status(
    desired: AssignedModel, state: ModelState, facts: Facts, now: datetime, *, endpoint: str, fetching: int = 0
) -> ModelStatus:
    """One model of the status. `fetching`: bytes that are here of the download under way."""
    target = desired.target
    show, message = shown(desired, state, facts, now)
    download = state.download if state.download and state.download.digest == target.digest else None
    running = state.running if state.running is not None and facts.alive else None
    measured = None
    if state.running is not None and state.running.target.digest == target.digest:
        measured = state.running.measured
    if decide.failed(desired, state) and state.failure is not None:
        measured = state.failure.measured
    return ModelStatus(
        namespace=desired.namespace,
        name=desired.name,
        revision=target.revision,
        variant=target.variant,
        digest=target.digest,
        attempt=desired.attempt,
        state=show.state,
        reason=show.reason,
        message=message,
        changed_at=show.at,
        downloaded_bytes=max(fetching, download.bytes if download else 0),
        download_seconds=number(download.seconds) if download else None,
        download_retries=download.retries if download else 0,
        restarts=state.restarts,
        measured=measured,
        running=None
        if running is None
        else RunningModel(
            revision=running.target.revision,
            variant=running.target.variant,
            digest=running.target.digest,
            since=running.since,
            endpoint=endpoint,
        ),
    )


def endpoint_of(state: ModelState, address: str, files: str) -> str:
    """Where the running variant answers; in Files mode, where it lies."""
    running = state.running
    if running is None:
        return ""
    if running.mode is ServingMode.FILES:
        return f"file://{files}"
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{running.port}/v2/models/{state.name}"


def trial_status(desired: AssignedTrial, state: TrialState) -> TrialStatus:
    """One trial of the status: results in the order of the candidates."""
    by_digest = {r.digest: r for r in state.results}
    return TrialStatus(
        namespace=desired.namespace,
        name=desired.name,
        revision=desired.revision,
        done=decide.trial_done(desired, state),
        results=tuple(by_digest[c.digest] for c in desired.candidates if c.digest in by_digest),
    )


def worth_writing(old: EdgeNodeStatus | None, new: EdgeNodeStatus, *, heartbeat: timedelta = HEARTBEAT) -> bool:
    """Whether anything changed that somebody waits for, or the heartbeat is due.

    Free disk and memory change all the time, download counters many times a second: they travel with the heartbeat.
    """
    if old is None or old.last_report_time is None or new.last_report_time is None:
        return True
    age = new.last_report_time - old.last_report_time
    if age >= heartbeat or age < timedelta(0):
        return True
    return _essence(old) != _essence(new)


def _essence(status: EdgeNodeStatus) -> EdgeNodeStatus:
    return status.replace(
        last_report_time=None,
        disk_free_bytes=0,
        memory_free_bytes=0,
        models=tuple(m.replace(downloaded_bytes=0, download_seconds=None) for m in status.models),
    )
