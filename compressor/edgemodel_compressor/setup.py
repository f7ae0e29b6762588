"""What a Job measures with: the source on the bench, the evaluator that has judged it, golden cases, the laboratory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemodel_api.edgemodel import Metric
from edgemodel_api.job import JobSpec, Progress
from edgemodel_api.quantities import counted, parse_percent
from edgemodel_oci.artifact import packed_size

from . import host
from .bench import Bench
from .build import Builder
from .cache import Cache, context_of
from .data import Dataset
from .deadline import Deadline
from .evaluate.golden import GoldenSet, build_golden
from .evaluate.quality import Evaluator
from .evaluate.runner import BATCH_ROWS, Arrays, runner
from .footprint import footprint
from .formats import check_operators, others
from .job import Inputs, bring_inputs, learns, probe_memory, probe_timeout
from .judge import Court, Trial, serving_session
from .learn import Learner
from .measure import Judges, Lab
from .memory import ANSWERING_BYTES, Runs, plan_runs, predict, sizes_of, whole
from .progress import Report
from .steps.encodings import stores_integers
from .steps.gram import taken
from .steps.prepare import prepare
from .steps.selection import check_names
from .training.data import TrainingSet
from .training.room import Room
from .workers import Here, Workers, workers_for

#: More threads than this gain little on models for the edge.
QUALITY_THREADS = 4
LATENCY_FEEDS = 8
CALIBRATION_ROWS = 8
#: Bytes of the model times samples: with less, judging a candidate takes less time than starting a worker.
WORTH_WORKERS = 2**30


@dataclass(frozen=True)
class Setup:
    """Everything that candidates are built from and measured with.

    Attributes:
        inputs: source and data.
        golden: the golden cases, with the source's answers.
        lab: builds and measures; its bench has measured the source.
        deadline: of the search.
        warnings: for the report.
    """

    inputs: Inputs
    golden: GoldenSet
    lab: Lab
    deadline: Deadline
    warnings: tuple[str, ...]

    @property
    def evaluator(self) -> Evaluator:
        """Of quality; has judged the source."""
        return self.lab.bench.court.evaluator


def set_up(job: JobSpec, work_dir: Path, report: Report, *, began: float) -> Setup:
    """Bring the inputs and measure the source.

    Args:
        job: what to do.
        work_dir: of the Job.
        report: where progress goes.
        began: when the Job began, by `time.monotonic`.

    Raises:
        InputError: source or data cannot be used.
        TransientError: a server does not answer.
    """
    inputs = bring_inputs(job, work_dir, report)
    model = inputs.model
    report(Progress(stage="prepare"))
    prepared = prepare(model.proto)
    check_names(job.compression.steps or (), model.proto, prepared)
    _check_formats(job, inputs, prepared)
    size, samples = model.size_bytes, inputs.validation.samples
    runs = _runs(job, inputs, prepared)
    threads = _threads(size, samples, runs)
    report(Progress(stage="source", message=f"quality on {counted(samples, 'sample')}"))
    evaluator = Evaluator(
        runner(serving_session(model.path, threads)),
        inputs.validation,
        validation=job.data.validation,
        work_dir=work_dir,
        fixed_batch=model.fixed_batch,
        seed=job.seed,
        lanes=_workers(job.workers, size, samples, runs),
        most_rows=runs.rows,
    )
    rows = model.fixed_batch or 1
    one = runner(serving_session(model.path, 1))
    golden = build_golden(one, inputs.validation, rows=rows, dest_dir=work_dir, seed=job.seed)
    report(Progress(stage="source", message="latency, memory and size"))
    folder = work_dir / "candidates"
    folder.mkdir()
    feeds = _requests(inputs.validation, rows, job.seed)
    trial = Trial(model.inputs, feeds[0], work_dir, probe_memory(size), probe_timeout(size))
    court = Court(evaluator, trial, parse_percent(job.compression.budget.max_quality_drop), threads)
    bench = Bench(
        source_path=model.path,
        source_size=packed_size(model.path),
        source_bytes=size,
        court=court,
        feeds=feeds,
        budget=job.compression.budget,
        work_dir=work_dir,
    )
    deadline = Deadline.of(job, began)
    cache = Cache.at(job.cache_dir, "", work_dir)
    if cache.on:
        cache = Cache.at(job.cache_dir, _context(job, inputs, threads, evaluator.rows), work_dir)
    learner = Learner(
        data=_training(job, inputs),
        students={index: student.proto for index, student in inputs.students.items()},
        work_dir=work_dir,
        seed=job.seed,
        report=report,
        cache=cache,
        check=deadline.check,
        room=Room(runs.within(ANSWERING_BYTES), inputs.allowed),
    )
    builder = Builder(
        prepared=prepared,
        calibration=inputs.calibration,
        rows=model.fixed_batch or min(evaluator.rows, CALIBRATION_ROWS),
        work_dir=folder,
        seed=job.seed,
        report=report,
        learner=learner,
        compensates=job.data.calibration is not None,
        given=bool(job.compression.steps),
        batch=model.fixed_batch or 1,
        threads=workers_for(host.cores(), host.memory_left(), size, runs.run_bytes),
    )
    judges = _judges(court, _workers(job.workers, size, samples, runs))
    lab = Lab(builder=builder, bench=bench, judges=judges, cache=cache, deadline=deadline, report=report)
    return Setup(inputs, golden, lab, deadline, inputs.warnings)


def _check_formats(job: JobSpec, inputs: Inputs, prepared: Any) -> None:
    """Whether the source, and students that were given, can be converted: nothing has been measured yet."""
    if not others(job.formats):
        return
    feeds = inputs.validation.take(CALIBRATION_ROWS * (inputs.model.fixed_batch or 1), job.seed)
    check_operators(whole(prepared, "another format than ONNX"), job.formats, feeds, origins=inputs.origins)
    for index, student in inputs.students.items():
        what = f"the student of compression.steps[{index}]"
        check_operators(whole(prepare(student.proto), what), job.formats, feeds, what=what)


def _runs(job: JobSpec, inputs: Inputs, prepared: Any) -> Runs:
    """Of a large model memory is told tensor by tensor (`memory`): beside its weights a batch is little."""
    sizes = sizes_of(inputs.model.path)
    if sizes.large:
        return Runs(BATCH_ROWS, 2, 0, 0)
    lanes = job.workers or (host.cores() if _worth_workers(inputs.model.size_bytes, inputs.validation.samples) else 1)
    request = footprint(prepared, inputs.validation.take(inputs.model.fixed_batch or 1, job.seed))
    steps = job.compression.steps
    rounded = not steps or any(s.quantize is not None and stores_integers(s.quantize) for s in steps)
    by_data = job.data.calibration is not None and rounded
    needed = predict(sizes, steps, job.formats, learns=learns(job), rounding=taken(prepared) if by_data else 0)
    return plan_runs(request, needed, inputs.allowed, lanes=lanes)


def _worth_workers(size: int, samples: int) -> bool:
    return size * samples >= WORTH_WORKERS


def _threads(size: int, samples: int, runs: Runs) -> int:
    """Of one session. With workers the cores are theirs: the sessions of as many as could ever run share them."""
    cores = host.cores()
    workers = workers_for(cores, host.memory_limit(), size, runs.run_bytes) if _worth_workers(size, samples) else 1
    return max(1, min(QUALITY_THREADS, cores // workers))


def _judges(court: Court, count: int) -> Judges:
    return Workers(court, count) if count > 1 else Here(court)


def _workers(wanted: int | None, size: int, samples: int, runs: Runs) -> int:
    if wanted is not None:
        return wanted
    if runs.lanes == 1 or not _worth_workers(size, samples):
        return 1
    return workers_for(host.cores(), host.memory_left(), size, runs.run_bytes)


def _training(job: JobSpec, inputs: Inputs) -> TrainingSet | None:
    if inputs.training is None:
        return None
    validation = job.data.validation
    return TrainingSet(
        inputs.training,
        output=validation.output if validation is not None else None,
        # Top1 is also the default where nothing is labelled, as of an embedding.
        classes=validation is not None
        and validation.labels is not None
        and validation.metric in (Metric.TOP1, Metric.TOPK, Metric.F1),
    )


def _context(job: JobSpec, inputs: Inputs, threads: int, rows: int) -> str:
    """What decides every candidate's numbers besides its recipe."""
    data = job.data.to_json()
    for part in data.values():
        for place in ("uri", "sha256", "credentialsSecretRef"):
            part.pop(place, None)
    here = host.detect()
    files = {what: path for what, path in inputs.files.items() if what != "source"}
    # Steps that are given are rounded by the calibration data where a search's fixed recipes are not (`build`).
    settings = [inputs.model.sha256, data, job.seed, threads, rows, bool(job.compression.steps)]
    return context_of(files, settings, f"{here.hardware_class} {here.cpu_model} {' '.join(here.features)}")


def _requests(data: Dataset, rows: int, seed: int) -> list[Arrays]:
    """Single requests, for latency."""
    taken = data.take(LATENCY_FEEDS * rows, seed)
    count = len(next(iter(taken.values()))) // rows
    return [{name: a[i * rows : (i + 1) * rows] for name, a in taken.items()} for i in range(count)]
