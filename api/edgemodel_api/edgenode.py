"""`EdgeNode`: one per machine. The operator writes `spec`, the node's agent writes `status`, and nobody both."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from . import quantities as q
from .base import ListMap, StatusModel
from .edgemodel import Budget, HealthCheck, Serving
from .hardware import Hardware
from .meta import ObjectMeta

#: Annotation of an EdgeNode: `"true"` asks its agent to remove the standby from the node.
RETIRE_ANNOTATION = "edgemodel.dev/retire"
#: A node whose last report is older than this is offline.
OFFLINE_AFTER_SECONDS = 60.0


class Swap(StrEnum):
    """Prefetch: download and verify only. Activate: check and switch too."""

    PREFETCH = "Prefetch"
    ACTIVATE = "Activate"


class ArtifactTarget(StatusModel):
    """One variant of one revision, by digest."""

    revision: str
    reference: str = Field(
        description="`oci://host/repo` or `oci-layout:///dir`; the manifest is fetched by `digest` from it."
    )
    digest: str = Field(description="Digest of the variant's manifest.")
    variant: str
    size_bytes: int = Field(0, description="Stored bytes, for the fit check.")
    file_bytes: int = Field(0, description="Expanded bytes, for the fit check.")
    trial_latency_seconds: str | None = Field(
        None, description="Median latency in the trial of this node's hardware class; absent: not measured there."
    )


class AssignedModel(StatusModel):
    """What the operator wants this node to serve. `attempt` grows when a failed target shall be tried again."""

    namespace: str
    name: str
    target: ArtifactTarget
    swap: Swap = Swap.ACTIVATE
    attempt: int = 1
    assigned_at: datetime | None = Field(
        None, description="When target, swap or attempt were written (operator's clock)."
    )
    wave: int = Field(
        0, description="0-based wave in which the node was let in; 0 while it only fetches, -1: it had it."
    )
    replaces: str = Field("", description="Digest of what served when the node was let in; empty: nothing.")
    retries: int = Field(0, description="How often the operator has this target tried again here, in this rollout.")
    serving: Serving = Serving()
    health_check: HealthCheck = HealthCheck()
    budget: Budget = Budget()

    @property
    def key(self) -> str:
        """`namespace/name` of the EdgeModel."""
        return f"{self.namespace}/{self.name}"


class AssignedTrial(StatusModel):
    """Candidates that this node shall measure; the first one is the source, the yardstick."""

    namespace: str
    name: str
    revision: str
    candidates: tuple[ArtifactTarget, ...]
    assigned_at: datetime | None = Field(None, description="When the node was asked (operator's clock).")
    health_check: HealthCheck = HealthCheck()
    max_slowdown: q.Slowdown = Field(
        "0%",
        description="A candidate that seems slower than that beside the source is measured again, with fresh processes.",
    )

    @property
    def key(self) -> str:
        """`namespace/name` of the EdgeModel."""
        return f"{self.namespace}/{self.name}"


class EdgeNodeSpec(StatusModel):
    """Desired state."""

    models: Annotated[tuple[AssignedModel, ...], ListMap(("namespace", "name"))] = ()
    trials: Annotated[tuple[AssignedTrial, ...], ListMap(("namespace", "name"))] = ()


class TargetState(StrEnum):
    """How far the assigned target is on this node."""

    PENDING = "Pending"
    DOWNLOADING = "Downloading"
    DOWNLOADED = "Downloaded"
    CHECKING = "Checking"
    SERVING = "Serving"
    FAILED = "Failed"


class Measured(StatusModel):
    """What a check or a trial measured, on this node. Decimal strings for fractions."""

    latency_median_seconds: str | None = None
    latency_p99_seconds: str | None = None
    peak_memory_bytes: int | None = None
    golden_error: str | None = Field(None, description="Largest relative L2 error against the source's outputs.")
    golden_agreement: str | None = Field(None, description="Share of golden cases with the same arg max as the source.")
    slowdown: str | None = Field(
        None, description="Trials: median of the paired latency ratios to the source, minus 1."
    )
    slowdown_low: str | None = Field(None, description="Lower end of its 95 % interval.")


class RunningModel(StatusModel):
    """What answers requests now."""

    revision: str
    variant: str
    digest: str
    since: datetime
    endpoint: str = ""


class ModelStatus(StatusModel):
    """One model on this node: the assigned target's progress, and what runs meanwhile."""

    namespace: str
    name: str
    revision: str = Field(description="Revision of the target that `state` speaks of.")
    variant: str = ""
    digest: str = ""
    attempt: int = 1
    state: TargetState = TargetState.PENDING
    reason: str = ""
    message: str = ""
    changed_at: datetime | None = None
    downloaded_bytes: int = 0
    download_seconds: str | None = None
    download_retries: int = 0
    restarts: int = 0
    measured: Measured | None = None
    running: RunningModel | None = None

    @property
    def key(self) -> str:
        """`namespace/name` of the EdgeModel."""
        return f"{self.namespace}/{self.name}"


class TrialResult(StatusModel):
    """One candidate on this node's hardware."""

    digest: str
    variant: str
    passed: bool
    reason: str = ""
    message: str = ""
    measured: Measured | None = None


class TrialStatus(StatusModel):
    """Results of a trial; `done` when every candidate has one."""

    namespace: str
    name: str
    revision: str
    done: bool = False
    results: tuple[TrialResult, ...] = ()

    @property
    def key(self) -> str:
        """`namespace/name` of the EdgeModel."""
        return f"{self.namespace}/{self.name}"


class StandbyState(StrEnum):
    """Waiting: one stands by. Missing: none does, though one should. Retired: it was removed, as was asked for."""

    WAITING = "Waiting"
    MISSING = "Missing"
    RETIRED = "Retired"


class EdgeNodeStatus(StatusModel):
    """Written by the agent alone."""

    observed_generation: int = 0
    hardware: Hardware | None = None
    runtimes: dict[str, str] = Field(
        default_factory=dict, description="Runtime name to version: what this node can load."
    )
    agent_version: str = ""
    disk_free_bytes: int = 0
    memory_free_bytes: int = 0
    last_report_time: datetime | None = None
    serving: str = Field("", description="Models that answer, of those that are assigned: `2/3`.")
    standby: StandbyState | None = Field(
        None,
        description="What serves when the node boots without the API server; absent: not asked for, or not known yet.",
    )
    models: Annotated[tuple[ModelStatus, ...], ListMap(("namespace", "name"))] = ()
    trials: Annotated[tuple[TrialStatus, ...], ListMap(("namespace", "name"))] = ()


class EdgeNode(StatusModel):
    """A machine that runs the agent; cluster-scoped, named as its Node."""

    api_version: Literal["edgemodel.dev/v1alpha1"] = "edgemodel.dev/v1alpha1"
    kind: Literal["EdgeNode"] = "EdgeNode"
    metadata: ObjectMeta
    spec: EdgeNodeSpec = EdgeNodeSpec()
    status: EdgeNodeStatus = EdgeNodeStatus()
