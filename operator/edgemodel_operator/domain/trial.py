"""Trials: one online node of each hardware class measures the candidates; the results choose the class's variant."""

from __future__ import annotations

from dataclasses import dataclass

from edgemodel_api import reasons
from edgemodel_api.edgemodel_status import CandidateStatus, EdgeModelStatus, VariantStatus
from edgemodel_api.edgenode import ArtifactTarget, AssignedTrial, TrialResult
from edgemodel_api.hardware import HardwareClass

from .choose import candidates_for, choose, judge, measurable
from .observed import Observed
from .pool import Member, Pool
from .text import counted

#: So many nodes of a class may turn out unable to measure anything before the class is refused.
TRIAL_NODES = 3


@dataclass(frozen=True)
class Pending:
    """A class whose trial is under way: on which node, and how many of its candidates have a result."""

    hardware_class: HardwareClass
    node: str
    measured: int
    candidates: int

    def __str__(self) -> str:
        return f"{self.hardware_class} on {self.node}: {self.measured}/{counted(self.candidates, 'candidate')} measured"


@dataclass(frozen=True)
class Tried:
    """What came of the trials in this pass."""

    pool: Pool
    status: EdgeModelStatus
    pending: tuple[Pending, ...]


def trials(observed: Observed, status: EdgeModelStatus, pool: Pool) -> Tried:
    """Assign the trials that are needed, never more; record the results that are complete; unassign the rest.

    A class without an online node waits: it blocks nobody. A decided class stays decided until the revision changes
    or what was refused is tried again.
    """
    known = {v.hardware_class: v for v in status.variants}
    wanted: dict[str, AssignedTrial] = {}
    pending: list[Pending] = []
    for hardware_class in sorted({m.hardware_class for m in pool if m.hardware_class is not None}):
        nodes = [m for m in pool if m.hardware_class is hardware_class and m.platform in status.platforms]
        while is_open(known.get(hardware_class)):
            so_far = known.get(hardware_class)
            node = _node_for(status, nodes, so_far.tried_on if so_far is not None else ())
            if node is None:
                break
            fitting = candidates_for(status.candidates, node.platform or "", hardware_class)
            results = _results(status, node, fitting)
            if len(results) < len(fitting):
                wanted[node.name] = _trial(observed, status, fitting)
                pending.append(Pending(hardware_class, node.name, len(results), len(fitting)))
                break
            known[hardware_class] = _decide(observed, node, nodes, results, fitting, so_far)
    return Tried(
        pool=tuple(m if m.trial == wanted.get(m.name) else m.with_trial(wanted.get(m.name)) for m in pool),
        status=status.replace(variants=tuple(known[c] for c in sorted(known))),
        pending=tuple(pending),
    )


def is_open(variant: VariantStatus | None) -> bool:
    """Whether the class has no verdict yet (it may have nodes on which nothing could be measured)."""
    return variant is None or variant.reason == reasons.TRIALING


def _node_for(status: EdgeModelStatus, nodes: list[Member], tried_on: tuple[str, ...]) -> Member | None:
    """Who measures: the one that has done so, else the one that is at it, else the first by name that can."""
    fresh = [m for m in nodes if m.name not in tried_on]
    told = [m for m in fresh if m.trial is not None and m.trial.revision == status.revision]
    for m in told:
        if m.trial is not None and len(_results_of(m, m.trial.candidates)) == len(m.trial.candidates):
            return m
    return next((m for m in (*told, *fresh) if m.online), None)


def _results_of(m: Member, candidates: tuple[ArtifactTarget, ...]) -> dict[str, TrialResult]:
    told, said = m.trial, m.trial_reported
    if told is None or said is None or said.revision != told.revision:
        return {}
    digests = {c.digest for c in candidates}
    return {r.digest: r for r in said.results if r.digest in digests}


def _results(status: EdgeModelStatus, m: Member, fitting: tuple[CandidateStatus, ...]) -> dict[str, TrialResult]:
    if m.trial is None or m.trial.revision != status.revision:
        return {}
    return _results_of(m, tuple(_target(status, c) for c in fitting))


def _target(status: EdgeModelStatus, c: CandidateStatus) -> ArtifactTarget:
    return ArtifactTarget(
        revision=status.revision,
        reference=status.artifact.reference if status.artifact is not None else "",
        digest=c.digest,
        variant=c.name,
        size_bytes=c.size_bytes,
        file_bytes=c.file_bytes,
    )


def _trial(observed: Observed, status: EdgeModelStatus, fitting: tuple[CandidateStatus, ...]) -> AssignedTrial:
    meta = observed.model.metadata
    return AssignedTrial(
        namespace=meta.namespace,
        name=meta.name,
        revision=status.revision,
        candidates=tuple(_target(status, c) for c in fitting),
        health_check=observed.model.spec.health_check,
    )


def _decide(
    observed: Observed,
    node: Member,
    nodes: list[Member],
    results: dict[str, TrialResult],
    fitting: tuple[CandidateStatus, ...],
    so_far: VariantStatus | None,
) -> VariantStatus:
    compression = observed.model.spec.compression
    hardware_class, platform = node.hardware_class or HardwareClass.UNKNOWN, node.platform or ""
    verdict = choose(
        hardware_class, platform, node.name, judge(fitting, results, compression.budget), compression.objective
    )
    tried_on = so_far.tried_on if so_far is not None else ()
    if not fitting or measurable(fitting, results):
        return verdict.replace(tried_on=tried_on)
    tried_on = (*tried_on, node.name)
    if len(tried_on) < TRIAL_NODES and any(m.name not in tried_on for m in nodes):
        return verdict.replace(reason=reasons.TRIALING, measured_on="", tried_on=tried_on)
    return verdict.replace(tried_on=tried_on)
