"""How revisions ended, newest first; and which one to go back to."""

from __future__ import annotations

from datetime import datetime

from edgemodel_api.edgemodel_status import HISTORY_LIMIT, EdgeModelStatus, HistoryEntry, RevisionResult


def last_good(history: tuple[HistoryEntry, ...], *, but: str = "") -> HistoryEntry | None:
    """The newest revision that was rolled out, other than `but`."""
    return next((h for h in history if is_good(h) and h.revision != but), None)


def is_good(entry: HistoryEntry) -> bool:
    """Whether nodes can be put back to it."""
    return entry.result is RevisionResult.ROLLED_OUT and entry.artifact is not None and bool(entry.variants)


def entry_of(status: EdgeModelStatus, result: RevisionResult, reason: str, message: str, now: datetime) -> HistoryEntry:
    """How the status's revision ended. Only one that was rolled out keeps what a later rollback needs."""
    keep = result is RevisionResult.ROLLED_OUT
    return HistoryEntry(
        revision=status.revision,
        artifact=status.artifact,
        result=result,
        reason=reason,
        message=message,
        finished_at=now,
        variants=tuple(v.replace(message="", tried_on=()) for v in status.variants) if keep else (),
        candidates=status.candidates if keep else (),
    )


def added(history: tuple[HistoryEntry, ...], entry: HistoryEntry) -> tuple[HistoryEntry, ...]:
    """With a new entry first. A revision that was rolled back is good no longer, whatever it was before.

    At most `HISTORY_LIMIT` entries, of which the newest good one of another revision is never dropped.
    """
    gone = {entry.result} | ({RevisionResult.ROLLED_OUT} if entry.result is RevisionResult.ROLLED_BACK else set())
    rest = [h for h in history if h.revision != entry.revision or h.result not in gone]
    kept = [entry, *rest[: HISTORY_LIMIT - 1]]
    good = last_good(tuple(rest), but=entry.revision)
    if good is not None and good not in kept:
        kept[-1] = good
    return tuple(kept)
