"""Loss and batches of a lesson, as the loop wants them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from edgemodel_compressor.evaluate.runner import Arrays

from . import losses
from .answers import Answers, Wanted
from .convert import Differentiable, differentiable
from .data import Rows, TrainingSet
from .heads import LEAST_PROBABILITY, Head, Kind, check_labels, labels_of, read, with_outputs
from .hints import Hint
from .loop import Batch, Parameters

#: Weight of the hidden layers' error: 1 as in FitNets' first stage.
HINT_WEIGHT = 1.0
#: Weight of the relative squared distance from the start.
START_WEIGHT = 0.01


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


class Lessons:
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
        self._start = {name: jnp.asarray(value) for name, value in weights.items()} if lesson.held else {}
        for head in found:
            if head.labelled and data.labels is not None:
                check_labels(head, data.labels, self._shaped(head))

    def batch(self, rows: Rows) -> Batch:
        """Feeds, the teacher's answers and labels of some rows."""
        labels = {}
        for head in self._heads:
            if head.labelled and self._data.labels is not None and self._lesson.alpha < 1:
                labels[head.output] = labels_of(head, np.asarray(self._data.labels[rows]), self._shaped(head))
        feeds = _plain(self._data.take(rows))
        # The start goes with each batch (by reference): inside the function it would be a constant to compile.
        return {"feeds": feeds, "answers": self._answers.at(rows), "labels": labels, "start": self._start}

    def shapes(self, rows: int, *, like: Rows) -> Batch:
        """Of `batch` for a number of rows, told from that for a few: it may be large."""

        def grown(one: Any) -> Any:
            shape = (one.shape[0] * rows // len(like), *one.shape[1:])
            return jax.ShapeDtypeStruct(shape, one.dtype)  # type: ignore[no-untyped-call]

        some = self.batch(like)
        return {part: some[part] if part == "start" else jax.tree.map(grown, some[part]) for part in some}

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
            loss = loss + START_WEIGHT * losses.distance(parameters, batch["start"])
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


def wanted_of(found: tuple[Head, ...], hidden: tuple[Hint, ...]) -> dict[str, Wanted]:
    """What the teacher is asked."""

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
