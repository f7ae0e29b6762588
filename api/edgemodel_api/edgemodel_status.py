"""The `EdgeModel` status: what the operator observed and decided. Everything a restart needs is here."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .base import ListMap, StatusModel
from .formats import Format
from .hardware import HardwareClass
from .meta import Condition

HISTORY_LIMIT = 10
FAILED_NODES_LIMIT = 20

#: `<revision>/<wave>`, wave counted from 1 as messages do: with `approval: Manual`, waves up to this one may begin.
ANNOTATION_APPROVED = "edgemodel.dev/approved"
#: Any new value: what was given up (a rolled-back revision, a refused class, a failed Job) is tried again, once.
ANNOTATION_RETRY = "edgemodel.dev/retry"


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


class RefusedCandidate(StatusModel):
    """What a trial said no to."""

    name: str
    message: str


class VariantStatus(StatusModel):
    """The variant chosen for one hardware class, and what was measured there. Numbers as decimal strings."""

    hardware_class: HardwareClass
    platform: str
    name: str
    digest: str
    size_bytes: int
    file_bytes: int = 0
    format: Format | None = Field(None, description="What the file is; absent: ONNX.")
    quality: str | None = None
    latency_median_seconds: str | None = None
    measured_on: str = Field("", description="Name of the node of the trial; empty: not yet measured on hardware.")
    accepted: bool = Field(True, description="False: nothing fits this class (name and digest are empty).")
    reason: str = ""
    message: str = Field("", description="Why this one, or why none, with the numbers.")
    refused: tuple[RefusedCandidate, ...] = Field((), description="Candidates that the trial refused, and why.")
    tried_on: tuple[str, ...] = Field((), description="Nodes on which nothing could be measured (link, disk).")


class CandidateStatus(StatusModel):
    """A variant of the artifact, as the Job reported it: what trials choose from after the Job is gone."""

    platform: str
    name: str
    digest: str
    size_bytes: int = 0
    file_bytes: int = 0
    format: Format | None = Field(None, description="What the file is; absent: ONNX.")
    quality: str | None = None
    accepted: bool = True
    reason: str = ""
    hardware_classes: tuple[HardwareClass, ...] = ()


class JobStatus(StatusModel):
    """The compression Job of the current revision, over all its tries."""

    tries: int = 0
    started_at: datetime | None = None
    failed_at: datetime | None = Field(None, description="When the last try was seen to have failed.")
    stalled: bool = Field(False, description="Refused, invalid, or out of tries: not started again by itself.")
    reason: str = ""
    message: str = ""


class NodeCounts(StatusModel):
    """The pool in numbers."""

    desired: int = 0
    updated: int = 0
    serving: int = 0
    failed: int = 0
    offline: int = 0


class AnalysisOutcome(StrEnum):
    """Success: the condition holds. Failure: it does not. Inconclusive: nobody knows (no answer, no data)."""

    SUCCESS = "Success"
    FAILURE = "Failure"
    INCONCLUSIVE = "Inconclusive"


class AnalysisStatus(StatusModel):
    """What a query of `spec.rollout.analysis` has shown in this wave, or in the hold after the last one.

    Only what changes something is noted: a success after a success is not, unless it is the first since the wave was full.
    """

    name: str
    query_digest: str = Field(description="Of query and condition: another one begins anew.")
    since: datetime = Field(description="When the wave, or the hold, began.")
    outcome: AnalysisOutcome
    value: str = Field("", description="Of the measurement that was noted last.")
    message: str = Field("", description="Why it is inconclusive.")
    measured_at: datetime
    failures: int = Field(0, description="In this wave; in the hold: in a row.")
    inconclusive: int = Field(0, description="In a row.")
    inconclusive_since: datetime | None = None


class RolloutStatus(StatusModel):
    """Where the current revision is. `wave` is 0-based; `admitted` is the cumulative node count let in so far.

    Without `waveStartedAt` even the first wave has not begun (it waits for nodes, an approval or a window).
    """

    revision: str
    wave: int = 0
    waves: int = 1
    progress: str = Field("", description="For people: 2/3, the second of three waves has begun; 0/3: none has.")
    admitted: int = 0
    desired: int = Field(0, description="Nodes that the last wave reaches.")
    started_at: datetime | None = None
    retried_at: datetime | None = Field(None, description="Since when nodes that failed before have a new chance.")
    wave_started_at: datetime | None = None
    wave_complete_at: datetime | None = Field(
        None, description="When every reachable node of the wave served; soak counts from here."
    )
    failed_nodes: tuple[str, ...] = ()
    analysis: Annotated[tuple[AnalysisStatus, ...], ListMap(("name",))] = ()
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
    candidates: tuple[CandidateStatus, ...] = ()


class EdgeModelStatus(StatusModel):
    """Written by the operator alone, once a pass."""

    observed_generation: int = 0
    conditions: Annotated[tuple[Condition, ...], ListMap(("type",))] = ()
    revision: str = ""
    platforms: Annotated[
        tuple[str, ...],
        Field(description="Platforms that the revision is built for; they stay when a node leaves."),
        ListMap(),
    ] = ()
    job: JobStatus | None = None
    artifact: ArtifactRef | None = None
    candidates: tuple[CandidateStatus, ...] = ()
    variants: tuple[VariantStatus, ...] = ()
    variant_count: int = 0
    nodes: NodeCounts = NodeCounts()
    rollout: RolloutStatus | None = None
    history: Annotated[tuple[HistoryEntry, ...], Field(description="Newest first.")] = ()
    retry: str = Field("", description="The value of the retry annotation that was acted upon last.")
