"""Confidence intervals, 95 %, for single numbers and for paired differences. Pure.

Sources: Wilson 1927 (one proportion); Agresti and Min 2005, "Simple improved confidence intervals for comparing
matched proportions" (paired proportions); the normal interval for means; Efron's percentile bootstrap for F1;
order statistics with binomial ranks for medians (Conover 1999, 3.2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Two-sided 95 % of the normal distribution.
Z = 1.959963984540054


class Interval(NamedTuple):
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2


def wilson(successes: float, samples: int) -> Interval:
    """Share of successes.

    Raises:
        ValueError: no samples.
    """
    if samples <= 0:
        raise ValueError("an interval needs at least one sample")
    p, z2 = successes / samples, Z * Z
    centre = (p + z2 / (2 * samples)) / (1 + z2 / samples)
    half = Z * math.sqrt(p * (1 - p) / samples + z2 / (4 * samples * samples)) / (1 + z2 / samples)
    # At 0 and 1 rounding could leave the value outside of its own interval.
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))


def mean_interval(rows: Floats) -> Interval:
    """Mean of one number per sample: Wilson where all are 0 or 1, else the normal interval.

    Raises:
        ValueError: no samples.
    """
    if is_binary(rows):
        return wilson(float(rows.sum()), len(rows))
    return mean_interval_normal(rows)


def paired_difference(first: Floats, second: Floats) -> Interval:
    """Mean of first − second over the same samples.

    For 0/1 rows: Agresti and Min add half a sample to each cell of the 2×2 table, so that no disagreement in few
    samples does not read as certainty. Other rows: normal.
    """
    n = len(first)
    if is_binary(first) and is_binary(second):
        worse = float(np.count_nonzero(first > second))
        better = float(np.count_nonzero(first < second))
        centre = (worse - better) / (n + 2)
        half = Z * math.sqrt(worse + better + 1 - (worse - better) ** 2 / (n + 2)) / (n + 2)
        value = (worse - better) / n
        return Interval(value, max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half)))
    return mean_interval_normal(first - second)


def mean_interval_normal(rows: Floats) -> Interval:
    """Mean ± 1.96 s/√n, whatever the rows are; one row: an endless interval.

    Raises:
        ValueError: no samples.
    """
    if not len(rows):
        raise ValueError("an interval needs at least one sample")
    mean = float(rows.mean())
    half = Z * float(rows.std(ddof=1)) / math.sqrt(len(rows)) if len(rows) > 1 else math.inf
    return Interval(mean, mean - half, mean + half)


def median_interval(values: Floats) -> Interval:
    """Median, with the order statistics whose ranks are n/2 ± 1.96 √n/2 as ends (no assumption on the shape).

    Raises:
        ValueError: no samples.
    """
    n = len(values)
    if not n:
        raise ValueError("an interval needs at least one sample")
    ordered = np.sort(values)
    half = Z * math.sqrt(n) / 2
    low = max(0, math.floor(n / 2 - half))
    high = min(n - 1, math.ceil(n / 2 + half))
    return Interval(float(np.median(ordered)), float(ordered[low]), float(ordered[high]))


def is_binary(rows: Floats) -> bool:
    """Whether all rows are 0 or 1."""
    return bool(len(rows)) and bool(np.all((rows == 0) | (rows == 1)))
