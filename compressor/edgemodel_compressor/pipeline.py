"""One Job: fetch, measure the source, try candidates, judge them, store the artifact and its report.

What is in the artifact follows from quality and size alone, so two runs give the same index digest (unless the search
was stopped by a timeout, which the report says); what this machine's clock said is in the report.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from edgemodel_api import reasons
from edgemodel_api.artifact import Golden
from edgemodel_api.edgemodel import Format, Objective
from edgemodel_api.errors import InputError
from edgemodel_api.job import JobResult, JobSpec, Progress
from edgemodel_api.quantities import counted, parse_percent
from edgemodel_api.report import CompressionReport
from edgemodel_oci.repository import open_repository

from . import choose, stored, summary
from .bench import Outcome
from .candidates import mixed, recipes_for
from .conversions import Converter, Made, converted, picked, stood_on
from .deadline import TimeUpError
from .evaluate.quality import class_warning, label_warning
from .evaluate.runner import runner
from .finals import Finals
from .formats import others
from .job import check_supported
from .judge import serving_session
from .learnable import learnable
from .publish import Files, Finalists, publish
from .recipe import Recipe, Reshape
from .search import Effort, Space, follow, least_sensitive, search
from .setup import set_up
from .told import Told
from .verified import Verifier
from .verify import machines, samples


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
        run = _Run(job, work_dir, progress, began=started)
        try:
            run.candidates()
            finals = run.finals()
            finalists = finals.picked()
            made = run.conversions(finalists)
            if run.onnx:
                finalists = finals.timed(finalists)
            report = run.told.report(finalists, made).replace(seconds=round(time.monotonic() - started, 3))
            if not (run.onnx and finalists) and not any(m.holds for m in made):
                return summary.refused(report), report
            chosen = picked(made, run.shares)
            return publish(
                job, repo, report, finalists=finalists, conversions=chosen, files=run.files, progress=progress
            )
        finally:
            run.close()


#: The part of a Job's time after which no further file is converted.
LAST_CONVERSION = 0.85


class _Run:
    """The state of one Job: the source measured, and the candidates so far."""

    def __init__(self, job: JobSpec, work_dir: Path, progress: Callable[[Progress], None], *, began: float) -> None:
        self.job, self.work_dir, self.progress = job, work_dir, progress
        self.plan = set_up(job, work_dir, progress, began=began)
        self.lab = self.plan.lab
        self.told = Told(job, self.plan, progress)
        self.shares = choose.shares(len(job.platforms), job.formats)
        self._late = _end(job, began)
        for doubt in (class_warning(self.plan.evaluator), label_warning(self.plan.evaluator)):
            if doubt:
                self.told.warn(doubt)

    @property
    def onnx(self) -> bool:
        """Whether ONNX files are wanted. They are tried in any case: which float model is worth converting follows from it."""
        return Format.ONNX in self.job.formats

    @property
    def files(self) -> Files:
        """What goes into the artifact besides the candidates."""
        model = self.plan.inputs.model
        return Files(source=model.path, golden=self.plan.golden.path, limits=self.golden_limits, work_dir=self.work_dir)

    def candidates(self) -> None:
        """Everything that is tried is in the lab afterwards.

        Raises:
            InputError: nothing could be built, or the disk is full.
        """
        steps, limit = self.job.compression.steps, self.job.compression.search.max_candidates
        if not steps:
            search(lambda recipes: self.lab.measure(recipes, Effort.QUICK), self._space(), limit=limit)
        else:
            for recipe in recipes_for(steps, self.job.platforms):
                self._explicit(recipe, limit - len(self.lab.outcomes))
        tried = self.lab.outcomes
        if self.lab.stopped:
            self.told.warn(self.plan.deadline.warning(len(tried)))
        elif len(tried) >= limit:
            self.told.warn(
                f"compression.search.maxCandidates {limit} was reached: with more, a better candidate may be found"
            )
        if not any(o.file_digest for o in tried):
            # Not one file: what the steps ask for cannot be done to this model.
            name, why = next(
                ((o.name, r.message) for o in tried for r in o.refusals), ("", "the steps suit none of the platforms")
            )
            original = self.plan.inputs.original
            notes = "".join(f"; {note}" for note in original.notes) if original is not None else ""
            reason = self.lab.reasons.get(name, InputError.reason)
            raise InputError(f"nothing of this model can be compressed: {why}{notes}", reason=reason)

    def finals(self) -> Finals:
        """What picks the finalists."""
        verifier = Verifier(
            lab=self.lab,
            samples=samples(
                self.plan.evaluator,
                limit=parse_percent(self.job.compression.budget.max_quality_drop),
                seed=self.job.seed,
            ),
            machines=machines(),
            platforms=self.job.platforms,
            work_dir=self.work_dir,
            report=self.progress,
            workers=self.job.workers,
        )
        # What is not stored need not be run on other kinds of CPU.
        verified = verifier.verified if self.onnx else _as_it_is
        count = self.shares.get(Format.ONNX, choose.slots(len(self.job.platforms)))
        # Explicit steps are taken at their word: all that they make may be stored.
        only_size = self._only_size and not self.job.compression.steps
        return Finals(self.lab, self.job.platforms, verified, self.progress, count, only_size)

    def conversions(self, finalists: Finalists) -> tuple[Made, ...]:
        """Files of the other formats, judged; the float model is the one that `stood_on` stands on.

        Raises:
            InputError: no ONNX files are wanted, and the source cannot be converted; or the disk is full.
        """
        if not others(self.job.formats):
            return ()
        best = stood_on(o for some in finalists.values() for o in some)
        reshapes = best.recipe.reshapes if best is not None else self._declared()
        try:
            base = self.lab.builder.float_model(reshapes)
        except (TimeUpError, InputError) as error:
            if isinstance(error, InputError) and error.reason == reasons.DISK_FULL:
                raise
            self.told.warn(f"formats: the source is converted, not what {Recipe(reshapes).name} makes of it: {error}")
            reshapes, base = (), self.lab.builder.float_model(())
        converter = Converter(self.job, self.plan, self.progress, lambda: time.monotonic() >= self._late)
        made = converted(converter, reshapes, base.model, sparse=bool(base.sparsity))
        if any(m.format is Format.COREML and m.path is not None for m in made):
            self.told.warn(
                f"Core ML was not run: its packages are interpreted on {counted(self.plan.golden.cases, 'golden case')}"
                f" and {counted(len(converter.samples.feeds), 'request')} of the validation data, half of these the"
                " ones that the source is least sure of, and what is stored on all of it: try them on a device"
            )
        if converter.skipped:
            self.told.warn(
                f"formats: {counted(converter.skipped, 'file was', 'files were')} not made, as the Job's"
                f" {self.job.deadline_seconds:.0f} s were nearly up: give it more time, or take a format out of"
                " spec.formats"
            )
        return made

    @property
    def _only_size(self) -> bool:
        return choose.only_size(Objective(self.job.compression.objective), self.job.compression.budget)

    def _declared(self) -> tuple[Reshape, ...]:
        steps = self.job.compression.steps
        recipes = recipes_for(steps, self.job.platforms) if steps else ()
        return recipes[0].reshapes if recipes else ()

    def golden_limits(self, path: Path) -> Golden:
        """What nodes hold this file to."""
        tolerance = self.job.health_check.golden.tolerance
        score = self.plan.golden.score(runner(serving_session(path, 1)))
        return self.plan.golden.limits(score, tolerance=parse_percent(tolerance) if tolerance is not None else None)

    def close(self) -> None:
        """End what was started."""
        self.lab.close()

    def _space(self) -> Space:
        builder = self.lab.builder
        learns, why = learnable(builder.prepared) if self.job.data.training is not None else (False, "")
        if why:
            self.told.warn(f"data.training is not used by the search: {why}")
        mixture = mixed(0).mixture
        return Space(
            platforms=self.job.platforms,
            only_size=self._only_size,
            static=self.plan.inputs.calibrated,
            nodes=builder.nodes,
            moves=lambda: builder.moves(mixture.ladder) if mixture is not None else 0,
            like=lambda r: builder.moves_like(mixture.ladder, r.quantizes[0]) if mixture is not None else 0,
            training=learns,
            channels=learns and builder.channels,
        )

    def _explicit(self, recipe: Recipe, limit: int) -> None:
        """One recipe of explicit steps; a Local step without `include` takes as many nodes as the budget allows."""
        if limit <= 0:
            return
        free = [q for q in recipe.quantizes if q.by_sensitivity and q.count is None]
        for whole in self.lab.measure([recipe], Effort.FULL):
            if free and whole.loads and not whole.good:
                nodes = self.lab.builder.nodes(free[0])
                follow(
                    least_sensitive(recipe, nodes),
                    lambda recipes: self.lab.measure(recipes, Effort.FULL),
                    limit=limit - 1,
                )


def _as_it_is(outcome: Outcome) -> Outcome:
    return outcome


def _end(job: JobSpec, began: float) -> float:
    """When conversions have to end, so that what there is can be stored."""
    return math.inf if job.deadline_seconds is None else began + LAST_CONVERSION * job.deadline_seconds
