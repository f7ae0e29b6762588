"""Two models timed in turns: how much slower one is, and how sure that is. Pure.

The statistic is the compressor's (`edgemodel_api.slowdown`): the median over the rounds of candidate/source, minus 1,
with the lower end of its 95 % interval from order statistics (ranks n/2 ± 1.96·√n/2; Conover 1999, 3.2). What slows
the whole machine for a while slows both halves of a round and falls out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: Two-sided 95 % of the normal distribution.
Z = 1.959963984540054
#: With fewer rounds even the smallest ratio is no lower end of a 95 % interval.
MIN_ROUNDS = 7
#: Rounds after which the interval may be narrow enough to stop.
ENOUGH_ROUNDS = 60
#: A neighbour on one core, or a low clock, may last longer than that many rounds.
ENOUGH_SECONDS = 1.0
MAX_ROUNDS = 400
ENOUGH_HALF_WIDTH = 0.01
#: What a call costs beside the model, at the very least. Without it, two processes with the same model of a few
#: microseconds differ by several percent, as their memory is laid out differently: nothing that a client could notice.
CALL_SECONDS = 20e-6


@dataclass(frozen=True)
class Slowdown:
    """Fractions: 0.05 is five percent slower than the source.

    Attributes:
        value: median of the paired ratios, minus 1.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2


def slowdown(candidate: Sequence[float], source: Sequence[float]) -> Slowdown:
    """From the seconds of each round.

    Raises:
        ValueError: no rounds, or not as many of one as of the other.
    """
    ratios = sorted((a + CALL_SECONDS) / (b + CALL_SECONDS) for a, b in zip(candidate, source, strict=True))
    n = len(ratios)
    if not n:
        raise ValueError("a slowdown needs at least one round")
    half = Z * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    return Slowdown(statistics.median(ratios) - 1, ratios[low] - 1, ratios[high] - 1)


def enough(candidate: Sequence[float], source: Sequence[float], *, spent: float, seconds: float) -> bool:
    """Whether to stop: the interval is narrower than ± 1 %, or the time is used up (but never before `MIN_ROUNDS`)."""
    rounds = len(candidate)
    if rounds < MIN_ROUNDS:
        return False
    if rounds >= MAX_ROUNDS or spent >= seconds:
        return True
    sure = rounds >= ENOUGH_ROUNDS and spent >= ENOUGH_SECONDS
    return sure and slowdown(candidate, source).half_width < ENOUGH_HALF_WIDTH
