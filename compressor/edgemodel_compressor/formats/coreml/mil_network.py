"""MIL's layers with weights: convolution, pooling, normalisation, recurrence, resizing; from their documentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgemodel_api.errors import InputError

from .mil import Arguments, Array, Result, mil
from .mil_elementwise import sigmoid

#: Elements of unrolled windows at a time.
_CHUNK = 2**24


def _windows(x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """[n, c, *out, *kernel], a view."""
    spatial = range(2, x.ndim)
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = sliding_window_view(x, extent, axis=tuple(spatial))
    steps = [slice(None, None, s) for s in strides] + [slice(None, None, d) for d in dilations]
    return view[(slice(None), slice(None), *steps)]


def _pads(
    a: Arguments, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Before and after each spatial axis."""
    kind = a.text("pad_type", "valid")
    if kind == "valid":
        return [0] * (2 * len(size))
    if kind == "custom":
        return a.ints_or("pad", [0] * (2 * len(size)))
    pads: list[int] = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        # Such that there are ceil(n / s) outputs.
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        pads += [small, large] if kind == "same" else [large, small]
    return pads


def _padded(x: Array, pads: Sequence[int], value: float) -> Array:
    pairs = [(0, 0), (0, 0), *zip(pads[::2], pads[1::2], strict=True)]
    return np.pad(x, pairs, constant_values=value) if any(pads) else x


def _correlate(x: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int], groups: int) -> Array:
    """Convolution as networks mean it, on padded x: [n, c_in, *d] and [c_out, c_in/groups, *k] → [n, c_out, *out]."""
    n, channels = x.shape[:2]
    kernel, outputs = weight.shape[2:], weight.shape[0]
    windows = _windows(x, kernel, strides, dilations)
    spatial = windows.shape[2 : x.ndim]
    matrix = weight.reshape(groups, outputs // groups, -1).transpose(0, 2, 1)
    result = np.empty((n, outputs, *spatial), np.float32)
    rows = max(_CHUNK // max(channels * int(np.prod(kernel)) * int(np.prod(spatial[1:])), 1), 1)
    order = (0, *range(2, 2 + len(spatial)), 1, *range(2 + len(spatial), 2 + len(spatial) + len(kernel)))
    for image in range(n):
        for start in range(0, spatial[0], rows):
            part = windows[image, :, start : start + rows]
            part = part.reshape(groups, channels // groups, *part.shape[1:])
            unrolled = part.transpose(order).reshape(groups, -1, matrix.shape[1])
            values = np.matmul(unrolled, matrix).transpose(0, 2, 1)
            count = min(rows, spatial[0] - start)
            result[image, :, start : start + count] = values.reshape(outputs, count, *spatial[1:])
    return result


def _biased(result: Array, a: Arguments) -> Array:
    return result + a["bias"].reshape(-1, *([1] * (result.ndim - 2))) if "bias" in a else result


@mil("conv")
def _conv(a: Arguments) -> Array:
    x, weight = a["x"], a["weight"]
    ones = [1] * (x.ndim - 2)
    strides, dilations = a.ints_or("strides", ones), a.ints_or("dilations", ones)
    pads = _pads(a, x.shape[2:], weight.shape[2:], strides, dilations)
    result = _correlate(_padded(x, pads, 0), weight, strides, dilations, a.int_or("groups", 1))
    return _biased(result, a)


@mil("conv_transpose")
def _conv_transpose(a: Arguments) -> Array:
    x, weight, groups = a["x"], a["weight"], a.int_or("groups", 1)
    ones = [1] * (x.ndim - 2)
    strides, dilations = a.ints_or("strides", ones), a.ints_or("dilations", ones)
    kernel = weight.shape[2:]
    spread = np.zeros((*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True))), x.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = x
    margin = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True) for _ in range(2)]
    # [c_in, c_out/g, *k] → [c_out, c_in/g, *k], turned round.
    inner = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    turned = np.flip(inner.reshape(-1, weight.shape[0] // groups, *kernel), tuple(range(2, weight.ndim)))
    full = _correlate(_padded(spread, margin, 0), turned, ones, dilations, groups)
    kind = a.text("pad_type", "valid")
    if kind == "same":
        excess = [f - n * s for f, n, s in zip(full.shape[2:], x.shape[2:], strides, strict=True)]
        pads = [p for e in excess for p in (max(e, 0) // 2, max(e, 0) - max(e, 0) // 2)]
    else:
        pads = a.ints_or("pad", [0] * (2 * len(ones))) if kind == "custom" else [0] * (2 * len(ones))
    wanted = a.ints_or("output_shape", None)
    index: list[slice] = [slice(None), slice(None)]
    for i, size in enumerate(full.shape[2:]):
        stop = size - pads[2 * i + 1] if wanted is None else pads[2 * i] + wanted[-len(ones) :][i]
        if stop > size:
            raise InputError(f"conv_transpose: output_shape {wanted} is more than the {size} that there are")
        index.append(slice(pads[2 * i], stop))
    return _biased(full[tuple(index)], a)


def _pool(a: Arguments, padding: float, reduce: Callable[[Array], Array]) -> tuple[Array, Array]:
    """The reduced windows, and how many of each window's elements are no padding."""
    x, kernel = a["x"], a.ints("kernel_sizes")
    ones = [1] * len(kernel)
    strides = a.ints_or("strides", ones)
    pads = _pads(a, x.shape[2:], kernel, strides, ones)
    if a.flag("ceil_mode"):
        for i, (n, k, s) in enumerate(zip(x.shape[2:], kernel, strides, strict=True)):
            before, after = pads[2 * i], pads[2 * i + 1]
            out = -(-(n + before + after - k) // s) + 1
            if before + after > 0 and (out - 1) * s >= n + before:
                out -= 1
            pads[2 * i + 1] += max((out - 1) * s + k - (n + before + after), 0)
    count = _windows(_padded(np.ones_like(x[:1, :1]), pads, 0), kernel, strides, ones)
    axes = tuple(range(x.ndim, x.ndim + len(kernel)))
    return reduce(_windows(_padded(x, pads, padding), kernel, strides, ones)), count.sum(axis=axes)


def _window_axes(view: Array) -> tuple[int, ...]:
    spatial = (view.ndim - 2) // 2
    return tuple(range(2 + spatial, 2 + 2 * spatial))


@mil("max_pool")
def _max_pool(a: Arguments) -> Array:
    return _pool(a, -np.inf, lambda v: v.max(axis=_window_axes(v)))[0]


@mil("avg_pool")
def _avg_pool(a: Arguments) -> Array:
    total, count = _pool(a, 0, lambda v: v.sum(axis=_window_axes(v)))
    if a.flag("exclude_padding_from_average"):
        return np.asarray(total / count)
    return np.asarray(total / np.prod(a.ints("kernel_sizes")))


@mil("l2_pool")
def _l2_pool(a: Arguments) -> Array:
    return _pool(a, 0, lambda v: np.sqrt(np.square(v).sum(axis=_window_axes(v))))[0]


@mil("linear")
def _linear(a: Arguments) -> Array:
    result = a["x"] @ a["weight"].T
    return result + a["bias"] if "bias" in a else result


@mil("matmul")
def _matmul(a: Arguments) -> Array:
    x, y = a["x"], a["y"]
    if a.flag("transpose_x") and x.ndim > 1:
        x = x.swapaxes(-1, -2)
    if a.flag("transpose_y") and y.ndim > 1:
        y = y.swapaxes(-1, -2)
    return np.asarray(np.matmul(x, y))


@mil("einsum")
def _einsum(a: Arguments) -> Array:
    return np.asarray(np.einsum(a.text("equation"), *a.lists["values"]))


def _channels(value: Array, rank: int) -> Array:
    return value.reshape(-1, *([1] * (rank - 2)))


@mil("batch_norm")
def _batch_norm(a: Arguments) -> Array:
    x = a["x"]
    deviation = np.sqrt(a["variance"] + np.float32(a.float_or("epsilon", 1e-5)))
    result = (x - _channels(a["mean"], x.ndim)) / _channels(deviation, x.ndim)
    if "gamma" in a:
        result = result * _channels(a["gamma"], x.ndim)
    return np.asarray(result + _channels(a["beta"], x.ndim) if "beta" in a else result)


def _normalized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    mean = x.mean(axis=axes, keepdims=True)
    variance = np.square(x - mean).mean(axis=axes, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(variance + np.float32(epsilon)))


@mil("instance_norm")
def _instance_norm(a: Arguments) -> Array:
    x = a["x"]
    result = _normalized(x, tuple(range(2, x.ndim)), a.float_or("epsilon", 1e-5))
    if "gamma" in a:
        result = result * _channels(a["gamma"], x.ndim)
    return result + _channels(a["beta"], x.ndim) if "beta" in a else result


@mil("layer_norm")
def _layer_norm(a: Arguments) -> Array:
    x = a["x"]
    axes = tuple(sorted(i % x.ndim for i in a.ints_or("axes", list(range(x.ndim)))))
    result = _normalized(x, axes, a.float_or("epsilon", 1e-5))
    shape = [x.shape[i] if i in axes else 1 for i in range(x.ndim)]
    if "gamma" in a:
        result = result * a["gamma"].reshape(shape)
    return result + a["beta"].reshape(shape) if "beta" in a else result


@mil("l2_norm")
def _l2_norm(a: Arguments) -> Array:
    total = np.square(a["x"]).sum(axis=(-3, -2, -1), keepdims=True)
    return np.asarray(a["x"] / np.sqrt(total + np.float32(a.float_or("epsilon", 1e-6))))


@mil("local_response_norm")
def _local_response_norm(a: Arguments) -> Array:
    x, size = a["x"], a.int_or("size", 1)
    alpha, beta, k = a.float_or("alpha", 1e-4), a.float_or("beta", 0.75), a.float_or("k", 1.0)
    before = (size - 1) // 2
    pairs = [(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2)
    total = sliding_window_view(np.pad(np.square(x), pairs), size, axis=1).sum(axis=-1)
    return np.asarray(x / (k + alpha / size * total) ** beta)


def _activation(name: str) -> Callable[[Array], Array]:
    known: dict[str, Callable[[Array], Any]] = {
        "sigmoid": sigmoid,
        "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0),
        "linear": lambda x: x,
        "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
        "sigmoid_hard": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
        "scaled_tanh": lambda x: 1.7159 * np.tanh(2 / 3 * x),
    }
    if name not in known:
        raise InputError(f"recurrent activation {name!r} cannot be interpreted")
    return known[name]


def _lstm_pass(a: Arguments, suffix: str, h: Array, c: Array, *, reverse: bool) -> tuple[Array, Array, Array]:
    x = a["x"][::-1] if reverse else a["x"]
    gates, cell, out = (
        _activation(a.text(name, default))
        for name, default in (("recurrent_activation", "sigmoid"), ("cell_activation", "tanh"), ("activation", "tanh"))
    )
    size = h.shape[-1]
    zeros = np.zeros(4 * size, np.float32)
    bias = a.values.get(f"bias{suffix}", zeros)
    peephole = a.values.get(f"peephole{suffix}", zeros[: 3 * size])
    p_i, p_f, p_o = (peephole[i * size : (i + 1) * size] for i in range(3))
    w_ih, w_hh = a[f"weight_ih{suffix}"], a[f"weight_hh{suffix}"]
    clip = a.float_or("clip", np.inf)
    steps = []
    for step in x:
        z = step @ w_ih.T + h @ w_hh.T + bias
        i, f, o, g = (z[..., j * size : (j + 1) * size] for j in range(4))
        c = gates(f + p_f * c) * c + gates(i + p_i * c) * cell(np.clip(g, -clip, clip))
        h = gates(o + p_o * c) * out(c)
        steps.append(h)
    sequence = np.stack(steps)
    return (sequence[::-1] if reverse else sequence), h, c


@mil("lstm")
def _lstm(a: Arguments) -> Result:
    direction = a.text("direction", "forward")
    h, c = a["initial_h"], a["initial_c"]
    if direction == "bidirectional":
        size = h.shape[-1] // 2
        ahead = _lstm_pass(a, "", h[:, :size], c[:, :size], reverse=False)
        back = _lstm_pass(a, "_back", h[:, size:], c[:, size:], reverse=True)
        sequence, last_h, last_c = (np.concatenate(pair, axis=-1) for pair in zip(ahead, back, strict=True))
    else:
        sequence, last_h, last_c = _lstm_pass(a, "", h, c, reverse=direction == "reverse")
    return (sequence if a.flag("output_sequence") else last_h[None]), last_h, last_c


@mil("rnn")
def _rnn(a: Arguments) -> Result:
    reverse = a.text("direction", "forward") == "reverse"
    h, activation, steps = a["initial_h"], _activation(a.text("activation", "tanh")), []
    for step in a["x"][::-1] if reverse else a["x"]:
        h = activation(step @ a["weight_ih"].T + h @ a["weight_hh"].T + a.values.get("bias", np.float32(0)))
        steps.append(h)
    sequence = np.stack(steps)
    return ((sequence[::-1] if reverse else sequence) if a.flag("output_sequence") else h[None]), h


def _grid(size: int, out: int, mode: str) -> Array:
    """Where each output lies on the input's axis, as the documentation of resize_bilinear gives it."""
    i = np.arange(out, dtype=np.float64)
    if mode == "UNALIGN_CORNERS":
        points = i * (size / out) + 0.5 * (size / out) - 0.5
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / out
        points = 0.5 * delta + i * delta
    elif mode == "ALIGN_CORNERS" and out == 1:
        points = np.array([(size - 1) / 2])
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        points = i * ((size - 1) / max(out - 1, 1))
    elif mode == "DEFAULT":
        points = i * ((size - size / out) / max(out - 1, 1))
    else:
        raise InputError(f"sampling_mode {mode!r} cannot be interpreted")
    return np.clip(points, 0, size - 1)


def _bilinear(x: Array, height: int, width: int, mode: str) -> Array:
    for axis, out in ((-2, height), (-1, width)):
        points = _grid(x.shape[axis], out, mode)
        low = np.floor(points).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = (points - low).astype(np.float32).reshape(-1, *([1] * (-axis - 1)))
        x = np.take(x, low, axis=axis) * (1 - share) + np.take(x, high, axis=axis) * share
    return x


@mil("resize_bilinear")
def _resize_bilinear(a: Arguments) -> Array:
    mode = a.text("sampling_mode", "DEFAULT")
    return _bilinear(a["x"], a.int_or("target_size_height", 1), a.int_or("target_size_width", 1), mode)


@mil("upsample_bilinear")
def _upsample_bilinear(a: Arguments) -> Array:
    align = a.flag("align_corners", default=True)
    if a.flag("half_pixel_centers", default=not align) == align:
        raise InputError("upsample_bilinear: align_corners and half_pixel_centers that are alike cannot be interpreted")
    height = int(np.floor(a["x"].shape[-2] * a.float_or("scale_factor_height", 1)))
    width = int(np.floor(a["x"].shape[-1] * a.float_or("scale_factor_width", 1)))
    return _bilinear(a["x"], height, width, "STRICT_ALIGN_CORNERS" if align else "UNALIGN_CORNERS")


@mil("upsample_nearest_neighbor")
def _upsample_nearest_neighbor(a: Arguments) -> Array:
    x = a["x"]
    for axis, name in ((-2, "scale_factor_height"), (-1, "scale_factor_width")):
        factor = a.float_or(name, 1)
        if factor != int(factor):
            raise InputError(
                f"upsample_nearest_neighbor: the factor {factor} is not whole, its rounding is undocumented"
            )
        x = np.repeat(x, int(factor), axis=axis)
    return x
