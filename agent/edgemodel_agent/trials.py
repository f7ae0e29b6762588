"""Trials: each candidate measured on this node beside the first one, the source. One at a time, when nothing else works."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import numpy as np

from edgemodel_api import reasons
from edgemodel_api.edgenode import ArtifactTarget, AssignedTrial, TrialResult
from edgemodel_api.errors import EdgeModelError

from . import decide, jobs, work
from .checks import (
    MIN_RUNS,
    Checker,
    CheckFailedError,
    Limits,
    judge_golden,
    judge_latency,
    judge_memory,
    limits_of,
)
from .decide import Facts, Work
from .fetch import failure_of, next_retry
from .files import write_json
from .jobs import CancelledError, Job
from .measured import Latency, measured_of
from .node import Node
from .pairs import Slowdown, enough, slowdown
from .processes import ServerProcess, bind_listener
from .state import TrialState
from .store import DamagedError, Loaded

log = logging.getLogger(__name__)

#: Candidate and source are timed in turns, so that both see the same weather; many short rounds rather than few long
#: ones, so that a burst of other work spoils a few of them and not the median. (Two equal models of 1.4 ms on two busy
#: cores, 4 s: ± 1 % with rounds of one inference, ± 4 % with rounds of six.)
ROUND_SECONDS = 0.001
MAX_RUNS_PER_ROUND = 20
#: The node rests after so much work.
WORK_SECONDS = 0.02
#: Time for all rounds, rests included.
TRIAL_SECONDS = 4.0


@dataclass(frozen=True)
class Timing:
    """A candidate's latency, and beside the source its slowdown (None for the source itself)."""

    latency: Latency
    slowdown: Slowdown | None = None


def interleaved(candidate: Checker, source: Checker | None, *, seconds: float = TRIAL_SECONDS) -> Timing:
    """Time the candidate, and the source in turns with it, in alternating order.

    In between the node rests as long as it worked: what it serves meanwhile gets at least half of the CPU.
    """
    pair = [candidate] if source is None else [candidate, source]
    runs = {checker: _runs(checker) for checker in pair}
    rounds: dict[Checker, list[float]] = {checker: [] for checker in pair}
    single: list[float] = []
    began = turn = time.monotonic()
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
            turn = time.monotonic()
    latency = Latency(statistics.median(rounds[candidate]), float(np.percentile(single, 99)))
    return Timing(latency, None if source is None else slowdown(rounds[candidate], rounds[source]))


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


def measure(
    node: Node,
    job: Job,
    *,
    desired: AssignedTrial,
    target: ArtifactTarget,
    yardstick: ArtifactTarget | None,
    source_median: float | None,
) -> TrialResult:
    """Measure one candidate. A candidate that fails has a result too; only damage and cancelling raise."""
    servers: list[ServerProcess] = []
    listener = bind_listener("127.0.0.1", None)
    score = timing = peak = None
    limits: Limits | None = None
    reason, message = reasons.PASSED, ""

    def begin(one: ArtifactTarget) -> tuple[Checker, Loaded]:
        loaded = node.store.load(one.digest)
        server = work.launch(node, job, key=desired.key, target=one, loaded=loaded, listener=listener)
        servers.append(server)
        timeout = limits_of(loaded.golden_spec, desired.health_check).timeout
        checker = Checker(server, timeout, job.check_cancelled)
        checker.wait_ready()
        return checker, loaded

    try:
        ours, loaded = begin(target)
        limits = limits_of(loaded.golden_spec, desired.health_check)
        score = ours.golden(loaded)
        if problem := judge_golden(score, limits.golden):
            raise CheckFailedError(problem, reason=reasons.GOLDEN_MISMATCH)
        theirs = None
        if yardstick is not None:
            theirs, beside = begin(yardstick)
            theirs.golden(beside)  # both are then timed with the same inputs
        timing = normalised(interleaved(ours, theirs), source_median)
        peak = servers[0].peak_memory()
        for problem, why in (
            (judge_latency(timing.latency, limits), reasons.TOO_SLOW),
            (judge_memory(peak, limits), reasons.TOO_MUCH_MEMORY),
        ):
            if problem:
                raise CheckFailedError(problem, reason=why)
    except EdgeModelError as error:
        reason = reasons.LOAD_FAILED if error.reason == reasons.INVALID_INPUT else error.reason
        message = error.message
    finally:
        if servers and peak is None:
            peak = servers[0].peak_memory()
        for server in servers:
            server.kill()
        listener.close()
    return TrialResult(
        digest=target.digest,
        variant=target.variant,
        passed=reason == reasons.PASSED,
        reason=reason,
        message=message,
        measured=measured_of(
            score, timing.latency if timing else None, peak, slowdown=timing.slowdown if timing else None
        ),
    )


class TrialRunner:
    """State machine of one trial. Only the loop's thread calls it."""

    def __init__(self, node: Node, state: TrialState) -> None:
        self.node = node
        self.state = state
        self.path = node.options.root / "trials" / state.namespace / f"{state.name}.json"
        self.job: Job | None = None
        self.removed = False
        self.desired: AssignedTrial | None = None

    def save(self, state: TrialState) -> None:
        """Remember results, so that a restart does not measure again."""
        if state != self.state:
            write_json(self.path, state.to_json())
            self.state = state

    def digests(self) -> set[str]:
        """Content that is still needed here."""
        mine = {self.job.digest} if self.job else set()
        if self.desired is None or decide.trial_done(self.desired, self.state):
            # Kept until the trial is unassigned: one of them is about to be assigned.
            return mine | ({c.digest for c in self.desired.candidates} if self.desired else set())
        return mine | {c.digest for c in self.desired.candidates}

    def servers(self) -> list[ServerProcess]:
        """Processes of the measurement under way."""
        return list(self.job.servers) if self.job else []

    def stop(self) -> None:
        """Cancel what is under way."""
        if self.job is not None:
            self.job.cancelled.set()
            for server in self.job.servers:
                server.kill()

    def step(self, desired: AssignedTrial | None, now: datetime, *, quiet: bool) -> None:
        """One pass. `quiet`: nothing else works on this node, so timing makes sense."""
        self.desired = desired
        if self.job is not None and self.job.finished.is_set():
            job, self.job = self.job, None
            self._ended(job, now)
        if desired is None or desired.revision != self.state.revision:
            self.stop()
            if self.job is None and desired is None:
                self.path.unlink(missing_ok=True)
                self.removed = self.node.collect = True
            elif self.job is None and desired is not None:
                self.save(TrialState(namespace=desired.namespace, name=desired.name, revision=desired.revision))
                self.node.collect = True
            return
        present = frozenset(c.digest for c in desired.candidates if self.node.store.complete(c.digest))
        facts = Facts(present=present, work=self.job.work if self.job else None, quiet=quiet)
        match decide.decide_trial(desired, self.state, facts, now):
            case decide.Fetch(target):
                body = partial(work.fetch, self.node, target=target)
                self.job = jobs.start(Job(Work.FETCH, target.digest, target), body, self.node.wake)
            case decide.Measure(target):
                self._measure(desired, target)

    def _measure(self, desired: AssignedTrial, target: ArtifactTarget) -> None:
        first = desired.candidates[0]
        source = next((r for r in self.state.results if r.digest == first.digest), None)
        median = source.measured.latency_median_seconds if source and source.passed and source.measured else None
        body = partial(
            measure,
            self.node,
            desired=desired,
            target=target,
            yardstick=first if median is not None else None,
            source_median=float(median) if median is not None else None,
        )
        self.node.timing = True
        self.job = jobs.start(Job(Work.MEASURE, target.digest, target), body, self.node.wake)

    def _ended(self, job: Job, now: datetime) -> None:
        if job.work is Work.MEASURE:
            self.node.timing = False
        if job.cancelled.is_set() or isinstance(job.error, (CancelledError, DamagedError)):
            return
        result: TrialResult | None = None
        if job.work is Work.MEASURE:
            result = job.result
            if job.error is not None:
                message = f"{type(job.error).__name__}: {job.error}"
                result = self._refused(job.context, reasons.LOAD_FAILED, message)
        elif job.error is not None:
            count = self.state.retry.count + 1 if self.state.retry else 1
            given_up, reason, message = failure_of(job.error, count)
            log.warning("trial of %s: download failed for the %d. time: %s", self.state.key, count, message)
            if not given_up:
                retry = next_retry(job.digest, count, now, reason, message, seed=self.node.options.node)
                self.save(self.state.replace(retry=retry))
                return
            result = self._refused(job.context, reason, message)
        if result is None:
            self.save(self.state.replace(retry=None))
            return
        log.info("trial of %s: %s %s %s", self.state.key, result.variant, result.reason, result.message)
        self.save(self.state.replace(results=(*self.state.results, result), retry=None))

    @staticmethod
    def _refused(target: ArtifactTarget, reason: str, message: str) -> TrialResult:
        return TrialResult(digest=target.digest, variant=target.variant, passed=False, reason=reason, message=message)
