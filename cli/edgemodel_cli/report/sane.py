"""A report from a registry may hold any numbers: those that nothing can have measured are treated as not measured."""

from __future__ import annotations

import math
from typing import Any

from edgemodel_api.report import (
    Candidate,
    CompressionReport,
    Conversion,
    Diagnosis,
    Layer,
    Measurement,
    Original,
    Verification,
)

#: No model, time or ratio that is drawn here is larger.
LARGEST_BYTES = 2**50
LARGEST = 1e9
#: Seconds; nothing is faster.
SHORTEST = 1e-9


def sane(report: CompressionReport) -> CompressionReport:
    """The report with numbers that can be drawn: finite, sizes not negative, times positive."""
    return report.replace(
        source=_measurement(report.source),
        original=None if report.original is None else _original(report.original),
        candidates=tuple(map(_candidate, report.candidates)),
        layers=tuple(map(_layer, report.layers)),
        conversions=tuple(map(_conversion, report.conversions)),
        diagnosis=None if report.diagnosis is None else _diagnosis(report.diagnosis),
        seconds=_number(report.seconds) or 0.0,
    )


def _diagnosis(found: Diagnosis) -> Diagnosis:
    return found.replace(missing={gate: by for gate, by in found.missing.items() if _number(by) is not None})


def _candidate(candidate: Candidate) -> Candidate:
    measured = None if candidate.measurement is None else _measurement(candidate.measurement)
    return candidate.replace(measurement=measured, verified=tuple(map(_verification, candidate.verified)))


def _verification(v: Verification) -> Verification:
    return v.replace(
        samples=_bytes(v.samples),
        quality=_number(v.quality),
        quality_drop=_number(v.quality_drop),
        max_error=_number(v.max_error),
    )


def _conversion(c: Conversion) -> Conversion:
    return c.replace(
        size_bytes=_bytes(c.size_bytes),
        file_bytes=_bytes(c.file_bytes),
        cases=_bytes(c.cases),
        max_error=_positive(c.max_error),
        agreement=_number(c.agreement),
        quality=_number(c.quality),
        quality_drop=_number(c.quality_drop),
    )


def _original(given: Original) -> Original:
    return given.replace(
        size_bytes=_bytes(given.size_bytes),
        file_bytes=_bytes(given.file_bytes),
        cases=_bytes(given.cases),
        max_error=_positive(given.max_error),
    )


def _measurement(m: Measurement) -> Measurement:
    numbers: dict[str, Any] = {k: _number(v) if isinstance(v, float) else v for k, v in dict(m).items()}
    for name in ("latency_median_seconds", "latency_p99_seconds"):
        if numbers[name] is not None and numbers[name] < SHORTEST:
            numbers[name] = None
    memory = m.peak_memory_bytes
    numbers |= {
        "size_bytes": _bytes(m.size_bytes),
        "file_bytes": _bytes(m.file_bytes),
        "peak_memory_bytes": None if memory is None else _bytes(memory),
    }
    return Measurement(**numbers)


def _layer(layer: Layer) -> Layer:
    return layer.replace(
        source_bytes=_bytes(layer.source_bytes),
        bytes=_bytes(layer.bytes),
        sparsity=_number(layer.sparsity) or 0.0,
        sensitivity=_positive(layer.sensitivity),
        quality_drop=_number(layer.quality_drop),
        latency_seconds=_time(layer.latency_seconds),
        quantized_latency_seconds=_time(layer.quantized_latency_seconds),
    )


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and abs(value) <= LARGEST else None


def _positive(value: float | None) -> float | None:
    found = _number(value)
    return None if found is None or found < 0 else found


def _time(value: float | None) -> float | None:
    found = _number(value)
    return None if found is None or found < SHORTEST else found


def _bytes(count: int) -> int:
    return min(max(count, 0), LARGEST_BYTES)
