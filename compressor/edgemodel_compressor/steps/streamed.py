"""The smallest of many scores that are never in memory together: for large models, one tensor at a time.

Non-negative float64 numbers are ordered as their bits are (IEEE 754), so the edge is found by its bits, 16 at a time
from the top (a radix selection): four passes over the scores, each with one histogram. The result is exact and equals
that of `ranking.smallest` on all scores behind one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .ranking import Mask, Scores

_BITS = 16
_AT_ONCE = 2**20


def smallest_of(parts: Callable[[], Iterator[Scores]], count: int) -> Iterator[Mask]:
    """Masks of exactly `count` elements with the smallest scores, part by part; of equal ones, the first.

    Args:
        parts: gives the scores, one-dimensional and not negative; called several times, always with the same numbers.
        count: at most the number of scores.
    """
    if count <= 0:
        for scores in parts():
            yield np.zeros(scores.shape, dtype=bool)
        return
    edge, left = _edge(parts, count)
    for scores in parts():
        mask: Mask = scores < edge
        equal = np.flatnonzero(scores == edge)[:left]
        mask[equal] = True
        left -= len(equal)
        yield mask


def _edge(parts: Callable[[], Iterator[Scores]], count: int) -> tuple[float, int]:
    """(the count-th smallest score, how many of those equal to it are among the smallest)."""
    known = 0
    for shift in range(64 - _BITS, -1, -_BITS):
        histogram = np.zeros(1 << _BITS, dtype=np.int64)
        for scores in parts():
            for start in range(0, scores.size, _AT_ONCE):
                # Minus zero is zero: its sign bit must not count.
                bits = (scores[start : start + _AT_ONCE] + 0.0).view(np.uint64)
                if shift + _BITS < 64:
                    bits = bits[bits >> np.uint64(shift + _BITS) == known]
                digit = (bits >> np.uint64(shift) & np.uint64((1 << _BITS) - 1)).astype(np.int64)
                histogram += np.bincount(digit, minlength=1 << _BITS)
        below = np.cumsum(histogram)
        digit_at = int(np.searchsorted(below, count))
        count -= int(below[digit_at - 1]) if digit_at else 0
        known = known << _BITS | digit_at
    return float(np.array([known], dtype=np.uint64).view(np.float64)[0]), count
