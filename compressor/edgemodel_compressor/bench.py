"""Measuring candidates beside the source: quality and size first, clocks afterwards. No file is measured twice.

Quality is first looked at on `SCREEN_SAMPLES`, those on which the source is least sure (`Evaluator.screen`): what is
over the budget there is out. What goes into the artifact has always seen all the data.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgemodel_api import reasons
from edgemodel_api.edgemodel import Budget
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import parse_percent
from edgemodel_api.report import Measurement, Refusal
from edgemodel_oci.artifact import packed_size

from . import gates
from .build import Built
from .candidates import Recipe
from .evaluate.latency import compare_latency
from .evaluate.memory import peak_memory
from .evaluate.metrics import Array
from .evaluate.quality import Evaluator, Mask, Quality
from .evaluate.runner import Arrays, Run, runner
from .formats.onnx_model import open_session
from .search import Effort

SCREEN_SAMPLES = 256
#: Of fewer samples, a quarter.
SCREEN_SHARE = 4
LEAST_SCREEN = 128
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

    @property
    def size_bytes(self) -> int:
        """Stored."""
        return self.measurement.size_bytes if self.measurement else 0

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


@dataclass
class _Known:
    """What is known of one file by content."""

    measurement: Measurement
    rows: Array | None = None
    chosen: Mask | None = None
    quality: Quality | None = None
    failure: str = ""
    timed: dict[float, tuple[Measurement, float]] = field(default_factory=dict)


class Bench:
    """Everything that is measured is measured here, beside one source."""

    def __init__(
        self,
        *,
        source_path: Path,
        source_size: int,
        evaluator: Evaluator,
        feeds: list[Arrays],
        budget: Budget,
        threads: int,
        work_dir: Path,
        probe: Callable[[Path], None],
    ) -> None:
        """Measures the source's memory and latency.

        Args:
            source_path: the file.
            source_size: its stored bytes.
            evaluator: has judged the source.
            feeds: single requests, for latency.
            budget: the limits.
            threads: for quality; latency is measured with one.
            work_dir: for the memory measurement.
            probe: loads and runs a file in another process; raises InputError where that fails.
        """
        self._evaluator, self._feeds, self._budget = evaluator, feeds, budget
        self._threads, self._work_dir, self._probe = threads, work_dir, probe
        self._limit = parse_percent(budget.max_quality_drop)
        self._screen = evaluator.screen(min(SCREEN_SAMPLES, max(LEAST_SCREEN, evaluator.samples // SCREEN_SHARE)))
        self._everything = np.ones(evaluator.samples, dtype=bool)
        self._known: dict[str, _Known] = {}
        self._probed: set[str] = set()
        self._source_run: Run = runner(serving_session(source_path, 1))
        timing = compare_latency(self._source_run, self._source_run, feeds, seconds=LATENCY_SECONDS / 2).source
        quality = evaluator.source_quality
        self.source = Measurement(
            size_bytes=source_size,
            file_bytes=source_path.stat().st_size,
            quality=quality.value,
            quality_low=quality.low,
            quality_high=quality.high,
            quality_drop=0.0,
            latency_median_seconds=timing.median,
            latency_p99_seconds=timing.p99,
            slowdown=0.0,
            peak_memory_bytes=peak_memory(source_path, feeds[0], work_dir=work_dir),
            samples=evaluator.samples,
        )

    def measure(self, name: str, recipe: Recipe, built: Built, effort: Effort) -> Outcome:
        """Deterministic gates: quality as exactly as `effort` says, and size. A bad candidate is an outcome, no error."""
        outcome = Outcome(
            name=name,
            recipe=recipe,
            path=built.path,
            file_digest=built.digest,
            quantized=built.quantized,
            notes=built.notes,
        )
        known = self._known.get(built.digest)
        if known is None:
            known = self._known[built.digest] = self._sized(built)
        if not known.failure:
            try:
                if recipe.integer_compute and recipe.encoding not in self._probed:
                    # Integer kernels have crashed processes; whether they do depends on the encoding.
                    self._probe(built.path)
                    self._probed.add(recipe.encoding)
                self._judge(known, built.path, recipe, effort)
            except InputError as error:
                if error.reason == reasons.DISK_FULL:
                    raise
                known.failure = error.message
        if known.failure:
            return replace(outcome, path=None, refusals=(gates.load_refusal(known.failure),))
        return self._verdict(outcome, known)

    def again(self, outcome: Outcome, effort: Effort) -> Outcome:
        """Measure the same file more exactly; what is known already is kept."""
        if outcome.path is None:
            return outcome
        built = Built(outcome.path, outcome.file_digest, outcome.quantized, outcome.notes, None)
        return self.measure(outcome.name, outcome.recipe, built, effort)

    def timed(self, outcome: Outcome, *, rough: bool = False) -> Outcome:
        """Latency, slowdown and (not `rough`) peak memory on this machine, with the gates' verdicts on them."""
        known = self._known.get(outcome.file_digest)
        if known is None or outcome.path is None or outcome.measurement is None:
            return outcome
        seconds = ROUGH_LATENCY_SECONDS if rough else LATENCY_SECONDS
        try:
            if seconds not in known.timed:
                known.timed[seconds] = self._clocks(outcome.path, outcome.measurement, seconds, memory=not rough)
        except InputError as error:
            return replace(outcome, refusals=(*outcome.refusals, gates.load_refusal(error.message)))
        clocks, low = known.timed[seconds]
        measurement = outcome.measurement.replace(
            latency_median_seconds=clocks.latency_median_seconds,
            latency_p99_seconds=clocks.latency_p99_seconds,
            slowdown=clocks.slowdown,
            peak_memory_bytes=clocks.peak_memory_bytes,
        )
        refused = gates.host_gates(self._budget, measurement, slowdown_low=low)
        return replace(outcome, measurement=measurement, refusals=(*outcome.refusals, *refused))

    def _sized(self, built: Built) -> _Known:
        measurement = Measurement(
            size_bytes=packed_size(built.path), file_bytes=os.stat(built.path).st_size, sparsity=built.sparsity
        )
        return _Known(measurement)

    def _judge(self, known: _Known, path: Path, recipe: Recipe, effort: Effort) -> None:
        run: Run | None = None

        def judge(chosen: Mask) -> Array:
            nonlocal run
            run = run or runner(serving_session(path, self._threads))
            return self._evaluator.judge_rows(run, chosen, one_by_one=recipe.dynamic)

        if known.rows is None or known.chosen is None:
            known.rows, known.chosen = judge(self._screen), self._screen
            known.quality = self._evaluator.quality(known.rows, known.chosen)
        quality = known.quality
        if (
            known.chosen.all()
            or quality is None
            or effort is Effort.QUICK
            or self._evaluator.over(quality, self._limit)
        ):
            return
        rest = judge(~known.chosen)
        rows = np.empty(self._evaluator.samples, dtype=np.result_type(known.rows, rest))
        rows[known.chosen], rows[~known.chosen] = known.rows, rest
        known.rows, known.chosen = rows, self._everything
        known.quality = self._evaluator.quality(rows, self._everything)

    def _verdict(self, outcome: Outcome, known: _Known) -> Outcome:
        quality, chosen = known.quality, known.chosen
        if quality is None or chosen is None:
            return outcome
        measurement = known.measurement.replace(
            quality=quality.value,
            quality_low=quality.low,
            quality_high=quality.high,
            quality_drop=quality.drop,
            samples=int(chosen.sum()),
        )
        refusals = list(gates.deterministic_gates(self._budget, measurement))
        if shrink := gates.shrink_refusal(measurement, self.source):
            refusals.append(shrink)
        return replace(
            outcome,
            measurement=measurement,
            quality=quality,
            complete=bool(chosen.all()),
            refusals=tuple(refusals),
        )

    def _clocks(
        self, path: Path, measurement: Measurement, seconds: float, *, memory: bool
    ) -> tuple[Measurement, float]:
        """The candidate's clocks as they would have been when the source was timed, so that dividing two reported numbers
        gives the ratio that was measured in turns, whatever the machine did between the measurements.
        """
        found = compare_latency(runner(serving_session(path, 1)), self._source_run, self._feeds, seconds=seconds)
        then = self.source.latency_median_seconds or found.source.median
        clocks = measurement.replace(
            latency_median_seconds=then * (1 + found.slowdown.value),
            latency_p99_seconds=found.candidate.p99 * then / max(found.source.median, 1e-9),
            slowdown=found.slowdown.value,
            peak_memory_bytes=peak_memory(path, self._feeds[0], work_dir=self._work_dir) if memory else None,
        )
        return clocks, found.slowdown.low


def serving_session(path: Path, threads: int) -> Any:
    """As a server opens it: with all of the runtime's optimizations, for integer kernels come in by them."""
    return open_session(path, threads=threads, level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
