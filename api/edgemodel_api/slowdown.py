"""When a candidate counts as slower than the source: one rule for the compressor's gates and the plan's trials. Pure.

The statistic is the median of the paired ratios candidate/source over interleaved rounds, minus 1, with its 95 %
interval. A candidate is too slow when

1. the interval's lower end is above the limit plus `TIMER_TOLERANCE` (2 %): slower, and not by chance; or
2. the median itself is above the limit plus `UNSURE_TOLERANCE` (10 %), however wide the interval: a machine too noisy
   to measure on does not let a slow candidate through.

So two equal models pass under `maxSlowdown: "0%"` though one of them is always a little ahead, and any slowdown of
more than 10 % is refused, of more than about 3 % wherever the machine is quiet (the interval is then ± 1 %).
"""

from __future__ import annotations

import math

TIMER_TOLERANCE = 0.02
UNSURE_TOLERANCE = 0.10


def too_slow(slowdown: float, low: float | None, limit: float) -> bool:
    """Whether `slowdown` breaks `limit`.

    Args:
        slowdown: median of the paired ratios minus 1; a fraction (0.05: five percent slower).
        low: lower end of its 95 % interval; None: the slowdown itself is taken for sure.
        limit: `maxSlowdown` as a fraction.

    >>> too_slow(0.05, 0.01, 0.0), too_slow(0.05, 0.03, 0.0), too_slow(0.11, -0.2, 0.0), too_slow(0.05, None, 0.0)
    (False, True, True, True)
    """
    if math.isnan(slowdown):
        return True
    surely = (slowdown if low is None else low) > limit + TIMER_TOLERANCE
    return surely or slowdown > limit + UNSURE_TOLERANCE
