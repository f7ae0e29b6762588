"""One network taught by another: what distillation and recovery have in common.

Loss of each output: alpha · soft + (1 − alpha) · hard where there are labels for it, else soft alone (see `losses`); the
mean over the outputs. To it, where asked for: hidden layers held to the teacher's, and the distance from the start.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_compressor.evaluate.runner import Arrays
from edgemodel_compressor.formats.signature import fixed_batch, inputs_of
from edgemodel_compressor.memory import give_back
from edgemodel_compressor.progress import Report

from .answers import Answers, in_parts, model_runner, rows_at_once, spread
from .checkpoint import Checkpoint, content_key
from .convert import differentiable, with_parameters
from .data import TrainingSet, split
from .heads import heads
from .hints import Hint, hints
from .lessons import Lesson, Lessons, wanted_of
from .loop import Learned, Learning, Masks, Settings, Task
from .room import Room

#: Rows by which shapes and meanings of outputs are seen.
PROBE_ROWS = 32


@dataclass(frozen=True)
class Taught:
    """The student afterwards.

    Attributes:
        model: ModelProto.
        learned: of the best epoch.
        notes: for the report.
    """

    model: Any
    learned: Learned
    notes: tuple[str, ...]


def teach(
    teacher: Any,
    student: Any,
    lesson: Lesson,
    *,
    data: TrainingSet,
    work_dir: Path,
    report: Report,
    what: str,
    settings_key: object,
    room: Room,
    masks: Masks | None = None,
) -> Taught:
    """Let the student learn.

    Args:
        teacher: ModelProto; only run, by onnxruntime.
        student: ModelProto, with inputs and outputs of the same names.
        lesson: how.
        data: what from.
        work_dir: gets the teacher's answers and the checkpoint.
        report: gets the progress.
        what: "distill" or "recover".
        settings_key: what besides decides the result (of `masks`), for the checkpoint's key.
        room: what it may take.
        masks: what is held at zero.

    Raises:
        InputError: the networks do not fit each other, the data does not fit them, it does not fit into memory, or nothing finite
            is learned.
    """
    _check_settings(lesson, data)
    function = differentiable(student, trainable=_not_preprocessing(student))
    if not function.parameters:
        raise InputError("the student has no float weights that could learn")
    theirs, ours = probe(teacher, data, room), probe(student, data, room)
    found, notes = heads(teacher, student, teacher_says=theirs.says, student_says=ours.says, data=data)
    hidden: tuple[Hint, ...] = ()
    if lesson.held:
        read_already = frozenset(h.student.tensor for h in found)
        hidden = hints(
            teacher, student, lesson.kept or {}, teacher_rows=theirs.few, student_rows=ours.few, read=read_already
        )
    rows = split(data.samples, seed=lesson.seed, unit=ours.unit)
    settings = Settings(lesson.epochs, lesson.learning_rate, lesson.batch_size, lesson.seed, ours.unit)
    key = content_key(
        "1", jax.__version__, onnxruntime.__version__, what, _digest(teacher), _digest(student), data.digest, settings_key,
        [lesson.temperature, lesson.alpha, lesson.epochs, lesson.learning_rate, lesson.batch_size, lesson.seed],
        [lesson.held, lesson.start_counts],
    )  # fmt: skip
    wanted = wanted_of(found, hidden)
    with contextlib.closing(Answers(teacher, wanted, data, rows=theirs.at_once)) as answers:
        lessons = Lessons(
            student, function.parameters, found=found, hidden=hidden, lesson=lesson, answers=answers, data=data,
            alone=ours.alone,
        )  # fmt: skip
        task = Task(
            start=function.parameters,
            loss=lessons.loss,
            batch=lessons.batch,
            rows=rows,
            shapes=functools.partial(lessons.shapes, like=rows.train[: ours.unit]),
            masks=masks,
            start_counts=lesson.start_counts,
        )
        learning = Learning(task, settings, checkpoint=Checkpoint(work_dir, key, what), report=report, stage=what)
        learning.fit(room)
        answers.keep(work_dir, report)
        give_back()
        learned = learning.run()
    more = [*notes, *learned.notes]
    if rows.shared:
        more.append(
            f"{counted(data.samples, 'training sample is', 'training samples are')} too few to hold some out: the best"
            " epoch was told by the same samples that were learned"
        )
    return Taught(with_parameters(student, learned.parameters), learned, tuple(more))


@dataclass(frozen=True)
class Probe:
    """A model, tried with a few rows.

    Attributes:
        rows: its inputs.
        says: its outputs.
        unit: how many rows it must get at a time when it learns (1: it takes any number).
        alone: whether it takes any number, but answers several together otherwise than each alone.
        at_once: how many it gets when it only answers.
    """

    rows: Arrays
    says: Arrays
    unit: int
    alone: bool
    at_once: int

    @property
    def few(self) -> Arrays:
        """Enough rows for the shapes of all layers together, which many rows make large."""
        return self.rows if self.unit > 1 else {name: a[:2] for name, a in self.rows.items()}


def probe(model: Any, data: TrainingSet, room: Room) -> Probe:
    """Run a model on a few rows, as many as it takes.

    Raises:
        InputError: it fails, or wants inputs that the data does not have.
    """
    names = [i.name for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer}]
    there = list(data.take(spread(data.samples, 1)))
    if sorted(names) != sorted(there):
        raise InputError(
            f"the student's inputs are {', '.join(names)} and the training data has {', '.join(there)}: student and teacher"
            " need inputs of the same names"
        )
    run = model_runner(model)
    fixed = fixed_batch(inputs_of(model.graph))
    telling, at_once = rows_at_once(run, model, data, room)
    # A fixed batch: its last row again, where there are too few. Else as many as answer together as they do apart.
    count = telling if fixed is not None else min(PROBE_ROWS, telling)
    numbers = spread(data.samples, count)
    numbers = np.concatenate([numbers, np.repeat(numbers[-1:], count - len(numbers))]) if fixed is not None else numbers
    rows = data.take(numbers)
    parts = list(in_parts(run, rows, at_once))
    give_back()
    says = {name: np.concatenate([p[name] for p in parts]) if len(parts) > 1 else a for name, a in parts[0].items()}
    return Probe(rows, says, fixed or 1, fixed is None and telling == 1 and data.samples > 1, at_once)


def _not_preprocessing(model: Any) -> Any:
    """Constants by which raw inputs are shifted and scaled are no weights."""
    fed = {i.name for i in model.graph.input}
    kept: set[str] = set()
    for node in model.graph.node:
        if node.op_type in ("Add", "Sub", "Mul", "Div") and any(i in fed for i in node.input):
            kept.update(i for i in node.input if i not in fed)
            fed.update(node.output)
        elif node.op_type in ("Cast", "Identity", "Transpose", "Reshape", "Resize") and node.input[0] in fed:
            fed.update(node.output)
    return lambda name: name not in kept


def _check_settings(lesson: Lesson, data: TrainingSet) -> None:
    if not lesson.temperature > 0 or not np.isfinite(lesson.temperature):
        raise InputError(f"distill.temperature is {lesson.temperature:g}: give a number above 0, such as 4")
    if not lesson.learning_rate > 0 or not np.isfinite(lesson.learning_rate):
        raise InputError(f"learningRate is {lesson.learning_rate:g}: give a number above 0, such as 0.001")
    if lesson.alpha <= 0 and data.labels is None:
        raise InputError(
            "distill.alpha is 0%, so only labels would be learned, and data.training has none: name them in"
            " data.training.labels, or give a larger alpha"
        )


def _digest(model: Any) -> str:
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
