"""Slots: how many nodes may be switching, or without a model because of us, at once (`maxUnavailable`)."""

from __future__ import annotations

from collections.abc import Iterable

from edgemodel_api.edgemodel import Rollout

from .pool import Member, Stage
from .waves import limit_of


def slots(rollout: Rollout, total: int) -> int:
    """How many there are: percentages are rounded down, and there is always one."""
    return limit_of(rollout.max_unavailable, total, at_least=1, round_up=False)


def takes_slot(m: Member) -> bool:
    """Whether a node is in a slot.

    One that is switching is, and one that served when it was let in and serves nothing now. One that failed and goes
    on with what it had is not; nor is one that cannot be reached: a dead device must not hold up all others.
    """
    return m.online and ((m.is_active and m.stage is Stage.SWITCHING) or m.has_lost_its_model)


def used_slots(pool: Iterable[Member]) -> int:
    """How many slots are taken."""
    return sum(takes_slot(m) for m in pool)
