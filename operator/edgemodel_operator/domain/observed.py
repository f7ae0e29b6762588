"""What a pass sees: one EdgeModel, all EdgeNodes, the Job of the wanted revision, the time. Frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgenode import OFFLINE_AFTER_SECONDS, EdgeNode
from edgemodel_api.job import JobResult

from .analysis import Measurement


class JobState(StrEnum):
    """Running: started and not ended. Finished: it left a result. Lost: it ended without one (killed, evicted)."""

    RUNNING = "Running"
    FINISHED = "Finished"
    LOST = "Lost"


@dataclass(frozen=True)
class JobView:
    """The compression Job of one revision, as the adapter sees it. `result` is there when it is finished.

    `note`: why one that was started does not work yet (no node has room, no image); empty: it does.
    """

    revision: str
    state: JobState
    result: JobResult | None = None
    note: str = ""


@dataclass(frozen=True)
class Settings:
    """What the operator was started with.

    `output`: where artifacts go, `oci-layout:///dir` or `oci://host/repo`. `offline_after`: age of the last report
    from which a node is offline. `base_dir`: folder against which relative `file:` URIs are resolved. `can_measure`:
    whether there is a Prometheus for `spec.rollout.analysis`.
    """

    output: str
    offline_after: timedelta = timedelta(seconds=OFFLINE_AFTER_SECONDS)
    base_dir: str = "."
    can_measure: bool = False


@dataclass(frozen=True)
class Observed:
    """Everything that `plan` may look at.

    `now` is an aware datetime. `nodes` are all EdgeNodes; the pool is selected inside. `job` is that of the revision
    that `resolve.wanted_revision` names, or None if there is none. `measurements`: of the probes that an earlier plan
    asked for; those that were counted already may be among them. `heard_since`: from when on nodes could be heard
    without a gap (the operator was up, the API server answered); None: always.
    """

    now: datetime
    model: EdgeModel
    nodes: tuple[EdgeNode, ...]
    job: JobView | None
    settings: Settings
    measurements: tuple[Measurement, ...] = ()
    heard_since: datetime | None = None
