"""The pool in numbers, and the sentence that carries them."""

from __future__ import annotations

from edgemodel_api.edgemodel_status import EdgeModelStatus, NodeCounts, RolloutStatus
from edgemodel_api.quantities import counted

from .assign import Goal
from .failures import failures_of
from .observed import Observed
from .pool import Pool, Stage
from .slots import slots, takes_slot
from .text import listed


def node_counts(pool: Pool, revision: str, rollout: RolloutStatus | None) -> NodeCounts:
    """Counts by the last report of each node. `failed` is what the rollout counts as failed (now, or when rolled back)."""
    failed = 0
    if rollout is not None:
        failed = len(rollout.failed_nodes) if rollout.rolled_back else len(failures_of(pool, rollout))
    return NodeCounts(
        desired=len(pool),
        updated=sum(m.has(revision) and m.is_active and m.stage is Stage.SERVING for m in pool) if revision else 0,
        serving=sum(m.online and m.running_digest != "" for m in pool),
        failed=failed,
        offline=sum(not m.online for m in pool),
    )


def in_numbers(nodes: NodeCounts) -> str:
    """`3/10 nodes updated, 1 failed, 1 offline`."""
    parts = [f"{nodes.updated}/{counted(nodes.desired, 'node')} updated"]
    parts += [f"{nodes.failed} failed"] if nodes.failed else []
    parts += [f"{nodes.offline} offline"] if nodes.offline else []
    return ", ".join(parts)


def quorum_of(pool: Pool, goal: Goal, desired: int) -> int:
    """How many nodes must serve a revision for Ready: more than half of those that can be reached and that it fits.

    At most as many count as the last wave reaches; at least one must serve.
    """
    reachable = min(desired, sum(m.online and goal.target(m) is not None for m in pool))
    return reachable // 2 + 1


def serving_goal(pool: Pool, goal: Goal) -> int:
    """How many reachable nodes serve what the goal gives them."""
    return sum(m.online and goal.is_assigned(m) and m.is_active and m.stage is Stage.SERVING for m in pool)


def waiting_on(observed: Observed, pool: Pool, goal: Goal) -> str:
    """Which nodes of the wave are not there yet, with what they last said, and which of them wait for a slot."""
    switching = [m for m in pool if m.online and goal.is_assigned(m) and m.is_active and m.stage is Stage.SWITCHING]
    fetching = [m for m in pool if m.online and goal.is_assigned(m) and m.stage is Stage.FETCHING]
    fetched = [m for m in pool if m.online and goal.is_assigned(m) and m.stage is Stage.FETCHED]
    parts = [f"switching: {listed([m.name for m in switching])}"] if switching else []
    parts += (
        [f"downloading: {listed([_said(m.name, m.answer.message if m.answer else '') for m in fetching], 3)}"]
        if fetching
        else []
    )
    limit, taken = slots(observed.model.spec.rollout, len(pool)), [m.name for m in pool if takes_slot(m)]
    if fetched and len(taken) >= limit:
        parts.append(
            f"{counted(len(fetched), 'node waits', 'nodes wait')} as maxUnavailable allows {limit} at once"
            f" ({listed(taken)})"
        )
    return "; ".join(parts)


def _said(name: str, message: str) -> str:
    return f"{name} ({message[:160]})" if message else name


def where(status: EdgeModelStatus) -> str:
    """`wave 2/3`, and until when it soaks."""
    rollout = status.rollout
    if rollout is None:
        return ""
    return f"wave {rollout.wave + 1}/{rollout.waves}"
