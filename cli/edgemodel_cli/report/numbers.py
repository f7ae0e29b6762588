"""Numbers as a reader wants them. Pure."""

from __future__ import annotations

from edgemodel_api.edgemodel import Budget, Metric
from edgemodel_api.quantities import parse_duration, parse_percent, parse_quantity
from edgemodel_api.report import Measurement, QualityBasis, QualityKind
from edgemodel_api.slowdown import TIMER_TOLERANCE

NOTHING = "–"


def is_share(basis: QualityBasis) -> bool:
    """Whether the metric is a share of samples, shown in percent."""
    return not any(word in basis.metric for word in (Metric.MEAN_SQUARED_ERROR, Metric.COSINE))


def quality(value: float | None, basis: QualityBasis) -> str:
    """0.9871 → `98.71 %`, or four digits where the metric is no share."""
    if value is None:
        return NOTHING
    return f"{value * 100:.2f} %" if is_share(basis) else f"{value:.4g}"


def interval(measurement: Measurement, basis: QualityBasis) -> str:
    """`97.9–99.2 %`, the 95 % interval; empty without one."""
    low, high = measurement.quality_low, measurement.quality_high
    if low is None or high is None:
        return ""
    return f"{low * 100:.1f}–{high * 100:.1f} %" if is_share(basis) else f"{low:.3g}–{high:.3g}"


def percent(value: float | None, *, signed: bool = False, digits: int = 2) -> str:
    """0.0123 → `1.23 %` (`+1.23 %`). What rounds to nothing has no sign."""
    if value is None:
        return NOTHING
    rounded = round(value * 100, digits) or 0.0
    return (f"{rounded:+.{digits}f} %" if signed and rounded else f"{rounded:.{digits}f} %").replace("-", "−")


def times(source: float, this: float) -> str:
    """How many times smaller `this` is: `4.1×`."""
    return f"{source / this:.1f}×" if source > 0 and this > 0 else NOTHING


def meaning(basis: QualityBasis) -> str:
    """What the quality numbers of this report say."""
    samples = f"{basis.samples:,} sample{'' if basis.samples == 1 else 's'}".replace(",", "\u202f")
    better = "" if basis.higher_is_better else " Lower is better."
    if basis.kind is QualityKind.LABELS:
        return (
            f"Quality is {basis.metric} against the labels of {samples}: how often the answers are right."
            if is_share(basis)
            else f"Quality is {basis.metric} against the labels of {samples}.{better}"
        )
    if basis.kind is QualityKind.AGREEMENT:
        return (
            f"There were no labels. Quality is agreement with the source ({basis.metric}) on {samples}: how closely the"
            " compressed model gives the source's answers. It says nothing about how often the source itself is right,"
            f" and a different answer counts as worse even where it is the right one.{better}"
        )
    return "Quality was not measured."


def quality_limit(budget: Budget, source: Measurement, basis: QualityBasis) -> float | None:
    """The worst quality that the budget allows; the drop is relative to the source's."""
    if source.quality is None:
        return None
    allowed = parse_percent(budget.max_quality_drop) * abs(source.quality)
    return source.quality - allowed if basis.higher_is_better else source.quality + allowed


def size_limit(budget: Budget) -> float | None:
    """Bytes."""
    return None if budget.max_size is None else float(parse_quantity(budget.max_size))


def latency_limits(budget: Budget, source: Measurement) -> dict[str, float]:
    """Budget field → seconds; the slowdown with what the gate allows the clock (`edgemodel_api.slowdown`)."""
    found = {}
    if source.latency_median_seconds is not None:
        allowed = 1 + parse_percent(budget.max_slowdown) + TIMER_TOLERANCE
        name = f"maxSlowdown {budget.max_slowdown} (+{TIMER_TOLERANCE:.0%} for the clock)"
        found[name] = source.latency_median_seconds * allowed
    if budget.max_latency is not None:
        found[f"maxLatency {budget.max_latency}"] = parse_duration(budget.max_latency).total_seconds()
    return found
