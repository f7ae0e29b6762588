"""What to do next for one model or trial: desired spec + local state + facts + now → actions. Pure.

The rules, in the order in which they are asked:
1. What nobody assigned is removed (drained first).
2. What runs is supervised: a dead server is restarted with exponential back-off, one that another agent hosts is
   replaced by one of our own; three deaths in a row, or three failed rechecks in a row, of the assigned target put the
   node back to the previous variant at once.
3. The assigned target is fetched, checked and switched to; unless it failed at this attempt, or only Prefetch is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from edgemodel_api import reasons
from edgemodel_api.edgemodel import ServingMode
from edgemodel_api.edgenode import ArtifactTarget, AssignedModel, AssignedTrial, Swap

from .state import Deployed, Failure, ModelState, TrialState

#: Deaths in a row, each within STABLE_AFTER of its start, that mean "this variant does not run here".
CRASH_LIMIT = 3
#: A server that stayed up so long has lived: the next death counts as the first.
STABLE_AFTER = timedelta(seconds=60)
#: Failed rechecks in a row that put the node back.
RECHECK_LIMIT = 3
RESTART_BASE = timedelta(seconds=0.5)
RESTART_MAX = timedelta(seconds=60)
RETRY_BASE = timedelta(seconds=0.5)
RETRY_MAX = timedelta(seconds=60)


class Work(StrEnum):
    """What a worker does for a model or trial just now."""

    FETCH = "Fetch"
    CHECK = "Check"
    START = "Start"
    RECHECK = "Recheck"
    MEASURE = "Measure"


@dataclass(frozen=True)
class Facts:
    """What is so on this machine at the moment.

    `present`: manifest digests whose files are complete here. `work`, `digest`: the fetch or check under way, and
    for what. `upkeep`: the start or recheck of the running variant that is under way. `alive`: the running variant's
    server is up and answers (always True in Files mode). `quiet`: nothing is being timed on this node, so a check may
    begin. `recheck_due`: the running variant may be checked again. `borrowed`: what answers is another agent's process.
    """

    present: frozenset[str] = frozenset()
    work: Work | None = None
    digest: str = ""
    upkeep: Work | None = None
    alive: bool = False
    quiet: bool = True
    recheck_due: bool = False
    borrowed: bool = False


@dataclass(frozen=True)
class Fetch:
    """Download and expand a variant."""

    target: ArtifactTarget


@dataclass(frozen=True)
class Check:
    """Start the target beside what runs, check it, and switch to it if it passes."""

    target: ArtifactTarget


@dataclass(frozen=True)
class Restart:
    """Start the committed variant again; its checks were passed before."""

    deployed: Deployed


@dataclass(frozen=True)
class Replace:
    """Start a server of our own beside the borrowed one, and let it take over."""

    deployed: Deployed


@dataclass(frozen=True)
class Recheck:
    """Ask the serving process for the golden cases again."""


@dataclass(frozen=True)
class RollBack:
    """Go back to the previous variant, at once and without asking anybody."""

    failure: Failure


@dataclass(frozen=True)
class Cancel:
    """Stop the job under way: what it works for is no longer wanted."""


@dataclass(frozen=True)
class Remove:
    """Drain the server, forget the model."""


Action = Fetch | Check | Restart | Replace | Recheck | RollBack | Cancel | Remove


def doubled(base: timedelta, count: int, limit: timedelta) -> timedelta:
    """`base`·2^(count−1), at most `limit`; zero for count 0."""
    if count <= 0:
        return timedelta(0)
    return min(limit, base * (1 << min(count - 1, 20)))


def due(not_before: datetime, now: datetime, longest: timedelta) -> bool:
    """Whether a wait is over. A wait longer than it can be (the clock was put back) is over too."""
    return now >= not_before or not_before - now > longest * 2


def failed(desired: AssignedModel, state: ModelState) -> bool:
    """Whether the assigned target failed at this very attempt."""
    f = state.failure
    return f is not None and (f.digest, f.attempt) == (desired.target.digest, desired.attempt)


def switched(desired: AssignedModel, running: Deployed | None) -> bool:
    """Whether what runs is what is wanted: variant, mode and port."""
    if running is None or running.target.digest != desired.target.digest or running.mode is not desired.serving.mode:
        return False
    fixed = desired.serving.port
    return running.mode is ServingMode.FILES or fixed is None or fixed == running.port


def crash_looping(state: ModelState) -> bool:
    """Whether the running variant died CRASH_LIMIT times in a row."""
    return state.crashes >= CRASH_LIMIT


def _supervise(desired: AssignedModel, state: ModelState, facts: Facts, now: datetime) -> tuple[Action, ...]:
    running = state.running
    if running is None:
        return ()
    bad = verdict(desired, state, now)
    if bad is not None and state.previous is not None and state.previous.target.digest in facts.present:
        return (Cancel(), RollBack(bad)) if facts.work or facts.upkeep else (RollBack(bad),)
    if facts.upkeep is not None or running.target.digest not in facts.present or (facts.alive and not facts.borrowed):
        return ()
    wait = doubled(RESTART_BASE, state.crashes - 1, RESTART_MAX)
    if state.last_crash is None or due(state.last_crash + wait, now, RESTART_MAX):
        return (Replace(running),) if facts.alive else (Restart(running),)
    return ()


def verdict(desired: AssignedModel, state: ModelState, now: datetime) -> Failure | None:
    """Why the assigned target, which runs, is bad; None: it is not, or something else runs."""
    if state.running is None or state.running.target.digest != desired.target.digest:
        return None
    if crash_looping(state):
        reason = reasons.SERVER_CRASHED
        message = f"the server died {state.crashes} times in a row (limit {CRASH_LIMIT}); {state.trouble}"
    elif state.bad_rechecks >= RECHECK_LIMIT:
        reason = state.trouble_reason or reasons.GOLDEN_MISMATCH
        message = (
            f"{state.bad_rechecks} checks in a row failed while it served (limit {RECHECK_LIMIT}); {state.trouble}"
        )
    else:
        return None
    return Failure(
        digest=desired.target.digest,
        attempt=desired.attempt,
        reason=reason,
        message=message,
        at=now,
        measured=state.running.measured,
    )


def _may_fetch(state: ModelState | TrialState, now: datetime) -> bool:
    return state.retry is None or due(state.retry.not_before, now, RETRY_MAX)


def _fetch(desired: AssignedModel, state: ModelState, facts: Facts, now: datetime) -> tuple[Action, ...]:
    """The download that is needed now: files of the running variant that were damaged, and then the target's."""
    needed = []
    if state.running is not None and (not facts.alive or facts.borrowed):
        needed.append(state.running.target)
    if not failed(desired, state) and not switched(desired, state.running):
        needed.append(desired.target)
    needed = [t for t in needed if t.digest not in facts.present]
    if not needed or not _may_fetch(state, now):
        return ()
    last = state.retry.digest if state.retry else ""
    return (Fetch(next((t for t in needed if t.digest != last), needed[0])),)


def decide(desired: AssignedModel | None, state: ModelState, facts: Facts, now: datetime) -> tuple[Action, ...]:
    """The next actions for one model; () when there is nothing to do or something is under way."""
    if desired is None:
        return (Cancel(), Remove()) if facts.work or facts.upkeep else (Remove(),)
    return (*_supervise(desired, state, facts, now), *_progress(desired, state, facts, now))


def _progress(desired: AssignedModel, state: ModelState, facts: Facts, now: datetime) -> tuple[Action, ...]:
    target = desired.target
    done = switched(desired, state.running)
    previous = state.previous
    if verdict(desired, state, now) is not None and previous is not None and previous.target.digest in facts.present:
        return ()  # the roll back comes first
    if facts.work is not None:
        wanted = {target.digest} | ({state.running.target.digest} if state.running else set())
        check_is_vain = done or desired.swap is Swap.PREFETCH or facts.digest != target.digest
        obsolete = facts.digest not in wanted or (facts.work is Work.CHECK and check_is_vain)
        return (Cancel(),) if obsolete else ()
    fetch = _fetch(desired, state, facts, now)
    if fetch:
        return fetch
    if done:
        free = facts.alive and facts.quiet and facts.upkeep is None and not facts.borrowed
        return (Recheck(),) if free and facts.recheck_due else ()
    ready = target.digest in facts.present and not failed(desired, state)
    if ready and desired.swap is Swap.ACTIVATE and facts.quiet:
        return (Check(target),)
    return ()


@dataclass(frozen=True)
class Measure:
    """Measure one candidate beside the first."""

    target: ArtifactTarget


def decide_trial(desired: AssignedTrial, state: TrialState, facts: Facts, now: datetime) -> Fetch | Measure | None:
    """The next step of a trial: candidates in their order, each fetched and then measured; one at a time.

    The first candidate is the yardstick and must be present for every measurement, unless it failed itself.
    """
    have = {r.digest: r for r in state.results}
    missing = [c for c in desired.candidates if c.digest not in have]
    if facts.work is not None or not missing:
        return None
    first = desired.candidates[0].digest
    yardstick = () if first in have and not have[first].passed else (first,)
    for needed in dict.fromkeys((*yardstick, missing[0].digest)):
        if needed not in facts.present:
            target = next(c for c in desired.candidates if c.digest == needed)
            return Fetch(target) if _may_fetch(state, now) else None
    return Measure(missing[0]) if facts.quiet else None


def trial_done(desired: AssignedTrial, state: TrialState) -> bool:
    """Whether every candidate has a result."""
    return {c.digest for c in desired.candidates} <= {r.digest for r in state.results}
