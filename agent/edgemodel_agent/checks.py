"""What a variant must pass on this node before it answers anybody: golden cases, latency, memory, in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edgemodel_api import quantities, reasons
from edgemodel_api.artifact import Golden
from edgemodel_api.edgemodel import Budget, HealthCheck
from edgemodel_api.edgenode import ArtifactTarget, Measured
from edgemodel_api.errors import EdgeModelError, RefusedError
from edgemodel_oci.golden import GoldenScore, compare_outputs, load_golden

from .measured import Latency, measured_of
from .processes import ServerProcess
from .server.control import ControlClient, Timed
from .store import Loaded

Answer = TypeVar("Answer")

#: One timing takes about so long, whatever the model's speed.
TIMING_SECONDS = 0.6
MIN_RUNS, MAX_RUNS = 5, 200
#: A busy node makes single timings slow: a limit counts as broken when it is so often in a row.
TIMING_TRIES = 3
POLL = 0.01


class CheckFailedError(RefusedError):
    """A check said no; carries what was measured until then."""

    def __init__(self, message: str, *, reason: str, measured: Measured | None = None) -> None:
        super().__init__(message, reason=reason)
        self.measured = measured


@dataclass(frozen=True)
class Limits:
    """The numbers of a check. Seconds and bytes; None: no limit."""

    golden: Golden
    latency_median: float | None = None
    latency_p99: float | None = None
    memory: int | None = None
    timeout: float = 60.0
    trial: Trial | None = None


@dataclass(frozen=True)
class Trial:
    """What the variant's trial on this class of hardware took, and how far above that a node may be.

    `maxSlowdown` is judged in the trial, beside the source; nodes do not fetch the source to do that again. A node of
    the same class that needs several times as long is another matter: throttled, overloaded, or not what it says.
    """

    median: float
    factor: float
    floor: float

    @property
    def limit(self) -> float:
        """Seconds."""
        return self.median * self.factor + self.floor


#: Before a switch: nodes of a class differ in clock rate, and may have other work.
CHECK_FACTOR, CHECK_FLOOR = 4.0, 0.010
#: While it serves, requests share the core with the timing.
RECHECK_FACTOR, RECHECK_FLOOR = 25.0, 0.050


def trial_of(target: ArtifactTarget, *, factor: float = CHECK_FACTOR, floor: float = CHECK_FLOOR) -> Trial | None:
    """The trial's number that came with the target; None: there is none, or it is no number."""
    try:
        median = float(target.trial_latency_seconds or "nan")
    except ValueError:
        return None
    return Trial(median, factor, floor) if 0 < median < np.inf else None


def limits_of(golden: Golden, health: HealthCheck, budget: Budget | None = None) -> Limits:
    """Collect the limits: `healthCheck.golden.tolerance` replaces the measured one; the tighter memory limit counts."""
    tolerance = health.golden.tolerance
    if tolerance is not None:
        golden = golden.replace(max_error=quantities.parse_percent(tolerance))
    return Limits(
        golden=golden,
        latency_median=_seconds(budget.max_latency if budget else None),
        latency_p99=_seconds(health.max_latency_p99),
        memory=memory_of(health, budget),
        timeout=quantities.parse_duration(health.timeout).total_seconds(),
    )


def memory_of(health: HealthCheck, budget: Budget | None = None) -> int | None:
    """The tighter of the two memory limits, in bytes; None: there is none."""
    given = (health.max_memory, budget.max_memory if budget else None)
    return min((quantities.parse_quantity(m) for m in given if m is not None), default=None)


def _seconds(text: str | None) -> float | None:
    return None if text is None else quantities.parse_duration(text).total_seconds()


class Checker:
    """Checks of one server within one deadline. `stop` is called between steps and may raise."""

    def __init__(self, server: ServerProcess, timeout: float, stop: Callable[[], None] = lambda: None) -> None:
        self.server = server
        self.timeout = timeout
        self.deadline = time.monotonic() + timeout
        self.stop = stop

    def left(self) -> float:
        """Seconds until the deadline.

        Raises:
            CheckFailedError: it has passed.
        """
        self.stop()
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise CheckFailedError(
                f"the checks took longer than healthCheck.timeout = {self.timeout:g} s: raise it, or use a faster model",
                reason=reasons.CHECK_TIMED_OUT,
            )
        return left

    def wait_ready(self) -> None:
        """Until the model is loaded.

        Raises:
            CheckFailedError: the server ended (LoadFailed) or did not get ready in time.
        """
        while True:
            left = self.left()
            if not self.server.alive():
                raise CheckFailedError(
                    f"the server could not load the model, {self.server.last_words()}", reason=reasons.LOAD_FAILED
                )
            try:
                with self.server.client(timeout=min(5.0, left)) as client:
                    if client.status().ready:
                        return
            except (OSError, EdgeModelError):
                pass  # not up yet
            time.sleep(POLL)

    def ask(self, what: str, question: Callable[[ControlClient], Answer]) -> Answer:
        """Ask the server something within the time that is left.

        Raises:
            CheckFailedError: it died, did not answer in time, or answered with an error.
        """
        left = self.left()
        try:
            with self.server.client(timeout=left) as client:
                return question(client)
        except (OSError, EdgeModelError) as error:
            self.left()
            # A process that dies closes its socket a moment before it can be seen to be gone.
            time.sleep(0.05)
            if not self.server.alive():
                raise CheckFailedError(
                    f"the server died during {what}, {self.server.last_words()}", reason=reasons.SERVER_CRASHED
                ) from error
            raise CheckFailedError(f"{what} failed: {error}", reason=reasons.LOAD_FAILED) from error

    def golden(self, loaded: Loaded) -> GoldenScore:
        """Run the golden cases in the server and judge the answers."""
        inputs, expected, cases = load_golden(loaded.golden)
        actual = self.ask("the golden cases", lambda client: client.infer_cases(inputs))
        return compare_outputs(actual, expected, cases)

    def timed(self, runs: int) -> Timed:
        """Time so many inferences, one after another."""
        return self.ask("timing", lambda client: client.latency(runs))

    def latency(self, seconds: float = TIMING_SECONDS) -> Latency:
        """Time the model for about `seconds`."""
        first = self.timed(MIN_RUNS)
        timed = self.timed(int(min(MAX_RUNS, max(MIN_RUNS, seconds / max(first.median, 1e-6)))))
        return Latency(timed.median, timed.p99)


def judge_golden(score: GoldenScore, golden: Golden) -> str | None:
    """Why the answers are not good enough; None if they are."""
    if score.passes(golden):
        return None
    if score.error > golden.max_error:
        said = f"{score.error:.4g}" if np.isfinite(score.error) else "not a finite number, or an output is missing"
        return (
            f"the golden cases' relative error is {said}, over the limit of {golden.max_error:.4g}"
            f" ({golden.cases} cases): this variant is not right on this CPU; use another one, or raise"
            " healthCheck.golden.tolerance"
        )
    return (
        f"{(score.agreement or 0.0):.2%} of {golden.cases} golden cases have the source's answer, under the limit of"
        f" {golden.min_agreement or 0.0:.2%}: this variant is not right on this CPU; use another one"
    )


def judge_latency(latency: Latency, limits: Limits) -> str | None:
    """Why the timing breaks a limit; None if it does not."""
    for value, limit, name, field in (
        (latency.median, limits.latency_median, "median", "budget.maxLatency"),
        (latency.p99, limits.latency_p99, "99th percentile", "healthCheck.maxLatencyP99"),
    ):
        if limit is not None and value > limit:
            return (
                f"the {name} latency is {quantities.format_seconds(value)}, over {field} ="
                f" {quantities.format_seconds(limit)}: raise it, or use a faster variant"
            )
    trial = limits.trial
    if trial is not None and latency.median > trial.limit:
        return (
            f"the median latency is {quantities.format_seconds(latency.median)}, {latency.median / trial.median:.1f} times"
            f" the {quantities.format_seconds(trial.median)} of the trial on this class of hardware (limit"
            f" {quantities.format_seconds(trial.limit)}): see what else this node does, or whether its CPU is throttled"
        )
    return None


def judge_memory(peak: int | None, limits: Limits) -> str | None:
    """Why the peak memory breaks the limit; None if it does not, or is not known."""
    if peak is None or limits.memory is None or peak <= limits.memory:
        return None
    return (
        f"the server's peak memory is {quantities.format_bytes(peak)}, over maxMemory ="
        f" {quantities.format_bytes(limits.memory)}: raise it, or use a smaller variant"
    )


def run_checks(server: ServerProcess, loaded: Loaded, limits: Limits, stop: Callable[[], None]) -> Measured:
    """All checks, in the order: loads, answers right, fast enough, small enough.

    Raises:
        CheckFailedError: with the reason, the number, the limit, and what was measured.
    """
    checker = Checker(server, limits.timeout, stop)
    checker.wait_ready()
    score = checker.golden(loaded)
    if problem := judge_golden(score, limits.golden):
        measured = measured_of(score, None, server.peak_memory())
        raise CheckFailedError(problem, reason=reasons.GOLDEN_MISMATCH, measured=measured)
    latency = checker.latency()
    for _ in range(TIMING_TRIES - 1):
        if judge_latency(latency, limits) is None:
            break
        latency = checker.latency()
    measured = measured_of(score, latency, server.peak_memory())
    if problem := judge_latency(latency, limits):
        raise CheckFailedError(problem, reason=reasons.TOO_SLOW, measured=measured)
    if problem := judge_memory(measured.peak_memory_bytes, limits):
        raise CheckFailedError(problem, reason=reasons.TOO_MUCH_MEMORY, measured=measured)
    return measured
