"""Formats besides ONNX: the float model that the best ONNX recipe stands on, in every encoding of each, judged alike.

A TFLite file is judged on all the validation data, with LiteRT. Core ML is not on this machine: an interpreter, which is
slow, runs the package on the golden cases and on a few samples of the validation data, half of them those on which the
source is least sure. That refuses most that is bad, and not all (a package that loses 8.75 % was seen to pass at 5 %): of
those that pass, the smallest are judged on all the data before one goes into the artifact. What is accepted follows from
quality and size, so that two runs give the same artifact; how fast it is, the trial on each kind of node finds out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgemodel_api import reasons
from edgemodel_api.artifact import Golden
from edgemodel_api.edgemodel import Budget, Format, Precision
from edgemodel_api.errors import InputError
from edgemodel_api.job import JobSpec, Progress
from edgemodel_api.quantities import format_bytes, parse_percent
from edgemodel_api.report import Conversion, Measurement, Refusal
from edgemodel_oci.artifact import packed_size
from edgemodel_oci.files import measure
from edgemodel_oci.golden import GoldenScore, compare_outputs, run_cases

from . import gates
from .bench import Outcome
from .build import CALIBRATION_SAMPLES
from .evaluate.metrics import agreement_judge
from .evaluate.runner import Arrays, Run, runner
from .formats import others, plain
from .formats.equivalence import compare_answers
from .formats.onnx_model import open_session
from .formats.writers import FLOAT32, WRITERS, Writer, Written, file_name
from .judge import Known
from .memory import whole
from .progress import Report
from .recipe import NAME_LIMIT, Recipe, Reshape
from .setup import Setup
from .summary import SOURCE
from .verify.samples import Samples, samples

#: Of the validation data, for what is interpreted here.
FEW_SAMPLES = 64
#: So many packages that hold on all the data are enough, the smallest ones.
CONFIRMED = 2
#: Only rounded: what the writer's own check and the few samples say is enough.
_FLOATS = frozenset({"float32", "float16"})
#: A writer's own check, which is of the conversion, has fewer.
CHECKED_CASES = 8
#: Computes in integers: the one encoding whose speed and answers depend on the device's kernels.
_INTEGER = "int8-full"


@dataclass(frozen=True)
class Made:
    """One file, or why there is none.

    Attributes:
        row: of the report.
        format: of the file.
        path: of it; None: it could not be made, or its time was up.
        file_digest: sha256 of it.
        golden: what nodes hold it to.
        written: as the writer gave it.
        unsure: accepted on few samples, and not looked at on all of them.
    """

    row: Conversion
    format: Format
    path: Path | None = None
    file_digest: str = ""
    golden: Golden | None = None
    written: Written | None = None
    unsure: bool = False

    @property
    def is_source(self) -> bool:
        """Whether it stands for the source, as no ONNX file does."""
        return self.row.name == SOURCE

    @property
    def holds(self) -> bool:
        """Whether it is compressed, and keeps the budget for sure."""
        return self.row.accepted and not self.is_source and not self.unsure


@dataclass(frozen=True)
class Base:
    """A float model.

    Attributes:
        reshapes: the steps that made it of the source; none: it is the source.
        model: ModelProto, whole.
        sparse: whether it has pruned zeros.
    """

    reshapes: tuple[Reshape, ...]
    model: Any = field(repr=False)
    sparse: bool = False

    @property
    def name(self) -> str:
        """`source`, or the steps."""
        return Recipe(self.reshapes).name if self.reshapes else SOURCE


@dataclass
class Converter:
    """Makes and judges files.

    Attributes:
        job: with formats, budget and platforms.
        plan: what candidates were measured with.
        report: where progress goes.
        late: whether the Job's time is nearly up.
        skipped: files that were not made, as it was.
    """

    job: JobSpec
    plan: Setup
    report: Report
    late: Callable[[], bool] = lambda: False
    skipped: int = 0
    _answers: dict[str, Arrays] = field(default_factory=dict)
    _samples: Samples | None = None

    def source(self, wanted: Format, base: Base) -> Made:
        """The source as float32, where no ONNX file is wanted.

        Raises:
            InputError: it cannot be converted: the artifact would have nothing to fall back on.
        """
        made = self._made(wanted, base, FLOAT32, SOURCE)
        if made.path is None:
            raise InputError(made.row.message, reason=reasons.NOT_SUPPORTED)
        return made

    def encodings(self, wanted: Format, base: Base, *, without: Iterable[str] = ()) -> tuple[Made, ...]:
        """The model in every encoding of a format, accepted or not.

        Raises:
            InputError: the disk is full.
        """
        writer = WRITERS[wanted]
        names = writer.encodings(calibrated=self.plan.inputs.calibrated, sparse=base.sparse)
        found = []
        for encoding in names:
            if encoding in without:
                continue
            if self.late():
                self.skipped += 1
                continue
            found.append(self._made(wanted, base, encoding, variant_name(wanted, encoding, base.name)))
        return tuple(found)

    def confirmed(self, made: Sequence[Made]) -> tuple[Made, ...]:
        """Of what was judged on few samples, the smallest that keep the budget on all the data; larger ones stay unsure.

        Args:
            made: files of one format.
        """
        found = {
            id(m): replace(m, unsure=not WRITERS[m.format].runs_here and m.row.encoding not in _FLOATS) for m in made
        }
        held = 0
        for m in sorted((m for m in made if m.row.accepted and found[id(m)].unsure), key=_size):
            if held == CONFIRMED or self.late():
                break
            found[id(m)] = self._confirmed(m)
            held += found[id(m)].row.accepted
        return tuple(found[id(m)] for m in made)

    def _confirmed(self, made: Made) -> Made:
        label = f"{made.format.value} {made.row.encoding} of {made.row.candidate}"
        self.report(Progress(stage="convert", message=f"{label}: on all the validation data"))
        if made.written is None:
            return replace(made, unsure=True)
        measured = self._on_data(made.row, WRITERS[made.format], made.written)
        row = made.row.replace(quality=measured.quality, quality_drop=measured.quality_drop)
        refusals = gates.deterministic_gates(self.job.compression.budget, measured)
        why = "; ".join(_why(r, self.job.compression.budget, row, here=True) for r in refusals)
        return replace(made, row=row.replace(accepted=not refusals, message=why))

    def _made(self, wanted: Format, base: Base, encoding: str, name: str) -> Made:
        writer = WRITERS[wanted]
        label = f"{wanted.value} {encoding} of {base.name}"
        self.report(Progress(stage="convert", message=label))
        row = Conversion(
            format=wanted.value,
            candidate=base.name,
            name=name,
            platforms=writer.platforms(self.job.platforms),
            encoding=encoding,
            ran_with=writer.ran_with(),
        )
        made = Made(row, wanted)
        try:
            written = writer.convert(
                base.model,
                self._folder() / file_name(wanted, name),
                encoding=encoding,
                calibration=self._calibration(),
                feeds={n: a[: CHECKED_CASES * self.plan.golden.rows] for n, a in self.plan.golden.inputs.items()},
            )
            made = replace(
                made,
                path=written.path,
                written=written,
                file_digest=measure(written.path)[0].removeprefix("sha256:"),
                row=row.replace(
                    size_bytes=packed_size(written.path, wanted),
                    file_bytes=written.path.stat().st_size,
                    notes=tuple(map(plain, written.notes)),
                ),
            )
            made = self._judged(made, writer, written, base)
        except InputError as error:
            if error.reason == reasons.DISK_FULL:
                raise
            if made.path is not None:
                made.path.unlink(missing_ok=True)
            made = replace(made, path=None, row=made.row.replace(accepted=False, message=plain(error.message)))
        self.report(Progress(stage="convert", message=f"{label}: {_said(made.row, self.plan.lab.bench.source)}"))
        return made

    def _judged(self, made: Made, writer: Writer, written: Written, base: Base) -> Made:
        golden = self.plan.golden
        wanted = self._onnx(base)
        runs = writer.runs(written.path)
        answers = [run_cases(run, golden.inputs, rows=golden.rows) for run in runs]
        same = compare_answers(answers[0], wanted, golden.cases, ran_with=made.row.ran_with)
        row = made.row.replace(cases=same.cases, max_error=same.max_error, agreement=same.agreement)
        if writer.runs_here:
            measured = self._on_data(row, writer, written)
            row = row.replace(quality=measured.quality, quality_drop=measured.quality_drop)
        else:
            measured = self._on_few(row, answers[0], runs[0])
            row = row.replace(quality_drop=measured.quality_drop)
        refusals = [*gates.deterministic_gates(self.job.compression.budget, measured)]
        source = self.plan.lab.bench.source
        if row.name != SOURCE and (shrink := gates.shrink_refusal(measured, source)):
            refusals.append(shrink)
        why = "; ".join(_why(r, self.job.compression.budget, row, here=writer.runs_here) for r in refusals)
        # Devices run it either way: the limits hold for both.
        worst = _worst([compare_outputs(a, golden.outputs, golden.cases) for a in answers])
        if not math.isfinite(worst.error):
            raise InputError(
                "an output has NaN, infinity or another shape where the source's answers to the golden cases have not"
            )
        tolerance = self.job.health_check.golden.tolerance
        limits = golden.limits(worst, tolerance=parse_percent(tolerance) if tolerance is not None else None)
        return replace(made, row=row.replace(accepted=not refusals, message=why), golden=limits)

    def _on_data(self, row: Conversion, writer: Writer, written: Written) -> Measurement:
        court = self.plan.lab.bench.court
        run = writer.runs(written.path, threads=court.threads)[0]
        evaluator = court.evaluator
        known = court.judged(
            Known(size_bytes=row.size_bytes),
            lambda chosen: evaluator.judge_rows(run, chosen, one_by_one=not written.free_batch),
            full=True,
        )
        quality = court.quality(known)
        return Measurement(
            size_bytes=row.size_bytes,
            file_bytes=row.file_bytes,
            quality=quality.value if quality is not None else None,
            quality_drop=quality.drop if quality is not None else None,
        )

    def _on_few(self, row: Conversion, answers: Arrays, run: Run) -> Measurement:
        """The worse of two: how close to the source's answers on the golden cases, by the same measure as quality without
        labels; and quality on the few samples.
        """
        output = self.plan.evaluator.output
        expected = self.plan.golden.outputs[output]
        declared = self.job.data.validation
        judge = agreement_judge(expected, declared.metric if declared is not None else None)
        got = answers.get(output)
        if got is None or got.shape != expected.shape:
            raise InputError(f"output {output!r} has another shape than the source's")
        value = float(judge.rows(got, judge.keep(expected)).mean())
        judged = self.samples.judge([run(feeds) for feeds in self.samples.feeds])
        return Measurement(
            size_bytes=row.size_bytes, file_bytes=row.file_bytes, quality_drop=max(1 - value, judged.drop)
        )

    @property
    def samples(self) -> Samples:
        """The few samples, the same for all files."""
        if self._samples is None:
            limit = parse_percent(self.job.compression.budget.max_quality_drop)
            self._samples = samples(self.plan.evaluator, limit=limit, wanted=FEW_SAMPLES, seed=self.job.seed)
        return self._samples

    def _onnx(self, base: Base) -> Arrays:
        """The ONNX model's own answers to the golden cases."""
        if base.name not in self._answers:
            golden = self.plan.golden
            run = runner(open_session(base.model.SerializeToString()))
            self._answers[base.name] = run_cases(run, golden.inputs, rows=golden.rows)
        return self._answers[base.name]

    def _calibration(self) -> Arrays | None:
        inputs = self.plan.inputs
        if not inputs.calibrated:
            return None
        return inputs.calibration.take(CALIBRATION_SAMPLES * (inputs.model.fixed_batch or 1), self.job.seed)

    def _folder(self) -> Path:
        folder = self.plan.golden.path.parent / "conversions"
        folder.mkdir(exist_ok=True)
        return folder


def variant_name(wanted: Format, encoding: str, base: str) -> str:
    """DNS-like, and no ONNX variant's.

    >>> variant_name(Format.TFLITE, "int8-weights", "prune50"), variant_name(Format.COREML, "float16", "source")
    ('tflite-int8-weights-prune50', 'coreml-float16')
    """
    text = "-".join([wanted.value.lower(), encoding, *([base] if base != SOURCE else [])])
    return text[:NAME_LIMIT].rstrip("-")


def stood_on(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The best ONNX recipe that other formats could store alike: of pruned or distilled ones, where there are any, the
    smallest without 4-bit numbers, else the smallest.

    (A mixture is often the smallest, and unpruned: its steps no other format has, and in 8 bits the pruned one is smaller.)
    """

    def rank(o: Outcome) -> tuple[bool, bool, int, str]:
        fine = any(q.step.precision is Precision.INT4 for q in o.recipe.quantizes)
        return not o.recipe.reshapes, fine, o.size_bytes, o.name

    return min(outcomes, key=rank, default=None)


def converted(converter: Converter, reshapes: tuple[Reshape, ...], model: Any, *, sparse: bool) -> tuple[Made, ...]:
    """Every format's files: the source's stand-in where no ONNX file is wanted, then those of the float model. Where one of
    these breaks the budget (the best ONNX recipe may have spent it on pruning), those of the source too.

    Args:
        converter: of the Job.
        reshapes: steps of the float model that the best ONNX recipe stands on.
        model: that model.
        sparse: whether it has pruned zeros.

    Raises:
        InputError: the source cannot be converted and nothing can take its place; the disk is full.
    """
    formats = converter.job.formats
    base = Base(reshapes, whole(model, "another format"), sparse)
    source = base
    if reshapes:
        prepared = converter.plan.lab.builder.float_model(())
        source = Base((), whole(prepared.model, "another format"))
    found: list[Made] = []
    for wanted in others(formats):
        try:
            found += _of_format(converter, wanted, base, source)
        finally:
            WRITERS[wanted].close()
    return tuple(found)


def _of_format(converter: Converter, wanted: Format, base: Base, source: Base) -> Iterator[Made]:
    alone = Format.ONNX not in converter.job.formats
    if alone:
        yield converter.source(wanted, source)
    made = converter.confirmed(converter.encodings(wanted, base, without=[FLOAT32] if alone and base is source else []))
    yield from made
    if base is not source and not all(m.row.accepted for m in made):
        yield from converter.confirmed(converter.encodings(wanted, source, without=[FLOAT32]))


def picked(made: Sequence[Made], share: Mapping[Format, int]) -> tuple[Made, ...]:
    """What goes into the artifact: the source's stand-in, and of each format so many accepted files, the smallest first.

    In this order of need: the smallest that computes in floats (every runtime gives the same answers), the smallest, and
    then the others by size.
    """
    chosen: list[Made] = []
    for wanted in dict.fromkeys(m.format for m in made):
        mine = [m for m in made if m.format is wanted and m.path is not None]
        chosen += [m for m in mine if m.is_source]
        first: dict[str, Made] = {}
        for m in sorted((m for m in mine if m.holds), key=_size):
            first.setdefault(m.file_digest, m)
        ranked = list(first.values())
        floats = [m for m in ranked if m.row.encoding != _INTEGER][:1]
        chosen += sorted(list(dict.fromkeys([*floats, *ranked]))[: share.get(wanted, 0)], key=_size)
    return tuple(chosen)


def _size(made: Made) -> tuple[int, str]:
    return made.row.size_bytes, made.row.name


def _worst(scores: Sequence[GoldenScore]) -> GoldenScore:
    agreements = [s.agreement for s in scores if s.agreement is not None]
    return GoldenScore(max(s.error for s in scores), min(agreements, default=None))


def _why(refusal: Refusal, budget: Budget, row: Conversion, *, here: bool) -> str:
    """With the number, the limit, and what to change."""
    if refusal.gate == gates.QUALITY:
        where = "" if here else f" on the golden cases or the {FEW_SAMPLES} samples that it is judged on"
        advice = ", or give calibration data like what devices see" if row.encoding == _INTEGER else ""
        now = f" (quality {row.quality:.4g})" if row.quality is not None else ""
        return (
            f"quality drops by {row.quality_drop or 0.0:.2%}{now}{where}, more than maxQualityDrop {budget.max_quality_drop}:"
            f" raise it{', prune less' if row.candidate != SOURCE else ''}{advice}"
        )
    if refusal.gate == gates.SHRINK:
        return f"{row.size_bytes} bytes stored, not smaller than the source's {refusal.limit or 0.0:.0f}"
    return refusal.message


def _said(row: Conversion, source: Measurement) -> str:
    if not row.size_bytes:
        return row.message
    drop = "" if row.quality_drop is None else f", drop {row.quality_drop:.2%}"
    ratio = source.size_bytes / max(1, row.size_bytes)
    return f"{format_bytes(row.size_bytes)} ({ratio:.1f}x smaller){drop}{'' if row.accepted else ', refused'}"
