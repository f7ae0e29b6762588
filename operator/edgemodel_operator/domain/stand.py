"""Where a rollout stands in this pass: what the policies of one rollout look at together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edgemodel_api.edgemodel import Rollout
from edgemodel_api.edgemodel_status import RolloutStatus
from edgemodel_api.quantities import parse_duration

from .assign import Goal
from .failures import failure_of
from .observed import Observed
from .pool import Member, Pool, Stage
from .slots import slots
from .waves import limit_of, wave_counts
from .windows import WindowState


@dataclass(frozen=True)
class Stand:
    """What does not change within a pass. Numbers of nodes.

    `counts`: let in up to and including each wave. `limit`: may switch at once (maxUnavailable). `allowed`: may fail
    (maxFailures).
    """

    observed: Observed
    goal: Goal
    window: WindowState
    counts: tuple[int, ...]
    limit: int
    allowed: int

    @classmethod
    def of(cls, observed: Observed, goal: Goal, window: WindowState, total: int) -> Stand:
        """For a pool of `total` nodes."""
        rollout = observed.model.spec.rollout
        allowed = limit_of(rollout.max_failures, total, at_least=0, round_up=False)
        return cls(observed, goal, window, wave_counts(rollout, total), slots(rollout, total), allowed)

    @property
    def rollout(self) -> Rollout:
        """The spec."""
        return self.observed.model.spec.rollout

    @property
    def now(self) -> datetime:
        """The time of this pass."""
        return self.observed.now

    def quota(self, rollout: RolloutStatus) -> int:
        """How many nodes may be in by now."""
        if rollout.finished_at is not None:
            return self.counts[-1]
        return self.counts[rollout.wave] if rollout.wave_started_at is not None else 0

    def soaked_at(self, rollout: RolloutStatus) -> datetime | None:
        """When the soak of the wave is over; None: it has not begun."""
        if rollout.wave_complete_at is None:
            return None
        return rollout.wave_complete_at + parse_duration(self.rollout.waves[rollout.wave].soak)


@dataclass(frozen=True)
class Line:
    """Who is in and who stands in line, in the order of names; those without a model because of us are first in line.

    `inside`: told to activate, and not failed. `line`: could be told: online, its variant is known, not failed.
    """

    inside: tuple[Member, ...]
    line: tuple[Member, ...]

    @classmethod
    def of(cls, pool: Pool, goal: Goal, rollout: RolloutStatus) -> Line:
        """From the pool as it is told by now."""
        good = [m for m in pool if failure_of(m, rollout) is None and goal.target(m) is not None]
        is_in = {m.name for m in good if goal.is_assigned(m) and m.is_active}
        waiting = sorted((m for m in good if m.name not in is_in and m.online), key=lambda m: not m.has_lost_its_model)
        return cls(tuple(m for m in good if m.name in is_in), tuple(waiting))

    def room(self, quota: int) -> int:
        """How many more may come in."""
        return max(0, quota - len(self.inside))

    def settled(self, quota: int) -> bool:
        """Whether the wave is full, or everybody that could be in is, and all that can be reached serve."""
        full = self.room(quota) == 0 or not self.line
        return full and all(m.stage is Stage.SERVING for m in self.inside if m.online)
