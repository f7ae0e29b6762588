"""Which nodes went bad because of the revision, how many may, and which are tried again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from edgemodel_api import reasons
from edgemodel_api.edgemodel_status import RolloutStatus

from .assign import Goal, again
from .backoff import backoff
from .observed import Observed
from .pool import Member, Pool, Stage
from .text import listed, shortened

#: A node that failed is tried so many times again, 1, 2, 4 minutes after it failed.
NODE_RETRIES = 3
NODE_BACKOFF = timedelta(minutes=1)
NODE_BACKOFF_MAX = timedelta(minutes=15)


@dataclass(frozen=True)
class Failure:
    """One node that counts as failed, and why.

    `serves`: the revision serves there as it did before; only another port could not be had. That says nothing against
    the revision: to take it away would be the only harm done.
    """

    name: str
    reason: str
    message: str = ""
    serves: bool = False

    def __str__(self) -> str:
        why = f"{self.reason}: {shortened(self.message, 320)}" if self.message else self.reason
        return f"{self.name} ({why})"


def failure_of(m: Member, rollout: RolloutStatus) -> Failure | None:
    """Why this node counts as failed for the rollout's revision; None: it does not.

    * It says Failed of its target, or is trying that again and does not serve yet.
    * It is offline, was told to activate in this rollout, and the soak of its wave is not over: going silent after the
      update may be the update's work. Offline before (not told yet) never counts.
    """
    a = m.assigned
    if a is None or a.target.revision != rollout.revision:
        return None
    if m.stage is Stage.FAILED and m.answer is not None:
        serves = m.answer.reason == reasons.PORT_UNAVAILABLE and m.running_digest == a.target.digest
        return Failure(m.name, m.answer.reason or "Failed", m.answer.message, serves)
    if a.retries and m.stage is not Stage.SERVING and m.stage is not Stage.FETCHED:
        said = m.reported
        known = said is not None and said.digest == a.target.digest and said.reason
        serves = m.running_digest == a.target.digest
        return (
            Failure(m.name, said.reason, said.message, serves)
            if said and known
            else Failure(m.name, reasons.RETRYING, serves=serves)
        )
    if m.is_active and not m.online and on_probation(m, rollout):
        return Failure(m.name, reasons.NODE_OFFLINE, "offline since it was told to switch")
    return None


def on_probation(m: Member, rollout: RolloutStatus) -> bool:
    """Whether it was told to activate in this rollout and its wave's soak is not over."""
    a = m.assigned
    if a is None or a.assigned_at is None or rollout.started_at is None or rollout.finished_at is not None:
        return False
    return a.assigned_at >= rollout.started_at and a.wave >= rollout.wave


def failures_of(pool: Iterable[Member], rollout: RolloutStatus) -> tuple[Failure, ...]:
    """All of them, by name."""
    return tuple(f for m in pool if (f := failure_of(m, rollout)) is not None)


def summary(failures: tuple[Failure, ...], limit: int = 5) -> str:
    """`n1 (GoldenMismatch: …), n2 (Offline) and 3 more`."""
    return listed([str(f) for f in failures], limit)


def retry_at(m: Member, now: datetime) -> datetime | None:
    """When a failed node is tried again; None: never (it has not failed, or was tried often enough)."""
    a, said = m.assigned, m.answer
    if a is None or said is None or m.stage is not Stage.FAILED or a.retries >= NODE_RETRIES:
        return None
    told = a.assigned_at or now
    # A node's clock may be wrong: its time counts only where it can be right.
    failed = said.changed_at if said.changed_at is not None and told <= said.changed_at <= now else told
    return failed + backoff(NODE_BACKOFF, a.retries + 1, NODE_BACKOFF_MAX)


@dataclass(frozen=True)
class Retried:
    """`wake_at`: when the next retry is due."""

    pool: Pool
    wake_at: datetime | None


def retry(observed: Observed, pool: Pool, goal: Goal, *, may_switch: bool, free: int) -> Retried:
    """Try failed nodes again that are due, online and, if they have to switch, allowed to. Uses up to `free` slots.

    One that has lost the runtime for what it was told to load is not.
    """
    out: list[Member] = []
    waits: list[datetime] = []
    for m in pool:
        due = retry_at(m, observed.now) if m.has(goal.revision) and goal.target(m) is not None else None
        if due is None or not m.online:
            out.append(m)
            continue
        needs_slot = m.is_active and not m.has_lost_its_model
        if due > observed.now:
            waits.append(due)
        elif not m.is_active or (may_switch and (free > 0 or not needs_slot)):
            free -= needs_slot
            m = again(observed, m, retries=(m.assigned.retries if m.assigned else 0) + 1)  # noqa: PLW2901
        out.append(m)
    return Retried(tuple(out), min(waits, default=None))
