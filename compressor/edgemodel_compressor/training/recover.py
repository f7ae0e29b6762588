"""Recovery: a pruned network learns again, with the unpruned one as its teacher; what was pruned stays zero.

With `schedule: Gradual` sparsity grows while it learns (Zhu and Gupta 2017, "To prune, or not to prune",
arXiv:1710.01878): from nothing to the target along a cubic curve during the first three quarters of the steps, then the
masks stay and the rest recovers. Weights that were chosen early stay zero, as zeros are the least important of all.

The loss is distillation's (`losses`), with the defaults of a distill step: the answers of the teacher at temperature 4
count for 90 %, labels, where there are some, for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgemodel_api.edgemodel import PruneStep, Schedule, Structure
from edgemodel_api.errors import InputError
from edgemodel_compressor.progress import Report
from edgemodel_compressor.steps.channels import channel_groups
from edgemodel_compressor.steps.graph import array_of
from edgemodel_compressor.steps.prune import prune
from edgemodel_compressor.steps.schedule import masks, sparsity_at, target_of
from edgemodel_compressor.steps.weights import weights

from . import backend
from .room import UNLIMITED, Room

if TYPE_CHECKING:
    from .data import TrainingSet
    from .loop import Masks

Mask = npt.NDArray[np.bool_]

TEMPERATURE = 4.0
ALPHA = 0.9
#: Sparsity grows during this share of the steps …
GROWING = 0.75
#: … and the masks change so often at most.
CHANGES = 50


def recover(
    teacher: Any,
    model: Any,
    step: PruneStep,
    *,
    data: TrainingSet,
    work_dir: Path,
    seed: int,
    progress: Report,
    room: Room = UNLIMITED,
) -> tuple[Any, tuple[str, ...]]:
    """Fine-tune after pruning, or prune while fine-tuning.

    Deterministic and resumable as `steps.distill.distill`.

    Args:
        teacher: the unpruned ModelProto; not changed.
        model: with OneShot what `prune` made of it (zeros in its weights stay zero; with `structure: Channels` the
            smaller network, all of which learns); with Gradual the dense network, which this prunes.
        step: with `recover`.
        data: what is learned from.
        work_dir: for the teacher's answers and the checkpoint.
        seed: of everything random.
        progress: gets loss and quality of each epoch.
        room: what it may take.

    Returns:
        The model (pruned in any case), and notes for the report.

    Raises:
        InputError: an operator that cannot learn (before any work), data that does not fit, a step that does not fit into memory,
            a loss that does not stay finite.
    """
    backend.require()
    from .data import split
    from .lessons import Lesson
    from .loop import Settings, steps_per_epoch
    from .teach import probe, teach

    wanted = step.recover
    if wanted is None:
        raise InputError("prune.recover is not set: there is nothing to recover")
    gradual = wanted.schedule is Schedule.GRADUAL
    lesson = Lesson(
        temperature=TEMPERATURE,
        alpha=ALPHA,
        epochs=wanted.epochs,
        learning_rate=float(wanted.learning_rate),
        batch_size=wanted.batch_size,
        seed=seed,
    )
    zeros = _zeros(model)
    chosen: Masks | None = _constant(zeros)
    if gradual:
        check(model)
        unit = probe(model, data, room).unit
        rows = len(split(data.samples, seed=seed, unit=unit).train)
        settings = Settings(wanted.epochs, lesson.learning_rate, wanted.batch_size, seed, unit)
        chosen = _growing(model, step, zeros, steps_per_epoch(settings, rows)[0] * wanted.epochs)
    taught = teach(
        teacher,
        model,
        lesson,
        data=data,
        work_dir=work_dir,
        report=progress,
        what="recover",
        settings_key=step.model_dump(mode="json"),
        room=room,
        masks=chosen,
    )
    best, result = taught.learned, taught.model
    if gradual:
        # The same weights again; besides, those that cannot learn, and with Channels the smaller graph.
        result = prune(result, step).model
    how = "while sparsity grew" if gradual else "after pruning"
    summary = (
        f"learned again {how}: epoch {best.epoch} of {wanted.epochs} is the best on the held-out tenth of the training data,"
        f" with loss {best.loss:.4f} and quality {best.quality:.4f}"
    )
    return result, (summary, *taught.notes)


def check(model: Any) -> None:
    """What can be said before any work.

    Raises:
        InputError: JAX is not installed, or the model has operators that cannot learn: each is named with its node.
    """
    backend.require()
    from .convert import differentiable

    differentiable(model)


def _zeros(model: Any) -> dict[str, Mask]:
    """False where a weight is zero; only weights that have zeros."""
    found = {}
    for weight in weights(model):
        stays = np.asarray(array_of(weight.tensor) != 0, dtype=np.bool_)
        if weight.graph is model.graph and not stays.all():
            found[weight.name] = stays
    return found


def _constant(zeros: Mapping[str, Mask]) -> Masks | None:
    from .loop import Masks

    def at(_step: int, parameters: Mapping[str, Any]) -> dict[str, Mask]:
        return {name: mask for name, mask in zeros.items() if name in parameters}

    return Masks(at, every=2**62, settled=0) if zeros else None


def _growing(model: Any, step: PruneStep, zeros: Mapping[str, Mask], steps: int) -> Masks:
    from .convert import with_parameters
    from .loop import Masks

    end = max(1, int(GROWING * steps))
    groups = channel_groups(model) if step.structure is Structure.CHANNELS else None

    def at(now: int, parameters: Mapping[str, npt.NDArray[Any]]) -> dict[str, Mask]:
        sparsity = sparsity_at(now, begin=0, end=end, target=target_of(step))
        found = masks(with_parameters(model, parameters), step, None if now >= end else sparsity, groups=groups)
        found = {name: mask for name, mask in found.items() if name in parameters}
        for name, mask in zeros.items():
            if name in parameters:
                found[name] = found[name] & mask if name in found else mask
        return found

    return Masks(at, every=max(1, end // CHANGES), settled=end)
