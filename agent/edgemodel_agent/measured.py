"""Measured numbers, as the status writes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemodel_api.edgenode import Measured
from edgemodel_oci.golden import GoldenScore

from .pairs import Slowdown


def number(value: float) -> str:
    """A measured number as the status writes it: a decimal string of six significant digits, never an exponent."""
    if not np.isfinite(value):
        return "inf" if value > 0 else "nan"
    return np.format_float_positional(value, precision=6, fractional=False, trim="-")


@dataclass(frozen=True)
class Latency:
    """Seconds of one inference in the server, without HTTP."""

    median: float
    p99: float


def measured_of(
    score: GoldenScore | None, latency: Latency | None, peak: int | None, *, slowdown: Slowdown | None = None
) -> Measured:
    """As the status writes it; an error that is no finite number is left out (the message tells)."""
    return Measured(
        latency_median_seconds=None if latency is None else number(latency.median),
        latency_p99_seconds=None if latency is None else number(latency.p99),
        peak_memory_bytes=peak,
        golden_error=None if score is None or not np.isfinite(score.error) else number(score.error),
        golden_agreement=None if score is None or score.agreement is None else number(score.agreement),
        slowdown=None if slowdown is None else number(slowdown.value),
        slowdown_low=None if slowdown is None else number(slowdown.low),
    )
