"""The `EdgeModel` status: what the operator observed and decided. Everything a restart needs is here."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .base import ListMap, StatusModel
from .hardware import HardwareClass
from .meta import Condition

HISTORY_LIMIT = 10
FAILED_NODES_LIMIT = 20


class RevisionResult(StrEnum):
    """How a revision ended."""

    ROLLED_OUT = "RolledOut"
    REFUSED = "Refused"
    ROLLED_BACK = "RolledBack"
    SUPERSEDED = "Superseded"


class ArtifactRef(StatusModel):
    """Where an index lies: `reference` without digest (`oci://host/repo`, `oci-layout:///dir`) and its digest."""

    reference: str
    digest: str


class VariantStatus(StatusModel):
    """The variant chosen for one hardware class, and what was measured there. Numbers as decimal strings."""

    hardware_class: HardwareClass
    platform: str
    name: str
    digest: str
    size_bytes: int
    quality: str | None = None
    latency_median_seconds: str | None = None
    measured_on: str = Field("", description="Name of the node of the trial; empty: not yet measured on hardware.")
    reason: str = ""


class NodeCounts(StatusModel):
    """The pool in numbers."""

    desired: int = 0
    updated: int = 0
    serving: int = 0
    failed: int = 0
    offline: int = 0


class RolloutStatus(StatusModel):
    """Where the current revision is. `wave` is 0-based; `admitted` is the cumulative node count let in so far."""

    revision: str
    wave: int = 0
    waves: int = 1
    admitted: int = 0
    started_at: datetime | None = None
    wave_started_at: datetime | None = None
    wave_complete_at: datetime | None = Field(
        None, description="When every reachable node of the wave served; soak counts from here."
    )
    failed_nodes: tuple[str, ...] = ()
    rolled_back: bool = False
    reason: str = ""
    message: str = ""
    finished_at: datetime | None = None


class HistoryEntry(StatusModel):
    """One ended revision; the newest RolledOut one is where a rollback goes."""

    revision: str
    artifact: ArtifactRef | None = None
    result: RevisionResult
    reason: str = ""
    message: str = ""
    finished_at: datetime
    variants: tuple[VariantStatus, ...] = ()


class EdgeModelStatus(StatusModel):
    """Written by the operator alone, once a pass."""

    observed_generation: int = 0
    conditions: Annotated[tuple[Condition, ...], ListMap(("type",))] = ()
    revision: str = ""
    artifact: ArtifactRef | None = None
    variants: tuple[VariantStatus, ...] = ()
    variant_count: int = 0
    nodes: NodeCounts = NodeCounts()
    rollout: RolloutStatus | None = None
    history: tuple[HistoryEntry, ...] = ()
