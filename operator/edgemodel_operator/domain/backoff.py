"""How long to wait before the next try."""

from __future__ import annotations

from datetime import timedelta


def backoff(base: timedelta, failures: int, longest: timedelta) -> timedelta:
    """`base`·2^(failures−1), at most `longest`.

    >>> [backoff(timedelta(seconds=10), n, timedelta(minutes=1)).seconds for n in (1, 2, 3, 4)]
    [10, 20, 40, 60]
    """
    doublings = min(max(failures, 1) - 1, 30)
    return min(longest, base * (1 << doublings))
