"""One Job: fetch, measure the source, try candidates, judge them, store the artifact and its report.

What is in the artifact follows from quality and size alone, so two runs give the same index digest; what this machine's
clock said is in the report.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx

from edgemodel_api import reasons
from edgemodel_api.artifact import Golden
from edgemodel_api.edgemodel import Objective
from edgemodel_api.errors import InputError
from edgemodel_api.job import JobResult, JobSpec, Progress
from edgemodel_api.quantities import format_bytes, parse_percent
from edgemodel_api.report import CompressionReport, Layer
from edgemodel_oci.repository import open_repository

from . import choose, gates, host, stored, summary
from .bench import Outcome, serving_session
from .build import Built
from .candidates import Recipe, recipes_for
from .evaluate.quality import label_warning, sample_warning
from .evaluate.runner import runner
from .job import check_supported
from .layers import layers
from .publish import Files, Finalists, publish
from .search import Effort, Space, least_sensitive, search
from .setup import set_up
from .table import table

#: Sensitivity for the table of layers is measured for so many layers at most.
MOST_SENSITIVE_LAYERS = 32


def run_job(
    job: JobSpec, *, work_dir: Path, progress: Callable[[Progress], None]
) -> tuple[JobResult, CompressionReport]:
    """Do the Job.

    Args:
        job: what to do.
        work_dir: a folder of its own, which the caller removes.
        progress: called often.

    Returns:
        The result (Succeeded or Refused) and the report.

    Raises:
        InputError: source, data, steps or output cannot be used.
        TransientError: a server does not answer.
    """
    started = time.monotonic()
    target = check_supported(job)
    with open_repository(target, create=True) as repo:
        progress(Progress(stage="resolve", message=str(target)))
        if (found := stored.find(repo, job)) is not None:
            return found
        run = _Run(job, work_dir, progress)
        outcomes = run.candidates()
        finalists, outcomes = run.finalists(outcomes)
        outcomes, finalists = run.timed(outcomes, finalists)
        report = run.report(outcomes, finalists).replace(seconds=round(time.monotonic() - started, 3))
        if not finalists:
            return summary.refused(report), report
        return publish(job, repo, report, finalists=finalists, files=run.files, progress=progress)


class _Run:
    """The state of one Job: the source measured, and the candidates so far."""

    def __init__(self, job: JobSpec, work_dir: Path, progress: Callable[[Progress], None]) -> None:
        self.job, self.work_dir, self.progress = job, work_dir, progress
        self.plan = set_up(job, work_dir, progress)
        doubt = label_warning(self.plan.evaluator)
        self.warnings = [*self.plan.inputs.warnings, *([doubt] if doubt else [])]
        self._outcomes: dict[str, Outcome] = {}

    @property
    def files(self) -> Files:
        """What goes into the artifact besides the candidates."""
        model = self.plan.inputs.model
        return Files(source=model.path, golden=self.plan.golden.path, limits=self.golden_limits, work_dir=self.work_dir)

    def candidates(self) -> tuple[Outcome, ...]:
        """Everything that was tried, in order; of two with the same bytes, the first.

        Raises:
            InputError: nothing could be built, or the disk is full.
        """
        steps = self.job.compression.steps
        if not steps:
            search(lambda recipe: self._measure(recipe, Effort.QUICK), self._space())
        else:
            for recipe in recipes_for(steps, self.job.platforms):
                self._explicit(recipe)
        tried = tuple(self._outcomes.values())
        if not any(o.file_digest for o in tried):
            # Not one file: what the steps ask for cannot be done to this model.
            why = next((r.message for o in tried for r in o.refusals), "the steps suit none of the platforms")
            raise InputError(f"nothing of this model can be compressed: {why}")
        first: dict[str, Outcome] = {}
        for outcome in tried:
            first.setdefault(outcome.file_digest or outcome.name, outcome)
        return tuple(first.values())

    def finalists(self, outcomes: tuple[Outcome, ...]) -> tuple[Finalists, tuple[Outcome, ...]]:
        """For each platform what goes into the artifact, all of it judged on all the data; and the outcomes since."""
        known = {o.name: o for o in outcomes}
        count = choose.slots(len(self.job.platforms))
        while True:
            pool = [o for o in known.values() if o.accepted]
            picked = {p: choose.pick(pool, p, count) for p in sorted(set(self.job.platforms))}
            unsure = next((o for some in picked.values() for o in some if not o.complete), None)
            if unsure is None:
                break
            self.progress(Progress(stage="confirm", message=f"{unsure.name}: quality on all samples"))
            known[unsure.name] = self.plan.bench.again(unsure, Effort.FULL)
        outcomes = tuple(known.values())
        if not any(picked.values()):
            return {}, outcomes
        return picked, outcomes

    def timed(self, outcomes: tuple[Outcome, ...], finalists: Finalists) -> tuple[tuple[Outcome, ...], Finalists]:
        """Finalists with their latency and memory; one that cannot run in a process of its own is out."""
        names = {o.name for some in finalists.values() for o in some}
        found: dict[str, Outcome] = {}
        for done, outcome in enumerate(outcomes):
            if outcome.name in names:
                self.progress(Progress(stage="time", done=len(found), total=len(names), message=outcome.name))
                outcomes = (*outcomes[:done], self.plan.bench.timed(outcome), *outcomes[done + 1 :])
                found[outcome.name] = outcomes[done]
        running = {p: tuple(found[o.name] for o in some if found[o.name].accepted) for p, some in finalists.items()}
        return outcomes, running if any(running.values()) else {}

    def report(self, outcomes: tuple[Outcome, ...], finalists: Finalists) -> CompressionReport:
        """Everything but the digests."""
        plan, job = self.plan, self.job
        names = {o.name for some in finalists.values() for o in some}
        chosen = self._chosen([o for o in outcomes if o.name in names])
        budget = parse_percent(job.compression.budget.max_quality_drop)
        # The one that will most likely be served speaks for all: they are judged on the same samples.
        best = chosen or next((o for o in outcomes if o.name in names), None)
        if best is not None and best.quality is not None:
            warned = sample_warning(plan.evaluator, best.quality, budget, best.name)
            self.warnings += [warned] if warned else []
        return CompressionReport(
            namespace=job.namespace,
            name=job.name,
            revision=job.revision,
            source_sha256=plan.inputs.model.sha256,
            host=host.detect(),
            runtimes=host.runtimes(),
            quality=plan.evaluator.basis,
            budget=job.compression.budget,
            objective=str(job.compression.objective),
            source=plan.bench.source,
            candidates=table(outcomes, job.platforms, chosen),
            layers=self._layers(best) if best is not None else (),
            warnings=tuple(dict.fromkeys(self.warnings)),
        )

    def golden_limits(self, path: Path) -> Golden:
        """What nodes hold this file to."""
        tolerance = self.job.health_check.golden.tolerance
        score = self.plan.golden.score(runner(serving_session(path, 1)))
        return self.plan.golden.limits(score, tolerance=parse_percent(tolerance) if tolerance is not None else None)

    def _space(self) -> Space:
        return Space(
            platforms=self.job.platforms,
            objective=Objective(self.job.compression.objective),
            static=self.plan.inputs.calibrated,
            nodes=self.plan.builder.nodes,
        )

    def _explicit(self, recipe: Recipe) -> None:
        """One recipe of explicit steps; a Local step without `include` takes as many nodes as the budget allows."""
        free = [q for q in recipe.quantizes if q.by_sensitivity and q.count is None]
        whole = self._measure(recipe, Effort.FULL)
        if free and whole.loads and not whole.good:
            least_sensitive(lambda r: self._measure(r, Effort.FULL), recipe, self.plan.builder.nodes(free[0]))

    def _measure(self, recipe: Recipe, effort: Effort) -> Outcome:
        name = recipe.name
        while name in self._outcomes and self._outcomes[name].recipe != recipe:
            name = f"{recipe.name[:58]}-{sum(n.startswith(recipe.name[:58]) for n in self._outcomes) + 1}"
        count = len(self._outcomes)
        self.progress(Progress(stage="candidates", done=count, message=name))
        try:
            applied = self.plan.builder.apply(recipe)
        except InputError as error:
            if error.reason == reasons.DISK_FULL:
                raise
            outcome = Outcome(name=name, recipe=recipe, refusals=(gates.load_refusal(error.message),))
        else:
            outcome = self._measured(name, recipe, self.plan.builder.save(applied), effort)
        self._outcomes[name] = outcome
        self.progress(Progress(stage="candidates", done=count + 1, message=self._said(outcome)))
        return outcome

    def _measured(self, name: str, recipe: Recipe, built: Built, effort: Effort) -> Outcome:
        outcome = self.plan.bench.measure(name, recipe, built, effort)
        if outcome.accepted:
            return outcome
        # It is out: a rough clock for the plot, and its file has served.
        if not recipe.prunes or effort is Effort.FULL:
            outcome = self.plan.bench.timed(outcome, rough=True)
        built.path.unlink(missing_ok=True)
        return replace(outcome, path=None)

    def _said(self, outcome: Outcome) -> str:
        measurement = outcome.measurement
        if measurement is None:
            return f"{outcome.name}: {outcome.refusals[0].message if outcome.refusals else 'not measured'}"
        ratio = self.plan.bench.source.size_bytes / max(1, measurement.size_bytes)
        quality = (
            "" if measurement.quality is None else f", {self.plan.evaluator.basis.metric} {measurement.quality:.4g}"
        )
        drop = "" if measurement.quality_drop is None else f" (drop {measurement.quality_drop:.2%})"
        verdict = "" if outcome.accepted else ", refused"
        return f"{outcome.name}: {format_bytes(measurement.size_bytes)} ({ratio:.1f}x smaller){quality}{drop}{verdict}"

    def _chosen(self, finalists: list[Outcome]) -> Outcome | None:
        """The best by objective that is meant for this machine and keeps every gate on it."""
        here = host.detect()
        if here.platform in self.job.platforms:
            finalists = [
                o for o in finalists if o.recipe.classes is None or str(here.hardware_class) in o.recipe.classes
            ]
        passing = [o for o in finalists if not o.refusals]
        best = choose.best(
            passing,
            Objective(self.job.compression.objective),
            size=lambda o: o.size_bytes,
            latency=lambda o: o.measurement.latency_median_seconds if o.measurement else None,
        )
        if finalists and best is None:
            self.warnings.append(
                "no candidate keeps latency, memory and slowdown on this machine: the trial on each kind of node decides"
            )
        return best

    def _layers(self, chosen: Outcome) -> tuple[Layer, ...]:
        builder = self.plan.builder
        if chosen.path is None:
            return ()
        sensitivity: dict[str, float] = {}
        for action in chosen.recipe.quantizes:
            if builder.nodes(action) <= MOST_SENSITIVE_LAYERS:
                sensitivity = {**builder.sensitivity_of(action), **sensitivity}
        return layers(builder.prepared, onnx.load(chosen.path), sensitivity)
