"""The phases of a revision, in their order: pool → Job → trials → waves; the first that is not over decides the pass."""

from __future__ import annotations

import dataclasses

from edgemodel_api import reasons
from edgemodel_api.edgemodel_status import EdgeModelStatus
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted

from . import analysis, rollback
from .analysis_text import analyzed
from .assign import Goal
from .counts import in_numbers, node_counts, quorum_of, serving_goal, waiting_on, where
from .failures import summary
from .gates import window_text
from .history import last_good
from .job import Compressed, compress
from .observed import Observed
from .outcome import Flag, Outcome, Say
from .pool import Pool
from .resolve import usable_platforms, would_help
from .rollout import Rolled, roll
from .runnable import unable
from .text import clock, listed, shortened
from .trial import Tried, is_open, trials
from .windows import WindowState, window_state


def decide(observed: Observed, status: EdgeModelStatus, pool: Pool) -> Outcome:
    """One pass over a model that is not being deleted. `status` is carried over to the wanted revision."""
    pool = tuple(m if m.trial is None or m.trial.revision == status.revision else m.with_trial(None) for m in pool)
    wanted = observed.model.spec.rollout.analysis
    if wanted and not observed.settings.can_measure:
        message = (
            f"spec.rollout.analysis ({listed([a.name for a in wanted])}) needs a Prometheus: start the operator with"
            " --prometheus-url (edgemodel run has none), or remove the analysis; nothing is changed until then"
        )
        return _held(observed, status, pool, Say(reasons.NOT_SUPPORTED, message))
    try:
        analysis.check(observed.model)
        window = window_state(observed.model.spec.rollout.windows, observed.now)
    except InputError as error:
        return _held(observed, status, pool, Say(reasons.INVALID_INPUT, error.message))
    if not usable_platforms(observed.model):
        message = (
            f"no node has a runtime for {', '.join(observed.model.spec.formats)}, the only one of spec.formats: add ONNX or"
            " TFLite, or use edgemodel compress where nothing is to be rolled out"
        )
        return _held(observed, status, pool, Say(reasons.NOT_SUPPORTED, message))
    if not pool:
        return _waiting(pool, status, Say(reasons.NO_NODES, _no_nodes(observed)))
    if not status.revision:
        return _waiting(pool, status, Say(reasons.NO_PLATFORM, _no_platform(observed, pool)))
    job = compress(observed, status, status.platforms)
    if not job.done:
        return _compressing(observed, pool, job)
    return _after_compression(observed, job.status, pool, Flag(True, Say(job.reason, job.message)), window)


def _no_nodes(observed: Observed) -> str:
    if not observed.nodes:
        return "there are no EdgeNodes yet: a node that is labelled for EdgeModel gets an agent, and that makes one"
    return "spec.nodePool.selector selects none of the EdgeNodes: kubectl get edgenodes --show-labels"


def _after_compression(
    observed: Observed, status: EdgeModelStatus, pool: Pool, compressed: Flag, window: WindowState
) -> Outcome:
    if status.rollout is not None and status.rollout.rolled_back:
        return _back(observed, status, pool, compressed)
    tried = trials(observed, status, pool)
    pool, status = tried.pool, tried.status
    trialed = _trialed(tried)
    goal = Goal.of(status.revision, status.artifact, status.variants) if status.artifact is not None else None
    awaited = [p for p in tried.pending if p.due > observed.now]
    if goal is None or (status.rollout is None and (awaited or not goal.by_class)):
        return _trialing(observed, tried, compressed, trialed)
    rolled = roll(observed, status, pool, goal, window)
    if rolled.status.rollout is not None and rolled.status.rollout.rolled_back:
        return _back(observed, rolled.status, rolled.pool, compressed)
    rolled = dataclasses.replace(rolled, wakes=(*rolled.wakes, *(p.due for p in tried.pending)))
    outcome = _rolling(observed, rolled, goal, window, compressed=compressed, trialed=trialed)
    if rolled.status.rollout is None:
        return outcome
    probes = analysis.probes_of(observed.model, rolled.status.rollout)
    return dataclasses.replace(outcome, analyzed=analyzed(observed.model, rolled.status.rollout), probes=probes)


# --- before the rollout


def _no_platform(observed: Observed, pool: Pool) -> str:
    silent = [m.name for m in pool if m.platform is None]
    other = [f"{m.name} ({m.platform})" for m in pool if m.platform is not None]
    formats = ", ".join(observed.model.spec.formats)
    return (
        f"none of {counted(len(pool), 'node')} has a platform for {formats} ({', '.join(sorted(usable_platforms(observed.model)))}):"
        f" {len(silent)} never reported{_which(silent)}, {len(other)} with another one{_which(other)}"
        + _remedy(would_help(observed.model, [m.platform or "" for m in pool]))
    )


def _remedy(text: str) -> str:
    return f"; {text}" if text else ""


def _which(names: list[str]) -> str:
    return f" ({listed(names)})" if names else ""


def _waiting(pool: Pool, status: EdgeModelStatus, say: Say) -> Outcome:
    return Outcome(pool, status, ready=Flag(False, say), doing=say)


def _held(observed: Observed, status: EdgeModelStatus, pool: Pool, say: Say) -> Outcome:
    """The spec cannot be followed: what is assigned stays as it is."""
    return Outcome(pool, status, ready=_meanwhile(status, pool, say), stalled=say)


def _good(status: EdgeModelStatus) -> Goal | None:
    return rollback.goal_of(last_good(status.history, but=status.revision))


def _meanwhile(status: EdgeModelStatus, pool: Pool, say: Say) -> Flag:
    """Ready while the wanted revision does not come: whether what was rolled out last goes on serving."""
    rollout = status.rollout
    if rollout is not None and rollout.finished_at is not None and not rollout.rolled_back and status.artifact:
        goal: Goal | None = Goal.of(status.revision, status.artifact, status.variants)
    else:
        goal = _good(status)
    if goal is None:
        return Flag(False, say)
    serving, quorum = serving_goal(pool, goal), quorum_of(pool, goal, len(pool))
    text = f"revision {goal.revision} goes on serving on {serving}/{counted(len(pool), 'node')}; {say.message}"
    return Flag(serving >= quorum, Say(say.reason, shortened(text)))


def _compressing(observed: Observed, pool: Pool, job: Compressed) -> Outcome:
    say = Say(job.reason, job.message)
    pool = rollback.provide(observed, pool, _good(job.status))
    return Outcome(
        pool,
        job.status,
        ready=_meanwhile(job.status, pool, say) if job.stalled else Flag(False, say),
        compressed=Flag(False, say),
        doing=None if job.stalled else say,
        stalled=say if job.stalled else None,
        start=job.start,
        wakes=(job.wake_at,),
    )


def _trialed(tried: Tried) -> Flag | None:
    if tried.pending:
        under_way = listed([str(p) for p in tried.pending], 7)
        return Flag(
            False,
            Say(reasons.TRIALING, f"{counted(len(tried.pending), 'hardware class', 'hardware classes')}: {under_way}"),
        )
    decided = [v for v in tried.status.variants if not is_open(v)]
    refused = [v for v in decided if not v.accepted]
    if refused:
        return Flag(False, Say(reasons.TRIAL_FAILED, shortened("; ".join(v.message for v in refused))))
    if not decided:
        return None
    # What the history gives back was measured earlier, and has no message.
    said = (f"{v.hardware_class}: {v.message or f'{v.name}, as measured earlier on {v.measured_on}'}" for v in decided)
    return Flag(True, Say(reasons.TRIAL_SUCCEEDED, shortened("; ".join(said))))


def _trialing(observed: Observed, tried: Tried, compressed: Flag, trialed: Flag | None) -> Outcome:
    status = tried.status
    pool = rollback.provide(observed, tried.pool, _good(status))
    if trialed is not None and trialed.say.reason == reasons.TRIAL_FAILED and not tried.pending:
        stalled, doing = trialed.say, None
    else:
        offline = sum(not m.online for m in pool)
        nobody = Say(
            reasons.WAITING_FOR_NODES,
            f"no node can measure the candidates: {offline} of {counted(len(pool), 'node')} offline",
        )
        stalled, doing = None, trialed.say if trialed is not None else nobody
    ready = _meanwhile(status, pool, stalled) if stalled is not None else Flag(False, doing or compressed.say)
    wakes = tuple(p.due for p in tried.pending)
    return Outcome(pool, status, ready, compressed, trialed, None, doing, stalled, wakes=wakes)


# --- the rollout


def _rolling(
    observed: Observed, rolled: Rolled, goal: Goal, window: WindowState, *, compressed: Flag, trialed: Flag | None
) -> Outcome:
    pool, status, rollout = rolled.pool, rolled.status, rolled.status.rollout
    if rollout is None:
        raise AssertionError("a rollout that has not begun")
    text = _numbers(observed, rolled, goal)
    wakes = rolled.wakes
    if rollout.finished_at is None:
        say = _progress(observed, rolled, goal, window, text)
        unanswered = rolled.stalls_at is not None and rolled.stalls_at <= observed.now
        # As long as anything else is under way, the analysis is not what everything waits for.
        stalls = unanswered and say.reason == reasons.ANALYSIS_INCONCLUSIVE
        doing, stalled = (None, say) if stalls else (say, None)
        return Outcome(
            pool, status, Flag(False, say), compressed, trialed, Flag(False, say), doing, stalled, wakes=wakes
        )
    counts = node_counts(pool, status.revision, rollout)
    everybody = counts.updated >= rollout.desired
    reason = reasons.ROLLED_OUT_TO_ALL if everybody else reasons.ROLLED_OUT_TO_QUORUM
    rolled_out = Flag(True, Say(reason, text))
    serving, quorum = serving_goal(pool, goal), quorum_of(pool, goal, rollout.desired)
    if serving >= quorum:
        return Outcome(pool, status, Flag(True, Say(reason, text)), compressed, trialed, rolled_out, wakes=wakes)
    short = Say(
        reasons.WAITING_FOR_NODES,
        f"{serving} of the {counted(quorum, 'node')} that are needed can be reached and serve; {text}",
    )
    return Outcome(pool, status, Flag(False, short), compressed, trialed, rolled_out, short, wakes=wakes)


def _numbers(observed: Observed, rolled: Rolled, goal: Goal) -> str:
    pool, status = rolled.pool, rolled.status
    text = in_numbers(node_counts(pool, status.revision, status.rollout))
    unfit = [m for m in pool if m.online and goal.meant_for(m) is None]
    if unfit:
        why = would_help(observed.model, [m.platform or "" for m in unfit])
        text += f", {len(unfit)} without a fitting variant" + (f" ({why})" if why else "")
    text += f", {without}" if (without := unable(pool, goal)) else ""
    return shortened(text + (f"; failed: {summary(rolled.failures)}" if rolled.failures else ""), 700)


def _progress(observed: Observed, rolled: Rolled, goal: Goal, window: WindowState, text: str) -> Say:
    status, rollout = rolled.status, rolled.status.rollout
    if rolled.waiting is not None:
        return Say(rolled.waiting.reason, shortened(f"{rolled.waiting.message}; {text}"))
    text = f"{text}, {where(status)}"
    waiting = waiting_on(observed, rolled.pool, goal)
    if rollout is not None and rollout.wave_complete_at is not None:
        until = rolled.soaked_at
        soaking = f", soaking until {clock(until)}" if until is not None and until > observed.now else ""
        return Say(reasons.SOAKING, shortened(f"{text}{soaking}{f'; {waiting}' if waiting else ''}"))
    if not window.open:
        return Say(reasons.WAITING_FOR_WINDOW, shortened(f"{text}; {window_text(window)}"))
    return Say(reasons.ROLLING_OUT, shortened(f"{text}{f'; {waiting}' if waiting else ''}"))


# --- after it went wrong


def _back(observed: Observed, status: EdgeModelStatus, pool: Pool, compressed: Flag) -> Outcome:
    rollout = status.rollout
    if rollout is None:
        raise AssertionError("nothing to roll back")
    good = _good(status)
    settled = rollback.roll_back(observed, tuple(m.with_trial(None) for m in pool), status.revision, good)
    trialed = _trialed(Tried(settled.pool, status, ()))
    said = Say(reasons.ROLLED_BACK, rollout.message)
    measured = Flag(False, Say(rollout.reason, rollout.message)) if rollout.reason == reasons.ANALYSIS_FAILED else None
    doing = None
    if settled.under_way:
        left = f"{counted(len(settled.under_way), 'node is', 'nodes are')} not yet put back: {listed(list(settled.under_way))}"
        doing = Say(reasons.ROLLING_BACK, f"{left}; {shortened(rollout.message, 800)}")
    if good is None:
        ready = Flag(False, said)
    else:
        serving, quorum = serving_goal(settled.pool, good), quorum_of(settled.pool, good, len(pool))
        text = f"{serving}/{counted(len(pool), 'node')} serve revision {good.revision}; {rollout.message}"
        ready = Flag(serving >= quorum, Say(reasons.ROLLED_BACK, shortened(text)))
    wakes = (settled.wake_at,)
    rolled_out = Flag(False, said)
    return Outcome(
        settled.pool, status, ready, compressed, trialed, rolled_out, doing, said, wakes=wakes, analyzed=measured
    )
