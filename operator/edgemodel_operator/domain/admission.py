"""Which nodes are told what in this pass of a rollout: to fetch ahead, to switch, or to wait."""

from __future__ import annotations

from edgemodel_api.edgemodel_status import RolloutStatus

from . import assign
from .pool import Member, Pool, Stage
from .slots import takes_slot, used_slots
from .stand import Line, Stand


def renewed(stand: Stand, m: Member, rollout: RolloutStatus) -> Member:
    """What failed before this rollout began, or before somebody asked for another try, gets a new chance.

    What an earlier rollout of the same revision left halfway waits for its wave in this one.
    """
    a = m.assigned
    if a is None or not stand.goal.is_assigned(m) or m.stage is Stage.SERVING or a.assigned_at is None:
        return m
    since = max((t for t in (rollout.started_at, rollout.retried_at) if t is not None), default=a.assigned_at)
    if a.assigned_at < since and (m.stage is Stage.FAILED or a.retries > 0):
        return assign.anew(stand.observed, m)
    halfway = rollout.started_at is not None and a.assigned_at < rollout.started_at
    return assign.withhold(stand.observed, m) if halfway else m


def withheld(stand: Stand, m: Member) -> Member:
    """Outside of the windows nobody switches: who has not yet goes back to fetching.

    One that is offline keeps what it was told: whether it has switched is not known, and it counts as failed.
    """
    switching = stand.goal.is_assigned(m) and m.is_active and m.online and m.stage is Stage.SWITCHING
    return assign.withhold(stand.observed, m) if switching else m


def served_anew(stand: Stand, pool: Pool) -> Pool:
    """Another serving mode or port: a switch for those that serve, within the slots; for the rest just words."""
    serving = stand.observed.model.spec.serving
    free = stand.limit - used_slots(pool)
    out = []
    for m in pool:
        a = m.assigned
        if a is None or not stand.goal.is_assigned(m) or a.serving == serving:
            out.append(m)
        elif not m.is_active or m.stage is Stage.FAILED:
            changed = m.with_assigned(a.replace(serving=serving))
            out.append(assign.anew(stand.observed, changed) if m.stage is Stage.FAILED else changed)
        elif m.online and stand.window.open and (free > 0 or takes_slot(m)):
            free -= not takes_slot(m)
            changed = m.with_assigned(a.replace(serving=serving, replaces=m.served_before))
            out.append(assign.again(stand.observed, changed, retries=0))
        else:
            out.append(m)
    return tuple(out)


def let_in(stand: Stand, pool: Pool, rollout: RolloutStatus) -> Pool:
    """Nodes of this wave activate as slots allow, once they have the bytes; they and the next wave's fetch ahead."""
    line = Line.of(pool, stand.goal, rollout)
    room = line.room(stand.quota(rollout))
    begun = rollout.wave_started_at is not None
    following = rollout.wave + 1 if begun else 0
    ahead = (
        stand.counts[following] - (stand.counts[rollout.wave] if begun else 0) if following < len(stand.counts) else 0
    )
    free = stand.limit - used_slots(pool)
    changed: dict[str, Member] = {}
    for place, m in enumerate(line.line[: room + ahead]):
        target = stand.goal.target(m)
        if target is None:
            continue
        if not stand.goal.is_assigned(m):
            m = changed[m.name] = assign.fetch(stand.observed, m, target)  # noqa: PLW2901
        if place >= room:
            continue
        if m.stage is Stage.SERVING:
            # The same bytes under another revision: nothing to switch.
            changed[m.name] = assign.activate(stand.observed, m, target, rollout.wave)
        elif m.stage is Stage.FETCHED and stand.window.open and (free > 0 or takes_slot(m)):
            free -= not takes_slot(m)
            changed[m.name] = assign.activate(stand.observed, m, target, rollout.wave)
    return tuple(changed.get(m.name, m) for m in pool)
