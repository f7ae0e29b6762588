"""Conditions as kstatus reads them: Reconciling and Stalled exist only while true, times move only with statuses."""

from __future__ import annotations

from datetime import datetime

from edgemodel_api import reasons
from edgemodel_api.meta import Condition, drop_condition, set_condition

from .outcome import Flag, Outcome
from .text import shortened


def conditions_of(
    before: tuple[Condition, ...], outcome: Outcome, generation: int, now: datetime
) -> tuple[Condition, ...]:
    """The conditions after this pass. One that is not known (None) is removed, as what it said was of something else."""
    flags: dict[str, Flag | None] = {
        reasons.READY: outcome.ready,
        reasons.COMPRESSED: outcome.compressed,
        reasons.TRIALED: outcome.trialed,
        reasons.ROLLED_OUT: outcome.rolled_out,
        reasons.ANALYZED: outcome.analyzed,
        reasons.RECONCILING: Flag(True, outcome.doing) if outcome.doing is not None else None,
        reasons.STALLED: Flag(True, outcome.stalled) if outcome.stalled is not None else None,
    }
    found = before
    for type_, flag in flags.items():
        if flag is None:
            found = drop_condition(found, type_)
            continue
        found = set_condition(
            found,
            Condition(
                type=type_,
                status="True" if flag.is_true else "False",
                reason=flag.say.reason,
                message=shortened(flag.say.message),
                observed_generation=generation,
                last_transition_time=now,
            ),
        )
    return found
