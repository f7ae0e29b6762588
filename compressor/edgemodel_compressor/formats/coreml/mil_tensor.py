"""MIL's operations on shapes, indices and axes, and the reductions, from their documentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted

from .mil import IMPLEMENTATIONS, Arguments, Array, Result, mil


def _axes(a: Arguments) -> tuple[int, ...] | None:
    axes = a.ints_or("axes", None)
    return None if axes is None else tuple(axes)


def _log_sum_exp(x: Array, axis: Any, keepdims: bool) -> Array:  # noqa: FBT001
    top = x.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    result = np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return np.asarray(result if keepdims else np.squeeze(result, axis=axis))


_REDUCE: dict[str, Callable[[Array, Any, bool], Array]] = {
    "reduce_l1_norm": lambda x, axis, keep: np.abs(x).sum(axis=axis, keepdims=keep),
    "reduce_l2_norm": lambda x, axis, keep: np.sqrt(np.square(x).sum(axis=axis, keepdims=keep)),
    "reduce_log_sum": lambda x, axis, keep: np.log(x.sum(axis=axis, keepdims=keep)),
    "reduce_log_sum_exp": _log_sum_exp,
    "reduce_max": lambda x, axis, keep: x.max(axis=axis, keepdims=keep),
    "reduce_mean": lambda x, axis, keep: x.mean(axis=axis, keepdims=keep),
    "reduce_min": lambda x, axis, keep: x.min(axis=axis, keepdims=keep),
    "reduce_prod": lambda x, axis, keep: x.prod(axis=axis, keepdims=keep),
    "reduce_sum": lambda x, axis, keep: x.sum(axis=axis, keepdims=keep),
    "reduce_sum_square": lambda x, axis, keep: np.square(x).sum(axis=axis, keepdims=keep),
}


def _register() -> None:
    def reduction(function: Callable[[Array, Any, bool], Array]) -> Callable[[Arguments], Array]:
        return lambda a: np.asarray(function(a["x"], _axes(a), a.flag("keep_dims")))

    IMPLEMENTATIONS.update({name: reduction(f) for name, f in _REDUCE.items()})


_register()


@mil("reduce_argmax")
def _argmax(a: Arguments) -> Array:
    return np.asarray(np.argmax(a["x"], axis=a.int_or("axis", -1), keepdims=a.flag("keep_dims")))


@mil("reduce_argmin")
def _argmin(a: Arguments) -> Array:
    return np.asarray(np.argmin(a["x"], axis=a.int_or("axis", -1), keepdims=a.flag("keep_dims")))


@mil("reshape")
def _reshape(a: Arguments) -> Array:
    wanted = a.ints("shape") if a["shape"].size else []
    if len(wanted) == a["x"].ndim:
        wanted = [a["x"].shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    return a["x"].reshape(wanted)


@mil("transpose")
def _transpose(a: Arguments) -> Array:
    return np.transpose(a["x"], a.ints("perm"))


@mil("expand_dims")
def _expand_dims(a: Arguments) -> Array:
    return np.expand_dims(a["x"], tuple(a.ints("axes")))


@mil("squeeze")
def _squeeze(a: Arguments) -> Array:
    x = a["x"]
    axes = a.ints_or("axes", list(range(x.ndim)))
    # As documented, axes longer than one are left alone.
    return np.squeeze(x, tuple(i for i in sorted({i % x.ndim for i in axes}) if x.shape[i] == 1))


@mil("flatten2d")
def _flatten2d(a: Arguments) -> Array:
    axis = a.int_or("axis", 1)
    x = a["x"]
    return x.reshape(int(np.prod(x.shape[: axis if axis >= 0 else x.ndim + axis])), -1)


@mil("concat")
def _concat(a: Arguments) -> Array:
    axis, values = a.int_or("axis", 0), a.lists["values"]
    if not a.flag("interleave"):
        return np.concatenate(values, axis=axis)
    stacked = np.stack(values, axis=axis % values[0].ndim + 1)
    shape = list(values[0].shape)
    shape[axis] *= len(values)
    return stacked.reshape(shape)


@mil("stack")
def _stack(a: Arguments) -> Array:
    return np.stack(a.lists["values"], axis=a.int_or("axis", 0))


@mil("split")
def _split(a: Arguments) -> Result:
    axis = a.int_or("axis", 0)
    sizes = a.ints_or("split_sizes", None)
    if sizes is None:
        return tuple(np.split(a["x"], a.int_or("num_splits", 1), axis=axis))
    return tuple(np.split(a["x"], np.cumsum(sizes)[:-1], axis=axis))


@mil("slice_by_index")
def _slice_by_index(a: Arguments) -> Array:
    x = a["x"]
    nothing = np.zeros(x.ndim, bool)
    begin_mask, end_mask, squeeze_mask = (
        a.values.get(name, nothing) for name in ("begin_mask", "end_mask", "squeeze_mask")
    )
    begin, end = a.ints("begin"), a.ints("end")
    stride = a.ints_or("stride", [1] * x.ndim)
    index: list[slice | int] = []
    for i in range(x.ndim):
        if squeeze_mask[i]:
            index.append(begin[i])
            continue
        first = None if begin_mask[i] else begin[i]
        last = None if end_mask[i] else end[i]
        index.append(slice(first, last, stride[i]))
    return x[tuple(index)]


@mil("slice_by_size")
def _slice_by_size(a: Arguments) -> Array:
    x = a["x"]
    pairs = zip(a.ints("begin"), a.ints("size"), x.shape, strict=True)
    begins = [(b % d if d else b, s, d) for b, s, d in pairs]
    return x[tuple(slice(b, d if s == -1 else b + s) for b, s, d in begins)]


@mil("reverse")
def _reverse(a: Arguments) -> Array:
    axes = a.ints_or("axes", None)
    return np.flip(a["x"], None if axes is None else tuple(axes))


@mil("pad")
def _pad(a: Arguments) -> Array:
    x, pads = a["x"], a.ints("pad")
    pairs = [(0, 0)] * (x.ndim - len(pads) // 2) + list(zip(pads[::2], pads[1::2], strict=True))
    mode = a.text("mode", "constant")
    if mode == "constant":
        return np.pad(x, pairs, constant_values=a.values.get("constant_val", np.zeros((), x.dtype)).item())
    return np.pad(x, pairs, mode="reflect" if mode == "reflect" else "edge")


@mil("tile")
def _tile(a: Arguments) -> Array:
    return np.tile(a["x"], a.ints("reps"))


@mil("gather")
def _gather(a: Arguments) -> Array:
    x, indices, axis = a["x"], a["indices"], a.int_or("axis", 0)
    axis %= x.ndim
    batch = a.int_or("batch_dims", 0)
    size = x.shape[axis]
    _check_indices(indices, size)
    if not batch:
        return np.asarray(np.take(x, indices % size, axis=axis))
    if batch > axis:
        raise InputError(f"gather: batch_dims {batch} beyond axis {axis}")
    shape = (*x.shape[:axis], *indices.shape[batch:], *x.shape[axis + 1 :])
    rows = [np.take(x[i], indices[i] % size, axis=axis - batch) for i in np.ndindex(*x.shape[:batch])]
    return np.stack(rows).reshape(shape)


@mil("gather_along_axis")
def _gather_along_axis(a: Arguments) -> Array:
    axis = a.int_or("axis", 0)
    size = a["x"].shape[axis]
    _check_indices(a["indices"], size)
    return np.take_along_axis(a["x"], a["indices"] % size, axis=axis)


@mil("gather_nd")
def _gather_nd(a: Arguments) -> Array:
    x, indices, batch = a["x"], a["indices"], a.int_or("batch_dims", 0)
    depth = indices.shape[-1]
    for i in range(depth):
        _check_indices(indices[..., i], x.shape[batch + i])
    shape = (*indices.shape[:-1], *x.shape[batch + depth :])
    rows = [x[b][tuple(np.moveaxis(indices[b], -1, 0))] for b in np.ndindex(*x.shape[:batch])]
    return np.stack(rows).reshape(shape)


_MODES: dict[str, Any] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


def _scattered(data: Array, index: Any, updates: Array, mode: str) -> Array:
    result = data.copy()
    if mode == "update":
        result[index] = updates
    else:
        _MODES[mode].at(result, index, updates)
    return result


@mil("scatter")
def _scatter(a: Arguments) -> Array:
    axis = a.int_or("axis", 0) % a["data"].ndim
    index = (*[slice(None)] * axis, a["indices"])
    return _scattered(a["data"], index, a["updates"], a.text("mode", "add"))


@mil("scatter_along_axis")
def _scatter_along_axis(a: Arguments) -> Array:
    axis, indices = a.int_or("axis", 0) % a["data"].ndim, a["indices"]
    _check_indices(indices, a["data"].shape[axis])
    index: list[Array] = list(np.indices(indices.shape))
    index[axis] = indices
    return _scattered(a["data"], tuple(index), a["updates"], a.text("mode", "add"))


@mil("scatter_nd")
def _scatter_nd(a: Arguments) -> Array:
    index = tuple(np.moveaxis(a["indices"], -1, 0))
    return _scattered(a["data"], index, a["updates"], a.text("mode", "add"))


def _check_indices(indices: Array, size: int) -> None:
    if indices.size and (int(indices.min()) < -size or int(indices.max()) >= size):
        raise InputError(
            f"an index of {int(indices.min())}…{int(indices.max())} into an axis of {size}: give inputs in the range"
            " that the model was made for",
            reason="InvalidInput",
        )


@mil("one_hot")
def _one_hot(a: Arguments) -> Array:
    size, axis = a.int_or("one_hot_vector_size", 1), a.int_or("axis", -1)
    on, off = a.values.get("on_value", np.int32(1)), a.values.get("off_value", np.int32(0))
    hot = np.where(a["indices"][..., None] == np.arange(size), on, off)
    return np.moveaxis(hot, -1, axis)


@mil("cumsum")
def _cumsum(a: Arguments) -> Array:
    axis, x = a.int_or("axis", 0), a["x"]
    if a.flag("reverse"):
        x = np.flip(x, axis)
    result = np.cumsum(x, axis=axis, dtype=x.dtype)
    if a.flag("exclusive"):
        result = result - x
    return np.flip(result, axis) if a.flag("reverse") else np.asarray(result)


@mil("topk")
def _topk(a: Arguments) -> Result:
    x, k, axis = a["x"], a.int_or("k", 1), a.int_or("axis", -1)
    order = np.argsort(x if a.flag("ascending") else -x, axis=axis, kind="stable")
    indices = np.take(order, np.arange(k), axis=axis)
    values = np.take_along_axis(x, indices, axis=axis)
    return (values, indices) if a.flag("return_indices", default=True) else values


@mil("argsort")
def _argsort(a: Arguments) -> Array:
    x = a["x"] if a.flag("ascending") else -a["x"]
    return np.argsort(x, axis=a.int_or("axis", -1), kind="stable")


@mil("band_part")
def _band_part(a: Arguments) -> Array:
    rows, columns = np.indices(a["x"].shape[-2:])
    lower, upper = a.int_or("lower", -1), a.int_or("upper", -1)
    band = ((lower < 0) | (rows - columns <= lower)) & ((upper < 0) | (columns - rows <= upper))
    return np.where(band, a["x"], np.zeros((), a["x"].dtype))


@mil("fill")
def _fill(a: Arguments) -> Array:
    return np.full(a.ints("shape"), a.values.get("value", np.float32(0)))


@mil("fill_like")
def _fill_like(a: Arguments) -> Array:
    return np.full(a["ref_tensor"].shape, a.values.get("value", np.float32(0)))


@mil("range_1d")
def _range_1d(a: Arguments) -> Array:
    return np.arange(a["start"].item(), a["end"].item(), a["step"].item())


@mil("shape")
def _shape(a: Arguments) -> Array:
    return np.array(a["x"].shape, np.int32)


def _blocks(x: Array, block: int) -> tuple[int, int, int, int]:
    n, c, h, w = x.shape
    if c % (block * block):
        raise InputError(f"{counted(c, 'channel is', 'channels are')} no multiple of {block}²")
    return n, c // (block * block), h, w


@mil("depth_to_space")
def _depth_to_space(a: Arguments) -> Array:
    # Depth is [block, block, channel], as TensorFlow has it.
    x, b = a["x"], a.int_or("block_size", 2)
    n, c, h, w = _blocks(x, b)
    return x.reshape(n, b, b, c, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(n, c, h * b, w * b)


@mil("space_to_depth")
def _space_to_depth(a: Arguments) -> Array:
    x, b = a["x"], a.int_or("block_size", 2)
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


@mil("pixel_shuffle")
def _pixel_shuffle(a: Arguments) -> Array:
    # Depth is [channel, block, block], as PyTorch has it.
    x, b = a["x"], a.int_or("upscale_factor", 1)
    n, c, h, w = _blocks(x, b)
    return x.reshape(n, c, b, b, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c, h * b, w * b)


@mil("pixel_unshuffle")
def _pixel_unshuffle(a: Arguments) -> Array:
    x, b = a["x"], a.int_or("downscale_factor", 1)
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // b, b).transpose(0, 1, 3, 5, 2, 4).reshape(n, c * b * b, h // b, w // b)
