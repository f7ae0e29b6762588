"""Sampling at positions that the model computes."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp

from .base import Call, NotConvertibleError, Value, op


@op("GridSample", traced=True, since=16, note="linear and nearest, not cubic")
def _grid_sample(call: Call, x: Value, grid: Value) -> Value:
    mode = call.get("mode", "linear")
    if mode not in ("linear", "bilinear", "nearest"):
        raise NotConvertibleError(f"the mode {mode!r} has no conversion")
    aligned = bool(call.get("align_corners", 0))
    padding = call.get("padding_mode", "zeros")
    sizes = x.shape[2:]
    positions = []
    for i, size in enumerate(sizes):
        at = grid[..., len(sizes) - 1 - i]  # the last number is the position on the first spatial axis
        at = (at + 1) / 2 * (size - 1) if aligned else ((at + 1) * size - 1) / 2
        if mode == "nearest":
            at = jnp.round(at)
        positions.append(_inside(at, size, padding, aligned=aligned))
    total: Value = 0
    lows = [jnp.floor(p) for p in positions]
    corners = itertools.product((0, 1), repeat=len(sizes)) if mode != "nearest" else [(0,) * len(sizes)]
    for corner in corners:
        weight: Value = 1
        index = []
        for p, low, high, size in zip(positions, lows, corner, sizes, strict=True):
            at = low + high
            part = 1.0 if mode == "nearest" else (p - low if high else 1 - (p - low))
            weight = weight * jnp.where((at >= 0) & (at <= size - 1), part, 0)
            index.append(jnp.clip(at, 0, size - 1).astype(jnp.int32))
        values = jax.vmap(lambda one, *where: one[(slice(None), *where)])(x, *index)
        total = total + values * weight[:, None]
    return total


def _inside(at: Value, size: int, padding: str, *, aligned: bool) -> Value:
    if padding == "zeros":
        return at
    if padding == "reflection":
        low, span = (0.0, float(size - 1)) if aligned else (-0.5, float(size))
        if span == 0:
            return jnp.zeros_like(at)
        turned = jnp.abs(at - low) % (2 * span)
        at = jnp.where(turned > span, 2 * span - turned, turned) + low
    return jnp.clip(at, 0, size - 1)
