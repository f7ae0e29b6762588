"""Students derived from a teacher: fewer channels (`width`), fewer blocks (`depth`), lower rank (`rank`).

They are applied in the order depth, width, rank. What stays are the teacher's most important channels and blocks, with
its weights: that is where `Parameter` starts. For `Knowledge` only the shape of the network counts: blocks are left out
evenly, and the weights are drawn anew (see `initialise`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemodel_api.edgemodel import DistillMethod, PruneMethod, Student
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted, parse_percent
from edgemodel_compressor.evaluate.runner import BATCH_ROWS, Arrays
from edgemodel_compressor.steps.graph import copy_of
from edgemodel_compressor.steps.prepare import prepare
from edgemodel_compressor.steps.shrink import channel_groups, keep_by_share, shrink
from edgemodel_compressor.steps.weights import weights

from .blocks import shallower
from .initialise import initialised
from .lowrank import low_rank

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Derived:
    """A student.

    Attributes:
        model: ModelProto.
        kept: by tensor that a weight's node makes, which of the teacher's channels it still has; others have all.
        notes: what was done, for the report.
    """

    model: Any
    kept: Mapping[str, Indices] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def derive(
    teacher: Any, student: Student, *, method: DistillMethod, seed: int, rows: Arrays, at_once: int = BATCH_ROWS
) -> Derived:
    """The student that `width`, `depth` and `rank` ask for.

    Args:
        teacher: ModelProto.
        student: without a URI.
        method: Parameter keeps the teacher's weights, Knowledge draws new ones.
        seed: of the new ones.
        rows: a few rows of the teacher's inputs, as many as its batch where that is fixed.
        at_once: how many of them one run gets.

    Raises:
        InputError: nothing of the teacher can be made smaller in that way.
    """
    transfers = method is DistillMethod.PARAMETER
    model, notes = prepare(teacher), list[str]()
    kept: dict[str, Indices] = {}
    before = _numbers(model)
    if student.depth is not None:
        model, total, stayed = shallower(
            model, parse_percent(student.depth), rows=rows if transfers else None, at_once=at_once
        )
        of = f"of {total} repeated blocks"
        notes.append(f"depth {student.depth}: {counted(stayed, f'{of} stays', f'{of} stay')}")
    if student.width is not None:
        model, kept, groups = _narrower(model, student.width)
        notes.append(f"width {student.width}: channels of {counted(groups, 'group')} were reduced")
    if student.rank is not None:
        model, count = low_rank(model, parse_percent(student.rank))
        if not count:
            raise InputError(
                f"student.rank: at {student.rank} of the full rank no weight of this model gets smaller: give less, or use"
                " student.width or student.depth"
            )
        notes.append(f"rank {student.rank}: {counted(count, 'weight')} became two smaller ones")
    if not transfers:
        model = initialised(model, seed=seed, rows=rows, at_once=at_once)
    notes = [f"the student has {_numbers(model):,} weights, the teacher {before:,} ({'; '.join(notes)})"]
    return Derived(model, kept, tuple(notes))


def given(
    teacher: Any, student: Any, *, method: DistillMethod, seed: int, rows: Arrays, at_once: int = BATCH_ROWS
) -> Derived:
    """A student from a file. It starts from the file's weights.

    A weight whose numbers are all the same cannot learn anything of its own and is drawn anew. With Parameter, weights
    that have the teacher's name and shape are the teacher's.

    Raises:
        InputError: Parameter, and no weight of the student is one of the teacher's.
    """
    model, notes = copy_of(student), []
    constant = [w.name for w in weights(model) if w.size > 1 and float(np.ptp(w.values())) == 0.0]
    if constant:
        fresh = initialised(model, seed=seed, rows=rows, at_once=at_once)
        drawn = {t.name: t for t in fresh.graph.initializer}
        everything = len(constant) == len(weights(model))
        for tensor in model.graph.initializer:
            if tensor.name in drawn and (everything or tensor.name in constant):
                tensor.CopyFrom(drawn[tensor.name])
        notes.append(
            counted(
                len(constant),
                "weight of the student's file was constant and has been drawn anew",
                "weights of the student's file were constant and have been drawn anew",
            )
        )
    if method is DistillMethod.PARAMETER:
        theirs = {w.name: w for w in weights(teacher)}
        same = [w for w in weights(model) if w.name in theirs and theirs[w.name].shape == w.shape]
        if not same:
            raise InputError(
                "distill.method Parameter transfers weights, and the student's file has none with the name and shape of one"
                " of the teacher's: use width, depth or rank, or method: Knowledge"
            )
        source = {t.name: t for t in teacher.graph.initializer}
        names = {w.name for w in same}
        for tensor in model.graph.initializer:
            other = source.get(tensor.name)
            shared = other is not None and other.dims == tensor.dims and other.data_type == tensor.data_type
            if shared and (tensor.name in names or len(tensor.dims) == 1):
                tensor.CopyFrom(other)
        notes.append(f"{counted(len(same), 'weight of the student is', 'weights of the student are')} the teacher's")
    notes.insert(0, f"the student has {_numbers(model):,} weights, the teacher {_numbers(teacher):,}")
    return Derived(model, {}, tuple(notes))


def _narrower(model: Any, share: str) -> tuple[Any, dict[str, Indices], int]:
    groups = channel_groups(model)
    wanted = Decimal(share.rstrip("%")) / 100
    # Also where a norm is taken over the channels: the student learns again.
    keep = keep_by_share(model, wanted, method=PruneMethod.MAX_RELATIVE, inexact=True, groups=groups)
    keep = {g.name: keep[g.name] for g in groups if g.name in keep and len(keep[g.name]) < g.size}
    if not keep:
        raise InputError(
            f"student.width: at {share} no channels of this model can go (those of its inputs and outputs stay): give less,"
            " or use student.depth or student.rank"
        )
    gone: dict[str, npt.NDArray[np.bool_]] = {}
    for group in groups:
        for piece in group.weights if group.name in keep else ():
            if piece.kernel and piece.output:
                mask = gone.setdefault(piece.weight, np.zeros(len(piece.classes), dtype=bool))
                mask |= (piece.classes >= 0) & ~np.isin(piece.classes, keep[group.name])
    tensors = {
        node.output[0]: np.flatnonzero(~gone[name])
        for node in model.graph.node
        for name in node.input[:2]
        if name in gone and node.op_type in ("Conv", "Gemm", "MatMul")
    }
    return shrink(model, keep), tensors, len(keep)


def _numbers(model: Any) -> int:
    return sum(w.size for w in weights(model))
