"""What a plan may ask of the world. Values; an adapter carries them out, and doing so twice is as good as once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgemodel_api.edgenode import AssignedModel, AssignedTrial
from edgemodel_api.job import JobSpec


@dataclass(frozen=True)
class StartJob:
    """Start the compression Job of `job.revision`; one that ended is replaced, one that runs is left alone."""

    job: JobSpec


@dataclass(frozen=True)
class Assign:
    """Put `model` into the node's spec, in place of an entry with the same key."""

    node: str
    model: AssignedModel


@dataclass(frozen=True)
class Unassign:
    """Take the model out of the node's spec: its agent drains and forgets it."""

    node: str
    namespace: str
    name: str


@dataclass(frozen=True)
class AssignTrial:
    """Put `trial` into the node's spec, in place of an entry with the same key."""

    node: str
    trial: AssignedTrial


@dataclass(frozen=True)
class UnassignTrial:
    """Take the trial out of the node's spec."""

    node: str
    namespace: str
    name: str


NodeAction = Assign | Unassign | AssignTrial | UnassignTrial
Action = StartJob | NodeAction


@dataclass(frozen=True)
class Event:
    """Something that happened in this pass, told once. Not an action: a lost event changes nothing."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
