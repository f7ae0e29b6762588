"""Judging one file: its stored size, and its quality row by row. In this process or in a worker: the same numbers.

Quality is first looked at on the samples on which the source is least sure (`Evaluator.screen`): what is over the
budget there is out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgemodel_api import reasons
from edgemodel_api.errors import InputError
from edgemodel_oci.artifact import packed_size

from .evaluate.metrics import Array
from .evaluate.quality import Evaluator, Mask, Quality
from .evaluate.runner import Arrays, Run, runner
from .formats.lean import LeanSession
from .formats.onnx_model import open_session
from .formats.probe import probe
from .gates import EPSILON
from .tensor_spec import TensorSpec

SCREEN_SAMPLES = 256
#: Of fewer samples, a quarter.
SCREEN_SHARE = 4
LEAST_SCREEN = 128


@dataclass(frozen=True)
class Known:
    """What is known of one file by content.

    Attributes:
        size_bytes: stored; 0: not known yet.
        rows: one number (or class) for each judged sample; None: not judged.
        complete: whether all samples are judged, not only those of the first look.
        failure: why it cannot run.
    """

    size_bytes: int = 0
    rows: Array | None = None
    complete: bool = False
    failure: str = ""


@dataclass(frozen=True)
class Task:
    """One file to judge.

    Attributes:
        path: the file.
        known: of it already.
        one_by_one: rows alone, for dynamic quantization.
        full: on all samples, unless the first look says no.
        probed: whether a run in a process of its own comes first: integer kernels have crashed processes.
        lanes: so many runs at a time.
    """

    path: Path
    known: Known
    one_by_one: bool
    full: bool
    probed: bool
    lanes: int = 1


@dataclass(frozen=True)
class Trial:
    """A first run of a file in a process of its own (`formats.probe`)."""

    inputs: tuple[TensorSpec, ...]
    feeds: Arrays
    work_dir: Path
    memory_bytes: int
    timeout: float

    def run(self, path: Path) -> None:
        """Raises:
        InputError: it crashes, or takes more memory or time than it may.
        """
        probe(
            path,
            self.inputs,
            work_dir=self.work_dir,
            memory_bytes=self.memory_bytes,
            timeout=self.timeout,
            feeds=self.feeds,
        )


@dataclass(frozen=True)
class Court:
    """What every file is judged by. It can be sent to a worker.

    Attributes:
        evaluator: has judged the source.
        trial: the first run.
        limit: maxQualityDrop, a fraction.
        threads: of a session.
    """

    evaluator: Evaluator
    trial: Trial
    limit: float
    threads: int

    @property
    def screen(self) -> Mask:
        """The samples of the first look, shape [samples]."""
        samples = self.evaluator.samples
        return self.evaluator.screen(min(SCREEN_SAMPLES, max(LEAST_SCREEN, samples // SCREEN_SHARE)))

    @property
    def everything(self) -> Mask:
        """All samples."""
        return np.ones(self.evaluator.samples, dtype=bool)

    def mask(self, known: Known) -> Mask:
        """The samples that its rows belong to."""
        return self.everything if known.complete else self.screen

    def quality(self, known: Known) -> Quality | None:
        """What the rows come to; None: there are none."""
        return None if known.rows is None else self.evaluator.quality(known.rows, self.mask(known))

    def judge(self, task: Task) -> Known:
        """What is known afterwards.

        Raises:
            InputError: the disk is full. (Whatever is wrong with the file is its `failure`.)
        """
        known = task.known
        if not known.size_bytes:
            known = replace(known, size_bytes=packed_size(task.path))
        try:
            if task.probed:
                self.trial.run(task.path)
            return self.judged(known, self._judge_of(task), full=task.full)
        except InputError as error:
            if error.reason == reasons.DISK_FULL:
                raise
            return replace(known, failure=error.message)
        finally:
            # What comes next may need the memory: a large model's session opens again when it is used.
            LeanSession.close_all()

    def enough(self, known: Known, *, full: bool) -> bool:
        """Whether nothing more has to be judged."""
        if known.failure:
            return True
        if known.rows is None:
            return False
        quality = self.quality(known)
        return known.complete or not full or quality is None or self.evaluator.over(quality, self.limit + EPSILON)

    def judged(self, known: Known, judge: Callable[[Mask], Array], *, full: bool) -> Known:
        """With rows: those of a first look, and (`full`) the others unless that settles it.

        Args:
            known: so far.
            judge: one number (or class) for each chosen sample.
            full: whether all samples are wanted.

        Raises:
            InputError: of `judge`.
        """
        screen = self.screen
        if known.rows is None:
            known = replace(known, rows=judge(screen), complete=bool(screen.all()))
        if known.rows is None or self.enough(known, full=full):
            return known
        rest = judge(~screen)
        rows = np.empty(self.evaluator.samples, dtype=np.result_type(known.rows, rest))
        rows[screen], rows[~screen] = known.rows, rest
        return replace(known, rows=rows, complete=True)

    def _judge_of(self, task: Task) -> Callable[[Mask], Array]:
        run: Run | None = None

        def judge(chosen: Mask) -> Array:
            nonlocal run
            run = run or runner(serving_session(task.path, self.threads))
            return self.evaluator.judge_rows(run, chosen, one_by_one=task.one_by_one, lanes=task.lanes)

        return judge


def serving_session(path: Path, threads: int) -> Any:
    """As a server opens it: with all of the runtime's optimizations, for integer kernels come in by them."""
    return open_session(path, threads=threads, level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
