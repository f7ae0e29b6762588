"""Timing a candidate beside the source on this node: in turns, on the same core, with fresh processes when in doubt."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgemodel_api.slowdown import too_slow

from .checks import MIN_RUNS, Checker
from .measured import Latency
from .pairs import Slowdown, enough, slowdown

#: Candidate and source are timed in turns, so that both see the same weather; many short rounds rather than few long
#: ones, so that a burst of other work spoils a few of them and not the median. (Two equal models of 1.4 ms on two busy
#: cores, 4 s: ± 1 % with rounds of one inference, ± 4 % with rounds of six.)
ROUND_SECONDS = 0.001
MAX_RUNS_PER_ROUND = 20
#: The node rests after so much work.
WORK_SECONDS = 0.02
#: Pairs of processes that must agree, two of three, on a candidate's being slower.
PROCESSES = 3
#: Time for all rounds, rests included.
TRIAL_SECONDS = 4.0


@dataclass(frozen=True)
class Timing:
    """A candidate's latency, and beside the source its slowdown (None for the source itself)."""

    latency: Latency
    slowdown: Slowdown | None = None


def interleaved(
    candidate: Checker, source: Checker | None, *, seconds: float = TRIAL_SECONDS, cores: Sequence[int] = ()
) -> Timing:
    """Time the candidate, and the source in turns with it, in alternating order.

    With `cores`, both are held on the same core, and go through these together: otherwise the scheduler gives each
    its own, and a busy neighbour (or a little core beside a big one) makes equal models differ by a fifth and more.

    In between the node rests as long as it worked: what it serves meanwhile gets at least half of the CPU.
    """
    pair = [candidate] if source is None else [candidate, source]
    runs = {checker: _runs(checker) for checker in pair}
    rounds: dict[Checker, list[float]] = {checker: [] for checker in pair}
    single: list[float] = []
    began = turn = time.monotonic()
    core = itertools.cycle(cores if source is not None else ())
    hold(pair, next(core, None))
    while True:
        for checker in pair if len(rounds[candidate]) % 2 == 0 else reversed(pair):
            timed = checker.timed(runs[checker])
            rounds[checker].append(timed.median)
            if checker is candidate:
                single.extend(timed.seconds)
        spent = time.monotonic() - began
        if enough(rounds[candidate], rounds[pair[-1]], spent=spent, seconds=seconds):
            break
        if (worked := time.monotonic() - turn) >= WORK_SECONDS:
            time.sleep(min(1.0, worked))
            hold(pair, next(core, None))
            turn = time.monotonic()
    latency = Latency(statistics.median(rounds[candidate]), float(np.percentile(single, 99)))
    return Timing(latency, None if source is None else slowdown(rounds[candidate], rounds[source]))


def hold(checkers: Iterable[Checker], core: int | None) -> None:
    """Keep all threads of some servers on one core; None: leave them as they are. Where that is refused, so be it."""
    if core is None:
        return
    for checker in checkers:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{checker.server.pid}/task"):
                os.sched_setaffinity(int(thread), {core})


def _runs(checker: Checker) -> int:
    """How many inferences fill a round; asked twice, as the first ones warm up."""
    checker.timed(MIN_RUNS)
    return int(min(MAX_RUNS_PER_ROUND, max(1, ROUND_SECONDS / max(checker.timed(MIN_RUNS).median, 1e-6))))


def normalised(timing: Timing, source: float | None) -> Timing:
    """The candidate's latency as it would be on the day when the source was measured, `source` seconds.

    Dividing two of the reported numbers then gives the ratio that was measured side by side, whatever the clock rate
    of the CPU did between the measurements.
    """
    if timing.slowdown is None or not source or timing.latency.median <= 0:
        return timing
    median = source * (1 + timing.slowdown.value)
    return replace(timing, latency=Latency(median, timing.latency.p99 * median / timing.latency.median))


def confirmed(once: Callable[[], Timing], *, limit: float = 0.0) -> Timing:
    """Time a pair; one that seems slower than it may be, with fresh processes of both again, and the median counts.

    One process in about twenty is faster or slower than its twin by several percent for all of its life, as its memory
    happens to lie; no number of rounds averages that out.

    Args:
        once: starts both, times them, and ends them.
        limit: how much slower than the source a candidate may be, a fraction.
    """
    timings = [once()]
    first = timings[0].slowdown
    if first is None or not too_slow(first.value, first.low, limit):
        return timings[0]
    timings += [once() for _ in range(PROCESSES - 1)]
    return sorted(timings, key=lambda t: t.slowdown.value if t.slowdown else 0.0)[PROCESSES // 2]
