"""A trial's results → the variant for that hardware class: the best by objective among those that keep the budget.

The source is a candidate as any other, so that a rollout never makes a node slower or worse than the budget allows:
where nothing else fits, the source does, unless it breaks the budget itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from edgemodel_api import reasons
from edgemodel_api.edgemodel import Budget, Objective
from edgemodel_api.edgemodel_status import CandidateStatus, RefusedCandidate, VariantStatus
from edgemodel_api.edgenode import Measured, TrialResult
from edgemodel_api.formats import Format
from edgemodel_api.hardware import HardwareClass
from edgemodel_api.quantities import format_bytes, format_seconds, parse_duration, parse_percent, parse_quantity
from edgemodel_api.slowdown import too_slow

from .text import listed, shortened

SOURCE = "source"
#: Not the candidate's fault: another node of the class may be able to measure it.
NODE_TROUBLE = frozenset({reasons.DOWNLOAD_FAILED, reasons.DISK_FULL})


@dataclass(frozen=True)
class Verdict:
    """What a trial says of one candidate. Seconds; `complaint` is empty if it keeps the budget.

    `unmeasured`: link or disk kept it away from the node.
    """

    candidate: CandidateStatus
    complaint: str
    latency: float | None = None
    slowdown: float | None = None
    unmeasured: bool = False


def candidates_for(
    candidates: Iterable[CandidateStatus], platform: str, hardware_class: HardwareClass, formats: Collection[Format]
) -> tuple[CandidateStatus, ...]:
    """What is tried on this class: its platform's variants that are meant for it and of these formats, the yardstick first.

    That is the source, even if the Job did not accept it (it may be larger than `maxSize`); where no runtime loads the
    source's format, it is the largest file, which is the least compressed.
    """
    fitting = [
        c
        for c in candidates
        if c.platform == platform
        and (c.format or Format.ONNX) in formats
        and (c.name == SOURCE or (c.accepted and (not c.hardware_classes or hardware_class in c.hardware_classes)))
    ]
    # Equal bytes are one candidate: a node's results are by digest.
    by_digest = {c.digest: c for c in sorted(fitting, key=lambda c: c.name == SOURCE)}
    largest = max((c.file_bytes for c in by_digest.values()), default=0)
    by_name = any(c.name == SOURCE for c in by_digest.values())
    first = next((c for c in by_digest.values() if (c.name == SOURCE if by_name else c.file_bytes == largest)), None)
    return tuple(sorted(by_digest.values(), key=lambda c: c is not first))


def number(text: str | None) -> float | None:
    """A decimal string of a node's report; None: absent or no number. Nodes may write anything."""
    if text is None:
        return None
    try:
        value = float(Decimal(text))
    except (InvalidOperation, ValueError, OverflowError):
        return None
    return None if math.isnan(value) else value


def measurable(candidates: Iterable[CandidateStatus], results: Mapping[str, TrialResult]) -> bool:
    """Whether the node could measure anything: False if link or disk kept every candidate away."""
    found = [results[c.digest] for c in candidates if c.digest in results]
    return any(r.passed or r.reason not in NODE_TROUBLE for r in found)


def judge(
    candidates: tuple[CandidateStatus, ...], results: Mapping[str, TrialResult], budget: Budget
) -> tuple[Verdict, ...]:
    """One verdict for each candidate, in their order: that of `candidates_for`, beside whose first the others are judged."""
    first = candidates[0] if candidates else None
    said = results.get(first.digest) if first is not None else None
    yardstick = number(said.measured.latency_median_seconds) if said and said.measured else None
    return tuple(_verdict(c, results.get(c.digest), budget, first, yardstick) for c in candidates)


def _verdict(
    c: CandidateStatus,
    result: TrialResult | None,
    budget: Budget,
    first: CandidateStatus | None,
    yardstick: float | None,
) -> Verdict:
    if result is None:
        return Verdict(c, "not measured")
    measured = result.measured or Measured()
    latency, slowdown = number(measured.latency_median_seconds), None
    if c is not first:
        slowdown = number(measured.slowdown)
        if slowdown is None and latency is not None and yardstick:
            slowdown = latency / yardstick - 1
    complaint = _complaint(c, result, budget, latency, slowdown, beside=_called(first))
    return Verdict(c, complaint, latency, slowdown, not result.passed and result.reason in NODE_TROUBLE)


def _complaint(
    c: CandidateStatus,
    result: TrialResult,
    budget: Budget,
    latency: float | None,
    slowdown: float | None,
    *,
    beside: str,
) -> str:
    measured = result.measured or Measured()
    if not c.accepted:
        return c.reason or "refused by the compression Job"
    if not result.passed:
        return f"{result.reason}: {result.message}" if result.message else result.reason
    if budget.max_latency is not None:
        limit = parse_duration(budget.max_latency).total_seconds()
        if latency is None or latency > limit:
            shown = "not measured" if latency is None else format_seconds(latency)
            return f"median latency {shown}, maxLatency is {budget.max_latency}"
    peak = measured.peak_memory_bytes
    if budget.max_memory is not None and (peak is None or peak > parse_quantity(budget.max_memory)):
        shown = "not measured" if peak is None else format_bytes(peak)
        return f"peak memory {shown}, maxMemory is {budget.max_memory}"
    if slowdown is not None and too_slow(slowdown, number(measured.slowdown_low), parse_percent(budget.max_slowdown)):
        return f"{slowdown:+.1%} latency beside {beside}, maxSlowdown is {budget.max_slowdown}"
    return ""


def _called(yardstick: CandidateStatus | None) -> str:
    return "the source" if yardstick is None or yardstick.name == SOURCE else yardstick.name


def choose(
    hardware_class: HardwareClass,
    platform: str,
    node: str,
    verdicts: tuple[Verdict, ...],
    objective: Objective,
) -> VariantStatus:
    """The class's variant; one with `accepted=False` and every number if nothing fits.

    Smallest: fewest stored bytes, then the faster. Fastest: lowest median latency, then the smaller. Then by name.
    """
    fitting = [v for v in verdicts if not v.complaint]
    refusals = tuple(
        RefusedCandidate(name=v.candidate.name, message=shortened(v.complaint, 200)) for v in verdicts if v.complaint
    )
    refused = [f"{r.name} ({r.message})" for r in refusals]
    if not fitting:
        away = all(v.unmeasured for v in verdicts)
        remedy = "mend that on the node, and try again" if away else "raise the budget, or add a candidate"
        return VariantStatus(
            hardware_class=hardware_class,
            platform=platform,
            name="",
            digest="",
            size_bytes=0,
            measured_on=node,
            accepted=False,
            refused=refusals,
            reason=reasons.TRIAL_FAILED,
            message=shortened(
                f"the artifact has no variant for {platform}"
                if not verdicts
                else f"none of {len(verdicts)} candidates fits {hardware_class} (measured on {node}): {listed(refused, 8)};"
                f" {remedy}"
            ),
        )

    def rank(v: Verdict) -> tuple[float, float, str]:
        size, latency = float(v.candidate.size_bytes), math.inf if v.latency is None else v.latency
        first, second = (size, latency) if objective is Objective.SMALLEST else (latency, size)
        return first, second, v.candidate.name

    best = min(fitting, key=rank)
    c = best.candidate
    beside = "" if best.slowdown is None else f", {best.slowdown:+.1%} beside {_called(verdicts[0].candidate)}"
    latency_text = "" if best.latency is None else f", {format_seconds(best.latency)}{beside}"
    others = f"; refused: {listed(refused, 8)}" if refused else ""
    return VariantStatus(
        hardware_class=hardware_class,
        platform=platform,
        name=c.name,
        digest=c.digest,
        size_bytes=c.size_bytes,
        file_bytes=c.file_bytes,
        format=c.format,
        quality=c.quality,
        latency_median_seconds=None if best.latency is None else _decimal(best.latency),
        measured_on=node,
        refused=refusals,
        reason=reasons.TRIAL_SUCCEEDED,
        message=shortened(
            f"{c.name} is the {str(objective).lower()} of {len(fitting)} that fit {hardware_class} (measured on {node}):"
            f" {format_bytes(c.size_bytes)}{latency_text}{others}"
        ),
    )


def _decimal(value: float) -> str:
    """Six significant digits, never an exponent.

    >>> _decimal(0.0000241234567)
    '0.0000241235'
    """
    return f"{Decimal(f'{value:.6g}'):f}" if math.isfinite(value) else "inf"
