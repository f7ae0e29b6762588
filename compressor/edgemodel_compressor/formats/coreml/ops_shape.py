"""Shapes and layouts: Reshape, Transpose, Concat, Split, Slice, Pad and their kin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper

from .lower import MAX_RANK, Node, Unsupported, Value, kind_of, lowers, shape_of
from .ops_elementwise import as_bool, as_float, as_int


def reshaped(node: Node, x: Value, shape: Sequence[int]) -> Value:
    """To a shape of whole numbers; also to none (a scalar)."""
    shape = [int(d) for d in shape]
    node.only(len(shape) <= MAX_RANK, f"{len(shape)} axes, but Core ML's arrays have at most {MAX_RANK}")
    if isinstance(x, np.ndarray):
        return x.reshape(shape)
    if not shape:
        return node.mb.squeeze(x=x) if shape_of(x) else node.mb.identity(x=x)
    return node.mb.reshape(x=x, shape=shape)


def _same(node: Node, shape: Sequence[int]) -> Value:
    return reshaped(node, node[0], shape)


@lowers("Reshape")
def _reshape(node: Node) -> Value:
    shape = node.shape(0)
    wanted = node.ints("shape", 1)
    node.only(wanted is not None, "no shape")
    zero = not node.attr("allowzero", 0)
    sizes = [shape[i] if d == 0 and zero else d for i, d in enumerate(wanted or [])]
    if -1 in sizes:
        known = int(np.prod([d for d in sizes if d != -1]))
        sizes[sizes.index(-1)] = int(np.prod(shape)) // max(known, 1)
    if int(np.prod(sizes)) != int(np.prod(shape)):
        raise Unsupported(
            f"{list(shape)} cannot become {list(wanted or [])}: was the batch axis written into the shape at export?"
        )
    return _same(node, sizes)


@lowers("Flatten")
def _flatten(node: Node) -> Value:
    shape = node.shape(0)
    axis = int(node.attr("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    return _same(node, [int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))])


@lowers("Squeeze")
def _squeeze(node: Node) -> Value:
    shape = node.shape(0)
    axes = node.ints("axes", 1)
    chosen = {i for i, d in enumerate(shape) if d == 1} if axes is None else {a % len(shape) for a in axes}
    return _same(node, [d for i, d in enumerate(shape) if i not in chosen])


@lowers("Unsqueeze")
def _unsqueeze(node: Node) -> Value:
    shape = list(node.shape(0))
    axes = node.ints("axes", 1) or []
    rank = len(shape) + len(axes)
    rest = iter(shape)
    chosen = {a % rank for a in axes}
    return _same(node, [1 if i in chosen else next(rest) for i in range(rank)])


@lowers("Transpose")
def _transpose(node: Node) -> Value:
    rank = node.rank(0)
    perm = node.ints("perm") or list(range(rank))[::-1]
    return node.mb.transpose(x=node[0], perm=perm) if rank > 1 else node.mb.identity(x=node[0])


@lowers("Expand")
def _expand(node: Node) -> Value:
    return broadcast(node, node[0], [int(d) for d in node.const(1, "the shape")])


def broadcast(node: Node, x: Value, wanted: Sequence[int]) -> Value:
    """By numpy's rules."""
    shape = np.broadcast_shapes(shape_of(x), tuple(wanted))
    node.only(len(shape) <= MAX_RANK, f"{len(shape)} axes, but Core ML's arrays have at most {MAX_RANK}")
    padded = (1,) * (len(shape) - len(shape_of(x))) + shape_of(x)
    if shape == shape_of(x):
        return node.mb.identity(x=x)
    if padded != shape_of(x):
        x = node.mb.reshape(x=x, shape=list(padded))
    reps = [int(d // p) for d, p in zip(shape, padded, strict=True)]
    return node.mb.tile(x=x, reps=reps) if set(reps) != {1} else x


@lowers("Tile")
def _tile(node: Node) -> Value:
    reps = [int(r) for r in node.const(1, "repeats")]
    node.only(all(r > 0 for r in reps), "zero repeats")
    return node.mb.tile(x=node[0], reps=reps)


@lowers("Concat")
def _concat(node: Node) -> Value:
    values = [node[i] for i in range(node.count())]
    values = [v for v in values if 0 not in shape_of(v)]
    axis = int(node.attr("axis", 1))
    if len(values) == 1:
        return node.mb.identity(x=values[0])
    return node.mb.concat(values=[node.conversion.var(v) for v in values], axis=axis)


@lowers("Split")
def _split(node: Node) -> Sequence[Value]:
    axis = node.axis(int(node.attr("axis", 0)), node.rank(0))
    size = node.shape(0)[axis]
    sizes = node.ints("split", 1)
    count = int(node.attr("num_outputs", len(node.proto.output)))
    if sizes is None:
        each = -(-size // count)
        sizes = [min(each, size - i * each) for i in range(count)]
    # Core ML has no empty arrays: empty parts are constants, which Concat leaves out.
    filled = [s for s in sizes if s > 0]
    node.only(filled, f"empty parts {sizes}")
    parts = iter(
        [node.mb.identity(x=node[0])] if len(filled) == 1 else node.mb.split(x=node[0], axis=axis, split_sizes=filled)
    )
    empty = list(node.shape(0))
    empty[axis] = 0
    return [next(parts) if s > 0 else np.zeros(empty, np.float32) for s in sizes]


@lowers("Slice")
def _slice(node: Node) -> Value:
    shape = node.shape(0)
    starts, ends = node.ints("starts", 1) or [], node.ints("ends", 2) or []
    axes = node.ints("axes", 3) or list(range(len(starts)))
    steps = node.ints("steps", 4) or [1] * len(starts)
    ranges = [range(d) for d in shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        ranges[axis] = range(shape[axis])[slice(start, end, step)]
    if any(len(r) == 0 for r in ranges):
        raise Unsupported("it gives an empty array, which Core ML lacks")
    x = node[0]
    # Backwards is reversing, then forwards.
    backwards = [i for i, r in enumerate(ranges) if r.step < 0]
    if backwards:
        x = node.mb.reverse(x=x, axes=backwards)
    begin, end_, stride = [], [], []
    for i, r in enumerate(ranges):
        forward = range(shape[i] - 1 - r.start, shape[i], -r.step)[: len(r)] if i in backwards else r
        begin.append(forward.start)
        end_.append(forward[-1] + 1)
        stride.append(forward.step)
    if begin == [0] * len(shape) and end_ == list(shape) and set(stride) <= {1}:
        return x if backwards else node.mb.identity(x=x)
    return node.mb.slice_by_index(x=x, begin=begin, end=end_, stride=stride)


@lowers("Pad", note="constant, reflect, edge and wrap, with constant pads")
def _pad(node: Node) -> Value:
    shape = node.shape(0)
    mode, _ = node.attr("mode", "constant"), node.attr("value")
    given = node.ints("pads", 1) or node.ints("paddings") or []
    axes = node.ints("axes", 3) or list(range(len(shape)))
    pairs = [[0, 0] for _ in shape]
    for i, axis in enumerate(axes):
        pairs[axis] = [given[i], given[i + len(axes)]]
    x = node[0]
    # Negative pads cut.
    cut = [[max(-b, 0), max(-e, 0)] for b, e in pairs]
    if any(c for pair in cut for c in pair):
        ends = [d - e for d, (_, e) in zip(shape, cut, strict=True)]
        x = node.mb.slice_by_index(x=x, begin=[b for b, _ in cut], end=ends)
        shape = shape_of(x)
        pairs = [[max(b, 0), max(e, 0)] for b, e in pairs]
    if not any(p for pair in pairs for p in pair):
        return node.mb.identity(x=x) if x is node[0] else x
    if mode == "constant":
        return _constant_pad(node, x, pairs)
    node.only(mode in ("reflect", "edge", "wrap"), f"mode {mode!r}")
    least = {"reflect": 1, "edge": 0, "wrap": 0}[mode]
    fits = all(max(pair) <= d - least for pair, d in zip(pairs, shape, strict=True))
    if fits and mode != "wrap" and not any(p for pair in pairs[:-2] for p in pair):
        name = "reflect" if mode == "reflect" else "replicate"
        last = [p for pair in pairs[-2:] for p in pair]
        if kind_of(x) == "f":
            return node.mb.pad(x=x, pad=last, mode=name)
    return _by_parts(node, x, pairs, mode)


def _by_parts(node: Node, x: Value, pairs: list[list[int]], mode: str) -> Value:
    """Padding that MIL's `pad` lacks: slices of x before and after it, on any axis."""
    for axis, (before, after) in enumerate(pairs):
        size = shape_of(x)[axis]
        if not before and not after:
            continue
        if max(before, after) > size - (mode == "reflect"):
            # More than once round: a lookup.
            indices = np.pad(np.arange(size, dtype=np.int32), (before, after), mode=_NUMPY_MODES[mode])
            x = node.mb.gather(x=x, indices=indices, axis=axis)
            continue
        first = {"reflect": (1, before + 1), "edge": (0, 1), "wrap": (size - before, size)}[mode]
        last = {"reflect": (size - 1 - after, size - 1), "edge": (size - 1, size), "wrap": (0, after)}[mode]
        parts = [_part(node, x, axis, first, count=before, mode=mode)] if before else []
        parts.append(x)
        parts += [_part(node, x, axis, last, count=after, mode=mode)] if after else []
        x = node.mb.concat(values=parts, axis=axis)
    return x


def _part(node: Node, x: Value, axis: int, bounds: tuple[int, int], *, count: int, mode: str) -> Value:
    begin, end = [0] * len(shape_of(x)), list(shape_of(x))
    begin[axis], end[axis] = bounds
    part = node.mb.slice_by_index(x=x, begin=begin, end=end)
    if mode == "reflect":
        return node.mb.reverse(x=part, axes=[axis])
    if mode == "edge" and count > 1:
        return node.mb.tile(x=part, reps=[count if i == axis else 1 for i in range(len(begin))])
    return part


#: As `numpy.pad` has them.
_NUMPY_MODES: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def _constant_pad(node: Node, x: Value, pairs: list[list[int]]) -> Value:
    value = np.asarray(node.attr("value", 0.0) if node.get(2) is None else node.const(2, "the value")).reshape(())
    kind = kind_of(x)
    limit = np.finfo(np.float32).max
    fill = np.float32(np.clip(value.astype(np.float64), -limit, limit))
    padded = node.mb.pad(
        x=as_float(node, x), pad=[p for pair in pairs for p in pair], mode="constant", constant_val=fill
    )
    if kind == "f":
        return padded
    return as_bool(node, padded) if kind == "b" else node.mb.cast(x=padded, dtype="int32")


@lowers("DepthToSpace")
def _depth_to_space(node: Node) -> Value:
    block = int(node.attr("blocksize"))
    if node.attr("mode", "DCR") == "CRD":
        return node.mb.pixel_shuffle(x=node[0], upscale_factor=block)
    return node.mb.depth_to_space(x=node[0], block_size=block)


@lowers("SpaceToDepth")
def _space_to_depth(node: Node) -> Value:
    block = int(node.attr("blocksize"))
    if node.attr("mode", "DCR") == "CRD":
        return node.mb.pixel_unshuffle(x=node[0], downscale_factor=np.uint32(block))
    return node.mb.space_to_depth(x=node[0], block_size=block)


@lowers("Trilu", note="with a constant k")
def _trilu(node: Node) -> Value:
    k = int(node.const(1, "k").reshape(())) if node.has(1) else 0
    shape = node.shape(0)[-2:]
    mask = np.triu(np.ones(shape, bool), k) if node.attr("upper", 1) else np.tril(np.ones(shape, bool), k)
    x = node[0]
    kind = kind_of(x)
    zero = np.float32(0) if kind == "f" else np.int32(0)
    kept = node.mb.select(cond=mask, a=as_int(node, x) if kind == "b" else x, b=zero)
    return as_bool(node, kept) if kind == "b" else kept


@lowers("ReverseSequence", note="with constant lengths")
def _reverse_sequence(node: Node) -> Value:
    lengths = node.const(1, "sequence_lens")
    time, batch = int(node.attr("time_axis", 0)), int(node.attr("batch_axis", 1))
    shape = node.shape(0)
    order = np.tile(np.arange(shape[time], dtype=np.int32), (shape[batch], 1))
    for row, length in zip(order, lengths.reshape(-1), strict=True):
        row[:length] = row[:length][::-1]
    view = [1] * len(shape)
    view[batch], view[time] = shape[batch], shape[time]
    indices = (order if batch < time else order.T).reshape(view)
    return node.mb.gather_along_axis(x=node[0], indices=np.broadcast_to(indices, shape), axis=time)


@lowers("Shape", "Size", "ConstantOfShape", "Constant", "Range", "EyeLike", note="where they follow from fixed shapes")
def _folded(node: Node) -> Value:
    if node.op == "EyeLike":
        rows, columns = node.shape(0)
        given = node.attr("dtype")
        dtype = helper.tensor_dtype_to_np_dtype(given) if given else {"f": "f4", "i": "i8"}.get(kind_of(node[0]), "?")
        return np.eye(rows, columns, int(node.attr("k", 0)), dtype=dtype)
    raise Unsupported("its inputs depend on the model's input, so that shapes would")
