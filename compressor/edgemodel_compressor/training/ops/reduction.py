"""Reductions, and what orders or accumulates along an axis."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .base import Call, Value, axes_of, axis_of, known_ints, op


@op(
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceSumSquare", keep=(1,),
)  # fmt: skip
def _reduce(call: Call, x: Value, axes: Value = None) -> Value:
    over = axes_of(call, axes, x.ndim)
    if not over:
        if call.get("noop_with_empty_axes", 0):
            return _no_axes(call, x)
        over = tuple(range(x.ndim))
    keep = bool(call.get("keepdims", 1))
    np_ = call.np

    def total(v: Value) -> Value:
        return np_.sum(v, over, keepdims=keep).astype(x.dtype)

    match call.op:
        case "ReduceSum":
            return total(x)
        case "ReduceMean":
            return np_.mean(x, over, keepdims=keep).astype(x.dtype)
        case "ReduceMax" | "ReduceMin":
            return _extreme(call, x, over, keep=keep)
        case "ReduceProd":
            return np_.prod(x, over, keepdims=keep).astype(x.dtype)
        case "ReduceL1":
            return total(np_.abs(x))
        case "ReduceL2":
            return _root(np_, total(x * x)).astype(x.dtype)
        case "ReduceSumSquare":
            return total(x * x)
        case "ReduceLogSum":
            return np_.log(total(x)).astype(x.dtype)
        case _:
            return jax.nn.logsumexp(jnp.asarray(x, jnp.float32), over, keepdims=keep).astype(x.dtype)


def _extreme(call: Call, x: Value, over: tuple[int, ...], *, keep: bool) -> Value:
    kind = np.dtype(x.dtype).kind
    low = call.op == "ReduceMax"
    if kind == "b":
        return (call.np.any if low else call.np.all)(x, over, keepdims=keep)
    smallest, largest = (-np.inf, np.inf) if kind == "f" else (np.iinfo(x.dtype).min, np.iinfo(x.dtype).max)
    function = call.np.max if low else call.np.min
    return function(x, over, keepdims=keep, initial=smallest if low else largest).astype(x.dtype)


def _no_axes(call: Call, x: Value) -> Value:
    """What the operator does to each element by itself."""
    if call.op in ("ReduceL1", "ReduceL2"):
        return call.np.abs(x)
    if call.op == "ReduceSumSquare":
        return x * x
    return call.np.log(x) if call.op == "ReduceLogSum" else x


def _root(np_: Any, square: Value) -> Value:
    """√ with the gradient 0 at 0, not infinity."""
    if np_ is np:
        return np.sqrt(square)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


@op("ArgMax", "ArgMin")
def _arg(call: Call, x: Value) -> Value:
    axis = axis_of(int(call.get("axis", 0)), x.ndim)
    function = call.np.argmax if call.op == "ArgMax" else call.np.argmin
    if call.get("select_last_index", 0):
        found = x.shape[axis] - 1 - function(call.np.flip(x, axis), axis)
    else:
        found = function(x, axis)
    found = found.astype(np.int64) if call.np is np else found
    return call.np.expand_dims(found, axis) if call.get("keepdims", 1) else found


@op("TopK", keep=(1,), traced=True)
def _top_k(call: Call, x: Value, k: Value = None) -> tuple[Value, ...]:
    count = int(call.get("k")) if call.opset < 10 else known_ints(k, "k")[0]
    axis = axis_of(int(call.get("axis", -1)), x.ndim)
    # Equal elements come in the order of their indices: a stable sort.
    order = jnp.argsort(x, axis, stable=True, descending=bool(call.get("largest", 1)))
    chosen = jax.lax.slice_in_dim(order, 0, count, axis=axis)
    return jnp.take_along_axis(x, chosen, axis), chosen


@op("CumSum", "CumProd", keep=(1,), since=11)
def _accumulate(call: Call, x: Value, axis: Value) -> Value:
    over = axis_of(known_ints(axis, "axis")[0], x.ndim)
    if call.get("reverse", 0):
        x = call.np.flip(x, over)
    if call.get("exclusive", 0):
        around = [(1, 0) if i == over else (0, 0) for i in range(x.ndim)]
        neutral = 0 if call.op == "CumSum" else 1
        x = call.np.pad(x, around, constant_values=neutral)[
            tuple(slice(0, -1) if i == over else slice(None) for i in range(x.ndim))
        ]
    y = (call.np.cumsum if call.op == "CumSum" else call.np.cumprod)(x, over).astype(x.dtype)
    return call.np.flip(y, over) if call.get("reverse", 0) else y
