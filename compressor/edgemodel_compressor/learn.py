"""Distillation and recovery as the builder asks for them: with the Job's training data, and kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemodel_api.edgemodel import PruneStep
from edgemodel_api.errors import InputError
from edgemodel_api.job import Progress

from .cache import Cache, content_key, model_digest
from .progress import Report
from .recipe import Distill
from .steps import distill as distilling
from .training.room import UNLIMITED, Room

if TYPE_CHECKING:
    from .training.data import TrainingSet


@dataclass(frozen=True)
class Learner:
    """Trains networks.

    Attributes:
        data: what is learned from; None: there is none.
        students: index of a distill step → the ModelProto of its student's file.
        work_dir: for answers and checkpoints.
        seed: of everything random.
        report: where progress goes.
        cache: of networks that were trained before.
        check: raises `TimeUpError` when the time is up; called between epochs.
        room: what learning may take.
    """

    data: TrainingSet | None
    students: Mapping[int, Any]
    work_dir: Path
    seed: int
    report: Report
    cache: Cache
    check: Callable[[], None]
    room: Room = UNLIMITED

    def distill(self, source: Any, parent: Any, action: Distill) -> tuple[Any, tuple[str, ...]]:
        """(student, notes).

        Args:
            source: the prepared source: what is cached depends on it.
            parent: the teacher.
            action: with its place among the steps.

        Raises:
            InputError: no data, or as `steps.distill.distill`.
            TimeUpError: the time is up.
        """
        student = self.students.get(action.index)

        def train(data: TrainingSet) -> tuple[Any, tuple[str, ...]]:
            done = distilling.distill(
                parent,
                action.step,
                student=student,
                data=data,
                work_dir=self.work_dir,
                seed=self.seed,
                progress=self._said,
                room=self.room,
            )
            return done.model, done.notes

        given = model_digest(student) if student is not None else None
        return self._once("distill", (source, parent), (action.step.to_json(), given), train)

    def recover(self, source: Any, model: Any, step: PruneStep) -> tuple[Any, tuple[str, ...]]:
        """(model, notes).

        Args:
            source: the prepared source, the teacher.
            model: as for `training.recover.recover`.
            step: with `recover`.

        Raises:
            InputError: no data, or as `training.recover.recover`.
            TimeUpError: the time is up.
        """

        def train(data: TrainingSet) -> tuple[Any, tuple[str, ...]]:
            from .training.recover import recover  # learning needs libraries that a Job without it may lack

            done: tuple[Any, tuple[str, ...]] = recover(
                source,
                model,
                step,
                data=data,
                work_dir=self.work_dir,
                seed=self.seed,
                progress=self._said,
                room=self.room,
            )
            return done

        return self._once("recover", (source, model), step.to_json(), train)

    def _once(
        self,
        what: str,
        models: tuple[Any, ...],
        settings: object,
        train: Callable[[TrainingSet], tuple[Any, tuple[str, ...]]],
    ) -> tuple[Any, tuple[str, ...]]:
        if self.data is None:
            raise InputError(f"{what} has nothing to learn from: give data.training (or at least data.calibration)")
        key = ""
        if self.cache.on:
            key = content_key(what, [model_digest(m) for m in models], settings, self.data.digest, self.seed)
            if (kept := self.cache.network(key)) is not None:
                return kept
        self.check()
        model, notes = train(self.data)
        if self.cache.on:
            self.cache.keep_network(key, model, notes)
        return model, notes

    def _said(self, progress: Progress) -> None:
        self.report(progress)
        self.check()
