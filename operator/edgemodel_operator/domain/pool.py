"""The pool: the nodes that the EdgeModel selects, each with what was assigned to it and what it last said."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property

from edgemodel_api.edgemodel_status import RolloutStatus
from edgemodel_api.edgenode import (
    AssignedModel,
    AssignedTrial,
    EdgeNode,
    ModelStatus,
    Swap,
    TargetState,
    TrialStatus,
)
from edgemodel_api.formats import Format, loadable
from edgemodel_api.hardware import HardwareClass

from .observed import Observed

#: The smallest step of a clock: "older than" becomes true this much after the age is reached.
TICK = timedelta(microseconds=1)


class Stage(StrEnum):
    """How far a node is with what it was assigned, by its last report on exactly that.

    Fetching: told to download ahead. Fetched: it has. Switching: told to activate, and neither serving nor failed yet.
    """

    FETCHING = "Fetching"
    FETCHED = "Fetched"
    SWITCHING = "Switching"
    SERVING = "Serving"
    FAILED = "Failed"


@dataclass(frozen=True)
class Member:
    """One node of the pool, as far as this EdgeModel is concerned.

    `assigned` and `trial` are its spec (the policies return members with new ones; the difference to the observed
    spec becomes actions), `reported` and `trial_reported` its status, `node` the whole object as it was observed.
    """

    name: str
    node: EdgeNode
    online_until: datetime | None
    online: bool
    platform: str | None
    hardware_class: HardwareClass | None
    assigned: AssignedModel | None = None
    trial: AssignedTrial | None = None
    reported: ModelStatus | None = None
    trial_reported: TrialStatus | None = None

    def with_assigned(self, assigned: AssignedModel | None) -> Member:
        """The same node, told something else."""
        return dataclasses.replace(self, assigned=assigned)

    def with_trial(self, trial: AssignedTrial | None) -> Member:
        """The same node with another trial."""
        return dataclasses.replace(self, trial=trial)

    @cached_property
    def formats(self) -> frozenset[Format]:
        """What the runtimes that it last reported load."""
        return loadable(self.node.status.runtimes)

    @cached_property
    def answer(self) -> ModelStatus | None:
        """The last report, if it speaks of what is assigned now, at this very attempt."""
        a, r = self.assigned, self.reported
        if a is None or r is None or (r.revision, r.digest) != (a.target.revision, a.target.digest):
            return None
        return r if r.attempt >= a.attempt else None

    @cached_property
    def stage(self) -> Stage | None:
        """How far it is; None: nothing is assigned."""
        if self.assigned is None:
            return None
        state = self.answer.state if self.answer is not None else TargetState.PENDING
        if state is TargetState.SERVING:
            return Stage.SERVING
        if state is TargetState.FAILED:
            return Stage.FAILED
        if self.assigned.swap is Swap.ACTIVATE:
            return Stage.SWITCHING
        return Stage.FETCHED if state in (TargetState.DOWNLOADED, TargetState.CHECKING) else Stage.FETCHING

    @property
    def running_digest(self) -> str:
        """What answered requests when it last reported; empty: nothing did."""
        return self.reported.running.digest if self.reported is not None and self.reported.running is not None else ""

    @property
    def has_lost_its_model(self) -> bool:
        """Whether it served when it was let in, and serves nothing now."""
        return self.assigned is not None and self.assigned.replaces != "" and self.running_digest == ""

    @property
    def served_before(self) -> str:
        """Digest of what it serves now, or served before it lost that because of us; empty: nothing."""
        if self.has_lost_its_model and self.assigned is not None:
            return self.assigned.replaces
        return self.running_digest

    def has(self, revision: str) -> bool:
        """Whether this revision is what it is assigned, to fetch or to activate."""
        return self.assigned is not None and self.assigned.target.revision == revision

    @property
    def is_active(self) -> bool:
        """Whether it was let in: told to activate what it is assigned."""
        return self.assigned is not None and self.assigned.swap is Swap.ACTIVATE


Pool = tuple[Member, ...]


def members(observed: Observed) -> Pool:
    """The pool, sorted by name. A node that is being deleted has left it."""
    selector = observed.model.spec.node_pool.selector
    chosen = [
        node
        for node in observed.nodes
        if node.metadata.deletion_timestamp is None and selector.matches(node.metadata.labels)
    ]
    return tuple(_member(observed, node) for node in sorted(chosen, key=lambda n: n.metadata.name))


def outsiders(observed: Observed, pool: Pool) -> Pool:
    """Nodes outside of the pool that still have something of this EdgeModel in their spec."""
    inside = {m.name for m in pool}
    found = (_member(observed, n) for n in observed.nodes if n.metadata.name not in inside and _has_any(observed, n))
    return tuple(sorted(found, key=lambda m: m.name))


def _has_any(observed: Observed, node: EdgeNode) -> bool:
    key = observed.model.key
    return any(m.key == key for m in node.spec.models) or any(t.key == key for t in node.spec.trials)


def _member(observed: Observed, node: EdgeNode) -> Member:
    key, hardware = observed.model.key, node.status.hardware
    assigned = next((m for m in node.spec.models if m.key == key), None)
    until = _online_until(observed, node, assigned)
    return Member(
        name=node.metadata.name,
        node=node,
        online_until=until,
        online=until is not None and observed.now <= until,
        platform=hardware.platform if hardware is not None else None,
        hardware_class=hardware.hardware_class if hardware is not None else None,
        assigned=assigned,
        trial=next((t for t in node.spec.trials if t.key == key), None),
        reported=next((m for m in node.status.models if m.key == key), None),
        trial_reported=next((t for t in node.status.trials if t.key == key), None),
    )


def _online_until(observed: Observed, node: EdgeNode, assigned: AssignedModel | None) -> datetime | None:
    """Until when a node is online, unless it reports; None: it never reported.

    Its last report must be young enough. Who was told to switch in the rollout under way has this time from when it can
    be heard (again): else an operator or API server that was away would take the silence of that time for a failure of
    the revision. A report from the future (a clock that runs ahead) is of now.
    """
    last, rollout = node.status.last_report_time, observed.model.status.rollout
    if last is None:
        return None
    last = min(last, observed.now)
    told = assigned is not None and rollout is not None and told_to_switch(assigned, rollout)
    if (
        told
        and observed.heard_since is not None
        and node.metadata.name not in (rollout.failed_nodes if rollout else ())
    ):
        last = max(last, min(observed.heard_since, observed.now))
    return last + observed.settings.offline_after


def told_to_switch(assigned: AssignedModel, rollout: RolloutStatus) -> bool:
    """Whether it was told to activate in this rollout, which is not over."""
    if assigned.assigned_at is None or rollout.started_at is None or rollout.finished_at is not None:
        return False
    ours = assigned.swap is Swap.ACTIVATE and assigned.target.revision == rollout.revision
    return ours and assigned.assigned_at >= rollout.started_at


def goes_offline_at(pool: Iterable[Member]) -> datetime | None:
    """When the first of the online nodes will be offline, unless it reports."""
    return min((m.online_until + TICK for m in pool if m.online and m.online_until is not None), default=None)
