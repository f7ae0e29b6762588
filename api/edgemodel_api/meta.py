"""The part of Kubernetes' ObjectMeta and Condition that is read or written here."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from .base import StatusModel

DNS_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
DnsName = Annotated[str, StringConstraints(pattern=DNS_NAME_PATTERN, max_length=253)]


class ObjectMeta(StatusModel):
    """Names, labels and the counters that reconciliation needs."""

    name: DnsName
    namespace: DnsName = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None


class Condition(StatusModel):
    """As meta/v1 Condition; `lastTransitionTime` moves only when `status` does."""

    model_config = ConfigDict(extra="ignore")

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    observed_generation: int = 0
    last_transition_time: datetime


def set_condition(conditions: tuple[Condition, ...], new: Condition) -> tuple[Condition, ...]:
    """Replace the condition of `new.type`, keeping the transition time if the status is the same; sorted by type."""
    old = next((c for c in conditions if c.type == new.type), None)
    if old is not None and old.status == new.status:
        new = new.replace(last_transition_time=old.last_transition_time)
    rest = [c for c in conditions if c.type != new.type]
    return tuple(sorted([*rest, new], key=lambda c: c.type))


def drop_condition(conditions: tuple[Condition, ...], type_: str) -> tuple[Condition, ...]:
    """Without the condition of this type (kstatus: Reconciling and Stalled exist only while true)."""
    return tuple(c for c in conditions if c.type != type_)


def get_condition(conditions: tuple[Condition, ...], type_: str) -> Condition | None:
    """The condition of this type, if present."""
    return next((c for c in conditions if c.type == type_), None)
