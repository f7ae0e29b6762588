"""Events: what is new in a status, told once. They follow from two statuses, so a pass that changes nothing tells nothing."""

from __future__ import annotations

from edgemodel_api import reasons
from edgemodel_api.edgemodel_status import EdgeModelStatus, RolloutStatus
from edgemodel_api.meta import Condition, get_condition
from edgemodel_api.quantities import counted

from .actions import Event
from .counts import in_numbers
from .text import listed


def events_of(before: EdgeModelStatus, after: EdgeModelStatus) -> tuple[Event, ...]:
    """In the order in which a reader wants them: revision, compression, trials, rollout, trouble."""
    return (
        *_revision(before, after),
        *_trials(before, after),
        *_rollout(before, after),
        *_analysis(before, after),
        *_waits(before, after),
    )


def _revision(before: EdgeModelStatus, after: EdgeModelStatus) -> list[Event]:
    events = []
    if after.revision != before.revision:
        platforms = ", ".join(after.platforms)
        events.append(Event("Normal", reasons.ACCEPTED, f"revision {after.revision} is wanted, for {platforms}"))
        newest = after.history[0] if after.history else None
        if newest is not None and newest.revision == before.revision and newest not in before.history:
            events.append(Event("Normal", newest.reason, f"revision {newest.revision}: {newest.message}"))
    same = after.revision == before.revision
    old, new = get_condition(before.conditions, reasons.COMPRESSED), get_condition(after.conditions, reasons.COMPRESSED)
    if new is not None and (old is None or not same or (old.status, old.reason) != (new.status, new.reason)):
        bad = new.status == "False" and new.reason not in (reasons.COMPRESSING, reasons.ACCEPTED)
        events.append(Event("Warning" if bad else "Normal", new.reason, new.message))
    return events


def _trials(before: EdgeModelStatus, after: EdgeModelStatus) -> list[Event]:
    known = set(before.variants) if after.revision == before.revision else set()
    return [
        Event("Normal" if v.accepted else "Warning", v.reason, v.message)
        for v in after.variants
        if v not in known and v.reason and v.message
    ]


def _rollout(before: EdgeModelStatus, after: EdgeModelStatus) -> list[Event]:
    new = after.rollout
    if new is None:
        return []
    old = before.rollout
    if old is None or old.revision != new.revision:
        old = RolloutStatus(revision=new.revision)
    events = []
    if new.wave_started_at is not None and new.wave_started_at != old.wave_started_at:
        text = f"revision {new.revision}: wave {new.wave + 1}/{new.waves} began; {in_numbers(after.nodes)} so far"
        events.append(Event("Normal", reasons.WAVE_STARTED, text))
    fresh = [n for n in new.failed_nodes if n not in old.failed_nodes]
    if fresh:
        rolled_out = get_condition(after.conditions, reasons.ROLLED_OUT)
        why = f"; {rolled_out.message}" if rolled_out is not None else ""
        text = f"{counted(len(fresh), 'node')} failed with revision {new.revision}: {listed(fresh)}{why}"
        events.append(Event("Warning", reasons.NODE_FAILED, text))
    if new.rolled_back and not old.rolled_back:
        events.append(Event("Warning", reasons.ROLLED_BACK, f"revision {new.revision}: {new.message}"))
    elif new.finished_at is not None and old.finished_at is None:
        ready = get_condition(after.conditions, reasons.ROLLED_OUT)
        if ready is not None:
            events.append(Event("Normal", ready.reason, f"revision {new.revision}: {ready.message}"))
    return events


def _analysis(before: EdgeModelStatus, after: EdgeModelStatus) -> list[Event]:
    """A query that fails or has no answer, and that all is well again; the rollback tells itself."""
    old, new = _pair(before, after, reasons.ANALYZED)
    if new is None or (old is not None and old.reason == new.reason):
        return []
    if after.rollout is not None and after.rollout.rolled_back:
        return []
    if new.reason in (reasons.ANALYSIS_FAILED, reasons.ANALYSIS_INCONCLUSIVE):
        return [Event("Warning", new.reason, new.message)]
    trouble = old is not None and old.reason in (reasons.ANALYSIS_FAILED, reasons.ANALYSIS_INCONCLUSIVE)
    return [Event("Normal", new.reason, new.message)] if trouble and new.status == "True" else []


_WAITS = frozenset(
    {
        reasons.NO_NODES,
        reasons.NO_PLATFORM,
        reasons.WAITING_FOR_NODES,
        reasons.WAITING_FOR_APPROVAL,
        reasons.WAITING_FOR_WINDOW,
    }
)


def _waits(before: EdgeModelStatus, after: EdgeModelStatus) -> list[Event]:
    """What it waits for, and why it stalls, where no other event tells that."""
    events = []
    old, new = _pair(before, after, reasons.RECONCILING)
    if new is not None and new.reason in _WAITS and (old is None or old.reason != new.reason):
        events.append(Event("Normal", new.reason, new.message))
    old, new = _pair(before, after, reasons.STALLED)
    compressed = get_condition(after.conditions, reasons.COMPRESSED)
    told = {reasons.ROLLED_BACK, compressed.reason if compressed is not None else ""}
    if new is not None and new.reason not in told and (old is None or old.reason != new.reason):
        events.append(Event("Warning", new.reason, new.message))
    return events


def _pair(before: EdgeModelStatus, after: EdgeModelStatus, type_: str) -> tuple[Condition | None, Condition | None]:
    return get_condition(before.conditions, type_), get_condition(after.conditions, type_)
