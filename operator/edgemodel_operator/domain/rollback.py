"""Putting nodes back to the last good revision; and giving it to nodes that have nothing while a new one is not ready."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edgemodel_api.edgemodel_status import HistoryEntry

from . import assign
from .assign import Goal
from .failures import retry
from .observed import Observed
from .pool import Member, Pool, Stage
from .slots import slots


@dataclass(frozen=True)
class Settled:
    """`under_way`: names of nodes that can be reached and are not yet put back."""

    pool: Pool
    under_way: tuple[str, ...] = ()
    wake_at: datetime | None = None


def goal_of(entry: HistoryEntry | None) -> Goal | None:
    """Where to go back to; None: nowhere."""
    if entry is None or entry.artifact is None:
        return None
    return Goal.of(entry.revision, entry.artifact, entry.variants)


def roll_back(observed: Observed, pool: Pool, bad: str, good: Goal | None) -> Settled:
    """Every node gets the good revision; without one, the bad one is taken away.

    Windows do not count, as what is bad must go. A node that serves something else (the bad revision, most likely) takes
    a slot for its switch, so never more than `maxUnavailable` do so at once; one that serves nothing, or the good one
    already, is told at once; so is one that is offline: it reads that when it comes back.
    """
    if good is None:
        left = tuple(m.with_assigned(None) if m.has(bad) else m for m in pool)
        removing = tuple(m.name for m in left if m.online and m.assigned is None and _still_runs(m, bad))
        return Settled(left, removing)
    free = slots(observed.model.spec.rollout, len(pool)) - sum(_is_switching(m, good) for m in pool)
    again = retry(observed, pool, good, may_switch=True, free=max(0, free))
    out: list[Member] = []
    for m in again.pool:
        target = good.target(m)
        if target is None:
            # Nothing of the good revision fits this class: at least the bad one goes.
            out.append(m.with_assigned(None) if m.has(bad) else m)
        elif good.is_assigned(m) and m.is_active:
            out.append(m)
        elif m.online and m.running_digest not in ("", target.digest):
            if free > 0:
                free -= 1
                m = assign.put_back(observed, m, target)  # noqa: PLW2901
            out.append(m)
        else:
            out.append(assign.put_back(observed, m, target))
    pool = tuple(out)
    under_way = tuple(m.name for m in pool if m.online and (_is_switching(m, good) or m.has(bad)))
    return Settled(pool, under_way, again.wake_at)


def provide(observed: Observed, pool: Pool, good: Goal | None) -> Pool:
    """Nodes that have nothing get the last good revision: a new one may never come."""
    if good is None:
        return pool
    free = slots(observed.model.spec.rollout, len(pool)) - sum(_is_switching(m, good) for m in pool)
    out = []
    for m in pool:
        target = good.target(m)
        if m.assigned is None and m.online and target is not None and free > 0:
            free -= 1
            m = assign.put_back(observed, m, target)  # noqa: PLW2901
        out.append(m)
    return tuple(out)


def _is_switching(m: Member, good: Goal) -> bool:
    return m.online and m.is_active and m.has(good.revision) and m.stage is Stage.SWITCHING


def _still_runs(m: Member, bad: str) -> bool:
    return m.reported is not None and m.reported.revision == bad
