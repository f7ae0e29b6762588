"""Verdicts and clocks: what is known of a file, beside the source, as an outcome. No file is timed twice."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from edgemodel_api.edgemodel import Budget
from edgemodel_api.errors import InputError
from edgemodel_api.report import Measurement, Refusal, Verification

from . import gates
from .build import Built
from .candidates import classes_on, classes_there
from .evaluate.latency import LEAST_ROUNDS, MIN_ROUNDS, compare_latency
from .evaluate.memory import peak_memory
from .evaluate.quality import Quality
from .evaluate.runner import Arrays, Run, runner
from .evaluate.serving import NotMeasuredError
from .judge import Court, Known, serving_session
from .recipe import Recipe

LATENCY_SECONDS = 1.0
#: For candidates that are out already: their place in the plot.
ROUGH_LATENCY_SECONDS = 0.3


@dataclass(frozen=True)
class Outcome:
    """One candidate.

    Attributes:
        name: unique in this run.
        recipe: what was done.
        path: its file; None: it could not be built, or the file is no longer needed.
        file_digest: sha256 of the file; empty: not built.
        measurement: None: not built or not loadable.
        quality: with intervals.
        complete: whether quality has seen all samples.
        refusals: of the deterministic gates; those of this host come with `timed`.
        quantized: names of the quantized nodes.
        notes: of the steps.
        verified: on the kinds of CPU that it is meant for.
        repairs: what was changed because it did not hold on one of them.
        lost: hardware classes on which it does not hold; it is not for them.
    """

    name: str
    recipe: Recipe
    path: Path | None = None
    file_digest: str = ""
    measurement: Measurement | None = None
    quality: Quality | None = None
    complete: bool = True
    refusals: tuple[Refusal, ...] = ()
    quantized: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    verified: tuple[Verification, ...] = ()
    repairs: tuple[str, ...] = ()
    lost: frozenset[str] = frozenset()

    def classes_on(self, platform: str) -> tuple[str, ...] | None:
        """Hardware classes of `platform` that it is for: `()` all of them, None: it is not for it."""
        meant = classes_on(self.recipe, platform)
        if meant is None or not self.lost:
            return meant
        left = tuple(c for c in meant or classes_there(platform) if c not in self.lost)
        if not left:
            return None
        return () if left == classes_there(platform) else left

    @property
    def size_bytes(self) -> int:
        """Stored."""
        return self.measurement.size_bytes if self.measurement else 0

    @property
    def drop(self) -> float:
        """Of quality, relative to the source's; infinite where it is not known."""
        found = self.measurement.quality_drop if self.measurement is not None else None
        return math.inf if found is None else found

    @property
    def loads(self) -> bool:
        """Whether it ran."""
        return self.measurement is not None

    @property
    def good(self) -> bool:
        """Whether it ran and keeps the quality."""
        return self.loads and not any(r.gate in (gates.QUALITY, gates.LOAD) for r in self.refusals)

    @property
    def accepted(self) -> bool:
        """Whether the deterministic gates let it through."""
        return self.loads and not any(r.gate in gates.DETERMINISTIC for r in self.refusals)


@dataclass(frozen=True)
class Clocks:
    """What a file took beside the source, in turns with it.

    Attributes:
        slowdown: median of the ratios minus 1.
        low: lower end of its 95 % interval.
        p99: 99th percentile over the source's median.
        peak_memory_bytes: of a process that serves it; None: not measured.
    """

    slowdown: float
    low: float
    p99: float
    peak_memory_bytes: int | None


class Bench:
    """Everything that is measured is measured here, beside one source."""

    def __init__(
        self,
        *,
        source_path: Path,
        source_size: int,
        source_bytes: int,
        court: Court,
        feeds: list[Arrays],
        budget: Budget,
        work_dir: Path,
    ) -> None:
        """Measures the source's memory and latency.

        Args:
            source_path: the file.
            source_size: its stored bytes.
            source_bytes: its bytes.
            court: its evaluator has judged the source.
            feeds: single requests, for latency.
            budget: the limits.
            work_dir: for the memory measurement.
        """
        self.court = court
        self.feeds, self._budget, self._work_dir = feeds, budget, work_dir
        self._clocks: dict[tuple[str, float], Clocks] = {}
        self._source_run: Run = runner(serving_session(source_path, 1))
        timing = compare_latency(self._source_run, self._source_run, feeds, seconds=LATENCY_SECONDS / 2).source
        quality = court.evaluator.source_quality
        self.source = Measurement(
            size_bytes=source_size,
            file_bytes=source_bytes,
            quality=quality.value,
            quality_low=quality.low,
            quality_high=quality.high,
            quality_drop=0.0,
            latency_median_seconds=timing.median,
            latency_p99_seconds=timing.p99,
            slowdown=0.0,
            peak_memory_bytes=peak_memory(source_path, feeds[0], work_dir=work_dir),
            samples=court.evaluator.samples,
        )

    def outcome(self, name: str, recipe: Recipe, built: Built, known: Known, *, path: Path | None) -> Outcome:
        """What is known of a candidate, with the verdicts of the deterministic gates: quality and size.

        Args:
            name: unique in this run.
            recipe: what was done.
            built: its file, which need not be there any more.
            known: of that file.
            path: where it is; None: nowhere.
        """
        outcome = Outcome(
            name=name,
            recipe=recipe,
            path=path,
            file_digest=built.digest,
            quantized=built.quantized,
            notes=built.notes,
        )
        quality = self.court.quality(known)
        if known.failure or quality is None:
            return replace(outcome, path=None, refusals=(gates.load_refusal(known.failure),))
        measurement = Measurement(
            size_bytes=known.size_bytes,
            file_bytes=built.file_bytes,
            sparsity=built.sparsity,
            quality=quality.value,
            quality_low=quality.low,
            quality_high=quality.high,
            quality_drop=quality.drop,
            samples=int(self.court.mask(known).sum()),
        )
        refusals = list(gates.deterministic_gates(self._budget, measurement))
        if shrink := gates.shrink_refusal(measurement, self.source):
            refusals.append(shrink)
        return replace(
            outcome,
            measurement=measurement,
            quality=quality,
            complete=known.complete,
            refusals=tuple(refusals),
        )

    def timed(self, outcome: Outcome, *, rough: bool = False) -> Outcome:
        """Latency, slowdown and (not `rough`) peak memory on this machine, with the gates' verdicts on them."""
        if outcome.path is None or outcome.measurement is None:
            return outcome
        try:
            return self.with_clocks(outcome, self.clocks(outcome, rough=rough))
        except NotMeasuredError as error:
            # No verdict on the model: the trial on each kind of node has the memory that serving it takes.
            return replace(outcome, notes=(*outcome.notes, error.message))
        except InputError as error:
            return replace(outcome, refusals=(*outcome.refusals, gates.load_refusal(error.message)))

    def clocks(self, outcome: Outcome, *, rough: bool) -> Clocks:
        """Run it in turns with the source.

        Raises:
            InputError: it cannot run in a process of its own.
        """
        seconds = ROUGH_LATENCY_SECONDS if rough else LATENCY_SECONDS
        key = outcome.file_digest, seconds
        if key not in self._clocks and outcome.path is not None:
            run = runner(serving_session(outcome.path, 1))
            rounds = LEAST_ROUNDS if rough else MIN_ROUNDS
            found = compare_latency(run, self._source_run, self.feeds, seconds=seconds, rounds=rounds)
            memory = None if rough else peak_memory(outcome.path, self.feeds[0], work_dir=self._work_dir)
            p99 = found.candidate.p99 / max(found.source.median, 1e-9)
            self._clocks[key] = Clocks(found.slowdown.value, found.slowdown.low, p99, memory)
        return self._clocks[key]

    def with_clocks(self, outcome: Outcome, clocks: Clocks) -> Outcome:
        """The outcome with its clocks as they would have been when the source was timed, so that dividing two reported
        numbers gives the ratio that was measured in turns, whatever the machine did between the measurements.
        """
        if outcome.measurement is None:
            return outcome
        then = self.source.latency_median_seconds or 0.0
        measurement = outcome.measurement.replace(
            latency_median_seconds=then * (1 + clocks.slowdown),
            latency_p99_seconds=then * clocks.p99,
            slowdown=clocks.slowdown,
            peak_memory_bytes=clocks.peak_memory_bytes,
        )
        refused = gates.host_gates(self._budget, measurement, slowdown_low=clocks.low)
        return replace(outcome, measurement=measurement, refusals=(*outcome.refusals, *refused))
