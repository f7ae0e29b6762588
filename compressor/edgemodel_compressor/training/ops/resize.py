"""Resize and Upsample: interpolation along each axis by itself, as a product with a matrix known beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from .base import Call, NotConvertibleError, Static, Value, axis_of, known, op


@op("Resize", keep=(1, 2, 3), since=10, traced=True)
def _resize(call: Call, x: Value, *sizes_and_scales: Value) -> Value:
    given = [v if v is not None and v.size else None for v in sizes_and_scales]
    roi, scales, sizes = (None, *given, None)[:3] if call.opset < 11 else (*given, None, None, None)[:3]
    axes = call.ints("axes")
    over = tuple(range(x.ndim)) if axes is None else tuple(axis_of(a, x.ndim) for a in axes)
    return _resized(call, x, over, (roi, scales, sizes))


@op("Upsample", keep=(1,), since=7, traced=True)
def _upsample(call: Call, x: Value, scales: Value = None) -> Value:
    if scales is None:
        scales = np.asarray(call.attributes["scales"], np.float32)
    return _resized(call, x, tuple(range(x.ndim)), (None, scales, None))


def _resized(call: Call, x: Value, axes: tuple[int, ...], what: tuple[Value, Value, Value]) -> Value:
    roi = None if what[0] is None else known(what[0], "region of interest").astype(np.float64)
    outside = []
    for i, (axis, scale, size) in enumerate(_targets(call, x, axes, what)):
        part = None if roi is None else (float(roi[i]), float(roi[i + len(axes)]))
        whole = call.get("coordinate_transformation_mode", "") != "tf_crop_and_resize"
        if size == x.shape[axis] and scale == 1 and whole:
            continue
        at, beyond = _coordinates(call, x.shape[axis], size, scale, part)
        if call.get("mode", "nearest") == "nearest":
            x = jnp.take(x, _nearest(call, at, x.shape[axis]), axis)
        else:
            matrix = jnp.asarray(_weights(call, at, x.shape[axis], scale), jnp.float32)
            x = jnp.moveaxis(jnp.moveaxis(x, axis, -1) @ matrix.T, -1, axis)
        if beyond.any():
            outside.append(beyond.reshape([-1 if a == axis else 1 for a in range(x.ndim)]))
    for beyond in outside:
        x = jnp.where(beyond, float(call.get("extrapolation_value", 0.0)), x)
    return x


def _targets(
    call: Call, x: Value, axes: tuple[int, ...], what: tuple[Value, Value, Value]
) -> list[tuple[int, float, int]]:
    """(axis, scale, size after it) per axis."""
    shape = [x.shape[a] for a in axes]
    if what[2] is not None:
        sizes = [int(v) for v in known(what[2], "sizes")]
        policy = call.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratio = (min if policy == "not_larger" else max)(s / n for s, n in zip(sizes, shape, strict=True))
            sizes = [math.floor(n * ratio + 0.5) for n in shape]
            return [(a, ratio, s) for a, s in zip(axes, sizes, strict=True)]
        return [(a, s / n, s) for a, s, n in zip(axes, sizes, shape, strict=True)]
    if what[1] is None:
        raise ValueError("neither sizes nor scales are given")
    scales = [float(v) for v in known(what[1], "scales")]
    return [(a, s, math.floor(n * s)) for a, s, n in zip(axes, scales, shape, strict=True)]


def _coordinates(
    call: Call, size: int, target: int, scale: float, part: tuple[float, float] | None
) -> tuple[Static, Static]:
    """Where each element of the result lies in the input, and which lie outside of it (tf_crop_and_resize)."""
    y = np.arange(target, dtype=np.float64)
    default = "half_pixel" if call.op == "Resize" and call.opset > 10 else "asymmetric"
    mode = call.get("coordinate_transformation_mode", default)
    length = scale * size
    none = np.zeros(target, bool)
    match mode:
        case "align_corners":
            return (y * 0 if length == 1 else y * (size - 1) / (length - 1)), none
        case "asymmetric":
            return y / scale, none
        case "half_pixel":
            return (y + 0.5) / scale - 0.5, none
        case "pytorch_half_pixel":
            return (y * 0 - 0.5 if length == 1 else (y + 0.5) / scale - 0.5), none
        case "half_pixel_symmetric":
            return size / 2 * (1 - target / length) + (y + 0.5) / scale - 0.5, none
        case "tf_crop_and_resize" if part is not None:
            begin, end = part
            if length == 1:
                at = y * 0 + (end - begin) * (size - 1) / 2
            else:
                at = y * (end - begin) * (size - 1) / (length - 1)
            at = at + begin * (size - 1)
            return at, (at < 0) | (at > size - 1)
    raise NotConvertibleError(f"coordinate_transformation_mode {mode!r} has no conversion")


def _nearest(call: Call, at: Static, size: int) -> Static:
    default = "round_prefer_floor" if call.op == "Resize" and call.opset > 10 else "floor"
    rounding: dict[str, Callable[[Static], Static]] = {
        "round_prefer_floor": lambda v: np.ceil(v - 0.5), "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        "floor": np.floor, "ceil": np.ceil,
    }  # fmt: skip
    return np.asarray(np.clip(rounding[call.get("nearest_mode", default)](at), 0, size - 1), np.int32)


def _weights(call: Call, at: Static, size: int, scale: float) -> Static:
    """[size after, size before]: what of each input element goes into each output element."""
    mode = call.get("mode")
    reach, kernel = _kernel(mode, float(call.get("cubic_coeff_a", -0.75)))
    # Antialiasing widens the kernel when the result is smaller.
    narrow = min(scale, 1.0) if call.get("antialias", 0) else 1.0
    start = math.floor(-reach / narrow) + 1
    base = np.ceil(at).astype(np.int64) - 1  # the neighbour on the left, strictly
    taps = np.arange(start, 2 - start)[None]
    weights = kernel((taps - (at - base)[:, None]) * narrow)
    index = base[:, None] + taps
    if call.get("exclude_outside", 0):
        weights = np.where((index < 0) | (index >= size), 0, weights)
    weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((len(at), size))
    np.add.at(matrix, (np.arange(len(at))[:, None], np.clip(index, 0, size - 1)), weights)
    return matrix


def _kernel(mode: str, a: float) -> tuple[int, Callable[[Static], Static]]:
    """Half the kernel's width, and the kernel."""
    if mode in ("linear", "bilinear"):
        return 1, lambda v: np.clip(1 - np.abs(v), 0, 1)
    if mode != "cubic":
        raise NotConvertibleError(f"mode {mode!r} has no conversion")

    def cubic(v: Static) -> Static:
        x = np.abs(v)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((x - 5) * x + 8) * x * a - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0))

    return 2, cubic
