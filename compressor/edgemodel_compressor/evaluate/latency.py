"""Latency of a candidate beside the source: interleaved in one process, so that both see the same machine.

Each round runs the same input through both, in alternating order (A B, B A, …), after a warm-up of both; the clock is
monotonic, the threads are fixed. The slowdown is the median over the rounds of candidate / source, minus 1: what
slows the whole machine for a while slows both halves of a round and falls out.

Rounds go on until the 95 % interval of that median is narrower than ± 1 % or the time is used up. The interval is
`intervals.median_interval` (order statistics). How it decides is said in `gates`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from edgemodel_compressor.formats.lean import LeanSession

from .intervals import Floats, Interval, median_interval
from .runner import Arrays, Run, path_of
from .serving import is_large, serve

WARM_UP_ROUNDS = 3
MIN_ROUNDS = 20
#: Where a round takes long.
LEAST_ROUNDS = 5
MAX_ROUNDS = 400
ENOUGH_HALF_WIDTH = 0.01


@dataclass(frozen=True)
class Timing:
    """Seconds for one inference."""

    median: float
    p99: float

    @classmethod
    def of(cls, seconds: Floats) -> Timing:
        """Median and 99th percentile of some runs."""
        return cls(float(np.median(seconds)), float(np.percentile(seconds, 99)))


@dataclass(frozen=True)
class Comparison:
    """Candidate and source in the same rounds.

    Attributes:
        candidate: its latency.
        source: the source's.
        slowdown: median of the paired ratios minus 1, with its 95 % interval; a fraction.
        rounds: how many pairs were timed.
    """

    candidate: Timing
    source: Timing
    slowdown: Interval
    rounds: int


def compare_latency(
    candidate: Run,
    source: Run,
    feeds: list[Arrays],
    *,
    seconds: float = 1.5,
    rounds: int = MIN_ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time both.

    Args:
        candidate: one inference.
        source: one inference.
        feeds: one request each; rounds go through them in turn.
        seconds: stop after this much time, but not before so many rounds (or four times this much) have passed.
        rounds: how many.
        clock: seconds, monotonic.

    Large models take turns as a whole, each in a process that opens it as a server does (`serving`).

    Raises:
        InputError: a model fails on the feeds.
        NotMeasuredError: a large model cannot be served within a Job's memory.
    """
    paths = path_of(candidate), path_of(source)
    if paths[0] is not None and paths[1] is not None and any(p and is_large(p) for p in paths):
        return _compare_served(paths[0], paths[1], feeds, seconds)
    for feed in feeds[:1] * WARM_UP_ROUNDS:
        source(feed)
        candidate(feed)
    mine: list[float] = []
    its: list[float] = []
    started = clock()
    for round_ in count():
        feed = feeds[round_ % len(feeds)]
        if round_ % 2:
            its.append(_timed(source, feed, clock))
            mine.append(_timed(candidate, feed, clock))
        else:
            mine.append(_timed(candidate, feed, clock))
            its.append(_timed(source, feed, clock))
        spent = clock() - started
        if _enough(np.array(mine), np.array(its), spent, seconds, rounds):
            break
    a, b = np.array(mine), np.array(its)
    return Comparison(Timing.of(a), Timing.of(b), slowdown(a, b), len(a))


def _compare_served(candidate: Path, source: Path, feeds: list[Arrays], seconds: float) -> Comparison:
    LeanSession.close_all()
    with tempfile.TemporaryDirectory(prefix="edgemodel-serve-") as folder:
        found = {
            p: serve(p, list(feeds), work_dir=Path(folder), seconds=seconds).seconds
            for p in dict.fromkeys((candidate, source))
        }
    a, b = found[candidate], found[source]
    mine, its = median_interval(a), median_interval(b)
    value, low, high = (
        x / max(y, 1e-9) - 1 for x, y in ((mine.value, its.value), (mine.low, its.high), (mine.high, its.low))
    )
    return Comparison(Timing.of(a), Timing.of(b), Interval(value, low, high), min(len(a), len(b)))


def slowdown(candidate: Floats, source: Floats) -> Interval:
    """Median of the paired ratios minus 1, with its 95 % interval."""
    ratio = median_interval(candidate / np.maximum(source, 1e-9))
    return Interval(ratio.value - 1, ratio.low - 1, ratio.high - 1)


def _enough(candidate: Floats, source: Floats, spent: float, seconds: float, least: int) -> bool:
    rounds = len(candidate)
    if rounds < least:
        # A model that takes seconds must not hold the Job for minutes: five pairs are the least.
        return rounds >= LEAST_ROUNDS and spent >= 4 * seconds
    if rounds >= MAX_ROUNDS or spent >= seconds:
        return True
    return rounds % 10 == 0 and slowdown(candidate, source).half_width < ENOUGH_HALF_WIDTH


def _timed(run: Run, feed: Arrays, clock: Callable[[], float]) -> float:
    start = clock()
    run(feed)
    return clock() - start
