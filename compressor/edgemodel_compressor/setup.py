"""What a Job measures with: the source on the bench, the evaluator that has judged it, golden cases, the builder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgemodel_api.job import JobSpec, Progress
from edgemodel_oci.artifact import packed_size

from . import host
from .bench import Bench, serving_session
from .build import Builder
from .evaluate.golden import GoldenSet, build_golden
from .evaluate.quality import Evaluator
from .evaluate.runner import Arrays, runner
from .formats.probe import probe
from .job import PROBE_TIMEOUT_SECONDS, Inputs, bring_inputs, probe_memory
from .progress import Report
from .steps.prepare import prepare
from .steps.selection import check_names

#: More threads than this gain little on models for the edge.
QUALITY_THREADS = 4
LATENCY_FEEDS = 8
CALIBRATION_ROWS = 8


@dataclass(frozen=True)
class Setup:
    """Everything that candidates are built from and measured with.

    Attributes:
        inputs: source and data.
        evaluator: quality; has judged the source.
        golden: the golden cases, with the source's answers.
        builder: applies recipes.
        bench: measures; has measured the source.
    """

    inputs: Inputs
    evaluator: Evaluator
    golden: GoldenSet
    builder: Builder
    bench: Bench


def set_up(job: JobSpec, work_dir: Path, report: Report) -> Setup:
    """Bring the inputs and measure the source.

    Raises:
        InputError: source or data cannot be used.
        TransientError: a server does not answer.
    """
    inputs = bring_inputs(job, work_dir, report)
    model = inputs.model
    report(Progress(stage="prepare"))
    prepared = prepare(model.proto)
    check_names(job.compression.steps or (), model.proto, prepared)
    threads = min(QUALITY_THREADS, host.cores())
    report(Progress(stage="source", message=f"quality on {inputs.validation.samples} samples"))
    run = runner(serving_session(model.path, threads))
    evaluator = Evaluator(
        run,
        inputs.validation,
        validation=job.data.validation,
        work_dir=work_dir,
        fixed_batch=model.fixed_batch,
        seed=job.seed,
    )
    rows = model.fixed_batch or 1
    one = runner(serving_session(model.path, 1))
    golden = build_golden(one, inputs.validation, rows=rows, dest_dir=work_dir, seed=job.seed)
    report(Progress(stage="source", message="latency, memory and size"))
    folder = work_dir / "candidates"
    folder.mkdir()
    feeds = _requests(inputs, rows, job.seed)

    def probe_candidate(path: Path) -> None:
        memory = probe_memory(model.size_bytes)
        probe(
            path,
            model.inputs,
            work_dir=work_dir,
            memory_bytes=memory,
            timeout=PROBE_TIMEOUT_SECONDS,
            feeds=feeds[0],
        )

    bench = Bench(
        source_path=model.path,
        source_size=packed_size(model.path),
        evaluator=evaluator,
        feeds=feeds,
        budget=job.compression.budget,
        threads=threads,
        work_dir=work_dir,
        probe=probe_candidate,
    )
    builder = Builder(
        prepared=prepared,
        calibration=inputs.calibration,
        rows=model.fixed_batch or min(evaluator.rows, CALIBRATION_ROWS),
        work_dir=folder,
        seed=job.seed,
        report=report,
    )
    return Setup(inputs, evaluator, golden, builder, bench)


def _requests(inputs: Inputs, rows: int, seed: int) -> list[Arrays]:
    """Single requests, for latency."""
    taken = inputs.validation.take(LATENCY_FEEDS * rows, seed)
    count = len(next(iter(taken.values()))) // rows
    return [{name: a[i * rows : (i + 1) * rows] for name, a in taken.items()} for i in range(count)]
