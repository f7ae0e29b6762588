"""Trials: one online node of each hardware class measures the candidates; the results choose the class's variant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from edgemodel_api import reasons
from edgemodel_api.edgemodel import EdgeModelSpec, Objective
from edgemodel_api.edgemodel_status import CandidateStatus, EdgeModelStatus, VariantStatus
from edgemodel_api.edgenode import ArtifactTarget, AssignedTrial, TrialResult
from edgemodel_api.hardware import HardwareClass
from edgemodel_api.quantities import counted

from .choose import candidates_for, choose, judge, measurable
from .observed import Observed
from .pool import Member, Pool
from .runnable import formats_for, formats_on, loads, no_runtime
from .text import listed, shortened

#: So many nodes of a class may turn out unable to measure anything before the class is refused.
TRIAL_NODES = 3
#: For each candidate, on a slow device behind a slow link. Who takes longer hands over to another node of the class.
PATIENCE = timedelta(minutes=15)


@dataclass(frozen=True)
class Pending:
    """A class whose trial is under way: on which node, and how many of its candidates have a result.

    `due`: when the next result should be there. After that, and with nobody else to ask, the others do not wait for it.
    """

    hardware_class: HardwareClass
    node: str
    measured: int
    candidates: int
    due: datetime

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
    or what was refused is tried again; but for one that had no runtime, which is looked at again in each pass, and one of
    whose nodes none loads its variant any more.
    """
    known = {v.hardware_class: v for v in status.variants if v.reason != reasons.NO_RUNTIME}
    wanted: dict[str, AssignedTrial] = {}
    pending: list[Pending] = []
    for hardware_class in sorted({m.hardware_class for m in pool if m.hardware_class is not None}):
        nodes = [m for m in pool if m.hardware_class is hardware_class and m.platform in status.platforms]
        platform = (nodes[0].platform or "") if nodes else ""
        if nodes and not any(loads(m, known.get(hardware_class)) for m in nodes):
            del known[hardware_class]
        there = formats_on(status.candidates, platform)
        formats = formats_for(there, nodes)
        if there and nodes and not formats and is_open(known.get(hardware_class)):
            known[hardware_class] = no_runtime(hardware_class, platform, there, nodes)
            continue
        nodes = [m for m in nodes if formats <= m.formats]
        fitting = candidates_for(status.candidates, platform, hardware_class, formats)
        while is_open(known.get(hardware_class)):
            tried_on = known[hardware_class].tried_on if hardware_class in known else ()
            node = _node_for(status, nodes, fitting, tried_on)
            if node is None:
                break
            results = _results(status, node, fitting)
            if len(results) < len(fitting):
                trial = _trial(observed, status, node, fitting)
                due = (trial.assigned_at or observed.now) + PATIENCE * (len(results) + 1)
                another = len(tried_on) + 1 < TRIAL_NODES and _node_for(status, nodes, fitting, (*tried_on, node.name))
                if due <= observed.now and another:
                    known[hardware_class] = _handed_over(node, hardware_class, results, fitting, tried_on)
                    continue
                wanted[node.name] = trial
                pending.append(Pending(hardware_class, node.name, len(results), len(fitting), due))
                break
            known[hardware_class] = _decide(observed, status, node, nodes, fitting=fitting, tried_on=tried_on)
    return Tried(
        pool=tuple(m if m.trial == wanted.get(m.name) else m.with_trial(wanted.get(m.name)) for m in pool),
        status=status.replace(variants=tuple(known[c] for c in sorted(known))),
        pending=tuple(pending),
    )


def is_open(variant: VariantStatus | None) -> bool:
    """Whether the class has no verdict yet (it may have nodes on which nothing could be measured)."""
    return variant is None or variant.reason == reasons.TRIALING


def _node_for(
    status: EdgeModelStatus, nodes: list[Member], fitting: tuple[CandidateStatus, ...], tried_on: tuple[str, ...]
) -> Member | None:
    """Who measures: the one that has done so, else the one that is at it, else the first by name that can."""
    fresh = [m for m in nodes if m.name not in tried_on]
    done = [m for m in fresh if fitting and len(_results(status, m, fitting)) == len(fitting)]
    told = [m for m in fresh if m.online and m.trial is not None and m.trial.revision == status.revision]
    online = [m for m in fresh if m.online]
    return next(iter((*done, *told, *online)), None)


def _results(status: EdgeModelStatus, m: Member, fitting: tuple[CandidateStatus, ...]) -> dict[str, TrialResult]:
    """What the node measured of this revision, by digest."""
    said = m.trial_reported
    if said is None or said.revision != status.revision:
        return {}
    digests = {c.digest for c in fitting}
    return {r.digest: r for r in said.results if r.digest in digests}


def _target(status: EdgeModelStatus, c: CandidateStatus) -> ArtifactTarget:
    return ArtifactTarget(
        revision=status.revision,
        reference=status.artifact.reference if status.artifact is not None else "",
        digest=c.digest,
        variant=c.name,
        size_bytes=c.size_bytes,
        file_bytes=c.file_bytes,
    )


def _trial(
    observed: Observed, status: EdgeModelStatus, m: Member, fitting: tuple[CandidateStatus, ...]
) -> AssignedTrial:
    meta, told, compression = observed.model.metadata, m.trial, observed.model.spec.compression
    return AssignedTrial(
        namespace=meta.namespace,
        name=meta.name,
        revision=status.revision,
        candidates=tuple(_target(status, c) for c in fitting),
        assigned_at=told.assigned_at if told is not None and told.revision == status.revision else observed.now,
        health_check=observed.model.spec.health_check,
        max_slowdown="0%" if _by_the_clock(observed.model.spec) else compression.budget.max_slowdown,
    )


def _by_the_clock(spec: EdgeModelSpec) -> bool:
    """Whether a latency decides by itself, or by a percent or two: no pair of processes is trusted alone there."""
    limits = (spec.compression.budget.max_latency, spec.health_check.max_latency_p99)
    return spec.compression.objective is Objective.FASTEST or any(limits)


def _handed_over(
    node: Member,
    hardware_class: HardwareClass,
    results: dict[str, TrialResult],
    fitting: tuple[CandidateStatus, ...],
    tried_on: tuple[str, ...],
) -> VariantStatus:
    return VariantStatus(
        hardware_class=hardware_class,
        platform=node.platform or "",
        name="",
        digest="",
        size_bytes=0,
        accepted=False,
        reason=reasons.TRIALING,
        message=f"{node.name} has measured {len(results)}/{counted(len(fitting), 'candidate')} and had"
        f" {PATIENCE.seconds // 60} minutes for each: another node of {hardware_class} is asked",
        tried_on=(*tried_on, node.name),
    )


def _decide(
    observed: Observed,
    status: EdgeModelStatus,
    node: Member,
    nodes: list[Member],
    *,
    fitting: tuple[CandidateStatus, ...],
    tried_on: tuple[str, ...],
) -> VariantStatus:
    compression = observed.model.spec.compression
    hardware_class, platform = node.hardware_class or HardwareClass.UNKNOWN, node.platform or ""
    results = _results(status, node, fitting)
    verdict = choose(
        hardware_class, platform, node.name, judge(fitting, results, compression.budget), compression.objective
    )
    if not fitting or measurable(fitting, results):
        return verdict.replace(tried_on=tried_on)
    tried_on = (*tried_on, node.name)
    if len(tried_on) < TRIAL_NODES and any(m.name not in tried_on for m in nodes):
        why = listed(sorted({f"{r.reason}: {shortened(r.message, 160)}" for r in results.values()}))
        message = f"{node.name} could measure nothing ({why}): another node of {hardware_class} is asked"
        return verdict.replace(reason=reasons.TRIALING, measured_on="", message=message, tried_on=tried_on)
    return verdict.replace(tried_on=tried_on)
