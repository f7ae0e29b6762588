"""The Job's result from its report and its index: 4096 bytes at most, whatever the number of candidates. Pure.

Because it is made from what is stored beside the artifact, a revision that was built before gives its result again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from edgemodel_api import reasons
from edgemodel_api.edgemodel import Format, Objective
from edgemodel_api.job import RESULT_LIMIT_BYTES, JobResult, Outcome, SourceSummary, VariantSummary
from edgemodel_api.quantities import counted, format_bytes
from edgemodel_api.report import Candidate, CompressionReport, Conversion, Measurement, Refusal

from . import gates
from .diagnosis import excess, nearest
from .diagnosis import summary as diagnosed

SOURCE = "source"
MESSAGE_LIMIT = 700
#: Refused candidates in a result; the report has all of them.
MOST_REFUSED = 16
REASON_LIMITS = (200, 100, 60, 0)


@dataclass(frozen=True)
class Stored:
    """One variant in the index."""

    platform: str
    name: str
    digest: str
    classes: tuple[str, ...]
    format: Format = Format.ONNX


def succeeded(
    report: CompressionReport, variants: tuple[Stored, ...], *, reference: str, digest: str, report_digest: str
) -> JobResult:
    """What is in the index, the source first, then by objective; then what was refused."""
    candidates = {c.name: c for c in report.candidates}
    conversions = {(c.format, c.name): c for c in report.conversions}
    found = [
        _variant(report, v, candidates)
        if v.format is Format.ONNX
        else _converted(report, v.platform, conversions[v.format.value, v.name], v.digest)
        for v in variants
    ]
    refused = _left_out(report)
    chosen = next((c for c in report.candidates if c.chosen), None)
    best = chosen or candidates.get(
        next((v.name for v in variants if v.format is Format.ONNX and v.name != SOURCE), "")
    )
    result = JobResult(
        outcome=Outcome.SUCCEEDED,
        reason=reasons.COMPRESSION_SUCCEEDED,
        message="; ".join(_messages(report, best, here=chosen is not None)),
        digest=digest,
        reference=reference,
        report_digest=report_digest,
        source=_source(report),
        variants=(*sorted(found, key=_order(report)), *sorted(refused, key=lambda v: (v.size_bytes, v.name))),
    )
    return fitted(result)


def refused(report: CompressionReport) -> JobResult:
    """Nothing passed: the candidate that came nearest, its number and its limit, and what would have to be given up."""
    return fitted(
        JobResult(
            outcome=Outcome.REFUSED,
            reason=reasons.BUDGET_EXCEEDED,
            message=_none_passes(report),
            source=_source(report),
            variants=tuple(sorted(_left_out(report), key=lambda v: (v.size_bytes, v.name))),
        )
    )


def _none_passes(report: CompressionReport) -> str:
    if Format.ONNX not in report.formats:
        return _no_file_passes(report)
    tried = f"none of {counted(len(report.candidates), 'candidate')} keeps the budget"
    candidate = nearest(report.candidates)
    if candidate is None:
        return f"{tried}: nothing could be built; add steps, or widen the budget"
    worst = max((r for r in candidate.refusals if r.gate in gates.DETERMINISTIC), key=excess)
    advice = diagnosed(report.diagnosis) if report.diagnosis is not None else ""
    return f"{tried}; the nearest is {candidate.name}: {worst.message}{'. ' if advice else ''}{advice}"


def _no_file_passes(report: CompressionReport) -> str:
    """Where only other formats were wanted. The nearest is the smallest of those that lose least."""
    tried = [c for c in report.conversions if c.name != SOURCE]
    formats = " and ".join(f.value for f in report.formats)
    if not tried:
        return f"not one {formats} file was made: add calibration data, or widen the budget"
    near = min(tried, key=lambda c: (math.inf if c.quality_drop is None else c.quality_drop, c.size_bytes, c.name))
    return (
        f"none of {counted(len(tried), f'{formats} file')} keeps the budget; the nearest is {near.name}: {near.message}"
    )


def failed(outcome: Outcome, reason: str, message: str) -> JobResult:
    """Invalid or failed."""
    return fitted(JobResult(outcome=outcome, reason=reason, message=message))


def source_refusals(report: CompressionReport) -> tuple[Refusal, ...]:
    """What the budget says of the source itself: too large, or (here) too slow or too hungry."""
    return (*gates.deterministic_gates(report.budget, report.source), *gates.host_gates(report.budget, report.source))


def fitted(result: JobResult) -> JobResult:
    """The same in at most 4096 bytes of JSON: shorter texts first, then without refused candidates, then without text."""
    for attempt in _shorter(result):
        if len(to_bytes(attempt)) <= RESULT_LIMIT_BYTES:
            return attempt
    raise AssertionError("a result without variants and with a short message fits")


def to_bytes(result: JobResult) -> bytes:
    """Compact JSON."""
    return json.dumps(result.to_json(), separators=(",", ":"), ensure_ascii=False).encode()


def _shorter(result: JobResult) -> Iterator[JobResult]:
    result = result.replace(message=_cut(result.message, MESSAGE_LIMIT))
    in_index = tuple(v for v in result.variants if v.digest is not None)
    left_out = tuple(v for v in result.variants if v.digest is None)[:MOST_REFUSED]
    for limit in REASON_LIMITS[:2]:
        yield _with(result, in_index, left_out, limit)
    for keep in range(len(left_out) - 1, -1, -1):
        yield _with(result, in_index, left_out[:keep], REASON_LIMITS[1])
    for limit in REASON_LIMITS[2:]:
        yield _with(result, in_index, (), limit)
    short = result.replace(message=_cut(result.message, 200))
    for keep in range(len(in_index), -1, -1):
        yield _with(short, in_index[:keep], (), 0)


def _with(
    result: JobResult, in_index: tuple[VariantSummary, ...], left_out: tuple[VariantSummary, ...], limit: int
) -> JobResult:
    variants = (*in_index, *left_out)
    return result.replace(variants=tuple(v.replace(reason=_cut(v.reason, limit)) for v in variants))


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: max(0, limit - 1)]}…" if limit else ""


def _source(report: CompressionReport) -> SourceSummary:
    return SourceSummary(
        size_bytes=report.source.size_bytes,
        quality=_rounded(report.source.quality),
        latency_median_seconds=_rounded(report.source.latency_median_seconds),
    )


def _variant(report: CompressionReport, stored: Stored, candidates: Mapping[str, Candidate]) -> VariantSummary:
    candidate = candidates.get(stored.name)
    refusals = source_refusals(report) if stored.name == SOURCE else candidate.refusals if candidate else ()
    measurement = report.source if stored.name == SOURCE else candidate.measurement if candidate else None
    return VariantSummary(
        platform=stored.platform,
        name=stored.name,
        digest=stored.digest,
        accepted=not any(r.gate in gates.DETERMINISTIC for r in refusals),
        reason="; ".join(r.message for r in refusals),
        hardware_classes=stored.classes,
        **_numbers(measurement),
    )


def _converted(report: CompressionReport, platform: str, row: Conversion, digest: str | None) -> VariantSummary:
    refusals = []
    if row.name == SOURCE:
        stored = Measurement(size_bytes=row.size_bytes, file_bytes=row.file_bytes, quality_drop=row.quality_drop)
        refusals = [r.message for r in gates.deterministic_gates(report.budget, stored)]
    return VariantSummary(
        platform=platform,
        name=row.name,
        digest=digest,
        accepted=not refusals if row.name == SOURCE else row.accepted,
        reason="; ".join(refusals) or row.message,
        format=Format(row.format),
        size_bytes=row.size_bytes,
        file_bytes=row.file_bytes,
        quality=_rounded(row.quality),
    )


def _left_out(report: CompressionReport) -> list[VariantSummary]:
    """What was refused, of every format that was wanted."""
    found = [_refused(report, c) for c in report.candidates if not c.accepted] if Format.ONNX in report.formats else []
    found += [
        _converted(report, next(iter(c.platforms), ""), c, None)
        for c in report.conversions
        if not c.accepted and c.name != SOURCE
    ]
    return found


def _refused(report: CompressionReport, candidate: Candidate) -> VariantSummary:
    return VariantSummary(
        platform=candidate.platforms[0] if candidate.platforms else "",
        name=candidate.name,
        accepted=False,
        reason="; ".join(r.message for r in candidate.refusals),
        **_numbers(candidate.measurement),
    )


def _numbers(measurement: Measurement | None) -> dict[str, int | float | None]:
    if measurement is None:
        return {}
    return {
        "size_bytes": measurement.size_bytes,
        "file_bytes": measurement.file_bytes,
        "quality": _rounded(measurement.quality),
        "latency_median_seconds": _rounded(measurement.latency_median_seconds),
    }


def _order(report: CompressionReport) -> Callable[[VariantSummary], tuple[bool, float, str, str]]:
    def key(v: VariantSummary) -> tuple[bool, float, str, str]:
        latency = math.inf if v.latency_median_seconds is None else v.latency_median_seconds
        number = latency if report.objective == Objective.FASTEST else float(v.size_bytes)
        return v.name != SOURCE, number, v.name, v.platform

    return key


def _messages(report: CompressionReport, best: Candidate | None, *, here: bool) -> Iterator[str]:
    """The best file of each format."""
    if Format.ONNX in report.formats and (best is not None or not report.conversions):
        yield _success(report, best, here=here)
    for wanted in report.formats:
        mine = [c for c in report.conversions if c.format == wanted.value and c.digest is not None and c.name != SOURCE]
        if mine:
            small = min(mine, key=lambda c: (c.size_bytes, c.name))
            now = "" if small.quality is None else f", {report.quality.metric} {small.quality:.4g}"
            yield f"{small.name}: {format_bytes(report.source.size_bytes)} to {format_bytes(small.size_bytes)} stored{now}"
        elif wanted is not Format.ONNX:
            yield f"no {wanted.value} file keeps the budget"


def _success(report: CompressionReport, best: Candidate | None, *, here: bool) -> str:
    if best is None or best.measurement is None:
        return "built"
    m, s = best.measurement, report.source
    quality = (
        ""
        if m.quality is None or s.quality is None
        else f", {report.quality.metric} {s.quality:.4g} to {m.quality:.4g}"
    )
    note = "" if here else " (no candidate keeps latency and memory on this machine; the trial on each node decides)"
    return f"{best.name}: {format_bytes(s.size_bytes)} to {format_bytes(m.size_bytes)} stored{quality}{note}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
