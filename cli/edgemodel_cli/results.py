"""What a run came to, as the one JSON object of `-o json` and as rows of the tables. Pure.

```
ready, revision, source{sizeBytes, quality, latencyMedianSeconds},
variants[]{platform, name, format, digest, sizeBytes, quality, latencyMedianSeconds, accepted, reason},
nodes[]{name, state, revision, variant, endpoint},
rollout{waves[]{nodes[], admitted, soak, state}, rolledBack, reason}
```
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from edgemodel_api.edgemodel import EdgeModel, Format
from edgemodel_api.edgemodel_status import VariantStatus
from edgemodel_api.edgenode import EdgeNode, ModelStatus, TargetState
from edgemodel_api.errors import EXIT_OK
from edgemodel_api.job import JobResult, VariantSummary
from edgemodel_api.quantities import counted
from edgemodel_api.report import CompressionReport, Conversion, Original, Refusal
from edgemodel_cli.ending import End, is_offline
from edgemodel_operator.domain.waves import wave_members

SOURCE = "source"
#: What is said of the user's file, where the source was read from one that is no ONNX file.
AS_GIVEN = "as given"
OFFLINE = "Offline"
UNASSIGNED = "Unassigned"


@dataclass(frozen=True)
class VariantRow:
    """One variant on one platform. Sizes in bytes (stored), latency in seconds, `drop` a fraction of the source's quality."""

    platform: str
    name: str
    digest: str | None = None
    size: int | None = None
    quality: float | None = None
    drop: float | None = None
    latency: float | None = None
    accepted: bool = False
    reason: str = ""
    chosen_for: tuple[str, ...] = ()
    format: Format = Format.ONNX

    def to_json(self) -> dict[str, Any]:
        """As item 7 of the contract names the fields."""
        return {
            "platform": self.platform,
            "name": self.name,
            "format": self.format.value,
            "digest": self.digest,
            "sizeBytes": self.size,
            "quality": self.quality,
            "latencyMedianSeconds": self.latency,
            "accepted": self.accepted,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class NodeRow:
    """One node: how far its `target` revision is (`state`), and what answers requests there."""

    name: str
    state: str
    revision: str = ""
    variant: str = ""
    endpoint: str = ""
    reason: str = ""
    message: str = ""
    target: str = ""

    def to_json(self) -> dict[str, Any]:
        """As item 7 of the contract names the fields."""
        return {
            "name": self.name,
            "state": self.state,
            "revision": self.revision,
            "variant": self.variant,
            "endpoint": self.endpoint,
        }


@dataclass(frozen=True)
class WaveRow:
    """One wave's own members. `admitted` is the cumulative count; `state` is Waiting, Active or Done."""

    nodes: tuple[str, ...]
    admitted: int
    soak: str
    state: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"nodes": list(self.nodes), "admitted": self.admitted, "soak": self.soak, "state": self.state}


def node_row(node: EdgeNode, key: str, now: datetime) -> NodeRow:
    """One node, as far as this model is concerned."""
    name = node.metadata.name
    if is_offline(node, now):
        return NodeRow(name, OFFLINE)
    found = next((m for m in node.status.models if m.key == key), None)
    if found is None:
        assigned = any(m.key == key for m in node.spec.models)
        return NodeRow(name, TargetState.PENDING if assigned else UNASSIGNED)
    return _row(name, found)


def _row(name: str, found: ModelStatus) -> NodeRow:
    running = found.running
    return NodeRow(
        name,
        found.state,
        revision=found.revision if running is None else running.revision,
        variant=found.variant if running is None else running.variant,
        endpoint="" if running is None else running.endpoint,
        reason=found.reason,
        message=found.message,
        target=found.revision,
    )


def pool(model: EdgeModel, nodes: Iterable[EdgeNode]) -> tuple[EdgeNode, ...]:
    """The nodes that the model selects, by name."""
    chosen = (n for n in nodes if model.spec.node_pool.selector.matches(n.metadata.labels))
    return tuple(sorted(chosen, key=lambda n: n.metadata.name))


def wave_rows(model: EdgeModel, names: Sequence[str]) -> tuple[WaveRow, ...]:
    """The waves of the current revision with their members."""
    rollout = model.status.rollout
    rows = []
    admitted = 0
    for index, members in enumerate(wave_members(model.spec.rollout, names)):
        admitted += len(members)
        begun = rollout is not None and (index < rollout.wave or bool(rollout.wave_started_at or rollout.finished_at))
        if rollout is None or not begun or rollout.revision != model.status.revision or index > rollout.wave:
            state = "Waiting"
        elif index < rollout.wave or (rollout.finished_at is not None and not rollout.rolled_back):
            state = "Done"
        else:
            state = "RolledBack" if rollout.rolled_back else "Active"
        rows.append(WaveRow(members, admitted, model.spec.rollout.waves[index].soak, state))
    return tuple(rows)


def variant_rows(
    job: JobResult | None, report: CompressionReport | None, model: EdgeModel | None = None
) -> tuple[VariantRow, ...]:
    """What the Job said of its variants, then the candidates that only the report knows (the Job's message is short).

    With a model, what the trials said counts: a variant that every class refused which tried it is refused.
    """
    if job is None:
        return ()
    tried = model.status.variants if model is not None else ()
    chosen: dict[tuple[str, str], list[str]] = {}
    for t in tried:
        chosen.setdefault((t.platform, t.name), []).append(str(t.hardware_class))
    verdicts = [(v, _refused_in_trials(v, tried) if v.accepted else "") for v in job.variants]
    rows = [
        VariantRow(
            platform=v.platform,
            name=v.name,
            digest=v.digest,
            size=v.size_bytes or None,  # a candidate that was never built has none
            quality=v.quality,
            drop=_drop(job, report, v),
            latency=v.latency_median_seconds,
            accepted=v.accepted and not refused,
            reason=refused or v.reason,
            chosen_for=tuple(chosen.get((v.platform, v.name), ())),
            format=v.format or Format.ONNX,
        )
        for v, refused in verdicts
    ]
    known = {r.name for r in rows}
    for c in report.candidates if report is not None and Format.ONNX in report.formats else ():
        if c.name in known or c.accepted:
            continue
        m = c.measurement
        rows += [
            VariantRow(
                platform=platform,
                name=c.name,
                size=m.size_bytes if m else None,
                quality=m.quality if m else None,
                drop=m.quality_drop if m else None,
                latency=m.latency_median_seconds if m else None,
                reason="; ".join(r.message for r in c.refusals),
            )
            for platform in c.platforms or ("",)
        ]
    for converted in report.conversions if report is not None else ():
        if converted.name not in known and not converted.accepted:
            rows += [_conversion_row(converted, platform) for platform in converted.platforms or ("",)]
    return tuple(rows)


def original_name(given: Original) -> str:
    """Of the row of the user's file.

    >>> original_name(Original(format=Format.TFLITE, sha256=""))
    'source (TFLite)'
    """
    return f"{SOURCE} ({given.format.value})"


def original_text(given: Original) -> str:
    """How it was read."""
    if given.max_error is None:
        return "read as ONNX"
    return (
        f"read as ONNX: relative error {given.max_error:.2g} on {counted(given.cases, 'row')}, run by {given.ran_with}"
    )


def _conversion_row(c: Conversion, platform: str) -> VariantRow:
    return VariantRow(
        platform=platform,
        name=c.name,
        size=c.size_bytes or None,
        quality=c.quality,
        drop=c.quality_drop,
        reason=c.message,
        format=Format(c.format),
    )


def _refused_in_trials(variant: VariantSummary, tried: Sequence[VariantStatus]) -> str:
    """Why every class that tried this variant refused it; empty: one did not, or none tried it."""
    classes = [
        t
        for t in tried
        if t.platform == variant.platform
        and t.measured_on
        and (variant.name == SOURCE or not variant.hardware_classes or t.hardware_class in variant.hardware_classes)
    ]
    said = [
        next((f"{t.hardware_class} on {t.measured_on}: {r.message}" for r in t.refused if r.name == variant.name), "")
        for t in classes
    ]
    return "; ".join(said) if all(said) else ""


def refused_here(report: CompressionReport, platforms: Iterable[str]) -> str | None:
    """Why not one candidate that is meant for the machine that measured keeps the whole budget there; None: one does.

    The Job's own verdict is that of quality and size, which hold everywhere. Latency, memory and slowdown hold where
    they were measured: they say nothing of a platform that is not this machine's.
    """
    host = report.host
    if host is None or host.platform not in platforms:
        return None
    meant = [
        c
        for c in report.candidates
        if c.digest is not None and (not c.hardware_classes or host.hardware_class in c.hardware_classes)
    ]
    if not meant or any(not c.refusals for c in meant):
        return None
    near = min(meant, key=lambda c: max(_excess(r) for r in c.refusals))
    worst = max(near.refusals, key=_excess)
    return (
        f"none of {counted(len(meant), 'candidate')} keeps the budget on this machine; the nearest is {near.name}:"
        f" {worst.message}"
    )


def judged_here(rows: Iterable[VariantRow], report: CompressionReport | None) -> tuple[VariantRow, ...]:
    """The rows, those of this machine's platform accepted only if they kept every limit on it."""
    here = report.host.platform if report is not None and report.host is not None else None
    return tuple(replace(r, accepted=r.accepted and not (r.platform == here and r.reason)) for r in rows)


def _excess(refusal: Refusal) -> float:
    """By how much, as a share of the limit."""
    if refusal.value is None or refusal.limit is None:
        return math.inf
    return (refusal.value - refusal.limit) / refusal.limit if refusal.limit else refusal.value


def _drop(job: JobResult, report: CompressionReport | None, variant: VariantSummary) -> float | None:
    """As measured if the report is at hand, else from the rounded numbers; None for the source itself."""
    name, quality = variant.name, variant.quality
    if name == SOURCE:
        return None
    for converted in report.conversions if report is not None else ():
        if converted.name == name and converted.format == variant.format:
            return converted.quality_drop
    for c in report.candidates if report is not None else ():
        if c.name == name and c.measurement is not None:
            return c.measurement.quality_drop
    source = job.source.quality if job.source is not None else None
    higher = report.quality.higher_is_better if report is not None else True
    if quality is None or not source:
        return None
    return (source - quality if higher else quality - source) / abs(source)


def source_json(job: JobResult | None) -> dict[str, Any]:
    """The yardstick; null where it is not known."""
    source = job.source if job is not None else None
    return {
        "sizeBytes": source.size_bytes if source else None,
        "quality": source.quality if source else None,
        "latencyMedianSeconds": source.latency_median_seconds if source else None,
    }


def run_json(
    model: EdgeModel,
    end: End,
    *,
    variants: Sequence[VariantRow],
    nodes: Sequence[NodeRow],
    waves: Sequence[WaveRow],
    job: JobResult | None,
) -> dict[str, Any]:
    """The object that `edgemodel run -o json` prints."""
    rollout = model.status.rollout
    current = rollout is not None and rollout.revision == model.status.revision
    return {
        "ready": end.code == EXIT_OK,
        "revision": model.status.revision,
        "source": source_json(job),
        "variants": [v.to_json() for v in variants],
        "nodes": [n.to_json() for n in nodes],
        "rollout": {
            "waves": [w.to_json() for w in waves],
            "rolledBack": bool(current and rollout is not None and rollout.rolled_back),
            "reason": end.text,
        },
    }
