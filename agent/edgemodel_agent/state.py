"""What one node remembers of one model across restarts: `<root>/models/<ns>/<name>/state.json`. Values, no I/O."""

from __future__ import annotations

from datetime import datetime

from edgemodel_api.base import StatusModel
from edgemodel_api.edgemodel import ServingMode
from edgemodel_api.edgenode import ArtifactTarget, Measured, TargetState, TrialResult


class Deployed(StatusModel):
    """A variant that passed its checks here and was switched to."""

    target: ArtifactTarget
    mode: ServingMode = ServingMode.SERVER
    port: int | None = None
    since: datetime
    measured: Measured | None = None


class Failure(StatusModel):
    """Why one target, at one attempt, is not tried again."""

    digest: str
    attempt: int
    reason: str
    message: str
    at: datetime
    measured: Measured | None = None


class Retry(StatusModel):
    """A download that will be tried again; kept, so that a restart does not hammer the registry."""

    digest: str
    count: int
    at: datetime
    not_before: datetime
    reason: str
    message: str


class Download(StatusModel):
    """What fetching a target cost so far."""

    digest: str
    bytes: int = 0
    seconds: float = 0.0
    retries: int = 0


class Shown(StatusModel):
    """The last reported state, so that `changedAt` moves only when it changes."""

    digest: str
    attempt: int
    state: TargetState
    reason: str
    at: datetime


class ModelState(StatusModel):
    """One model on this node."""

    namespace: str
    name: str
    port: int | None = None
    running: Deployed | None = None
    previous: Deployed | None = None
    failure: Failure | None = None
    retry: Retry | None = None
    download: Download | None = None
    crashes: int = 0
    last_crash: datetime | None = None
    bad_rechecks: int = 0
    trouble: str = ""
    """What the last crash or failed recheck said."""
    trouble_reason: str = ""
    restarts: int = 0
    wanted: str = ""
    """Digest of the last assigned target: when it changes, the failure and the retry of the old one are forgotten."""
    shown: Shown | None = None

    @property
    def key(self) -> str:
        """`namespace/name` of the EdgeModel."""
        return f"{self.namespace}/{self.name}"


class TrialState(StatusModel):
    """Results of one trial so far, and the pending retry of a download."""

    namespace: str
    name: str
    revision: str
    results: tuple[TrialResult, ...] = ()
    retry: Retry | None = None

    @property
    def key(self) -> str:
        """`namespace/name` of the EdgeModel."""
        return f"{self.namespace}/{self.name}"


class NodeState(StatusModel):
    """What the node remembers beside its models."""

    generation: int = 0
    served: tuple[str, ...] = ()
    """Digests of variants that served here, oldest first: a rehearsed fault leaves these alone."""
