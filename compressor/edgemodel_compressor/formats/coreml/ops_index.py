"""Reductions, arg max, top k, gathering and scattering."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .lower import Node, Value, kind_of, lowers, shape_of
from .ops_elementwise import as_bool, as_int

_REDUCE = {
    "ReduceSum": "reduce_sum",
    "ReduceMean": "reduce_mean",
    "ReduceMax": "reduce_max",
    "ReduceMin": "reduce_min",
    "ReduceProd": "reduce_prod",
    "ReduceL1": "reduce_l1_norm",
    "ReduceL2": "reduce_l2_norm",
    "ReduceLogSum": "reduce_log_sum",
    "ReduceLogSumExp": "reduce_log_sum_exp",
    "ReduceSumSquare": "reduce_sum_square",
}


@lowers(*_REDUCE)
def _reduce(node: Node) -> Value:
    rank = node.rank(0)
    axes = node.ints("axes", 1)
    keep, nothing = bool(node.attr("keepdims", 1)), node.attr("noop_with_empty_axes", 0)
    if not axes and nothing:
        return _elementwise(node)
    if rank == 0:
        return _elementwise(node)
    chosen = sorted({a % rank for a in axes}) if axes else list(range(rank))
    x = node[0]
    kind = kind_of(x)
    if kind == "b":
        x = as_int(node, x)
    result = getattr(node.mb, _REDUCE[node.op])(x=x, axes=chosen, keep_dims=keep)
    return as_bool(node, result) if kind == "b" else result


def _elementwise(node: Node) -> Value:
    """What a reduction over no axis does to each element."""
    x = node[0]
    if node.op in ("ReduceL1", "ReduceL2"):
        return node.mb.abs(x=x)
    if node.op == "ReduceSumSquare":
        return node.mb.mul(x=x, y=x)
    return node.mb.log(x=x) if node.op == "ReduceLogSum" else node.mb.identity(x=x)


@lowers("ArgMax", "ArgMin", note="Core ML leaves open which of equals it is")
def _arg(node: Node) -> Value:
    make = node.mb.reduce_argmax if node.op == "ArgMax" else node.mb.reduce_argmin
    axis = node.axis(int(node.attr("axis", 0)), node.rank(0))
    keep = bool(node.attr("keepdims", 1))
    if not node.attr("select_last_index", 0):
        return make(x=node[0], axis=axis, keep_dims=keep)
    # The last of equals is the first one backwards.
    first = make(x=node.mb.reverse(x=node[0], axes=[axis]), axis=axis, keep_dims=keep)
    return node.mb.sub(x=np.int32(node.shape(0)[axis] - 1), y=first)


@lowers("TopK", note="with a constant k")
def _top_k(node: Node) -> Sequence[Value]:
    k = node.ints("k", 1)
    node.only(k and k[0] > 0, "k = 0")
    result: Sequence[Value] = node.mb.topk(
        x=node[0], k=(k or [1])[0], axis=int(node.attr("axis", -1)), ascending=not node.attr("largest", 1)
    )
    return result


@lowers("CumSum", note="with a constant axis")
def _cum_sum(node: Node) -> Value:
    axis = node.axis(int(node.const(1, "the axis").reshape(())), node.rank(0))
    return node.mb.cumsum(
        x=node[0],
        axis=axis,
        exclusive=bool(node.attr("exclusive", 0)),
        reverse=bool(node.attr("reverse", 0)),
    )


@lowers("OneHot", note="with a constant depth and values")
def _one_hot(node: Node) -> Value:
    depth = int(node.const(1, "the depth").reshape(-1)[0])
    values = node.const(2, "the values")
    indices = node[0]
    if kind_of(indices) == "f":
        indices = node.mb.cast(x=indices, dtype="int32")
    off, on = values.astype(np.float32 if values.dtype.kind == "f" else np.int32)
    indices = wrapped(node, indices, depth)
    return node.mb.one_hot(
        indices=indices, one_hot_vector_size=depth, axis=int(node.attr("axis", -1)), on_value=on, off_value=off
    )


def wrapped(node: Node, indices: Value, size: int) -> Value:
    """Negative indices counted from the end."""
    if isinstance(indices, np.ndarray):
        return np.where(indices < 0, indices + size, indices)
    back = node.mb.add(x=indices, y=np.int32(size))
    return node.mb.select(cond=node.mb.less(x=indices, y=np.int32(0)), a=back, b=indices)


def _numbers(node: Node, x: Value) -> tuple[Value, bool]:
    """Booleans as integers, which MIL gathers; and whether they were."""
    return (as_int(node, x), True) if kind_of(x) == "b" else (x, False)


def _restored(node: Node, result: Value, boolean: bool) -> Value:  # noqa: FBT001
    return as_bool(node, result) if boolean else result


@lowers("Gather")
def _gather(node: Node) -> Value:
    x, boolean = _numbers(node, node[0])
    axis = node.axis(int(node.attr("axis", 0)), node.rank(0))
    indices = wrapped(node, node[1], node.shape(0)[axis])
    if isinstance(indices, np.ndarray) and indices.ndim == 0:
        # One slice, without the axis.
        begin = [0] * node.rank(0)
        end = list(node.shape(0))
        begin[axis], end[axis] = int(indices), int(indices) + 1
        part = node.mb.slice_by_index(x=node.conversion.var(x), begin=begin, end=end)
        return _restored(node, node.mb.squeeze(x=part, axes=[axis]), boolean)
    return _restored(node, node.mb.gather(x=x, indices=indices, axis=axis), boolean)


@lowers("GatherElements")
def _gather_elements(node: Node) -> Value:
    x, boolean = _numbers(node, node[0])
    axis = node.axis(int(node.attr("axis", 0)), node.rank(0))
    indices = wrapped(node, node[1], node.shape(0)[axis])
    shape, wanted = node.shape(0), shape_of(indices)
    if any(i != axis and w < d for i, (w, d) in enumerate(zip(wanted, shape, strict=True))):
        # MIL wants the other axes alike.
        end = [d if i == axis else w for i, (w, d) in enumerate(zip(wanted, shape, strict=True))]
        x = node.mb.slice_by_index(x=node.conversion.var(x), begin=[0] * len(shape), end=end)
    return _restored(node, node.mb.gather_along_axis(x=x, indices=indices, axis=axis), boolean)


def _wrapped_nd(node: Node, indices: Value, shape: Sequence[int]) -> Value:
    sizes = np.array(shape[: shape_of(indices)[-1]], np.int32)
    if isinstance(indices, np.ndarray):
        return np.where(indices < 0, indices + sizes, indices)
    back = node.mb.add(x=indices, y=sizes)
    return node.mb.select(cond=node.mb.less(x=indices, y=np.int32(0)), a=back, b=indices)


@lowers("GatherND")
def _gather_nd(node: Node) -> Value:
    x, boolean = _numbers(node, node[0])
    batch = int(node.attr("batch_dims", 0))
    indices = _wrapped_nd(node, node[1], node.shape(0)[batch:])
    return _restored(node, node.mb.gather_nd(x=x, indices=indices, batch_dims=batch), boolean)


_SCATTER = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}


def _mode(node: Node) -> str:
    mode = _SCATTER.get(node.attr("reduction", "none"))
    node.only(mode, f"reduction {node.attr('reduction')!r}")
    return mode or ""


@lowers("ScatterElements", "Scatter")
def _scatter_elements(node: Node) -> Value:
    axis = node.axis(int(node.attr("axis", 0)), node.rank(0))
    indices = wrapped(node, node[1], node.shape(0)[axis])
    return node.mb.scatter_along_axis(
        data=node.var(0), indices=indices, updates=node.var(2), axis=axis, mode=_mode(node)
    )


@lowers("ScatterND")
def _scatter_nd(node: Node) -> Value:
    indices = _wrapped_nd(node, node[1], node.shape(0))
    return node.mb.scatter_nd(data=node.var(0), indices=indices, updates=node.var(2), mode=_mode(node))
