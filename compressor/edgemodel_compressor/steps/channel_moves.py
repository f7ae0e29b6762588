"""Rules of operators that move indices about, for `channel_rules`: Reshape, Concat, Split, Slice, Gather, Resize, …"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .channel_shapes import solved, split_blocks
from .channel_sizes import bounds, spend
from .graph import attribute

if TYPE_CHECKING:
    from .channels import Axis, Dimension, Kept, Labels, Tracer

Rule = Callable[["Tracer", Any], bool]

#: Nothing larger is followed: dimensions of a broken model may be any.
_MOST_LABELS = 1 << 24


def _shape(tracer: Tracer, node: Any) -> bool:
    tracer.put(node.output[0], [None])
    return True


def _constant(tracer: Tracer, node: Any) -> bool:
    if node.output[0] not in tracer.constants:
        shape = tracer.shapes.get(node.output[0])
        tracer.put(node.output[0], None if shape is None else [None] * len(shape))
    return True


def _reshape(tracer: Tracer, node: Any) -> bool:
    before = tracer.dims(node.input[0])
    wanted = tracer.integers(node.input[1]) if len(node.input) > 1 else None
    if len(node.input) < 2:
        given = attribute(node, "shape", None)
        wanted = None if given is None else np.asarray(given, dtype=np.int64)
    after: Sequence[Dimension] | None
    if before is None or len(node.input) < 2:
        return False
    entries: list[int] | None = None
    if wanted is not None:
        if attribute(node, "allowzero", 0) and (wanted == 0).any():
            return False
        entries = [int(v) for v in wanted.reshape(-1)]
        if any(v == 0 and i >= len(before) for i, v in enumerate(entries)):
            return False
        after = solved(before, [before[i] if v == 0 else None if v == -1 else v for i, v in enumerate(entries)])
    else:
        after = tracer.shapes.get(node.output[0])
        if after is not None:
            unknown = [d for d in after if isinstance(d, str) and d not in before]
            after = solved(before, [None if d in unknown else d for d in after]) if len(unknown) <= 1 else None
    if after is None or 0 in before or 0 in after:
        return False
    result = regroup(tracer, tracer.of(node.input[0]) or [], before, after)
    tracer.put(node.output[0], result)
    kept_axes = list(tracer.of(node.output[0]) or [])
    touched = any(a is not None for a in (*kept_axes, *(tracer.of(node.input[0]) or [])))
    if not touched:
        if wanted is None:
            spend(tracer, node.input[1])
        return True
    target = _target(before, after, tracer.of(node.input[0]) or [], entries)
    if target is None:
        spend(tracer, node.input[1])
        for axis in kept_axes:
            tracer.fix(axis)
        return True

    def rewrite(kept: Kept) -> None:
        if any(a is not None and not kept[a].all() for a in kept_axes):
            values = [int(kept[a].sum()) if a is not None else t for a, t in zip(kept_axes, target, strict=True)]
            node.input[1] = tracer.constant(np.asarray(values, dtype=np.int64), node.output[0])

    tracer.rewrites.append(rewrite)
    return True


def _target(
    before: Sequence[Dimension], after: Sequence[Dimension], axes: Sequence[Axis], entries: Sequence[int] | None
) -> list[int] | None:
    """A constant shape: numbers, 0 for what stays where it is, -1 for one unknown; None: that does not say it.

    A constant keeps its own 0 and -1: the shapes that a file tells may be those of one batch only.
    """
    target: list[int] = []
    for i, dimension in enumerate(after):
        if entries is not None and (entries[i] != 0 or axes[i] is None):
            target.append(entries[i])
        elif isinstance(dimension, int):
            target.append(dimension)
        elif i < len(before) and before[i] == dimension:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None


def regroup(
    tracer: Tracer, axes: Sequence[Axis], before: Sequence[Dimension], after: Sequence[Dimension]
) -> list[Axis]:
    """Labels behind a reshape in row-major order.

    Axes with labels that become one axis repeat or tile them; an axis that is split ties the indices of each block.
    The first of the new axes counts the blocks, as heads do; of three or more the second does if the first has at most
    three indices, as with queries, keys and values behind one another.
    """
    result: list[Axis] = [None] * len(after)
    blocks = split_blocks(before, after)
    if blocks is None:
        for axis in axes:
            tracer.fix(axis)
        return result
    for sources, targets in blocks:
        labelled = [i for i in sources if axes[i] is not None]
        if not labelled:
            continue
        if len(sources) == len(targets) == 1:
            result[targets[0]] = axes[sources[0]]
            continue
        sizes = [before[i] for i in sources]
        counts = [after[j] for j in targets]
        if len(labelled) > 1 or not all(isinstance(d, int) for d in (*sizes, *counts)) or not targets:
            for i in labelled:
                tracer.fix(axes[i])
            continue
        whole = tuple(int(d) for d in sizes)
        if math.prod(whole) > _MOST_LABELS:
            tracer.fix(axes[labelled[0]])
            continue
        lead = [1] * len(whole)
        lead[sources.index(labelled[0])] = -1
        labels = axes[labelled[0]]
        if labels is None:
            continue
        spread = np.broadcast_to(labels.reshape(lead), whole).reshape([int(c) for c in counts])
        chosen = 1 if len(targets) > 2 and int(counts[0]) <= 3 else 0
        rows = np.moveaxis(spread, chosen, 0).reshape(int(counts[chosen]), -1)
        if len(targets) == 1:
            result[targets[0]] = np.ascontiguousarray(spread)
            continue
        lead_of = rows[:, :1]
        tracer.tie(np.broadcast_to(lead_of, rows.shape), rows)
        result[targets[chosen]] = np.ascontiguousarray(rows[:, 0])
    return result


def _flatten(tracer: Tracer, node: Any) -> bool:
    before = tracer.dims(node.input[0])
    if before is None:
        return False
    axis = int(attribute(node, "axis", 1))
    axis = axis + len(before) if axis < 0 else axis
    first, second = solved(before[:axis], [None]), solved(before[axis:], [None])
    if first is None or second is None:
        return False
    tracer.put(node.output[0], regroup(tracer, tracer.of(node.input[0]) or [], before, [*first, *second]))
    return True


def _transpose(tracer: Tracer, node: Any) -> bool:
    axes = tracer.of(node.input[0]) or []
    perm = attribute(node, "perm", None) or list(range(len(axes)))[::-1]
    if sorted(perm) != list(range(len(axes))):
        return False
    tracer.put(node.output[0], [axes[int(p)] for p in perm])
    return True


def _which(tracer: Tracer, node: Any, index: int = 1, name: str = "axes") -> list[int] | None:
    """Axes given as an attribute (older opsets) or a constant input."""
    given = attribute(node, name, None)
    if given is not None:
        return [int(v) for v in given]
    if len(node.input) > index and node.input[index]:
        values = tracer.integers(node.input[index])
        return None if values is None else [int(v) for v in values.reshape(-1)]
    return []


def _squeeze(tracer: Tracer, node: Any) -> bool:
    axes, dims = tracer.of(node.input[0]) or [], tracer.dims(node.input[0]) or ()
    which = _which(tracer, node)
    if which is None or not all(-len(axes) <= w < len(axes) for w in which):
        return False
    if not which and any(isinstance(d, str) for d in dims):
        return False
    gone = {w % len(axes) for w in which} if which else {i for i, d in enumerate(dims) if d == 1}
    if any(axes[i] is not None for i in gone):
        return False
    tracer.put(node.output[0], [a for i, a in enumerate(axes) if i not in gone])
    return True


def _unsqueeze(tracer: Tracer, node: Any) -> bool:
    axes = tracer.of(node.input[0]) or []
    which = _which(tracer, node)
    if not which:
        return False
    rank = len(axes) + len(which)
    new = {w % rank for w in which if -rank <= w < rank}
    if len(new) != len(which):
        return False
    rest = iter(axes)
    tracer.put(node.output[0], [None if i in new else next(rest) for i in range(rank)])
    return True


def _concat(tracer: Tracer, node: Any) -> bool:
    parts = [tracer.of(n) or [] for n in node.input]
    rank = len(parts[0])
    axis = int(attribute(node, "axis", 1))
    if any(len(p) != rank for p in parts) or not -rank <= axis < rank:
        return False
    axis %= rank
    result: list[Axis] = []
    for i in range(rank):
        if i == axis:
            result.append(_behind(tracer, [p[i] for p in parts], [(tracer.dims(n) or ())[i] for n in node.input]))
            continue
        joined = parts[0][i]
        for part in parts[1:]:
            joined = tracer.tie(joined, part[i])
        result.append(joined)
    tracer.put(node.output[0], result)
    return True


def _behind(tracer: Tracer, axes: Sequence[Axis], dims: Sequence[Dimension]) -> Axis:
    """Labels one behind the other; 0, which never goes, for parts that have none."""
    if all(a is None for a in axes):
        return None
    if any(isinstance(d, str) for d in dims) or sum(int(d) for d in dims) > _MOST_LABELS:
        for axis in axes:
            tracer.fix(axis)
        return None
    return np.concatenate([np.zeros(int(d), np.int64) if a is None else a for a, d in zip(axes, dims, strict=True)])


def _split(tracer: Tracer, node: Any) -> bool:
    axes = tracer.of(node.input[0]) or []
    axis = int(attribute(node, "axis", 0))
    if not -len(axes) <= axis < len(axes):
        return False
    axis %= len(axes)
    labels = axes[axis]
    if labels is None:
        for name in node.output:
            tracer.put(name, axes)
        return True
    sizes = _which(tracer, node, name="split")
    if sizes is None:
        return False
    if not sizes:
        # Equal parts; the last is smaller where they do not fit.
        each = -(-len(labels) // len(node.output))
        sizes = [max(0, min(each, len(labels) - i * each)) for i in range(len(node.output))]
    if len(sizes) != len(node.output) or sum(sizes) != len(labels) or min(sizes) < 0:
        return False
    pieces = np.split(labels, np.cumsum(sizes)[:-1])
    for name, piece in zip(node.output, pieces, strict=True):
        tracer.put(name, [piece if i == axis else a for i, a in enumerate(axes)])
        if len(piece) == 1:
            tracer.fix(piece)

    def rewrite(kept: Kept) -> None:
        if kept[labels].all():
            return
        values = [int(kept[p].sum()) for p in pieces]
        for a in [a for a in node.attribute if a.name in ("split", "num_outputs")]:
            node.attribute.remove(a)
        if tracer.opset < 13:
            node.attribute.add(name="split", ints=values, type=7)
        else:
            del node.input[1:]
            node.input.append(tracer.constant(np.asarray(values, dtype=np.int64), node.output[0]))

    tracer.rewrites.append(rewrite)
    return True


def _slice(tracer: Tracer, node: Any) -> bool:
    axes = list(tracer.of(node.input[0]) or [])
    given = bounds(tracer, node)
    if given is None:
        for name in node.input[1:]:
            spend(tracer, name)
        return all(a is None for a in axes) and _same_rank(tracer, node, axes)
    cut: dict[int, Labels] = {}
    for position, (axis, start, end, step) in enumerate(given):
        if not -len(axes) <= axis < len(axes):
            return False
        labels = axes[axis % len(axes)]
        if labels is None:
            continue
        if step != 1:
            return False
        piece = labels[start:end]
        if len(piece) == 0:
            return False
        if len(piece) == 1:
            tracer.fix(piece)
        cut[position] = labels
        axes[axis % len(axes)] = piece
    tracer.put(node.output[0], axes)
    if cut:
        whole = given

        def rewrite(kept: Kept) -> None:
            if all(kept[labels].all() for labels in cut.values()):
                return
            starts, ends = [b[1] for b in whole], [b[2] for b in whole]
            for position, labels in cut.items():
                first, last, _ = slice(starts[position], ends[position]).indices(len(labels))
                starts[position] = int(kept[labels[:first]].sum())
                ends[position] = int(kept[labels[:last]].sum())
            if len(node.input) == 1:
                for a in node.attribute:
                    if a.name in ("starts", "ends"):
                        a.ints[:] = starts if a.name == "starts" else ends
            else:
                node.input[1] = tracer.constant(np.asarray(starts, dtype=np.int64), f"{node.output[0]}/starts")
                node.input[2] = tracer.constant(np.asarray(ends, dtype=np.int64), f"{node.output[0]}/ends")
                _like(tracer, node)

        tracer.rewrites.append(rewrite)
    return True


def _like(tracer: Tracer, node: Any) -> None:
    """Bounds, axes and steps of a Slice have one integer type: bring the others to int64."""
    for index in range(3, len(node.input)):
        values = tracer.integers(node.input[index]) if node.input[index] else None
        if values is not None:
            node.input[index] = tracer.constant(values, f"{node.output[0]}/{index}")


def _same_rank(tracer: Tracer, node: Any, axes: Sequence[Axis]) -> bool:
    tracer.put(node.output[0], [None for _ in axes])
    return True


def _gather(tracer: Tracer, node: Any) -> bool:
    axes, which = tracer.of(node.input[0]) or [], tracer.of(node.input[1]) or []
    axis = int(attribute(node, "axis", 0))
    if not -len(axes) <= axis < len(axes):
        return False
    axis %= len(axes)
    labels = axes[axis]
    spend(tracer, node.input[1])
    for other in which:
        tracer.fix(other)
    middle: list[Axis] = [None for _ in which]
    picked = tracer.integers(node.input[1]) if labels is not None else None
    if labels is not None and picked is not None and picked.ndim == 1 and node.input[0] not in tracer.constants:
        if not all(-len(labels) <= int(i) < len(labels) for i in picked) or len(picked) < 2:
            return False
        index = np.where(picked < 0, picked + len(labels), picked)
        middle = [labels[index]]

        def rewrite(kept: Kept) -> None:
            stays = kept[labels]
            if not stays.all():
                moved = (np.cumsum(stays) - 1)[index[stays[index]]]
                node.input[1] = tracer.constant(moved.astype(np.int64), node.output[0])

        tracer.rewrites.append(rewrite)
    else:
        tracer.fix(labels)
    tracer.put(node.output[0], [*axes[:axis], *middle, *axes[axis + 1 :]])
    return True


def _expand(tracer: Tracer, node: Any) -> bool:
    axes = list(tracer.of(node.input[0]) or [])
    shape = tracer.shapes.get(node.output[0])
    wanted = tracer.integers(node.input[1])
    if wanted is None:
        spend(tracer, node.input[1])
    if shape is None and wanted is None:
        return all(a is None for a in axes)
    rank = max(len(axes), len(shape) if shape is not None else int(wanted.size) if wanted is not None else 0)
    result: list[Axis] = [*[None] * (rank - len(axes)), *axes]
    if wanted is None:
        # What it is expanded to is computed, and stays: so do the channels of the input.
        for axis in axes:
            tracer.fix(axis)
    else:
        entries = [1] * (rank - wanted.size) + [int(v) for v in wanted.reshape(-1)]
        if any(a is not None and e not in (1, len(a)) for a, e in zip(result, entries, strict=True)):
            return False
        labelled = list(result)

        def rewrite(kept: Kept) -> None:
            if any(a is not None and not kept[a].all() for a in labelled):
                values = [1 if a is not None else e for a, e in zip(labelled, entries, strict=True)]
                node.input[1] = tracer.constant(np.asarray(values, dtype=np.int64), node.output[0])

        if any(a is not None for a in labelled):
            tracer.rewrites.append(rewrite)
    tracer.put(node.output[0], result)
    return True


def _tile(tracer: Tracer, node: Any) -> bool:
    axes, times = tracer.of(node.input[0]) or [], tracer.integers(node.input[1])
    if times is None or times.size != len(axes) or (times < 1).any():
        return all(a is None for a in axes) and _same_rank(tracer, node, axes)
    repeats = [int(t) for t in times.reshape(-1)]
    if any(a is not None and t * len(a) > _MOST_LABELS for a, t in zip(axes, repeats, strict=True)):
        return False
    tracer.put(node.output[0], [None if a is None else np.tile(a, t) for a, t in zip(axes, repeats, strict=True)])
    return True


def _pad(tracer: Tracer, node: Any) -> bool:
    axes = tracer.of(node.input[0]) or []
    pads = _which(tracer, node, name="pads")
    which = _which(tracer, node, index=3, name="axes")
    if all(a is None for a in axes):
        return _same_rank(tracer, node, axes)
    if not pads or which is None:
        return False
    which = [w % len(axes) for w in which] if which else list(range(len(axes)))
    if len(pads) != 2 * len(which):
        return False
    mode = attribute(node, "mode", b"constant")
    result: list[Axis] = list(axes)
    for i, axis in enumerate(which):
        before, after, labels = pads[i], pads[i + len(which)], axes[axis]
        if labels is None or before == after == 0:
            continue
        if before < 0 or after < 0 or before + after > _MOST_LABELS or mode not in (b"constant", "constant"):
            return False
        result[axis] = np.concatenate([np.zeros(before, np.int64), labels, np.zeros(after, np.int64)])
    tracer.put(node.output[0], result)
    return True


def _resize(tracer: Tracer, node: Any) -> bool:
    axes = tracer.of(node.input[0]) or []
    which = attribute(node, "axes", None)
    at = [int(w) % len(axes) for w in which] if which else list(range(len(axes)))
    slot = 1 if node.op_type == "Upsample" or len(node.input) == 2 else 2
    scales = attribute(node, "scales", None)
    if scales is None and len(node.input) > slot and node.input[slot]:
        held = tracer.constants.get(node.input[slot])
        scales = None if held is None else tracer.floats(node.input[slot])
        if scales is not None and not len(scales):
            scales = None
    sizes = node.input[3] if len(node.input) > 3 else ""
    for name in node.input[1:]:
        # Of roi, scales and sizes only sizes may be computed from numbers of channels.
        if name != sizes:
            spend(tracer, name)
        if name:
            tracer.freeze(name)
    labelled = [i for i, a in enumerate(axes) if a is not None]
    if sizes and scales is None:
        return _resize_to(tracer, node, axes, at, sizes)
    if labelled and (scales is None or len(scales) != len(at)):
        return False
    for i in labelled:
        if i in at and scales is not None and float(scales[at.index(i)]) != 1.0:
            return False
    tracer.put(node.output[0], axes)
    return True


def _resize_to(tracer: Tracer, node: Any, axes: Sequence[Axis], at: Sequence[int], sizes: str) -> bool:
    """Sizes: of an axis with labels they are its own number, which is written anew or computed anew."""
    values, entries = tracer.integers(sizes), tracer.entries.get(sizes)
    labelled = [i for i in at if axes[i] is not None]
    if values is not None and values.size == len(at):
        for i in labelled:
            if int(values.reshape(-1)[at.index(i)]) != len(axes[i] or ()):
                return False
        given = values.reshape(-1)

        def rewrite(kept: Kept) -> None:
            new = given.copy()
            for i in labelled:
                new[at.index(i)] = int(kept[axes[i]].sum())
            if (new != given).any():
                node.input[3] = tracer.constant(new.astype(np.int64), node.output[0])

        tracer.rewrites.append(rewrite)
    elif entries is None or len(entries) != len(at):
        spend(tracer, sizes)
        if labelled:
            return False
    else:
        for i, entry in zip(at, entries, strict=True):
            if entry is not axes[i]:
                tracer.fix(entry)
        if any(entries[at.index(i)] is not axes[i] for i in labelled):
            return False
    tracer.put(node.output[0], list(axes))
    return True


def _depth_to_space(tracer: Tracer, node: Any) -> bool:
    axes = tracer.of(node.input[0]) or []
    area = int(attribute(node, "blocksize", 1)) ** 2
    if len(axes) != 4 or area < 1:
        return False
    for axis in axes[2:]:
        tracer.fix(axis)
    labels = axes[1]
    if labels is not None and area * len(labels) > _MOST_LABELS:
        return False
    if labels is not None and node.op_type == "SpaceToDepth":
        labels = np.tile(labels, area)
    elif labels is not None:
        if len(labels) % area:
            return False
        rows = labels.reshape(-1, area) if attribute(node, "mode", b"DCR") == b"CRD" else labels.reshape(area, -1).T
        tracer.tie(np.broadcast_to(rows[:, :1], rows.shape), rows)
        labels = np.ascontiguousarray(rows[:, 0])
    tracer.put(node.output[0], [axes[0], labels, None, None])
    return True


RULES: dict[str, Rule] = {
    "Concat": _concat,
    "Constant": _constant,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "SpaceToDepth": _depth_to_space,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
}
