"""What the phases of a pass hand on: the pool as it shall be, the status, and what there is to say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edgemodel_api.edgemodel_status import EdgeModelStatus

from .actions import StartJob
from .analysis import Probe
from .pool import Pool


@dataclass(frozen=True)
class Say:
    """A reason (a constant of `edgemodel_api.reasons`) and a sentence with its numbers."""

    reason: str
    message: str


@dataclass(frozen=True)
class Flag:
    """A condition that is True or False."""

    is_true: bool
    say: Say


@dataclass(frozen=True)
class Outcome:
    """One pass, decided.

    `compressed`, `trialed`, `rolled_out`, `analyzed`: conditions; None: not known yet. `doing`: why Reconciling is True; None: it
    is not. `stalled`: likewise. `ready`: whether what is meant to serve does. `probes`: what shall be measured.
    """

    pool: Pool
    status: EdgeModelStatus
    ready: Flag
    compressed: Flag | None = None
    trialed: Flag | None = None
    rolled_out: Flag | None = None
    doing: Say | None = None
    stalled: Say | None = None
    start: StartJob | None = None
    wakes: tuple[datetime | None, ...] = ()
    analyzed: Flag | None = None
    probes: tuple[Probe, ...] = ()
