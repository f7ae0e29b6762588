"""One network taught by another: what distillation and recovery have in common.

Loss of each output: alpha · soft + (1 − alpha) · hard where there are labels for it, else soft alone (see `losses`); the
mean over the outputs. To it, where asked for: hidden layers held to the teacher's, and the distance from the start.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.runner import Arrays
from edgemodel_compressor.formats.signature import fixed_batch, inputs_of
from edgemodel_compressor.progress import Report

from . import losses
from .answers import Answers, Wanted, model_runner, rows_at_once, spread
from .checkpoint import Checkpoint, content_key
from .convert import Differentiable, differentiable, with_parameters
from .data import Rows, TrainingSet, split
from .heads import LEAST_PROBABILITY, Head, Kind, check_labels, heads, labels_of, read, with_outputs
from .hints import Hint, hints
from .loop import Batch, Learned, Masks, Parameters, Settings, Task, learn

#: Weight of the hidden layers' error: 1 as in FitNets' first stage.
HINT_WEIGHT = 1.0
#: Weight of the relative squared distance from the start.
START_WEIGHT = 0.01
#: Rows by which shapes and meanings of outputs are seen.
PROBE_ROWS = 32


@dataclass(frozen=True)
class Lesson:
    """How a student is taught.

    Attributes:
        temperature: T.
        alpha: share of the teacher's answers, 0 … 1, where there are labels.
        epochs: passes over the training rows.
        learning_rate: of Adam.
        batch_size: rows of one step.
        seed: of everything random.
        held: whether hidden layers are held to the teacher's, and the parameters to their start.
        start_counts: whether the student may turn out best as it is.
        kept: see `students.Derived`.
    """

    temperature: float
    alpha: float
    epochs: int
    learning_rate: float
    batch_size: int
    seed: int
    held: bool = False
    start_counts: bool = True
    kept: Mapping[str, Any] | None = None


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
        masks: what is held at zero.

    Raises:
        InputError: the networks do not fit each other, the data does not fit them, or nothing finite is learned.
    """
    _check_settings(lesson, data)
    function = differentiable(student, trainable=_not_preprocessing(student))
    if not function.parameters:
        raise InputError("the student has no float weights that could learn")
    theirs, ours = probe(teacher, data), probe(student, data)
    found, notes = heads(teacher, student, teacher_says=theirs.says, student_says=ours.says, data=data)
    hidden: tuple[Hint, ...] = ()
    if lesson.held:
        read_already = frozenset(h.student.tensor for h in found)
        hidden = hints(
            teacher, student, lesson.kept or {}, teacher_rows=theirs.rows, student_rows=ours.rows, read=read_already
        )
    rows = split(data.samples, seed=lesson.seed, unit=ours.unit)
    settings = Settings(lesson.epochs, lesson.learning_rate, lesson.batch_size, lesson.seed, ours.unit)
    key = content_key(
        "1", jax.__version__, onnxruntime.__version__, what, _digest(teacher), _digest(student), data.digest, settings_key,
        [lesson.temperature, lesson.alpha, lesson.epochs, lesson.learning_rate, lesson.batch_size, lesson.seed],
        [lesson.held, lesson.start_counts],
    )  # fmt: skip
    wanted = _wanted(found, hidden)
    with contextlib.closing(Answers(teacher, wanted, data, work_dir=work_dir, report=report)) as answers:
        lessons = _Lessons(
            student, function.parameters, found=found, hidden=hidden, lesson=lesson, answers=answers, data=data,
            alone=ours.alone,
        )  # fmt: skip
        task = Task(
            start=function.parameters,
            loss=lessons.loss,
            batch=lessons.batch,
            rows=rows,
            masks=masks,
            start_counts=lesson.start_counts,
        )
        learned = learn(task, settings, checkpoint=Checkpoint(work_dir, key, what), report=report, stage=what)
    more = [*notes, *learned.notes]
    if rows.shared:
        more.append(
            f"{data.samples} training samples are too few to hold some out: the best epoch was told by the same samples"
            " that were learned"
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
    """

    rows: Arrays
    says: Arrays
    unit: int
    alone: bool


def probe(model: Any, data: TrainingSet) -> Probe:
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
    at_once = rows_at_once(run, model, data)
    # A fixed batch: its last row again, where there are too few. Else as many as answer together as they do apart.
    count = at_once if fixed is not None else min(PROBE_ROWS, at_once)
    numbers = spread(data.samples, count)
    numbers = np.concatenate([numbers, np.repeat(numbers[-1:], count - len(numbers))]) if fixed is not None else numbers
    rows = data.take(numbers)
    return Probe(rows, run(rows), fixed or 1, alone=fixed is None and at_once == 1 and data.samples > 1)


class _Lessons:
    """Loss and batches, as the loop wants them."""

    def __init__(
        self,
        student: Any,
        learning: Iterable[str],
        *,
        found: tuple[Head, ...],
        hidden: tuple[Hint, ...],
        lesson: Lesson,
        answers: Answers,
        data: TrainingSet,
        alone: bool,
    ) -> None:
        self._heads, self._hidden, self._lesson = found, hidden, lesson
        self._answers, self._data = answers, data
        tensors = [*(h.student.tensor for h in found), *(h.tensor for h in hidden)]
        function = differentiable(with_outputs(student, tensors), trainable=frozenset(learning).__contains__)
        self._apply = _row_by_row(function) if alone else function.apply
        # Only weights: how far a bias or a norm's shift goes is no measure.
        weights = {name: value for name, value in function.parameters.items() if value.ndim >= 2}
        self._start = weights if lesson.held else {}
        for head in found:
            if head.labelled and data.labels is not None:
                check_labels(head, data.labels, self._shaped(head))

    def batch(self, rows: Rows) -> Batch:
        """Feeds, the teacher's answers and labels of some rows."""
        labels = {}
        for head in self._heads:
            if head.labelled and self._data.labels is not None and self._lesson.alpha < 1:
                labels[head.output] = labels_of(head, np.asarray(self._data.labels[rows]), self._shaped(head))
        return {"feeds": _plain(self._data.take(rows)), "answers": self._answers.at(rows), "labels": labels}

    def loss(self, parameters: Parameters, batch: Batch) -> tuple[Any, Any]:
        """(loss, quality); quality is 1 at best."""
        says = self._apply(parameters, batch["feeds"])
        total, qualities = [], []
        for head in self._heads:
            got = head.arranged(_read(says, head), jnp)
            wanted, labels = batch["answers"].get(head.output), batch["labels"].get(head.output)
            total.append(self._head_loss(head, got, wanted, labels))
            qualities.append(_quality(head, got, wanted, labels, self._answers.variance.get(head.output, 1.0)))
        loss = sum(total) / len(total)
        if self._hidden:
            errors = [
                losses.matching(says[h.tensor], batch["answers"][_hint_name(h)], self._answers.variance[_hint_name(h)])
                for h in self._hidden
            ]
            loss = loss + HINT_WEIGHT * sum(errors) / len(errors)
        if self._start:
            loss = loss + START_WEIGHT * losses.distance(parameters, self._start)
        return loss, sum(qualities) / len(qualities)

    def _head_loss(self, head: Head, got: Any, wanted: Any, labels: Any) -> Any:
        variance = self._answers.variance.get(head.output, 1.0)
        alpha = self._lesson.alpha if labels is not None else 1.0
        soft = hard = jnp.zeros(())
        if alpha > 0:
            soft = {
                Kind.CLASSES: lambda: losses.soft_targets(got, wanted, self._lesson.temperature),
                Kind.DECISIONS: lambda: losses.soft_decisions(got, wanted, self._lesson.temperature),
                Kind.NUMBERS: lambda: losses.matching(got, wanted, variance),
            }[head.kind]()
        if labels is not None:
            hard = {
                Kind.CLASSES: lambda: losses.class_entropy(got, labels),
                Kind.DECISIONS: lambda: losses.decision_entropy(got, labels),
                Kind.NUMBERS: lambda: losses.matching(got, labels, variance),
            }[head.kind]()
        return losses.mixed(soft, hard, alpha)

    def _shaped(self, head: Head) -> Any:
        return np.empty((1, *self._answers.shape(head.output)), dtype=np.float32)


def _quality(head: Head, got: Any, wanted: Any, labels: Any, variance: float) -> Any:
    """Classes and decisions: share that agree with the labels, or the teacher. Numbers: 1 − error over variance."""
    if head.kind is Kind.CLASSES:
        truth = labels if labels is not None else jnp.argmax(wanted, axis=-1)
        return jnp.mean(jnp.argmax(got, axis=-1) == truth)
    if head.kind is Kind.DECISIONS:
        return jnp.mean((got > 0) == ((labels > 0.5) if labels is not None else (wanted > 0)))
    return 1.0 - losses.matching(got, labels if labels is not None else wanted, variance)


def _row_by_row(function: Differentiable) -> Any:
    """For models that reshape to one row, or mix the rows of a batch."""

    def apply(parameters: Parameters, feeds: Batch) -> Parameters:
        parts = {name: jnp.asarray(a)[:, None] for name, a in feeds.items()}
        found = jax.vmap(lambda one: function.apply(parameters, one))(parts)
        return {name: v.reshape(v.shape[0] * v.shape[1], *v.shape[2:]) for name, v in found.items()}

    return apply


def _read(says: Mapping[str, Any], head: Head) -> Any:
    values = says[head.student.tensor]
    return jnp.log(jnp.maximum(values, LEAST_PROBABILITY)) if head.student.log else values


def _wanted(found: tuple[Head, ...], hidden: tuple[Hint, ...]) -> dict[str, Wanted]:
    def of(head: Head) -> Wanted:
        return Wanted(head.teacher.tensor, lambda values: head.arranged(read(values, head.teacher)))

    def hint(one: Hint) -> Wanted:
        return Wanted(one.tensor, one.read)

    return {h.output: of(h) for h in found} | {_hint_name(h): hint(h) for h in hidden}


def _hint_name(hint: Hint) -> str:
    return f"hidden layer {hint.tensor}"


def _plain(arrays: Arrays) -> Arrays:
    """As JAX takes them; whole numbers beyond 32 bits do not occur as indices."""
    return {
        name: a.astype(np.int32) if a.dtype in (np.int64, np.uint64, np.uint32) else a for name, a in arrays.items()
    }


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
