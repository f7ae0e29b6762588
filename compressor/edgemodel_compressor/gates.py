"""Gates: a budget, a measurement and the source's → refusals, each with the number, the limit and what to change. Pure.

Two kinds. *Deterministic* gates (quality, size) give the same verdict on every run and so decide what goes into the
artifact. *Host* gates (latency, slowdown, memory) hold for the machine that measured: their verdict is reported, and
taken again by the trial on each kind of node.

Slowdown is judged by `edgemodel_api.slowdown.too_slow`, as the plan judges the trials on each kind of node.
"""

from __future__ import annotations

from edgemodel_api.edgemodel import Budget
from edgemodel_api.quantities import (
    counted,
    format_bytes,
    format_seconds,
    parse_duration,
    parse_percent,
    parse_quantity,
)
from edgemodel_api.report import Measurement, Refusal
from edgemodel_api.slowdown import too_slow

#: Float rounding: a drop of exactly the budget is within it.
EPSILON = 1e-9

QUALITY, SIZE, LATENCY, MEMORY, SLOWDOWN, LOAD, SHRINK = (
    "maxQualityDrop", "maxSize", "maxLatency", "maxMemory", "maxSlowdown", "Load", "Size",
)  # fmt: skip
#: Refusals by these hold wherever the file goes.
DETERMINISTIC = frozenset({QUALITY, SIZE, LOAD, SHRINK})
#: Refusals by these hold for the machine that measured.
HOST = frozenset({LATENCY, MEMORY, SLOWDOWN})


def deterministic_gates(budget: Budget, measurement: Measurement) -> tuple[Refusal, ...]:
    """Quality and size: these decide what is in the artifact."""
    return tuple(r for r in (_quality(budget, measurement), _size(budget, measurement)) if r is not None)


def host_gates(budget: Budget, measurement: Measurement, *, slowdown_low: float | None = None) -> tuple[Refusal, ...]:
    """Latency, slowdown and memory, as this machine measured them.

    Args:
        budget: the limits.
        measurement: of the candidate; what is None was not measured and refuses nothing.
        slowdown_low: lower end of the slowdown's 95 % interval; None: the slowdown itself.
    """
    found = (_latency(budget, measurement), _slowdown(budget, measurement, slowdown_low), _memory(budget, measurement))
    return tuple(r for r in found if r is not None)


def check(budget: Budget, measurement: Measurement, *, slowdown_low: float | None = None) -> tuple[Refusal, ...]:
    """All gates, deterministic ones first."""
    return (
        *deterministic_gates(budget, measurement),
        *host_gates(budget, measurement, slowdown_low=slowdown_low),
    )


def shrink_refusal(measurement: Measurement, source: Measurement) -> Refusal | None:
    """A candidate whose stored layer is not smaller than the source's: it costs quality and saves nothing."""
    if measurement.size_bytes < source.size_bytes:
        return None
    return Refusal(
        gate=SHRINK,
        value=float(measurement.size_bytes),
        limit=float(source.size_bytes),
        message=f"{measurement.size_bytes} bytes stored, not smaller than the source's {source.size_bytes}: prune more, or"
        " quantize to Int8 or Int4",
    )


def load_refusal(message: str) -> Refusal:
    """A candidate that could not be built, loaded or run."""
    return Refusal(gate=LOAD, message=message)


def _quality(budget: Budget, measurement: Measurement) -> Refusal | None:
    limit, drop = parse_percent(budget.max_quality_drop), measurement.quality_drop
    if drop is None or drop <= limit + EPSILON:
        return None
    quality = "" if measurement.quality is None else f" (quality {measurement.quality:.4g})"
    return Refusal(
        gate=QUALITY,
        value=drop,
        limit=limit,
        message=f"quality drops by {drop:.2%}{quality}, more than maxQualityDrop {budget.max_quality_drop}: raise it,"
        " prune less, use scope Local or a wider precision, or give calibration data like what nodes see",
    )


def _size(budget: Budget, measurement: Measurement) -> Refusal | None:
    if budget.max_size is None:
        return None
    limit, size = parse_quantity(budget.max_size), measurement.size_bytes
    if size <= limit:
        return None
    return Refusal(
        gate=SIZE,
        value=float(size),
        limit=float(limit),
        message=f"{format_bytes(size)} ({size} bytes) stored, more than maxSize {budget.max_size}"
        f" ({counted(limit, 'byte')}): raise it, prune more, or quantize to Int8 or Int4",
    )


def _latency(budget: Budget, measurement: Measurement) -> Refusal | None:
    median = measurement.latency_median_seconds
    if budget.max_latency is None or median is None:
        return None
    limit = parse_duration(budget.max_latency).total_seconds()
    if median <= limit:
        return None
    return Refusal(
        gate=LATENCY,
        value=median,
        limit=limit,
        message=f"median latency {format_seconds(median)} on this machine, more than maxLatency {budget.max_latency}:"
        " raise it, or use objective Fastest or a smaller model",
    )


def _slowdown(budget: Budget, measurement: Measurement, low: float | None) -> Refusal | None:
    slower = measurement.slowdown
    if slower is None:
        return None
    limit = parse_percent(budget.max_slowdown)
    if not too_slow(slower, low, limit):
        return None
    return Refusal(
        gate=SLOWDOWN,
        value=slower,
        limit=limit,
        message=f"{slower:+.1%} median latency beside the source on this machine, more than maxSlowdown"
        f" {budget.max_slowdown}: raise it, or quantize with another encoding or weights only",
    )


def _memory(budget: Budget, measurement: Measurement) -> Refusal | None:
    peak = measurement.peak_memory_bytes
    if budget.max_memory is None or peak is None:
        return None
    limit = parse_quantity(budget.max_memory)
    if peak <= limit:
        return None
    return Refusal(
        gate=MEMORY,
        value=float(peak),
        limit=float(limit),
        message=f"peak memory {format_bytes(peak)} ({peak} bytes), more than maxMemory {budget.max_memory}"
        f" ({counted(limit, 'byte')}): raise it, or use a smaller model",
    )
