"""What a node is told: which target, to fetch or to activate, at which attempt."""

from __future__ import annotations

import dataclasses

from edgemodel_api.edgemodel import Budget, HealthCheck
from edgemodel_api.edgemodel_status import ArtifactRef, VariantStatus
from edgemodel_api.edgenode import ArtifactTarget, AssignedModel, Swap, TargetState
from edgemodel_api.formats import Format
from edgemodel_api.hardware import HardwareClass

from .observed import Observed
from .pool import Member, Stage


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a hardware class gets."""

    platform: str
    target: ArtifactTarget
    format: Format = Format.ONNX


@dataclasses.dataclass(frozen=True)
class Goal:
    """A revision, and what each hardware class gets of it."""

    revision: str
    by_class: dict[HardwareClass, Choice]

    @classmethod
    def of(cls, revision: str, artifact: ArtifactRef, variants: tuple[VariantStatus, ...]) -> Goal:
        """From what a status or a history entry holds; classes that nothing fits are left out."""
        chosen = {}
        for v in variants:
            if v.accepted and v.digest:
                target = ArtifactTarget(
                    revision=revision,
                    reference=artifact.reference,
                    digest=v.digest,
                    variant=v.name,
                    size_bytes=v.size_bytes,
                    file_bytes=v.file_bytes,
                    trial_latency_seconds=v.latency_median_seconds,
                )
                chosen[v.hardware_class] = Choice(v.platform, target, v.format or Format.ONNX)
        return cls(revision, chosen)

    def meant_for(self, m: Member) -> Choice | None:
        """What nodes of its class and platform get; None: nothing, or its class is not known yet."""
        found = self.by_class.get(m.hardware_class) if m.hardware_class is not None else None
        return found if found is not None and found.platform == m.platform else None

    def target(self, m: Member) -> ArtifactTarget | None:
        """What this node shall get; None: nothing is meant for it, or none of its runtimes loads that."""
        found = self.meant_for(m)
        return found.target if found is not None and found.format in m.formats else None

    def is_assigned(self, m: Member) -> bool:
        """Whether the node is told to fetch or activate exactly this."""
        a, target = m.assigned, self.target(m)
        return a is not None and target is not None and a.target.digest == target.digest and a.target == target


def fetch(observed: Observed, m: Member, target: ArtifactTarget) -> Member:
    """Download ahead; what serves goes on serving."""
    a = _assigned(observed, m, target, Swap.PREFETCH)
    return m.with_assigned(a.replace(replaces=m.served_before) if m.has_lost_its_model else a)


def activate(observed: Observed, m: Member, target: ArtifactTarget, wave: int) -> Member:
    """Check and switch."""
    a = _assigned(observed, m, target, Swap.ACTIVATE)
    if m.assigned is not None and m.assigned.target == target:
        a = a.replace(attempt=m.assigned.attempt)
    return m.with_assigned(a.replace(wave=wave, replaces=m.served_before))


def put_back(observed: Observed, m: Member, target: ArtifactTarget) -> Member:
    """Activate what was good before, whatever the spec says now.

    Its limits were kept when it was let in; those of the new spec must not hold a node on what was found bad.
    """
    a = _assigned(observed, m, target, Swap.ACTIVATE)
    lenient = HealthCheck(timeout=observed.model.spec.health_check.timeout)
    return m.with_assigned(a.replace(replaces=m.served_before, health_check=lenient, budget=Budget()))


def again(observed: Observed, m: Member, *, retries: int) -> Member:
    """The same target, at the next attempt."""
    if m.assigned is None:
        return m
    attempt = max(m.assigned.attempt, m.reported.attempt if m.answer is not None and m.reported is not None else 0)
    return m.with_assigned(m.assigned.replace(attempt=_after(attempt), retries=retries, assigned_at=observed.now))


def withhold(observed: Observed, m: Member) -> Member:
    """Back to fetching only: it may not switch now."""
    if m.assigned is None:
        return m
    replaces = m.assigned.replaces if m.has_lost_its_model else ""
    told = m.assigned.replace(swap=Swap.PREFETCH, wave=0, replaces=replaces, assigned_at=observed.now)
    return m.with_assigned(told)


def anew(observed: Observed, m: Member) -> Member:
    """A new chance for what failed: it fetches first and waits for its turn, as a switch takes a slot."""
    return again(observed, withhold(observed, m), retries=0)


def refresh(observed: Observed, m: Member) -> Member:
    """New limits for what it has already: no switch is needed, so no permission either. What failed gets a new chance."""
    spec, a = observed.model.spec, m.assigned
    if a is None or (a.health_check, a.budget) == (spec.health_check, spec.compression.budget):
        return m
    stage = m.stage
    m = m.with_assigned(a.replace(health_check=spec.health_check, budget=spec.compression.budget))
    return anew(observed, m) if stage is Stage.FAILED else m


def _assigned(observed: Observed, m: Member, target: ArtifactTarget, swap: Swap) -> AssignedModel:
    meta, spec = observed.model.metadata, observed.model.spec
    return AssignedModel(
        namespace=meta.namespace,
        name=meta.name,
        target=target,
        swap=swap,
        attempt=_attempt(m, target),
        assigned_at=observed.now,
        serving=spec.serving,
        health_check=spec.health_check,
        budget=spec.compression.budget,
    )


def _attempt(m: Member, target: ArtifactTarget) -> int:
    """1, unless the last report speaks of these very bytes already: then one more than that.

    If they failed here before, the node would not try otherwise. If it was told something else since, the report is
    older than that: what it runs by now is not known, so it must not be taken for the answer to what it is told now.
    """
    r, told = m.reported, m.assigned
    if r is None or r.digest != target.digest:
        return 1
    answers = told is not None and told.target.digest == target.digest
    return 1 if answers and r.state is not TargetState.FAILED else _after(r.attempt)


def _after(attempt: int) -> int:
    """The next one. Reports are hostile: one that the API server would not store as a number begins anew."""
    return attempt + 1 if 0 <= attempt < 1 << 31 else 1
