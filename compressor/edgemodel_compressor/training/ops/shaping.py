"""Operators that reshape, move and join tensors without computing with their elements."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from .base import (
    Call,
    NotConvertibleError,
    Value,
    axes_of,
    axis_of,
    bounded,
    cast,
    cast_to,
    dtype_of,
    is_static,
    known,
    known_ints,
    op,
)

_TO_THE_END = (np.iinfo(np.int32).max, np.iinfo(np.int64).max)
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@op("Reshape", keep=(1,))
def _reshape(call: Call, x: Value, shape: Value = None) -> Value:
    wanted = call.ints("shape") if call.opset < 5 else known_ints(shape, "shape")
    zero = bool(call.get("allowzero", 0))
    return x.reshape([x.shape[i] if d == 0 and not zero else d for i, d in enumerate(wanted or ())])


@op("Flatten")
def _flatten(call: Call, x: Value) -> Value:
    axis = int(call.get("axis", 1))
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@op("Transpose")
def _transpose(call: Call, x: Value) -> Value:
    return call.np.transpose(x, call.ints("perm"))


@op("Concat", since=4)
def _concat(call: Call, *inputs: Value) -> Value:
    return call.np.concatenate(inputs, axis_of(int(call.get("axis")), inputs[0].ndim))


@op("Constant")
def _constant(call: Call) -> Value:
    for name, dtype in (
        ("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64), ("value_ints", np.int64),
    ):  # fmt: skip
        if name in call.attributes:
            return np.asarray(call.attributes[name], dtype)
    if not isinstance(call.get("value"), np.ndarray):
        raise NotConvertibleError("a constant of strings or a sparse one has no conversion")
    return call.get("value")


@op("Shape")
def _shape(call: Call, x: Value) -> Value:
    return np.asarray(x.shape[slice(call.get("start", 0), call.get("end"))], np.int64)


@op("Size")
def _size(call: Call, x: Value) -> Value:
    return np.asarray(math.prod(x.shape), np.int64)


@op("ConstantOfShape", keep=(0,), since=9)
def _constant_of_shape(call: Call, shape: Value) -> Value:
    value = np.asarray(call.get("value", np.zeros(1, np.float32))).reshape(-1)
    return np.full(bounded(known_ints(shape, "shape")), value[0], value.dtype)


@op("EyeLike", since=9)
def _eye_like(call: Call, x: Value) -> Value:
    dtype = dtype_of(int(call.get("dtype")), static=True) if "dtype" in call.attributes else x.dtype
    rows, columns = bounded(x.shape)
    return np.eye(rows, columns, int(call.get("k", 0)), dtype)


@op("Range", keep=(0, 1, 2), since=11)
def _range(call: Call, start: Value, limit: Value, delta: Value) -> Value:
    first, last, by = (known(v, "range").reshape(()) for v in (start, limit, delta))
    if by == 0:
        raise ValueError("delta is 0")
    bounded((max(math.ceil((float(last) - float(first)) / float(by)), 0),))
    return np.arange(first.item(), last.item(), by.item()).astype(first.dtype)


@op("Squeeze", keep=(1,))
def _squeeze(call: Call, x: Value, axes: Value = None) -> Value:
    return call.np.squeeze(x, axes_of(call, axes, x.ndim))


@op("Unsqueeze", keep=(1,))
def _unsqueeze(call: Call, x: Value, axes: Value = None) -> Value:
    given = call.ints("axes") if axes is None else known_ints(axes, "axes")
    return call.np.expand_dims(x, given or ())


@op("Expand", keep=(1,), since=8)
def _expand(call: Call, x: Value, shape: Value) -> Value:
    wanted = np.broadcast_shapes(x.shape, known_ints(shape, "shape"))
    return call.np.broadcast_to(x, bounded(wanted) if is_static(x) else wanted)


@op("Tile", keep=(1,), since=6)
def _tile(call: Call, x: Value, repeats: Value) -> Value:
    times = known_ints(repeats, "repeats")
    bounded([n * d for n, d in zip(times, x.shape, strict=True)])
    return call.np.tile(x, times)


@op("Slice", keep=(1, 2, 3, 4))
def _slice(call: Call, x: Value, *ranges: Value) -> Value:
    if call.opset < 10:
        starts, ends = call.ints("starts") or (), call.ints("ends") or ()
        axes, steps = call.ints("axes"), None
    else:
        starts, ends = known_ints(ranges[0], "start"), known_ints(ranges[1], "end")
        axes = known_ints(ranges[2], "axes") if ranges[2:] and ranges[2] is not None else None
        steps = known_ints(ranges[3], "steps") if ranges[3:] and ranges[3] is not None else None
    index = [slice(None)] * x.ndim
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        step, size, at = (steps[i] if steps else 1), x.shape[axis], axis_of(axis, x.ndim)
        start, end = (v + size if v < 0 else v for v in (starts[i], ends[i]))
        if step < 0:
            # As onnxruntime has it, "to the end" is the beginning when going backwards.
            end = -1 if ends[i] in _TO_THE_END else end
            # -1 would count from the end: None is "to the very beginning".
            start, stop = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
            index[at] = slice(start, None if stop < 0 else stop, step) if start >= 0 else slice(0, 0)
        else:
            index[at] = slice(min(max(start, 0), size), min(max(end, 0), size), step)
    return x[tuple(index)]


@op("Split", keep=(1,), note="not into sequences", since=2)
def _split(call: Call, x: Value, split: Value = None) -> tuple[Value, ...]:
    axis = axis_of(int(call.get("axis", 0)), x.ndim)
    sizes = call.ints("split") if split is None else known_ints(split, "split")
    if sizes is None:
        parts = int(call.get("num_outputs", len(call.outputs)))
        each = -(-x.shape[axis] // parts)
        sizes = tuple(max(min(each, x.shape[axis] - i * each), 0) for i in range(parts))
    if sum(sizes) != x.shape[axis] or any(s < 0 for s in sizes):
        raise ValueError(f"split {list(sizes)} of an axis of {x.shape[axis]}")
    return tuple(call.np.split(x, np.cumsum(sizes)[:-1].tolist(), axis))


@op("Pad", keep=(1, 3), since=2)
def _pad(call: Call, x: Value, pads: Value = None, value: Value = None, axes: Value = None) -> Value:
    mode = call.get("mode", "constant")
    if call.opset < 11:
        amounts, fill = call.ints("pads") or (), call.get("value", 0.0)
    else:
        amounts, fill = known_ints(pads, "pads"), 0 if value is None else value.reshape(())
    over = range(x.ndim) if axes is None else [axis_of(a, x.ndim) for a in known_ints(axes, "axes")]
    around = [(0, 0)] * x.ndim
    for i, axis in enumerate(over):
        around[axis] = (amounts[i], amounts[i + len(over)])
    # Negative pads crop.
    x = x[tuple(slice(max(-b, 0), n - max(-e, 0)) for (b, e), n in zip(around, x.shape, strict=True))]
    grown = [(max(b, 0), max(e, 0)) for b, e in around]
    bounded([n + b + e for n, (b, e) in zip(x.shape, grown, strict=True)])
    if mode != "constant":
        return call.np.pad(x, grown, mode=_PAD_MODES[mode])
    return call.np.pad(x, grown, constant_values=call.np.asarray(fill, x.dtype))


@op("CenterCropPad", keep=(1,), since=18)
def _center_crop_pad(call: Call, x: Value, shape: Value) -> Value:
    wanted = bounded(known_ints(shape, "shape"))
    axes = call.ints("axes") or tuple(range(x.ndim))
    index, around = [slice(None)] * x.ndim, [(0, 0)] * x.ndim
    for axis, size in zip((axis_of(a, x.ndim) for a in axes), wanted, strict=True):
        more = size - x.shape[axis]
        if more >= 0:
            around[axis] = (more // 2, more - more // 2)
        else:
            index[axis] = slice(-more // 2, -more // 2 + size)
    return call.np.pad(x[tuple(index)], around)


@op("DepthToSpace")
def _depth_to_space(call: Call, x: Value) -> Value:
    n, c, h, w = x.shape
    b = int(call.get("blocksize"))
    if call.get("mode", "DCR") == "CRD":
        y = x.reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    else:
        y = x.reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // b**2, h * b, w * b)


@op("SpaceToDepth")
def _space_to_depth(call: Call, x: Value) -> Value:
    n, c, h, w = x.shape
    b = int(call.get("blocksize"))
    order = (0, 1, 3, 5, 2, 4) if call.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return x.reshape(n, c, h // b, b, w // b, b).transpose(order).reshape(n, c * b * b, h // b, w // b)


@op("Trilu", keep=(1,), since=14)
def _trilu(call: Call, x: Value, k: Value = None) -> Value:
    diagonal = 0 if k is None else known_ints(k, "diagonal")[0]
    return (call.np.triu if call.get("upper", 1) else call.np.tril)(x, diagonal)


@op("Cast", note="traced floats stay float32 (a cast to float16 rounds), traced integers have at most 32 bits", since=6)
def _cast(call: Call, x: Value) -> Value:
    return cast(x, int(call.get("to")))


@op("CastLike", keep=(1,), note="to the type that the other value is traced in", since=15)
def _cast_like(call: Call, x: Value, like: Value) -> Value:
    return cast_to(x, np.dtype(like.dtype))


@op("ReverseSequence", since=10, traced=True)
def _reverse_sequence(call: Call, x: Value, lengths: Value) -> Value:
    batch, time = int(call.get("batch_axis", 1)), int(call.get("time_axis", 0))
    moved = jnp.moveaxis(x, (batch, time), (0, 1))
    steps = jnp.arange(moved.shape[1])[None]
    at = jnp.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    turned = jnp.take_along_axis(moved, at.reshape(*at.shape, *(1,) * (x.ndim - 2)), 1)
    return jnp.moveaxis(turned, (0, 1), (batch, time))
