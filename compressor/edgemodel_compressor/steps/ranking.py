"""How many of a set go, and which: exact counts, and ties by index. Pure."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def fraction(percent: str) -> Decimal:
    """Exact: 0.35 as a float would make 2.9999… of 30 % of ten."""
    return Decimal(percent.rstrip("%")) / 100


def zeros_wanted(elements: int, sparsity: Decimal) -> int:
    """Number of zeros in a set: half rounds up.

    >>> zeros_wanted(5, Decimal("0.5")), zeros_wanted(10, Decimal("0.25"))
    (3, 3)
    """
    return int((elements * sparsity).to_integral_value(ROUND_HALF_UP))


def smallest(scores: Scores, count: int) -> Mask:
    """Mask of exactly `count` elements with the smallest scores; of equal ones, the first."""
    mask: Mask = np.zeros(scores.shape, dtype=bool)
    if count <= 0:
        return mask
    edge = np.partition(scores, count - 1)[count - 1]
    np.less(scores, edge, out=mask)
    mask[np.flatnonzero(scores == edge)[: count - int(np.count_nonzero(mask))]] = True
    return mask
