"""Structured pruning: taking channels out, so that the graph itself gets smaller and faster.

Which channels go together is found by `channels`. What is removed is cut out of every weight, bias and norm that it runs
through, and numbers of channels in the graph (targets of Reshape, sizes of Split, `group`, `hidden_size`, …) are
rewritten; shapes of inputs and outputs stay. The result equals the model in which all parameters of the removed channels
are zero (`zeroed`), for groups that are `exact`. A removed channel's constant part (bias, norm's shift) is dropped with
it, not added to the next layer: without data nobody knows which part of it the activation lets through, and `recover`
learns it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from edgemodel_api.edgemodel import Exclude, Granularity, PruneMethod
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted

from .channels import ChannelGroup, ChannelSlice, Kept, Labels, Tracer, channel_groups, constants, trace
from .graph import array_of, copy_of, uses_of
from .ranking import Scores, smallest, zeros_wanted

__all__ = [
    "ChannelGroup",
    "ChannelSlice",
    "channel_groups",
    "importance",
    "keep_by_share",
    "removable",
    "shrink",
    "zeroed",
]

#: onnxruntime lays Conv out in blocks only where the number of output channels is a multiple of this (its
#: NchwcTransformer): 122 channels took 1.3 times as long as 128 (3×3 at 28×28, all optimizations, 1 thread of an AVX-512 CPU).
CONV_MULTIPLE = 4
#: In smaller groups the share that was asked for matters more.
_LARGE = 16


def importance(model: Any, group: ChannelGroup, method: PruneMethod) -> Scores:
    """How much each class of a group weighs: [size], larger is more important.

    It is the root mean square of the class's numbers in each weight that it runs through, as output and as input,
    averaged over these weights (cf. Li et al. 2017, "Pruning Filters for Efficient ConvNets", arXiv:1608.08710, and
    DepGraph's sums over a group). MaxRelative divides by the largest of the group in each weight first, so that layers
    with small numbers count alike.

    Raises:
        InputError: a weight holds NaN or infinite values, or cannot be read.
    """
    held = constants(model.graph)
    slices = [s for s in group.weights if s.kernel] or list(group.weights)
    total: Scores = np.zeros(group.size)
    for piece in slices:
        values = _finite(held[piece.weight], piece)
        rows = np.moveaxis(values, piece.axis, 0).reshape(values.shape[piece.axis], -1)
        mine = piece.classes >= 0
        squares = np.bincount(piece.classes[mine], np.square(rows).sum(axis=1)[mine], minlength=group.size)
        counts = np.bincount(piece.classes[mine], minlength=group.size) * max(1, rows.shape[1])
        size = np.sqrt(squares / np.maximum(1, counts))
        largest = float(size.max(initial=0.0))
        if method is PruneMethod.MAX_RELATIVE and largest > 0:
            size = size / largest
        total += size
    return total / len(slices)


def keep_by_share(
    model: Any,
    share: float | Decimal,
    *,
    method: PruneMethod = PruneMethod.MIN_ABSOLUTE,
    granularity: Granularity = Granularity.TENSOR,
    exclude: Exclude | None = None,
    inexact: bool | None = None,
    groups: Sequence[ChannelGroup] | None = None,
) -> dict[str, Labels]:
    """Which classes stay: the most important ones, of equal ones the later; at least one of each group.

    Groups of a Conv with at least 16 channels, and a multiple of four, keep a multiple (the nearest): other numbers of
    channels are slower.

    Args:
        model: a ModelProto.
        share: of the classes that stay, 0 … 1: of each group (Tensor), or of all groups together (Global).
        method: see `importance`.
        granularity: Tensor or Global.
        exclude: groups that run through one of these nodes or operators stay whole.
        inexact: whether groups go over which a norm or mean is taken; None: only where there are no others.
        groups: the model's, where they are known already.

    Returns:
        Group name to the sorted classes that stay, for each group that may lose some.
    """
    gone = Decimal(1) - Decimal(str(share))
    found = channel_groups(model) if groups is None else groups
    usable = removable(found, exclude or Exclude(), inexact=inexact)
    scores = [importance(model, g, method) for g in usable]
    units = [CONV_MULTIPLE if _blocked(g) else 1 for g in usable]
    if granularity is Granularity.GLOBAL:
        counts = _of_all(scores, units, gone)
    else:
        counts = [_nearest(len(s), zeros_wanted(len(s), gone), unit) for s, unit in zip(scores, units, strict=True)]
    return {
        g.name: np.flatnonzero(~smallest(s, count)).astype(np.int64)
        for g, s, count in zip(usable, scores, counts, strict=True)
    }


def _blocked(group: ChannelGroup) -> bool:
    """Whether blocks of channels matter to a group: a large one of a Conv in which each class is one channel."""
    convs = [s for s in group.weights if s.kernel and "Conv" in s.ops]
    fits = group.size % CONV_MULTIPLE == 0 and group.size >= _LARGE
    return fits and bool(convs) and all(int((s.classes >= 0).sum()) == group.size for s in convs)


def _nearest(size: int, count: int, unit: int) -> int:
    """How many of a group go: so many that the rest is the nearest multiple of `unit`, and not nothing."""
    left = (2 * (size - count) + unit) // (2 * unit) * unit
    return size - max(unit, left)


def _of_all(scores: Sequence[Scores], units: Sequence[int], share: Decimal) -> list[int]:
    """How many of each group go, where the weakest of all groups go, `units` of a group at once, until the next are too many.

    The best of each group stay. Channels that are zero already, and are as many as asked for, are the answer: what was
    chosen once, and has learned since, is chosen again.
    """
    wanted = zeros_wanted(sum(len(s) for s in scores), share)
    dead = [min(int(np.count_nonzero(s == 0)), len(s) - unit) for s, unit in zip(scores, units, strict=True)]
    if any(dead) and 0 <= wanted - sum(dead) < max(units):
        return [_nearest(len(s), d, unit) for s, d, unit in zip(scores, dead, units, strict=True)]
    chunks = [
        (float(chunk.max()), group, at)
        for group, (s, unit) in enumerate(zip(scores, units, strict=True))
        for at, chunk in enumerate(np.sort(s)[: len(s) - unit].reshape(-1, unit))
    ]
    counts = [0] * len(scores)
    for _, group, _ in sorted(chunks):
        if sum(counts) + units[group] > wanted:
            break
        counts[group] += units[group]
    return counts


def removable(
    groups: Sequence[ChannelGroup], exclude: Exclude, *, inexact: bool | None = None
) -> tuple[ChannelGroup, ...]:
    """Groups that may lose channels: no node of their weights is excluded.

    A norm over what is left of a group's channels differs from one over all of them, and often much: the residual
    stream of a transformer is such a group, and its heads and hidden units are none. So by default they go only where
    there is nothing else.
    """
    free = tuple(g for g in groups if not _excluded(g, exclude))
    exact = tuple(g for g in free if g.exact)
    return free if inexact or (inexact is None and not exact) else exact


def _excluded(group: ChannelGroup, exclude: Exclude) -> bool:
    return any(any(o in exclude.ops for o in s.ops) or any(n in exclude.nodes for n in s.nodes) for s in group.weights)


def shrink(model: Any, keep: Mapping[str, npt.ArrayLike]) -> Any:
    """A copy without the channels that are not kept.

    Args:
        model: a ModelProto.
        keep: name of a group to the classes (0 … size - 1) that stay, sorted; groups that are not named stay whole.

    Returns:
        The smaller model; its inputs and outputs have the same names, types and shapes.

    Raises:
        InputError: no such group, no class left, or an index that the group does not have.
    """
    result = copy_of(model)
    traced = trace(result)
    kept: Kept = np.ones(traced.tracer.count, dtype=bool)
    by_name = {g.name: g for g in traced.groups}
    for name, indices in keep.items():
        group = by_name.get(name)
        if group is None:
            raise InputError(f"the model has no group of channels {name!r}: take the names from channel_groups")
        stays = _stays(group, np.asarray(indices, dtype=np.int64))
        first = traced.first[name]
        mine = (traced.class_of >= first) & (traced.class_of < first + group.size)
        kept[mine] = stays[traced.class_of[mine] - first]
    if kept.all():
        return result
    read = set(uses_of(result.graph))
    for rewrite in traced.tracer.rewrites:
        rewrite(kept)
    _cut(traced.tracer, kept)
    _drop_replaced(result.graph, read)
    return result


def zeroed(model: Any, keep: Mapping[str, npt.ArrayLike]) -> Any:
    """A copy of the same shape in which every parameter of the channels that are not kept is zero."""
    result = copy_of(model)
    held = constants(result.graph)
    for group in channel_groups(result):
        if group.name not in keep:
            continue
        stays = _stays(group, np.asarray(keep[group.name], dtype=np.int64))
        for piece in group.weights:
            gone = (piece.classes >= 0) & ~stays[piece.classes]
            values = array_of(held[piece.weight]).copy()
            np.moveaxis(values, piece.axis, 0)[gone] = 0
            held[piece.weight].CopyFrom(numpy_helper.from_array(values, held[piece.weight].name))
    return result


def _stays(group: ChannelGroup, indices: Labels) -> Kept:
    if indices.ndim != 1 or not len(indices):
        raise InputError(f"group {group.name!r}: one of its {group.size} channels has to stay")
    if (np.diff(indices) <= 0).any() or indices[0] < 0 or indices[-1] >= group.size:
        raise InputError(
            f"group {group.name!r}: give sorted indices of its {counted(group.size, 'channel')}, 0 to {group.size - 1}"
        )
    stays: Kept = np.zeros(group.size, dtype=bool)
    stays[indices] = True
    return stays


def _finite(tensor: Any, piece: ChannelSlice) -> Scores:
    values = array_of(tensor).astype(np.float64)
    if not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        at = f" of node {piece.nodes[0]!r} ({piece.ops[0]})" if piece.nodes else ""
        raise InputError(
            f"weight {piece.weight!r}{at} holds {bad} NaN or infinite values: train or export the model again"
        )
    return values


def _cut(tracer: Tracer, kept: Kept) -> None:
    """Cut the channels out of all constants, and out of the shapes that the file tells."""
    for name, tensor in tracer.constants.items():
        axes = tracer.axes.get(name) or []
        if all(a is None or kept[a].all() for a in axes):
            continue
        values = array_of(tensor)
        for i, axis in enumerate(axes):
            if axis is not None:
                values = np.compress(kept[axis], values, axis=i)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    for value in tracer.model.graph.value_info:
        axes = tracer.axes.get(value.name) or []
        shape = value.type.tensor_type.shape
        for i, axis in enumerate(axes):
            if axis is not None and i < len(shape.dim):
                shape.dim[i].dim_value = int(kept[axis].sum())


def _drop_replaced(graph: Any, read: set[str]) -> None:
    """Drop initializers that a node read before, and none does now."""
    now = set(uses_of(graph))
    stay = [t for t in graph.initializer if t.name in now or t.name not in read]
    if len(stay) < len(graph.initializer):
        copies = [copy_of(t) for t in stay]
        del graph.initializer[:]
        graph.initializer.extend(copies)
