"""What each output of a model means, and where its logits are.

A final Softmax, LogSoftmax or Sigmoid (behind Identity and Cast, too) is recognised in the graph, and its input is
taken: logits. Outputs that are probabilities without such a node (floats ≥ 0 whose rows sum to 1) are read as their
logarithm, which has the same softmax. Raw numbers are logits where labels (or validation) say that they are scores
of classes; without that knowledge they are taken as plain numbers, since an embedding or a regression looks alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ValueInfoProto

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_compressor.evaluate.runner import Array, Arrays
from edgemodel_compressor.steps.graph import attribute, copy_of, is_standard, opset

from .data import TrainingSet

Floats = npt.NDArray[np.float32]

#: Under this a probability counts as this: its logarithm must be finite.
LEAST_PROBABILITY = 1e-7
_BEHIND = frozenset({"Identity", "Cast", "Dropout"})
_LABEL_BLOCK = 65536


class Kind(StrEnum):
    """Classes: one of several. Decisions: independent yes/no. Numbers: anything else."""

    CLASSES = "classes"
    DECISIONS = "decisions"
    NUMBERS = "numbers"


@dataclass(frozen=True)
class Reading:
    """How the numbers to learn are read from a model's tensors.

    Attributes:
        tensor: its name: an output, or the input of the final activation.
        log: whether its logarithm is meant.
    """

    tensor: str
    log: bool = False


@dataclass(frozen=True)
class Head:
    """One output that is learned.

    Attributes:
        output: its name, the same in teacher and student.
        kind: what its numbers are.
        axis: of the classes.
        teacher: how the teacher is read.
        student: how the student is read.
        labelled: whether the labels are this output's.
    """

    output: str
    kind: Kind
    axis: int
    teacher: Reading
    student: Reading
    labelled: bool = False

    def arranged(self, values: Any, xp: Any = np) -> Any:
        """A tensor that was read, as float32 with the classes on the last axis."""
        values = xp.moveaxis(values, self.axis, -1) if self.kind is Kind.CLASSES else values
        return values.astype(np.float32)


@dataclass(frozen=True)
class _Found:
    """What a graph says of one output."""

    kind: Kind
    axis: int
    tensor: str


def heads(
    teacher: Any, student: Any, *, teacher_says: Arrays, student_says: Arrays, data: TrainingSet
) -> tuple[tuple[Head, ...], tuple[str, ...]]:
    """How each output is taught, and notes for the report.

    Args:
        teacher: ModelProto.
        student: ModelProto with outputs of the same names.
        teacher_says: the teacher's outputs for a few rows.
        student_says: the student's for a few (perhaps another number of) rows.
        data: with labels or without.

    Raises:
        InputError: outputs that do not fit each other, none to learn, labels that do not fit.
    """
    _same_outputs(teacher_says, student_says)
    rows = max((len(a) for a in teacher_says.values() if a.ndim), default=0)
    chosen = _labels_output(data, list(teacher_says))
    found, notes = [], []
    for name, answer in teacher_says.items():
        if not np.issubdtype(answer.dtype, np.floating) or answer.ndim == 0 or len(answer) != rows:
            notes.append(
                f"output {name!r} ({answer.dtype} {list(answer.shape)} for {counted(rows, 'sample')}) is not learned:"
                " it has no float numbers for each sample"
            )
            continue
        head = _head(
            teacher,
            student,
            name,
            answer=answer,
            student_answer=student_says[name],
            data=data,
            known=name == chosen,
        )
        found.append(head)
        if head.kind is Kind.NUMBERS and name == chosen and answer.ndim == 2 and data.labels is None:
            notes.append(
                f"output {name!r} ends without a Softmax and there are no labels, so the teacher's numbers themselves are"
                " matched (temperature has no part in it); with data.training.labels it is taught by soft targets"
            )
    if not found:
        raise InputError("the model has no float output with one answer a sample: there is nothing to learn from it")
    if data.labels is not None and not any(h.labelled for h in found):
        raise InputError(
            f"the labels belong to output {chosen!r}, which cannot be learned: name another, or leave them out"
        )
    return tuple(found), tuple(notes)


def with_outputs(model: Any, tensors: list[str]) -> Any:
    """A copy whose outputs are exactly these tensors."""
    result = copy_of(model)
    declared = {o.name: o for o in result.graph.output}
    kept = [copy_of(declared[t]) if t in declared else ValueInfoProto(name=t) for t in dict.fromkeys(tensors)]
    del result.graph.output[:]
    result.graph.output.extend(kept)
    return result


def read(values: Array, reading: Reading) -> Floats:
    """The numbers of a tensor as they are learned.

    Raises:
        InputError: NaN or infinite ones.
    """
    result: Floats = np.asarray(values, dtype=np.float32)
    if reading.log:
        result = np.log(np.maximum(result, LEAST_PROBABILITY, dtype=np.float32))
    if not np.isfinite(result).all():
        raise InputError(
            f"the teacher's tensor {reading.tensor!r} holds NaN or infinite numbers for the training data: nothing can be"
            " learned from them; check the model and the data (values, scaling)"
        )
    return result


def labels_of(head: Head, labels: Array, answer: Array) -> Array:
    """Labels of some rows as the loss takes them: int32 classes, or float32 numbers in the answer's shape.

    Args:
        head: whose they are.
        labels: [rows, …] as given.
        answer: the teacher's arranged answer for any rows; only its shape past the first axis counts.

    Raises:
        InputError: shapes or values that do not fit.
    """
    wanted = answer.shape[1:]
    what = f"data.training.labels for output {head.output!r}"
    if labels.dtype.kind not in "biuf":
        raise InputError(f"{what}: they are {labels.dtype}, and numbers are needed")
    if head.kind is Kind.CLASSES:
        return _classes(labels, wanted, what)
    if int(np.prod(labels.shape[1:])) != int(np.prod(wanted)):
        raise InputError(
            f"{what}: they have shape {list(labels.shape[1:])} a sample and the output {list(wanted)}: give one number for"
            " each, or leave data.training.labels out to learn from the teacher alone"
        )
    numbers = labels.reshape(len(labels), *wanted).astype(np.float32)
    if head.kind is Kind.DECISIONS and not ((numbers >= 0) & (numbers <= 1)).all():
        raise InputError(f"{what}: the output ends in a Sigmoid, so labels must lie between 0 and 1")
    return numbers


def check_labels(head: Head, labels: Array, answer: Array) -> None:
    """All labels, block by block, before any step.

    Raises:
        InputError: as `labels_of`.
    """
    for begin in range(0, len(labels), _LABEL_BLOCK):
        labels_of(head, np.asarray(labels[begin : begin + _LABEL_BLOCK]), answer)


def _classes(labels: Array, wanted: tuple[int, ...], what: str) -> Array:
    count = wanted[-1]
    if labels.ndim >= 2 and labels.shape[1:] == wanted and count > 1 and labels.ndim == len(wanted) + 1:
        labels = np.argmax(labels, axis=-1)
    elif labels.ndim >= 2 and labels.shape[-1] == 1 and labels.ndim == len(wanted) + 1:
        labels = labels[..., 0]
    if labels.shape[1:] != wanted[:-1]:
        raise InputError(
            f"{what}: they have shape {list(labels.shape[1:])} a sample, and one class for each of {list(wanted[:-1])} is"
            " needed"
        )
    numbers = labels.astype(np.float64)
    wrong = numbers[~((numbers >= 0) & (numbers < count) & (numbers == np.floor(numbers)))]
    if wrong.size:
        raise InputError(f"{what}: one is {wrong[0]:g}, but the output has {count} classes, 0 to {count - 1}")
    return numbers.astype(np.int32)


def _same_outputs(teacher: Arrays, student: Arrays) -> None:
    if set(teacher) != set(student):
        raise InputError(
            f"the student's outputs are {', '.join(student)} and the teacher's {', '.join(teacher)}: both need the same"
            " names"
        )
    for name, answer in teacher.items():
        # The first axis is the samples; each network got as many as it takes.
        if student[name].ndim != answer.ndim or student[name].shape[1:] != answer.shape[1:]:
            raise InputError(
                f"output {name!r} has shape {list(student[name].shape)} in the student and {list(answer.shape)} in the"
                " teacher: both must agree"
            )


def _labels_output(data: TrainingSet, names: list[str]) -> str:
    if data.output is not None and data.output not in names:
        raise InputError(f"the labels belong to output {data.output!r}, but the model's outputs are {', '.join(names)}")
    return data.output or names[0]


def _head(
    teacher: Any, student: Any, name: str, *, answer: Array, student_answer: Array, data: TrainingSet, known: bool
) -> Head:
    labelled = known and data.labels is not None
    of_teacher, of_student = _final(teacher, name, answer.ndim), _final(student, name, answer.ndim)
    if of_teacher is not None:
        kind, axis, reading = of_teacher.kind, of_teacher.axis, Reading(of_teacher.tensor)
    elif _probabilities(answer):
        kind, axis, reading = Kind.CLASSES, -1, Reading(name, log=True)
    elif of_student is not None:
        # The student says what the numbers are: the teacher was exported without its last activation.
        kind, axis, reading = of_student.kind, of_student.axis, Reading(name)
    else:
        scores = known and (data.classes or (data.labels is not None and _like_classes(data.labels, answer)))
        kind, axis, reading = Kind.CLASSES if scores else Kind.NUMBERS, -1, Reading(name)
    head = Head(name, kind, axis, reading, Reading(name), labelled)
    if of_student is not None and of_student.kind is kind and of_student.axis == axis:
        return replace(head, student=Reading(of_student.tensor))
    if of_student is not None or (of_teacher is not None and kind is Kind.DECISIONS):
        raise InputError(
            f"output {name!r} ends in another activation in the student than in the teacher: export both with the same"
        )
    return replace(head, student=Reading(name, log=kind is Kind.CLASSES and _probabilities(student_answer)))


def _final(model: Any, output: str, rank: int) -> _Found | None:
    """The final activation of an output, where there is one."""
    producers = {name: node for node in model.graph.node for name in node.output}
    name = output
    for _ in range(8):
        node = producers.get(name)
        if node is None or not is_standard(node):
            return None
        if node.op_type == "Sigmoid":
            return _Found(Kind.DECISIONS, -1, node.input[0])
        if node.op_type in ("Softmax", "LogSoftmax"):
            old = opset(model) < 13
            axis = int(attribute(node, "axis", 1 if old else -1))
            axis = axis if axis >= 0 else axis + rank
            # Before opset 13 all axes from this one on are one set of classes.
            if old and axis != rank - 1:
                return None
            return _Found(Kind.CLASSES, axis - rank, node.input[0])
        if node.op_type not in _BEHIND:
            return None
        name = node.input[0]
    return None


def _probabilities(answer: Array) -> bool:
    if answer.ndim < 2 or answer.shape[-1] < 2 or not answer.size:
        return False
    numbers = answer.astype(np.float64)
    return bool((numbers >= 0).all() and np.allclose(numbers.sum(axis=-1), 1.0, atol=1e-3))


def _like_classes(labels: Array, answer: Array) -> bool:
    """Whether labels name classes of scores [rows, …, classes]: whole numbers in range, one for each set of scores."""
    if answer.ndim < 2 or answer.shape[-1] < 2 or labels.dtype.kind not in "biuf":
        return False
    shape = labels.shape[1:]
    if shape == answer.shape[1:]:
        # One-hot; anything else of this shape is a regression's target.
        some = np.asarray(labels[:4096]).astype(np.float64)
        return bool(np.isin(some, (0.0, 1.0)).all() and (some.sum(axis=-1) == 1).all())
    if shape not in (answer.shape[1:-1], (*answer.shape[1:-1], 1)):
        return False
    some = np.asarray(labels[:4096]).astype(np.float64)
    return bool((some == np.floor(some)).all())
