"""Which nodes are told what in this pass of a rollout: to fetch ahead, to switch, or to wait."""

from __future__ import annotations

from edgemodel_api.edgemodel_status import RolloutStatus

from . import assign
from .pool import Member, Pool, Stage
from .slots import takes_slot, used_slots
from .stand import Line, Stand


def renewed(stand: Stand, m: Member, rollout: RolloutStatus) -> Member:
    """Nodes that were told before this rollout began, or before somebody asked for another try, belong to it from now.

    What failed gets a new chance; what an earlier rollout of the same revision left halfway waits for its wave in this
    one; what serves goes on (wave −1: had it before), and from now on a failure of it counts.
    """
    a = m.assigned
    if a is None or not stand.goal.is_assigned(m) or a.assigned_at is None or rollout.started_at is None:
        return m
    before = a.assigned_at < rollout.started_at
    if not before and (rollout.retried_at is None or a.assigned_at >= rollout.retried_at):
        return m
    if m.stage is Stage.FAILED or (a.retries > 0 and m.stage is not Stage.SERVING):
        return assign.anew(stand.observed, m)
    if before and m.stage is not Stage.SERVING:
        return assign.withhold(stand.observed, m)
    return m.with_assigned(a.replace(assigned_at=stand.now, wave=-1 if before else a.wave))


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


def let_in(stand: Stand, pool: Pool, rollout: RolloutStatus) -> tuple[Pool, bool]:
    """Nodes of this wave activate as slots allow, once they have the bytes; they and the next wave's fetch ahead.

    Also returns whether any of them serves already (the same bytes under another revision): the wave may be over by that.
    """
    line = Line.of(pool, stand.goal, rollout)
    room = line.room(stand.quota(rollout))
    begun = rollout.wave_started_at is not None
    following = rollout.wave + 1 if begun else 0
    ahead = (
        stand.counts[following] - (stand.counts[rollout.wave] if begun else 0) if following < len(stand.counts) else 0
    )
    free = stand.limit - used_slots(pool)
    at_once = False
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
            at_once = True
            changed[m.name] = assign.activate(stand.observed, m, target, rollout.wave)
        elif m.stage is Stage.FETCHED and stand.window.open and (free > 0 or takes_slot(m)):
            free -= not takes_slot(m)
            changed[m.name] = assign.activate(stand.observed, m, target, rollout.wave)
    return tuple(changed.get(m.name, m) for m in pool), at_once
