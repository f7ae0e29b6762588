"""Trials: each candidate measured on this node beside the first one, the source. One at a time, when nothing else works."""

from __future__ import annotations

import logging
import os
from datetime import datetime
from functools import partial

from edgemodel_api import reasons
from edgemodel_api.edgenode import ArtifactTarget, AssignedTrial, TrialResult
from edgemodel_api.errors import EdgeModelError
from edgemodel_api.quantities import parse_percent
from edgemodel_oci.golden import GoldenScore

from . import decide, jobs, work
from .checks import (
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
from .files import remove_file, write_json
from .jobs import CancelledError, Job
from .measured import measured_of
from .node import Node
from .processes import ServerProcess, bind_listener
from .state import TrialState
from .store import DamagedError
from .timing import Timing, confirmed, interleaved, normalised

log = logging.getLogger(__name__)


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
    listener = bind_listener("127.0.0.1", None)
    score: GoldenScore | None = None
    timing: Timing | None = None
    peak: int | None = None
    reason, message = reasons.PASSED, ""
    # Threads of one inference need cores of their own.
    cores = sorted(os.sched_getaffinity(0)) if (node.options.server_threads or 1) == 1 else []

    def begin(one: ArtifactTarget, servers: list[ServerProcess]) -> tuple[Checker, Limits, GoldenScore]:
        loaded = node.store.load(one.digest)
        servers.append(work.launch(node, job, key=desired.key, target=one, loaded=loaded, listener=listener))
        limits = limits_of(loaded.golden_spec, desired.health_check)
        checker = Checker(servers[-1], limits.timeout, job.check_cancelled)
        checker.wait_ready()
        return checker, limits, checker.golden(loaded)

    def once() -> Timing:
        nonlocal score, peak
        servers: list[ServerProcess] = []
        try:
            ours, limits, score = begin(target, servers)
            if problem := judge_golden(score, limits.golden):
                raise CheckFailedError(problem, reason=reasons.GOLDEN_MISMATCH)
            # The source ran the golden cases too: both are timed with the same inputs.
            theirs = begin(yardstick, servers)[0] if yardstick is not None else None
            return interleaved(ours, theirs, cores=cores)
        finally:
            if servers:
                peak = max(peak or 0, servers[0].peak_memory() or 0) or None
            for server in servers:
                server.kill()

    try:
        timing = normalised(confirmed(once, limit=parse_percent(desired.max_slowdown)), source_median)
        limits = limits_of(node.store.load(target.digest).golden_spec, desired.health_check)
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
        self._labels = (state.namespace, state.name)

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
                remove_file(self.path)
                self.removed = self.node.collect = True
            elif self.job is None and desired is not None:
                self.save(TrialState(namespace=desired.namespace, name=desired.name, revision=desired.revision))
                self.node.collect = True
            return
        present = frozenset(c.digest for c in desired.candidates if self.node.store.complete(c.digest))
        facts = Facts(present=present, work=self.job.work if self.job else None, quiet=quiet)
        match decide.decide_trial(desired, self.state, facts, now):
            case decide.Fetch(target):
                body = partial(work.fetch, self.node, labels=self._labels, target=target)
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
            self.node.metrics.download_retries.labels(*self._labels).inc()
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
        self.node.metrics.tried(self._labels, result.reason)
        self.save(self.state.replace(results=(*self.state.results, result), retry=None))

    @staticmethod
    def _refused(target: ArtifactTarget, reason: str, message: str) -> TrialResult:
        return TrialResult(digest=target.digest, variant=target.variant, passed=False, reason=reason, message=message)
