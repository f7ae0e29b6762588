"""A rollout's part of a pass: who is let in, who is tried again, when the next wave begins, when it is enough.

The order matters: each step returns a pool in which some nodes are told something else, and the next one looks at
that. So a second pass over its own result finds nothing left to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edgemodel_api import reasons
from edgemodel_api.edgemodel import Approval
from edgemodel_api.edgemodel_status import (
    ANNOTATION_APPROVED,
    FAILED_NODES_LIMIT,
    EdgeModelStatus,
    RevisionResult,
    RolloutStatus,
)
from edgemodel_api.edgenode import Swap
from edgemodel_api.quantities import parse_duration

from . import assign, history
from .assign import Goal
from .failures import Failure, failure_of, failures_of, retry, summary
from .observed import Observed
from .outcome import Say
from .pool import Member, Pool, Stage
from .slots import slots, takes_slot, used_slots
from .text import clock, counted, shortened
from .waves import limit_of, wave_counts
from .windows import WindowState


@dataclass(frozen=True)
class Rolled:
    """`waiting`: why the rollout does not go on by itself just now; None: it works, soaks, or is over."""

    pool: Pool
    status: EdgeModelStatus
    waiting: Say | None
    failures: tuple[Failure, ...]
    wakes: tuple[datetime | None, ...] = ()
    rolled_back: bool = False


def roll(observed: Observed, status: EdgeModelStatus, pool: Pool, goal: Goal, window: WindowState) -> Rolled:
    """One pass of a rollout that is not rolled back (it may be after this)."""
    spec, now = observed.model.spec.rollout, observed.now
    counts = wave_counts(spec, len(pool))
    rollout = _current(status, counts, now)
    limit = slots(spec, len(pool))

    pool = tuple(_renewed(observed, m, goal, rollout) for m in pool)
    if not window.open:
        pool = tuple(_withheld(observed, m, goal) for m in pool)
    pool = tuple(assign.refresh(observed, m) if goal.is_assigned(m) else m for m in pool)
    pool = _served_anew(observed, pool, goal, may_switch=window.open, limit=limit)
    failures = failures_of(pool, rollout)
    allowed = limit_of(spec.max_failures, len(pool), at_least=0, round_up=False)
    if len(failures) > allowed:
        return _rolled_back(observed, status, pool, rollout, failures, allowed)
    again = retry(observed, pool, goal.revision, may_switch=window.open, free=limit - used_slots(pool))
    pool = again.pool

    rollout, waiting = _next_waves(observed, pool, goal, rollout, counts, window)
    pool = _let_in(observed, pool, goal, rollout, counts, window, limit)
    status, soaked_at = _judged(observed, status, pool, goal, rollout, counts, failures)
    wakes = (again.wake_at, soaked_at, window.changes_at)
    return Rolled(pool, status, waiting, failures, wakes)


def _current(status: EdgeModelStatus, counts: tuple[int, ...], now: datetime) -> RolloutStatus:
    rollout = status.rollout
    if rollout is None or rollout.revision != status.revision:
        rollout = RolloutStatus(revision=status.revision, started_at=now)
    last = len(counts) - 1
    return rollout.replace(waves=len(counts), wave=min(rollout.wave, last), desired=counts[-1])


def _renewed(observed: Observed, m: Member, goal: Goal, rollout: RolloutStatus) -> Member:
    """What failed in an earlier rollout of the same revision gets a new chance in this one, in its wave."""
    a = m.assigned
    if a is None or not goal.is_assigned(m) or m.stage is Stage.SERVING:
        return m
    if a.assigned_at is not None and rollout.started_at is not None and a.assigned_at >= rollout.started_at:
        return m
    m = assign.withhold(observed, m)
    return assign.again(observed, m, retries=0) if m.stage is Stage.FAILED else m


def _withheld(observed: Observed, m: Member, goal: Goal) -> Member:
    """Outside of the windows nobody switches: who has not yet goes back to fetching.

    One that is offline keeps what it was told: whether it has switched is not known, and it counts as failed.
    """
    switching = goal.is_assigned(m) and m.is_active and m.online and m.stage is Stage.SWITCHING
    return assign.withhold(observed, m) if switching and not m.has_lost_its_model else m


def _served_anew(observed: Observed, pool: Pool, goal: Goal, *, may_switch: bool, limit: int) -> Pool:
    """Another serving mode or port: a switch for those that serve, within the slots; for the rest just words."""
    serving = observed.model.spec.serving
    free = limit - used_slots(pool)
    out = []
    for m in pool:
        a = m.assigned
        if a is None or not goal.is_assigned(m) or a.serving == serving:
            out.append(m)
        elif not m.is_active or m.stage is Stage.FAILED:
            changed = m.with_assigned(a.replace(serving=serving))
            out.append(assign.again(observed, changed, retries=0) if m.stage is Stage.FAILED else changed)
        elif m.online and may_switch and (free > 0 or takes_slot(m)):
            free -= not takes_slot(m)
            changed = m.with_assigned(a.replace(serving=serving, replaces=m.running_digest))
            out.append(assign.again(observed, changed, retries=0))
        else:
            out.append(m)
    return tuple(out)


# --- waves


@dataclass(frozen=True)
class _Line:
    """Who is in and who stands in line, in the order of names.

    `inside`: told to activate, and not failed. `line`: could be told: online, its variant is known, not failed.
    """

    inside: tuple[Member, ...]
    line: tuple[Member, ...]

    @classmethod
    def of(cls, pool: Pool, goal: Goal, rollout: RolloutStatus) -> _Line:
        good = [m for m in pool if failure_of(m, rollout) is None and goal.target(m) is not None]
        is_in = {m.name for m in good if goal.is_assigned(m) and m.is_active}
        return cls(
            tuple(m for m in good if m.name in is_in), tuple(m for m in good if m.name not in is_in and m.online)
        )

    def room(self, quota: int) -> int:
        return max(0, quota - len(self.inside))

    def settled(self, quota: int) -> bool:
        """Whether the wave is full, or everybody that could be in is, and all that can be reached serve."""
        full = self.room(quota) == 0 or not self.line
        return full and all(m.stage is Stage.SERVING for m in self.inside if m.online)


def _quota(rollout: RolloutStatus, counts: tuple[int, ...]) -> int:
    if rollout.finished_at is not None:
        return counts[-1]
    return counts[rollout.wave] if rollout.wave_started_at is not None else 0


def _next_waves(
    observed: Observed,
    pool: Pool,
    goal: Goal,
    rollout: RolloutStatus,
    counts: tuple[int, ...],
    window: WindowState,
) -> tuple[RolloutStatus, Say | None]:
    """Begin the waves that may begin. A wave in which there is nobody left to let in is over as soon as it began."""
    if rollout.finished_at is not None:
        return rollout, None
    line = _Line.of(pool, goal, rollout)
    while True:
        if rollout.wave_started_at is None:
            upcoming = 0
            if not line.inside and not line.line:
                return rollout, _nobody(pool, goal)
        else:
            rollout = _soaking(rollout, line, counts, observed.now)
            upcoming = rollout.wave + 1
            soaked = _soaked_at(observed, rollout)
            if soaked is None or observed.now < soaked:
                return rollout, None
            if upcoming == len(counts):
                return rollout.replace(finished_at=observed.now), None
            if not line.settled(_quota(rollout, counts)):
                return rollout, None
        gate = _gate(observed, rollout.revision, upcoming, len(counts), window)
        if gate is not None:
            return rollout, gate
        rollout = rollout.replace(wave=upcoming, wave_started_at=observed.now, wave_complete_at=None)


def _soaking(rollout: RolloutStatus, line: _Line, counts: tuple[int, ...], now: datetime) -> RolloutStatus:
    if rollout.wave_complete_at is None and line.settled(_quota(rollout, counts)) and _anybody_serves(line, rollout):
        return rollout.replace(wave_complete_at=now)
    return rollout


def _anybody_serves(line: _Line, rollout: RolloutStatus) -> bool:
    """A first wave in which nobody serves has shown nothing; a later one may have had nobody left to let in."""
    return rollout.wave > 0 or any(m.stage is Stage.SERVING for m in line.inside)


def _soaked_at(observed: Observed, rollout: RolloutStatus) -> datetime | None:
    if rollout.wave_complete_at is None:
        return None
    return rollout.wave_complete_at + parse_duration(observed.model.spec.rollout.waves[rollout.wave].soak)


def approved_wave(observed: Observed, revision: str) -> int:
    """Up to which wave, counted from 1, the annotation approves this revision; 0: none.

    `edgemodel.dev/approved: "3f0c…/2"` lets the first two waves of revision 3f0c… begin.
    """
    text = observed.model.metadata.annotations.get(ANNOTATION_APPROVED, "")
    name, _, wave = text.partition("/")
    return int(wave) if name == revision and wave.isascii() and wave.isdigit() and len(wave) < 6 else 0


def _gate(observed: Observed, revision: str, wave: int, waves: int, window: WindowState) -> Say | None:
    """Why this wave (0-based) may not begin now."""
    which = f"wave {wave + 1}/{waves}"
    if observed.model.spec.rollout.approval is Approval.MANUAL and approved_wave(observed, revision) < wave + 1:
        return Say(
            reasons.WAITING_FOR_APPROVAL,
            f"{which} waits for a person: set the annotation {ANNOTATION_APPROVED}={revision}/{wave + 1}",
        )
    return None if window.open else Say(reasons.WAITING_FOR_WINDOW, f"{which} waits: {window_text(window)}")


def window_text(window: WindowState) -> str:
    """When the next window opens."""
    if window.changes_at is None:
        return "none of spec.rollout.windows ever opens"
    return f"the next window opens at {clock(window.changes_at)}"


def _nobody(pool: Pool, goal: Goal) -> Say:
    offline = sum(not m.online for m in pool)
    unfit = sum(m.online and goal.target(m) is None for m in pool)
    return Say(
        reasons.WAITING_FOR_NODES,
        f"none of {counted(len(pool), 'node')} can be let in: {offline} offline, {unfit} without a fitting variant",
    )


# --- letting in


def _let_in(
    observed: Observed,
    pool: Pool,
    goal: Goal,
    rollout: RolloutStatus,
    counts: tuple[int, ...],
    window: WindowState,
    limit: int,
) -> Pool:
    """Nodes of this wave activate as slots allow, once they have the bytes; they and the next wave's fetch ahead."""
    line = _Line.of(pool, goal, rollout)
    room = line.room(_quota(rollout, counts))
    begun = rollout.wave_started_at is not None
    following = rollout.wave + 1 if begun else 0
    ahead = counts[following] - (counts[rollout.wave] if begun else 0) if following < len(counts) else 0
    free = limit - used_slots(pool)
    changed: dict[str, Member] = {}
    for place, m in enumerate(line.line[: room + ahead]):
        target = goal.target(m)
        if target is None:
            continue
        if not goal.is_assigned(m):
            m = changed[m.name] = assign.fetch(observed, m, target)  # noqa: PLW2901
        if place >= room:
            continue
        if m.stage is Stage.SERVING:
            # The same bytes under another revision: nothing to switch.
            changed[m.name] = assign.activate(observed, m, target, rollout.wave)
        elif m.stage is Stage.FETCHED and window.open and free > 0:
            free -= 1
            changed[m.name] = assign.activate(observed, m, target, rollout.wave)
    return tuple(changed.get(m.name, m) for m in pool)


# --- judging


def _judged(
    observed: Observed,
    status: EdgeModelStatus,
    pool: Pool,
    goal: Goal,
    rollout: RolloutStatus,
    counts: tuple[int, ...],
    failures: tuple[Failure, ...],
) -> tuple[EdgeModelStatus, datetime | None]:
    """The status with what the rollout came to, and when its soak is over."""
    inside = [m for m in pool if goal.is_assigned(m) and m.assigned is not None and m.assigned.swap is Swap.ACTIVATE]
    rollout = rollout.replace(admitted=len(inside), failed_nodes=tuple(f.name for f in failures[:FAILED_NODES_LIMIT]))
    before = status.rollout
    newly_finished = rollout.finished_at is not None and (before is None or before.finished_at is None)
    status = status.replace(rollout=rollout)
    if newly_finished:
        serving = sum(m.stage is Stage.SERVING for m in inside)
        message = f"{serving}/{counted(len(pool), 'node')} updated in {counted(len(counts), 'wave')}"
        entry = history.entry_of(status, RevisionResult.ROLLED_OUT, reasons.ROLLED_OUT, message, observed.now)
        status = status.replace(history=history.added(status.history, entry))
    return status, None if rollout.finished_at is not None else _soaked_at(observed, rollout)


def _rolled_back(
    observed: Observed,
    status: EdgeModelStatus,
    pool: Pool,
    rollout: RolloutStatus,
    failures: tuple[Failure, ...],
    allowed: int,
) -> Rolled:
    good = history.last_good(status.history, but=status.revision)
    where = f"back to revision {good.revision}" if good is not None else "no earlier revision to go back to: removed"
    limit = observed.model.spec.rollout.max_failures
    message = shortened(
        f"{len(failures)} of {counted(len(pool), 'node')} failed in wave {rollout.wave + 1}/{rollout.waves}, more than"
        f" the {allowed} that maxFailures {limit} allows; {where}; {summary(failures)}"
    )
    rollout = rollout.replace(
        rolled_back=True,
        reason=reasons.TOO_MANY_FAILURES,
        message=message,
        failed_nodes=tuple(f.name for f in failures[:FAILED_NODES_LIMIT]),
        finished_at=observed.now,
    )
    status = status.replace(rollout=rollout)
    entry = history.entry_of(status, RevisionResult.ROLLED_BACK, rollout.reason, message, observed.now)
    status = status.replace(history=history.added(status.history, entry))
    return Rolled(pool, status, None, failures, rolled_back=True)
