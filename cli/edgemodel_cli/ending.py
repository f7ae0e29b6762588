"""Whether a revision has come to its end, and with which exit code. Pure: conditions in, a verdict out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from edgemodel_api import reasons
from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgenode import OFFLINE_AFTER_SECONDS, EdgeNode, TargetState
from edgemodel_api.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, EXIT_REFUSED
from edgemodel_api.job import JobResult, Outcome
from edgemodel_api.meta import get_condition


@dataclass(frozen=True)
class End:
    """How a run ended: the exit code, and why in a sentence with its numbers."""

    code: int
    reason: str = ""
    message: str = ""

    @property
    def text(self) -> str:
        """`Reason: message`."""
        return ": ".join(part for part in (self.reason, self.message) if part)


def ending(model: EdgeModel, job: JobResult | None) -> End | None:
    """How the revision ended, read from the conditions; None: it has not ended.

    Conditions are those of this generation only: what is said of an earlier spec is no end of this one.
    """
    status = model.status
    if status.observed_generation != model.metadata.generation:
        return None
    ready = get_condition(status.conditions, reasons.READY)
    reconciling = get_condition(status.conditions, reasons.RECONCILING)
    stalled = get_condition(status.conditions, reasons.STALLED)
    if reconciling is not None and reconciling.status == "True":
        return None
    if stalled is not None and stalled.status == "True":
        if job is not None and job.outcome is Outcome.INVALID:
            return End(EXIT_BAD_INPUT, job.reason, job.message)
        if job is not None and job.outcome is Outcome.FAILED:
            return End(EXIT_FAILED, job.reason, job.message)
        if stalled.reason in (reasons.INVALID_INPUT, reasons.NOT_SUPPORTED):
            return End(EXIT_BAD_INPUT, stalled.reason, stalled.message)
        return End(EXIT_REFUSED, stalled.reason, stalled.message)
    if ready is not None and ready.status == "True":
        return End(EXIT_OK, ready.reason, ready.message)
    if status.rollout is not None and status.rollout.rolled_back and status.rollout.finished_at is not None:
        return End(EXIT_REFUSED, status.rollout.reason, status.rollout.message)
    return None


def waiting_for(model: EdgeModel) -> str:
    """What the model waits for, in the plan's words."""
    conditions = model.status.conditions
    for kind in (reasons.RECONCILING, reasons.READY):
        found = get_condition(conditions, kind)
        if found is not None:
            return End(0, found.reason, found.message).text
    return "nothing was planned yet"


def settled(nodes: Iterable[EdgeNode], now: datetime) -> bool:
    """Whether every node that reports has come to rest: it saw its last spec, and serves or refused what that says."""
    resting = (TargetState.SERVING, TargetState.FAILED)
    for node in nodes:
        if is_offline(node, now):
            continue
        if node.status.observed_generation != node.metadata.generation:
            return False
        known = {m.key: m for m in node.status.models}
        for wanted in node.spec.models:
            found = known.get(wanted.key)
            if found is None or found.state not in resting:
                return False
    return True


def is_offline(node: EdgeNode, now: datetime) -> bool:
    """Whether the node's last report is too old."""
    last = node.status.last_report_time
    return last is None or (now - last).total_seconds() > OFFLINE_AFTER_SECONDS
