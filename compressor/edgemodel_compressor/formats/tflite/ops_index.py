"""Operators with indices: looking up, choosing the largest, accumulating, masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from .emit import INDEX
from .graph import Array, Free, is_free
from .layout import permuted, plain
from .site import NeedsFixedBatchError, Refused, Site, lowers


@lowers("Gather", note="negative indices where they are constants")
def _gather(site: Site) -> None:
    e, axis = site.emit, site.axis(0)
    constant = site.const(1)
    size = site.shape()[axis]
    if constant is None:
        if site.dtype(1).name not in ("int32", "int64"):
            raise Refused(f"indices of {site.dtype(1)}")
        site.give(e.gather(site.get(0), site.get(1), axis))
        return
    if isinstance(size, Free):
        raise NeedsFixedBatchError("it takes rows of the batch")
    order = np.where(constant < 0, constant + int(size), constant).astype(INDEX)
    # A vector or a number leaves the other axes as they are, in whatever layout.
    perm = site.perm() if constant.ndim < 2 else plain(site.rank())
    x = site.get(0, perm)
    at = perm.index(axis)
    y = e.gather(x, e.constant(order, label="indices"), at)
    if constant.ndim == 0:
        kept = [a for a in perm if a != axis]
        site.give(y, tuple(a - (a > axis) for a in kept))
    else:
        site.give(y, perm if constant.ndim == 1 else None)


@lowers("GatherND", note="batch_dims 0; negative indices where they are constants")
def _gather_nd(site: Site) -> None:
    if site.attr("batch_dims", 0):
        raise Refused(f"batch_dims {site.attr('batch_dims')}")
    constant = site.const(1)
    indices = site.get(1)
    if constant is not None:
        sizes = np.asarray([int(d) for d in site.shape()[: constant.shape[-1]]])
        indices = site.emit.constant(np.where(constant < 0, constant + sizes, constant).astype(INDEX), label="indices")
    site.give(site.emit.op("GATHER_ND", [site.get(0), indices], site.out().shape))


@lowers("GatherElements", note="constant indices")
def _gather_elements(site: Site) -> None:
    indices = site.need_const(1, "indices")
    if is_free(site.shape()):
        raise NeedsFixedBatchError("its indices are those of one sample")
    axis = site.axis(0)
    places: list[Array] = list(np.indices(indices.shape))
    places[axis] = np.where(indices < 0, indices + int(site.shape()[axis]), indices)
    where = site.emit.constant(np.stack(places, axis=-1).astype(INDEX), label="indices")
    site.give(site.emit.op("GATHER_ND", [site.get(0), where], site.out().shape))


@lowers("ScatterND", note="constant indices, each once; no reduction")
def _scatter_nd(site: Site) -> None:
    e = site.emit
    indices = site.need_const(1, "indices")
    if str(site.attr("reduction", "none")) != "none":
        raise Refused(f"reduction {site.attr('reduction')}")
    if is_free(site.shape()):
        raise NeedsFixedBatchError("its indices are those of one sample")
    shape = tuple(int(d) for d in site.shape())
    sizes = np.asarray(shape[: indices.shape[-1]])
    where = np.where(indices < 0, indices + sizes, indices).astype(INDEX)
    flat = where.reshape(-1, where.shape[-1])
    if len(np.unique(flat, axis=0)) < len(flat):
        raise Refused("an index is there twice")
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(flat.T)] = True
    spread = e.op(
        "SCATTER_ND", [e.constant(where, label="indices"), site.get(2), e.indices(shape)], shape, site.dtype()
    )
    site.give(e.select(e.constant(mask, label="mask"), spread, site.get(0)))


@lowers("ArgMax", "ArgMin", note="the first of equal ones")
def _arg(site: Site) -> None:
    e, axis = site.emit, site.axis(0)
    if site.attr("select_last_index", 0):
        raise Refused("select_last_index")
    if site.dtype().name not in ("float32", "int32", "int8", "uint8"):
        raise Refused(f"TFLite has it for float32 and int32, not for {site.dtype()}")
    perm = site.perm()
    x, out = site.get(0, perm), site.out().shape
    at = perm.index(axis)
    shape = tuple(d for i, d in enumerate(x.shape) if i != at)
    code = "ARG_MAX" if site.op == "ArgMax" else "ARG_MIN"
    from .schema import enum

    y = e.op(
        code, [x, e.constant(np.asarray([at], dtype=INDEX))], shape, np.int64, outputType=enum("TensorType", "INT64")
    )
    kept = tuple(a - (a > axis) for a in perm if a != axis)
    if site.attr("keepdims", 1):
        y = e.reshape(y, permuted(out, perm))
        kept = perm
    site.give(y, kept)


@lowers("TopK", note="constant K; sorted")
def _top_k(site: Site) -> None:
    e, axis, rank = site.emit, site.axis(-1), site.rank()
    k = int(site.attr("k") or site.need_const(1, "K").reshape(-1)[0])
    if site.dtype().name not in ("float32", "int32", "int64"):
        raise Refused(f"TFLite has it for float32, int32 and int64, not for {site.dtype()}")
    perm = (*(a for a in range(rank) if a != axis), axis)
    x = site.get(0, perm)
    smallest = not site.attr("largest", 1)
    if smallest:
        x = e.unary("NEG", x)
    shape = (*x.shape[:-1], k)
    values, indices = e.many("TOPK_V2", [x, e.constant(np.asarray(k, dtype=INDEX))], [shape, shape], x.dtype)
    indices.dtype = np.dtype(INDEX)
    site.give(e.unary("NEG", values) if smallest else values, perm)
    site.give(indices, perm, i=1)


@lowers("CumSum", note="constant axis")
def _cumsum(site: Site) -> None:
    axis = int(site.need_const(1, "axis").reshape(-1)[0]) % site.rank()
    perm = site.perm()
    at = site.emit.constant(np.asarray(perm.index(axis), dtype=INDEX))
    options: dict[str, Any] = {"exclusive": bool(site.attr("exclusive", 0)), "reverse": bool(site.attr("reverse", 0))}
    x = site.get(0, perm)
    site.give(site.emit.op("CUMSUM", [x, at], x.shape, **options), perm)


@lowers("Trilu", note="constant k")
def _trilu(site: Site) -> None:
    e = site.emit
    k = int(site.need_const(1, "k").reshape(-1)[0]) if site.has(1) else 0
    rows, columns = (int(d) for d in site.shape()[-2:])
    ones: Array = np.ones((rows, columns), dtype=bool)
    mask = np.triu(ones, k) if site.attr("upper", 1) else np.tril(ones, k)
    x = site.get(0)
    site.give(e.select(e.constant(mask, label="mask"), x, e.scalar(0, x)))


@lowers("OneHot", note="constant depth and values")
def _one_hot(site: Site) -> None:
    e = site.emit
    depth = int(site.need_const(1, "depth").reshape(-1)[0])
    off, on = site.need_const(2, "values").reshape(-1)
    constant = site.const(0)
    kind = site.dtype(0)
    if constant is not None:
        indices = e.constant(np.where(constant < 0, constant + depth, constant).astype(INDEX), label="indices")
    else:
        raw = site.get(0) if kind.name in ("int32", "int64") else e.cast(site.get(0), INDEX)
        indices = e.select(e.binary("LESS", raw, e.scalar(0, raw), np.bool_), e.add(raw, depth), raw)
    out = site.out().shape
    axis = site.axis(-1, len(out))
    values = [e.constant(np.asarray(depth, dtype=INDEX))] + [
        e.constant(np.asarray(v, dtype=site.dtype(2))) for v in (on, off)
    ]
    site.give(e.op("ONE_HOT", [indices, *values], out, site.dtype(2), axis=-1 if axis == len(out) - 1 else axis))


@lowers("ReverseSequence")
def _reverse(site: Site) -> None:
    time, batch = int(site.attr("time_axis", 0)), int(site.attr("batch_axis", 1))
    x = site.get(0)
    site.give(site.emit.op("REVERSE_SEQUENCE", [x, site.get(1)], x.shape, seqDim=time, batchDim=batch))
