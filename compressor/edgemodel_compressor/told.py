"""What a Job tells: the report of everything but the digests."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgemodel_api.edgemodel import Format, Objective
from edgemodel_api.errors import InputError
from edgemodel_api.job import JobSpec, Progress
from edgemodel_api.quantities import parse_percent
from edgemodel_api.report import CompressionReport, Diagnosis, Layer

from . import choose, host
from .bench import Outcome
from .conversions import Made
from .diagnosis import diagnose, nearest
from .evaluate.quality import sample_warning
from .evaluate.serving import is_large
from .finals import distinct
from .formats import others
from .formats.datafile import read_saved
from .formats.writers import WRITERS
from .gates import DETERMINISTIC, HOST
from .layers import layers
from .profile import layer_seconds
from .progress import Report
from .publish import Finalists
from .setup import Setup
from .table import table

#: Sensitivity for the table of layers is measured for so many layers at most.
MOST_SENSITIVE_LAYERS = 32


@dataclass
class Told:
    """Gathers warnings, and writes the report.

    Attributes:
        job: what was asked for.
        plan: what it was measured with.
        report_progress: where progress goes.
    """

    job: JobSpec
    plan: Setup
    report_progress: Report
    _warnings: list[str] = field(default_factory=list)
    _measured: dict[str, float] | None = None

    def __post_init__(self) -> None:
        self._warnings = [*self.plan.warnings]

    def warn(self, text: str) -> None:
        """A sentence for the report."""
        self._warnings.append(text)

    def report(self, finalists: Finalists, made: Sequence[Made] = ()) -> CompressionReport:
        """Everything but the digests.

        Args:
            finalists: ONNX files.
            made: files of other formats.
        """
        plan, job = self.plan, self.job
        outcomes = distinct(plan.lab.outcomes)
        names = {o.name for some in finalists.values() for o in some}
        chosen = self._chosen([o for o in outcomes if o.name in names])
        # The one that will most likely be served speaks for all: they are judged on the same samples.
        best = chosen or next((o for o in outcomes if o.name in names), None)
        rows = table(outcomes, job.platforms, chosen, plan.lab.bench.source)
        near = nearest(rows) if best is None else None
        shown = best or next((o for o in outcomes if near is not None and o.name == near.name), None)
        sensitivity = self._sensitivity(shown) if shown is not None else {}
        if shown is not None and shown.quality is not None:
            budget = parse_percent(job.compression.budget.max_quality_drop)
            warned = sample_warning(plan.evaluator, shown.quality, budget, shown.name)
            self._warnings += [warned] if warned else []
        onnx = Format.ONNX in job.formats
        if not onnx:
            self.warn(
                "formats names no ONNX: the ONNX candidates were measured to find the float model that is converted, and are not"
                " in the artifact"
            )
        report = CompressionReport(
            namespace=job.namespace,
            name=job.name,
            revision=job.revision,
            source_sha256=plan.inputs.source_sha256,
            original=plan.inputs.original,
            host=host.detect(),
            runtimes=host.runtimes(WRITERS[f].package for f in others(job.formats)),
            quality=plan.evaluator.basis,
            budget=job.compression.budget,
            objective=str(job.compression.objective),
            source=plan.lab.bench.source,
            formats=tuple(f for f in Format if f in job.formats),
            candidates=rows if onnx else tuple(r.replace(chosen=False) for r in rows),
            layers=self._layers(best, sensitivity) if best is not None else (),
            conversions=tuple(m.row for m in made),
        )
        # What ONNX candidates would have needed is nobody's question where none is wanted and another file does.
        settled = chosen is not None or (not onnx and any(m.holds for m in made))
        diagnosis = None if settled else self._diagnosis(report, shown, sensitivity, here=bool(names))
        return report.replace(diagnosis=diagnosis, warnings=tuple(dict.fromkeys(self._warnings)))

    def _chosen(self, finalists: list[Outcome]) -> Outcome | None:
        """The best by objective that is meant for this machine and keeps every gate on it."""
        here = host.detect()
        platform, own = str(here.platform), str(here.hardware_class)
        if platform in self.job.platforms:
            meant = {o.name: o.classes_on(platform) for o in finalists}
            finalists = [o for o in finalists if meant[o.name] == () or own in (meant[o.name] or ())]
        passing = [o for o in finalists if not o.refusals]
        best = choose.best(
            passing,
            Objective(self.job.compression.objective),
            size=lambda o: o.size_bytes,
            latency=lambda o: o.measurement.latency_median_seconds if o.measurement else None,
        )
        if finalists and best is None:
            self.warn(
                "no candidate keeps latency, memory and slowdown on this machine: the trial on each kind of node decides"
            )
        return best

    def _diagnosis(
        self, report: CompressionReport, shown: Outcome | None, sensitivity: dict[str, float], *, here: bool
    ) -> Diagnosis:
        evaluator = self.plan.evaluator
        budget = parse_percent(self.job.compression.budget.max_quality_drop)
        quality = shown.quality if shown is not None else None
        unsure = quality is not None and quality.drop_half_width > budget
        return diagnose(
            report.candidates,
            report.budget,
            source_bytes=report.source.size_bytes,
            drops=self._drops(shown, sensitivity) if shown is not None else {},
            sensitivity=sensitivity,
            samples=evaluator.samples,
            samples_needed=evaluator.samples_needed(quality, budget) if unsure and quality is not None else None,
            training=self.plan.inputs.training is not None and self.job.data.training is not None,
            which=HOST if here else DETERMINISTIC,
        )

    def _sensitivity(self, outcome: Outcome) -> dict[str, float]:
        """Output error of each node when it alone is stored as this outcome stores its weights."""
        builder = self.plan.lab.builder
        found: dict[str, float] = {}
        for action in outcome.recipe.telling:
            if builder.nodes(action) <= MOST_SENSITIVE_LAYERS:
                # A report without this column is better than none.
                with contextlib.suppress(InputError):
                    found = {**builder.sensitivity_of(action), **found}
        return found

    def _drops(self, outcome: Outcome, sensitivity: dict[str, float]) -> dict[str, float]:
        """Quality drop of each node when it alone is stored as this outcome stores its weights; measured once."""
        if self._measured is None:
            self._measured = {}
            self.report_progress(Progress(stage="layers", message=outcome.name))
            with contextlib.suppress(InputError):
                builder = self.plan.lab.builder
                self._measured = builder.quality_drops(outcome.recipe, sensitivity, self.plan.evaluator)
        return self._measured

    def _layers(self, outcome: Outcome, sensitivity: dict[str, float]) -> tuple[Layer, ...]:
        """The table of layers, with what each costs in quality and in time, as far as that can be measured here."""
        if outcome.path is None:
            return ()
        builder, bench = self.plan.lab.builder, self.plan.lab.bench
        seconds: list[dict[str, float]] = [{}, {}]
        drops = self._drops(outcome, sensitivity)
        if not is_large(outcome.path):
            with contextlib.suppress(InputError):
                seconds = [layer_seconds(p, bench.feeds) for p in (self.plan.inputs.model.path, outcome.path)]
        return layers(
            builder.prepared,
            read_saved(outcome.path),
            sensitivity,
            quality_drops=drops,
            seconds=seconds[0],
            quantized_seconds=seconds[1],
        )
