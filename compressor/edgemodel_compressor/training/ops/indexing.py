"""Operators that look elements up or put them somewhere: embeddings, gathers, scatters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .base import Call, NotConvertibleError, Static, Value, axis_of, bounded, known, known_ints, op


def _from_start(indices: Value, size: int) -> Value:
    """ONNX counts negative indices from the end."""
    return jnp.where(indices < 0, indices + size, indices)


@op("Gather")
def _gather(call: Call, x: Value, indices: Value) -> Value:
    axis = axis_of(int(call.get("axis", 0)), x.ndim)
    if call.np is np:
        return np.take(x, indices, axis)
    # "fill": NaN for an index outside, where onnxruntime fails; so the loss shows it.
    return jnp.take(x, _from_start(indices, x.shape[axis]), axis, mode="fill")


@op("GatherElements", since=11, traced=True)
def _gather_elements(call: Call, x: Value, indices: Value) -> Value:
    axis = axis_of(int(call.get("axis", 0)), x.ndim)
    return x[_elements(indices, axis, x.shape[axis])]


@op("GatherND", since=11)
def _gather_nd(call: Call, x: Value, indices: Value) -> Value:
    batch = int(call.get("batch_dims", 0))

    def look_up(one: Value, at: Value) -> Value:
        return one[tuple(at[..., i] for i in range(at.shape[-1]))]

    if call.np is np and not batch:
        return look_up(x, indices)
    for _ in range(batch):
        look_up = jax.vmap(look_up)
    return look_up(x, indices)


@op("ScatterElements", "Scatter", traced=True)
def _scatter_elements(call: Call, x: Value, indices: Value, updates: Value) -> Value:
    axis = axis_of(int(call.get("axis", 0)), x.ndim)
    return _put(call, x, _elements(indices, axis, x.shape[axis]), updates)


@op("ScatterND", since=11)
def _scatter_nd(call: Call, x: Value, indices: Value, updates: Value) -> Value:
    at = tuple(indices[..., i] for i in range(indices.shape[-1]))
    if call.np is np and call.get("reduction", "none") == "none":
        y = x.copy()
        y[at] = updates
        return y
    return _put(call, jnp.asarray(x), at, updates)


@op("TensorScatter", since=24, traced=True)
def _tensor_scatter(call: Call, past: Value, update: Value, start: Value = None) -> Value:
    axis = axis_of(int(call.get("axis", -2)), past.ndim)
    begin = jnp.zeros(past.shape[0], jnp.int32) if start is None else start
    at = begin[:, None] + jnp.arange(update.shape[axis])
    if call.get("mode", "linear") == "circular":
        at = at % past.shape[axis]

    def put(one: Value, new: Value, where: Value) -> Value:
        return one.at[where].set(new)

    moved = jax.vmap(put)(jnp.moveaxis(past, axis, 1), jnp.moveaxis(update, axis, 1), at)
    return jnp.moveaxis(moved, 1, axis)


@op("OneHot", keep=(1,), since=9, traced=True)
def _one_hot(call: Call, indices: Value, depth: Value, values: Value) -> Value:
    size = bounded(known_ints(depth, "depth"))[0]
    axis = axis_of(int(call.get("axis", -1)), indices.ndim + 1)
    indices = indices.astype(jnp.int32)
    hot = jnp.expand_dims(_from_start(indices, size), axis) == jnp.arange(size).reshape(
        *(1,) * axis, size, *(1,) * (indices.ndim - axis)
    )
    return jnp.where(hot, values[1], values[0])


@op("NonZero", keep=(0,), since=9, note="of values that do not depend on the inputs")
def _non_zero(call: Call, x: Value) -> Value:
    return np.asarray(np.nonzero(known(x, "number of non-zeros")), np.int64).reshape(x.ndim, -1)


@op("Compress", keep=(1,), since=9, note="by a condition that does not depend on the inputs")
def _compress(call: Call, x: Value, condition: Value) -> Value:
    chosen: Static = np.flatnonzero(known(condition, "condition"))
    if "axis" not in call.attributes:
        return x.reshape(-1)[chosen]
    return call.np.take(x, chosen, axis_of(int(call.get("axis")), x.ndim))


def _elements(indices: Value, axis: int, size: int) -> tuple[Value, ...]:
    grid = list(jnp.meshgrid(*(jnp.arange(n) for n in indices.shape), indexing="ij"))
    grid[axis] = _from_start(indices, size)
    return tuple(grid)


def _put(call: Call, x: Value, at: tuple[Value, ...], updates: Value) -> Value:
    reduction = call.get("reduction", "none")
    methods = {"none": "set", "add": "add", "mul": "multiply", "max": "max", "min": "min"}
    if reduction not in methods:
        raise NotConvertibleError(f"the reduction {reduction!r} has no conversion")
    return getattr(x.at[at], methods[reduction])(updates)
