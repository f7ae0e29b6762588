"""A rollout's part of a pass: who is let in, who is tried again, when the next wave begins, when it is enough.

The order matters: each step returns a pool in which some nodes are told something else, and the next one looks at
that. So a second pass over its own result finds nothing left to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edgemodel_api import reasons
from edgemodel_api.edgemodel_status import FAILED_NODES_LIMIT, EdgeModelStatus, RevisionResult, RolloutStatus
from edgemodel_api.quantities import counted

from . import admission, analysis, assign, history
from .assign import Goal
from .failures import NODE_RETRIES, Failure, failures_of, retry, summary
from .gates import next_waves
from .observed import Observed
from .outcome import Say
from .pool import Pool, Stage
from .slots import used_slots
from .stand import Line, Stand
from .text import shortened
from .windows import WindowState


@dataclass(frozen=True)
class Rolled:
    """What a pass made of a rollout.

    `waiting`: why the rollout does not go on by itself just now; None: it works, soaks, or is over. `soaked_at`: when
    the soak is over. `stalls_at`: from when on somebody has to look, if it waits for an analysis.
    """

    pool: Pool
    status: EdgeModelStatus
    failures: tuple[Failure, ...]
    waiting: Say | None = None
    soaked_at: datetime | None = None
    wakes: tuple[datetime | None, ...] = ()
    stalls_at: datetime | None = None


def roll(observed: Observed, status: EdgeModelStatus, pool: Pool, goal: Goal, window: WindowState) -> Rolled:
    """One pass of a rollout that is not rolled back (it may be after this)."""
    stand = Stand.of(observed, goal, window, len(pool))
    rollout = _current(status, stand)
    pool = tuple(admission.renewed(stand, m, rollout) for m in pool)
    if not window.open:
        pool = tuple(admission.withheld(stand, m) for m in pool)
    pool = tuple(assign.refresh(observed, m) if goal.is_assigned(m) else m for m in pool)
    pool = admission.served_anew(stand, pool)

    failures = failures_of(pool, rollout)
    if why := _too_many(stand, pool, rollout, failures):
        return Rolled(pool, _rolled_back(status, rollout, failures, why, stand.now), failures)
    final = not _stays(status, rollout)
    rollout = analysis.counted(observed.model, observed.measurements, rollout, stand.now, final=final)
    if why := _badly_measured(stand, status, rollout):
        back = _rolled_back(status, rollout, failures, why, stand.now, reason=reasons.ANALYSIS_FAILED)
        return Rolled(pool, back, failures)
    again = retry(observed, pool, goal, may_switch=window.open, free=stand.limit - used_slots(pool))
    pool, more = again.pool, True
    while more:
        rollout, waiting = next_waves(stand, pool, rollout)
        pool, more = admission.let_in(stand, pool, rollout)

    # Counted again: with the next wave, the probation of the last one is over.
    failures = failures_of(pool, rollout)
    status = _recorded(stand, status, pool, rollout, failures)
    soaked_at = None if rollout.finished_at is not None else stand.soaked_at(rollout)
    stalls_at = _stalls_at(stand, rollout)
    wakes = (again.wake_at, soaked_at, window.changes_at, stalls_at)
    return Rolled(pool, status, failures, waiting, soaked_at, wakes, stalls_at)


def _current(status: EdgeModelStatus, stand: Stand) -> RolloutStatus:
    rollout = status.rollout
    if rollout is None or rollout.revision != status.revision:
        rollout = RolloutStatus(revision=status.revision, started_at=stand.now)
    last = len(stand.counts) - 1
    return rollout.replace(waves=last + 1, wave=min(rollout.wave, last), desired=stand.counts[-1])


def _too_many(stand: Stand, pool: Pool, rollout: RolloutStatus, failures: tuple[Failure, ...]) -> str:
    """Why the revision has to go; empty: it may stay."""
    failures = tuple(f for f in failures if not f.serves)
    failed = f"{len(failures)} of {counted(len(pool), 'node')} failed in wave {rollout.wave + 1}/{rollout.waves}"
    if len(failures) > stand.allowed:
        return f"{failed}, more than the {stand.allowed} that maxFailures {stand.rollout.max_failures} allows"
    line, names = Line.of(pool, stand.goal, rollout), {f.name for f in failures}
    given_up = [
        m
        for m in pool
        if m.name in names and m.stage is Stage.FAILED and m.assigned and m.assigned.retries >= NODE_RETRIES
    ]
    if failures and len(given_up) == len(failures) and not line.inside and not line.line:
        return f"{failed}, each {NODE_RETRIES + 1} times, and no other can be reached"
    return ""


def _badly_measured(stand: Stand, status: EdgeModelStatus, rollout: RolloutStatus) -> str:
    """Why the analysis wants the revision to go; empty: it may stay."""
    return "" if _stays(status, rollout) else analysis.too_many(stand.observed.model, rollout)


def _stays(status: EdgeModelStatus, rollout: RolloutStatus) -> bool:
    """Once all waves are through, a revision without a predecessor stays: a model that answers is better than none."""
    return rollout.finished_at is not None and history.last_good(status.history, but=status.revision) is None


def _stalls_at(stand: Stand, rollout: RolloutStatus) -> datetime | None:
    """From when on somebody has to look at an analysis that stays without an answer; in the hold nobody has to."""
    if rollout.finished_at is not None:
        return None
    model = stand.observed.model
    known = (analysis.stalls_at(analysis.record_of(a, rollout)) for a in model.spec.rollout.analysis)
    return min((at for at in known if at is not None), default=None)


def _rolled_back(
    status: EdgeModelStatus,
    rollout: RolloutStatus,
    failures: tuple[Failure, ...],
    why: str,
    now: datetime,
    *,
    reason: str = reasons.TOO_MANY_FAILURES,
) -> EdgeModelStatus:
    good = history.last_good(status.history, but=status.revision)
    where = f"back to revision {good.revision}" if good is not None else "no earlier revision to go back to: removed"
    message = shortened("; ".join(part for part in (why, where, summary(failures)) if part))
    rollout = rollout.replace(
        rolled_back=True,
        reason=reason,
        message=message,
        failed_nodes=_names(failures),
        finished_at=now,
    )
    entry = history.entry_of(status, RevisionResult.ROLLED_BACK, rollout.reason, message, now)
    return status.replace(rollout=rollout, history=history.added(status.history, entry))


def _names(failures: tuple[Failure, ...]) -> tuple[str, ...]:
    return tuple(f.name for f in failures[:FAILED_NODES_LIMIT])


def _recorded(
    stand: Stand, status: EdgeModelStatus, pool: Pool, rollout: RolloutStatus, failures: tuple[Failure, ...]
) -> EdgeModelStatus:
    """The status with what the rollout came to; one that has just finished is the newest good revision."""
    inside = [m for m in pool if stand.goal.is_assigned(m) and m.is_active]
    before = status.rollout
    status = status.replace(rollout=rollout.replace(admitted=len(inside), failed_nodes=_names(failures)))
    if rollout.finished_at is None or (before is not None and before.finished_at is not None):
        return status
    serving = sum(m.stage is Stage.SERVING for m in inside)
    message = f"{serving}/{counted(len(pool), 'node')} updated in {counted(rollout.waves, 'wave')}"
    entry = history.entry_of(status, RevisionResult.ROLLED_OUT, reasons.ROLLED_OUT, message, stand.now)
    return status.replace(history=history.added(status.history, entry))
