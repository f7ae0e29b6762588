"""Distillation: a smaller network, the student, learns from the model, the teacher.

- `Knowledge`: the student learns the teacher's answers, softened by a temperature (Hinton et al. 2015, arXiv:1503.02531);
  a derived student starts from random weights, one from a file from its own.
- `Parameter`: the teacher's parameters are transferred. The student starts from the teacher's most important channels
  and blocks, and while it learns its hidden layers are held to the teacher's (hints: Romero et al. 2015,
  arXiv:1412.6550) and its weights to their start (L2-SP: Li et al. 2018, arXiv:1802.01483).

Outputs that are no scores of classes are matched by their numbers; see `training.heads` and `training.losses`. The best
epoch is told by a tenth of the training data that is held out; the validation data has no part in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemodel_api.edgemodel import DistillMethod, DistillStep
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import parse_percent
from edgemodel_compressor.progress import Report
from edgemodel_compressor.training import backend
from edgemodel_compressor.training.room import UNLIMITED, Room

if TYPE_CHECKING:
    from edgemodel_compressor.training.data import TrainingSet


@dataclass(frozen=True)
class Distilled:
    """The student afterwards.

    Attributes:
        model: ModelProto.
        notes: what a user should know.
    """

    model: Any
    notes: tuple[str, ...]


def distill(
    teacher: Any,
    step: DistillStep,
    *,
    student: Any | None,
    data: TrainingSet,
    work_dir: Path,
    seed: int,
    progress: Report,
    room: Room = UNLIMITED,
) -> Distilled:
    """Train a student.

    The same inputs give the same bytes on the same machine; another machine may differ in the last bits (see
    `training.loop`). A checkpoint is written to the work folder after each epoch: a call that was killed goes on from it
    and gives what it would have given.

    Args:
        teacher: ModelProto (prepared); not changed.
        step: as declared.
        student: the ModelProto of `step.student.uri`; None where it is derived.
        data: what is learned from.
        work_dir: for the teacher's answers and the checkpoint.
        seed: of everything random.
        progress: gets loss and quality of each epoch.
        room: what it may take.

    Raises:
        InputError: an operator that cannot learn (before any work), networks or data that do not fit each other, a student
            that is no smaller in the way asked for, a step that does not fit into memory, a loss that does not stay finite.
    """
    backend.require()
    from edgemodel_compressor.training import students
    from edgemodel_compressor.training.lessons import Lesson
    from edgemodel_compressor.training.teach import probe, teach

    check(teacher, step, student)
    theirs = probe(teacher, data, room)
    if student is None:
        found = students.derive(
            teacher, step.student, method=step.method, seed=seed, rows=theirs.rows, at_once=theirs.at_once
        )
    else:
        ours = probe(student, data, room)
        found = students.given(teacher, student, method=step.method, seed=seed, rows=ours.rows, at_once=ours.at_once)
    transfers = step.method is DistillMethod.PARAMETER
    lesson = Lesson(
        temperature=float(step.temperature),
        alpha=parse_percent(step.alpha),
        epochs=step.epochs,
        learning_rate=float(step.learning_rate),
        batch_size=step.batch_size,
        seed=seed,
        held=transfers,
        start_counts=transfers or student is not None,
        kept=found.kept,
    )
    taught = teach(
        teacher,
        found.model,
        lesson,
        data=data,
        work_dir=work_dir,
        report=progress,
        what="distill",
        settings_key=None,
        room=room,
    )
    best = taught.learned
    alpha = f", alpha {step.alpha}" if data.labels is not None else ""
    summary = (
        f"distilled by {step.method} (temperature {step.temperature}{alpha}): epoch {best.epoch} of {step.epochs} is the best"
        f" on the held-out tenth of the training data, with loss {best.loss:.4f} and quality {best.quality:.4f}"
    )
    return Distilled(taught.model, (summary, *found.notes, *taught.notes))


def check(teacher: Any, step: DistillStep, student: Any | None) -> None:
    """What can be said before any work, and before there is data.

    Args:
        teacher: ModelProto.
        step: as declared.
        student: the ModelProto of `step.student.uri`; None where it is derived.

    Raises:
        InputError: a student file is missing, JAX is not installed, or the network that learns has operators that cannot:
            each is named with its node.
    """
    backend.require()
    from edgemodel_compressor.training.convert import differentiable

    if (student is None) != (step.student.uri is None):
        raise InputError("distill.student.uri and the student's model go together: give both or neither")
    # A derived student has the teacher's operators.
    differentiable(teacher if student is None else student)
