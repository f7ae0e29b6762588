"""`plan`: what is so → what shall be done, the status to write, and when to ask again. Pure and total."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edgemodel_api import reasons
from edgemodel_api.edgemodel_status import EdgeModelStatus, RolloutStatus
from edgemodel_api.quantities import counted

from .actions import Action, Assign, AssignTrial, Event, Unassign, UnassignTrial
from .analysis import Probe
from .carry import carried_over
from .conditions import conditions_of
from .counts import node_counts
from .events import events_of
from .observed import Observed
from .outcome import Flag, Outcome, Say
from .phases import decide
from .pool import Member, Pool, goes_offline_at, members, outsiders
from .resolve import wanted_revision
from .text import listed


@dataclass(frozen=True)
class Plan:
    """What a pass came to.

    Carry out a StartJob first, then write `status`, then carry out the rest: a rollback that was begun is remembered
    before it touches the nodes from which it was decided. Whatever is cut short, the next plan goes on from there.
    Nothing changes until an object does, or until `wake_at`. An adapter must see its own writes in its next pass.
    `probes` are what shall be measured from now on, instead of what earlier plans asked for.
    """

    actions: tuple[Action, ...]
    status: EdgeModelStatus
    events: tuple[Event, ...]
    wake_at: datetime | None
    probes: tuple[Probe, ...] = ()


def plan(observed: Observed) -> Plan:
    """The next pass. With its actions and status applied, planning again at the same time gives no actions and this status."""
    model, now = observed.model, observed.now
    pool = members(observed)
    others = outsiders(observed, pool)
    if model.metadata.deletion_timestamp is not None:
        outcome = _terminating(observed, pool, others)
    else:
        revision, platforms = wanted_revision(model, observed.nodes)
        classes = frozenset(m.hardware_class for m in pool if m.hardware_class is not None and m.platform in platforms)
        status = carried_over(model, revision, platforms, classes=classes, pool_size=len(pool), now=now)
        outcome = decide(observed, status, pool)
    status = outcome.status
    status = status.replace(
        nodes=node_counts(outcome.pool, status.revision, status.rollout),
        conditions=conditions_of(model.status.conditions, outcome, model.metadata.generation, now),
        rollout=_with_progress(status.rollout),
    )
    actions: list[Action] = [] if outcome.start is None else [outcome.start]
    for before, after in zip(pool, outcome.pool, strict=True):
        actions += _differences(observed, before, after)
    for m in others:
        actions += _differences(observed, m, m.with_assigned(None).with_trial(None))
    wakes = [w for w in (*outcome.wakes, goes_offline_at(pool)) if w and w > now]
    return Plan(tuple(actions), status, events_of(model.status, status), min(wakes, default=None), outcome.probes)


def _with_progress(rollout: RolloutStatus | None) -> RolloutStatus | None:
    if rollout is None:
        return None
    begun = rollout.wave + 1 if rollout.wave_started_at is not None else 0
    return rollout.replace(progress=f"{begun}/{rollout.waves}")


def _differences(observed: Observed, before: Member, after: Member) -> list[Action]:
    meta, actions = observed.model.metadata, list[Action]()
    if after.assigned != before.assigned:
        if after.assigned is None:
            actions.append(Unassign(after.name, meta.namespace, meta.name))
        else:
            actions.append(Assign(after.name, after.assigned))
    if after.trial != before.trial:
        if after.trial is None:
            actions.append(UnassignTrial(after.name, meta.namespace, meta.name))
        else:
            actions.append(AssignTrial(after.name, after.trial))
    return actions


def _terminating(observed: Observed, pool: Pool, others: Pool) -> Outcome:
    """Everything is taken from the nodes; who still serves it is told."""
    left = [m.name for m in (*pool, *others) if m.online and m.reported is not None]
    text = f"{counted(len(left), 'node')} that can be reached still have it{f': {listed(left)}' if left else ''}"
    say = Say(reasons.TERMINATING, text)
    gone = tuple(m.with_assigned(None).with_trial(None) for m in pool)
    status = observed.model.status.replace(observed_generation=observed.model.metadata.generation)
    return Outcome(gone, status, ready=Flag(False, say), doing=say)


__all__ = ["Plan", "plan", "wanted_revision"]
