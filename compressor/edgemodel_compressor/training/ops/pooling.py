"""Pooling."""

from __future__ import annotations

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from edgemodel_api.quantities import counted

from .base import Call, NotConvertibleError, Value, op
from .convolution import Pads, same_pads


def _window(call: Call, x: Value) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Pads, Pads]:
    """Kernel, strides, dilations, the pads that are asked for, and those with what ceil_mode adds at the end."""
    kernel = call.ints("kernel_shape") or ()
    rank = len(kernel)
    if rank != x.ndim - 2:
        raise ValueError(
            f"kernel_shape has {counted(rank, 'number')} for {counted(x.ndim - 2, 'spatial axis', 'spatial axes')}"
        )
    strides = call.ints("strides", (1,) * rank) or ()
    dilations = call.ints("dilations", (1,) * rank) or ()
    pads = same_pads(call, x.shape[2:], kernel, strides, dilations)
    if not call.get("ceil_mode", 0) or (call.get("auto_pad", "NOTSET") or "NOTSET") != "NOTSET":
        return kernel, strides, dilations, pads, pads
    ceiled = []
    for n, k, s, d, (b, e) in zip(x.shape[2:], kernel, strides, dilations, pads, strict=True):
        reach = (k - 1) * d + 1
        count = -(-(n + b + e - reach) // s) + 1
        if (count - 1) * s >= n + b:  # the last window would start in the padding
            count -= 1
        ceiled.append((b, max(e, (count - 1) * s + reach - n - b)))
    return kernel, strides, dilations, pads, ceiled


_Window: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Pads]


def _sums(x: Value, window: _Window) -> Value:
    kernel, strides, dilations, pads = window
    return jax.lax.reduce_window(
        x, np.zeros((), x.dtype)[()], jax.lax.add, (1, 1, *kernel), (1, 1, *strides), ((0, 0), (0, 0), *pads),
        window_dilation=(1, 1, *dilations),
    )  # fmt: skip


@op("AveragePool", traced=True)
def _average_pool(call: Call, x: Value) -> Value:
    kernel, strides, dilations, pads, ceiled = _window(call, x)
    sums = _sums(x, (kernel, strides, dilations, ceiled))
    # How many elements each window averages is a product over the axes; what ceil_mode adds never counts.
    counts = np.ones(1, np.float32)
    for n, k, s, d, pad, (begin, _), m in zip(
        x.shape[2:], kernel, strides, dilations, pads, ceiled, sums.shape[2:], strict=True
    ):
        at = np.arange(m)[:, None] * s + np.arange(k)[None] * d - begin
        low, high = (-pad[0], n + pad[1]) if call.get("count_include_pad", 0) else (0, n)
        counts = counts[..., None] * ((at >= low) & (at < high)).sum(1).astype(np.float32)
    return sums / jnp.asarray(np.maximum(counts, 1).reshape(sums.shape[2:]))


@op("LpPool", traced=True, since=2)
def _lp_pool(call: Call, x: Value) -> Value:
    kernel, strides, dilations, _, ceiled = _window(call, x)
    p = int(call.get("p", 2))
    return _sums(jnp.abs(x) ** p, (kernel, strides, dilations, ceiled)) ** (1 / p)


@op("MaxPool", traced=True, note="without the second output (Indices)")
def _max_pool(call: Call, x: Value) -> Value:
    if call.wants(1):
        raise NotConvertibleError("its second output (Indices) has no conversion")
    kernel, strides, dilations, _, ceiled = _window(call, x)
    low = -np.inf if np.dtype(x.dtype).kind == "f" else np.iinfo(x.dtype).min
    return jax.lax.reduce_window(
        x, np.asarray(low, x.dtype)[()], jax.lax.max, (1, 1, *kernel), (1, 1, *strides), ((0, 0), (0, 0), *ceiled),
        window_dilation=(1, 1, *dilations),
    )  # fmt: skip


@op("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", traced=True)
def _global_pool(call: Call, x: Value) -> Value:
    axes = tuple(range(2, x.ndim))
    if call.op == "GlobalAveragePool":
        return x.mean(axes, keepdims=True)
    if call.op == "GlobalMaxPool":
        return x.max(axes, keepdims=True)
    p = int(call.get("p", 2))
    return (jnp.abs(x) ** p).sum(axes, keepdims=True) ** (1 / p)


@op("LRN", traced=True)
def _lrn(call: Call, x: Value) -> Value:
    size = int(call.get("size"))
    alpha, beta, bias = (float(call.get(k, d)) for k, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    around = ((0, 0), ((size - 1) // 2, math.ceil((size - 1) / 2)), *((0, 0),) * (x.ndim - 2))
    sums = jax.lax.reduce_window(
        x * x, np.float32(0), jax.lax.add, (1, size, *(1,) * (x.ndim - 2)), (1,) * x.ndim, around
    )
    return x / (bias + alpha / size * sums) ** beta
