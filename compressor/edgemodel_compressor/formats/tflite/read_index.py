"""Looking up, choosing and counting."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from edgemodel_api.quantities import counted

from .graph import Free, Shape
from .read_build import FixedBatchError, RefusedError, onnx_type
from .read_site import ReadSite, known_of, reads


def _as_int64(site: ReadSite, i: int) -> str:
    name = site.get(i)
    return name if site.value(i).dtype == np.int64 else site.emit("Cast", [name], to=TensorProto.INT64)


def _without(shape: Shape, axis: int) -> Shape:
    return tuple(d for a, d in enumerate(shape) if a != axis)


@reads("GATHER", note="batch dimensions where they lead up to the axis")
def _gather(site: ReadSite) -> None:
    value, places = site.value(0), site.value(1)
    axis, batch = site.axis(int(site.option("axis", 0))), int(site.option("batchDims", 0))
    known, numbers = value.known, known_of(places)
    if known is not None and not value.constant and numbers is not None and known.ndim == 1 and not batch:
        if any(not -len(known) <= int(p) < len(known) for p in numbers.reshape(-1)):
            raise RefusedError("an index is out of bounds")
        taken = [known[int(p)] for p in numbers.reshape(-1)]
        site.give_known(np.array(taken, dtype=object).reshape(numbers.shape))
        return
    if batch:
        if batch < 0 or batch != axis or places.rank < batch:
            raise RefusedError(f"{counted(batch, 'batch dimension')} and axis {axis}")
        if any(
            isinstance(a, Free) != isinstance(b, Free)
            for a, b in zip(value.shape[:batch], places.shape[:batch], strict=False)
        ):
            raise FixedBatchError("one operand has no batch")
        site.closed([axis])
        indices = site.emit("Unsqueeze", [_as_int64(site, 1), site.build.ints([-1])])
        shape = (*places.shape, *value.shape[axis + 1 :])
        site.give(site.emit("GatherND", [site.get(), indices], batch_dims=batch), shape)
        return
    site.closed([axis])
    shape = (*value.shape[:axis], *places.shape, *value.shape[axis + 1 :])
    site.give(_looked_up(site, 0, 1, axis), shape)


@reads("EMBEDDING_LOOKUP")
def _embedding(site: ReadSite) -> None:
    table, places = site.value(1), site.value(0)
    site.give(_looked_up(site, 1, 0, 0), (*places.shape, *table.shape[1:]))


def _looked_up(site: ReadSite, table: int, places: int, axis: int) -> str:
    """Rows of a stored table are made floats after they were taken, not the whole table each time."""
    value, build = site.value(table), site.build
    q, data = value.quantization, value.data
    indices = site.get(places)
    if data is None or q is None or data.dtype.name not in ("int8", "uint8") or (q.per_channel and q.axis != axis):
        return site.emit("Gather", [site.get(table), indices], axis=axis)
    rows = site.emit("Gather", [build.const(data, value.name), indices], axis=axis)
    if not q.per_channel:
        inputs = [rows, build.const(q.scale[0]), build.const(q.zero[0].astype(data.dtype))]
        return site.emit("DequantizeLinear", inputs)
    tail = (1,) * (value.rank - axis - 1)
    parts = [
        site.emit("Gather", [build.const(numbers.reshape(-1, *tail)), indices])
        for numbers in (q.scale.astype(np.float32), q.zero.astype(np.float32))
    ]
    real = site.emit("Cast", [rows], to=TensorProto.FLOAT)
    if q.zero.any():
        real = site.emit("Sub", [real, parts[1]])
    return site.emit("Mul", [real, parts[0]])


@reads("GATHER_ND")
def _gather_nd(site: ReadSite) -> None:
    value, places = site.value(0), site.value(1)
    if places.rank == 0 or isinstance(places.shape[-1], Free):
        raise RefusedError("its indices have no last axis")
    depth = int(places.shape[-1])
    if not 1 <= depth <= value.rank:
        raise RefusedError(f"indices of {depth} in {counted(value.rank, 'dimension')}")
    site.closed(range(depth))
    if any(isinstance(d, Free) for d in value.shape) and any(isinstance(d, Free) for d in places.shape):
        raise FixedBatchError("both operands have the batch")
    site.give(site.emit("GatherND", [site.get(), _as_int64(site, 1)]), (*places.shape[:-1], *value.shape[depth:]))


@reads("SCATTER_ND")
def _scatter_nd(site: ReadSite) -> None:
    shape = site.fixed_ints(2, "its shape")
    if any(isinstance(d, Free) for i in (0, 1) for d in site.shape(i)):
        raise FixedBatchError("it writes by the batch")
    zero = site.const(0, site.value(1).dtype)
    blank = site.emit("Expand", [zero, site.build.ints(shape)])
    # Where an index is there twice, both are added.
    site.give(site.emit("ScatterND", [blank, _as_int64(site, 0), site.get(1)], reduction="add"), shape)


@reads("ONE_HOT")
def _one_hot(site: ReadSite) -> None:
    depth = site.fixed_ints(1, "its depth")[0]
    rank = site.rank() + 1
    axis = int(site.option("axis", -1))
    axis = rank - 1 if axis == -1 else site.axis(axis, rank)
    if not 0 < depth <= 2**20:
        raise RefusedError(f"depth {depth}")
    # Indices that are out of bounds, and negative ones, are nowhere: ONNX's own counts those from the end.
    places = site.emit("Unsqueeze", [_as_int64(site, 0), site.build.ints([axis])])
    numbers = np.arange(depth, dtype=np.int64).reshape([depth if a == axis else 1 for a in range(rank)])
    name = site.emit("Where", [site.emit("Equal", [places, site.const(numbers, np.int64)]), site.get(2), site.get(3)])
    site.give(name, (*site.shape()[:axis], depth, *site.shape()[axis:]))


@reads("ARG_MAX", "ARG_MIN")
def _arg(site: ReadSite) -> None:
    axis = site.axis(site.fixed_ints(1, "its axis")[0])
    site.closed([axis])
    perm = site.perm()
    if site.value(0).dtype.kind == "b":
        raise RefusedError("of truths")
    op = "ArgMax" if site.code == "ARG_MAX" else "ArgMin"
    name = site.emit(op, [site.get(0, perm)], axis=perm.index(axis), keepdims=0)
    target = site.outputs[0].dtype
    if target != np.int64:
        name = site.emit("Cast", [name], to=onnx_type(target))
    left = tuple(a for a in perm if a != axis)
    site.give(name, _without(site.shape(), axis), tuple(a - (a > axis) for a in left))


@reads("TOPK_V2")
def _top_k(site: ReadSite) -> None:
    count, rank = site.fixed_ints(1, "how many")[0], site.rank()
    if rank == 0 or not 0 < count <= int(site.shape()[-1]):
        raise RefusedError(f"the largest {count} of {[int(d) for d in site.shape()]}")
    site.closed([rank - 1])
    values, places = site.build.node(
        "TopK",
        [site.get(), site.build.ints([count])],
        f"{site.build.origin}/top",
        count=2,
        axis=-1,
        largest=1,
        sorted=1,
    )
    shape = (*site.shape()[:-1], count)
    site.give(values, shape)
    if len(site.outputs) > 1:
        target = site.outputs[1].dtype
        site.give(site.emit("Cast", [places], to=onnx_type(target)) if target != np.int64 else places, shape, i=1)


@reads("CUMSUM")
def _cumsum(site: ReadSite) -> None:
    axis = site.axis(site.fixed_ints(1, "its axis")[0])
    site.closed([axis])
    flags = {n: int(bool(site.option(n, False))) for n in ("exclusive", "reverse")}
    site.give(site.emit("CumSum", [site.get(), site.const(axis, np.int64)], **flags), site.shape())


_REDUCE = {
    "MEAN": "ReduceMean", "SUM": "ReduceSum", "REDUCE_MAX": "ReduceMax", "REDUCE_MIN": "ReduceMin",
    "REDUCE_PROD": "ReduceProd", "REDUCE_ANY": "ReduceMax", "REDUCE_ALL": "ReduceMin",
}  # fmt: skip


@reads(*_REDUCE)
def _reduce(site: ReadSite) -> None:
    value = site.value(0)
    axes = sorted({site.axis(a) for a in site.fixed_ints(1, "its axes")})
    known = value.known
    if known is not None and not value.constant and site.code == "REDUCE_PROD" and known.ndim == 1:
        free = [k for k in known if isinstance(k, Free)]
        if len(free) > 1:
            raise FixedBatchError("sizes are computed of the batch")
        product = int(np.prod([int(k) for k in known], dtype=object))
        site.give_known(Free(product) if free else product)
        return
    site.closed(axes)
    perm, keep = value.perm, bool(site.option("keepDims", False))
    x = site.get(0, perm)
    truths = value.dtype.kind == "b"
    if truths:
        x = site.emit("Cast", [x], to=TensorProto.INT32)
    name = _reduced(site, x, [perm.index(a) for a in axes], keep=keep)
    if truths:
        name = site.emit("Cast", [name], to=TensorProto.BOOL)
    shape = tuple(1 if a in axes else d for a, d in enumerate(value.shape) if keep or a not in axes)
    if keep:
        site.give(name, shape, perm)
        return
    left = [a for a in range(value.rank) if a not in axes]
    site.give(name, shape, tuple(left.index(a) for a in perm if a in left))


def _reduced(site: ReadSite, x: str, axes: list[int], *, keep: bool) -> str:
    op = _REDUCE[site.code]
    if not axes:
        return x
    if op == "ReduceSum":
        return site.emit(op, [x, site.build.ints(axes)], keepdims=int(keep))
    if op == "ReduceMean" and axes == [2, 3] and keep and site.rank() == 4:
        return site.emit("GlobalAveragePool", [x])
    return site.emit(op, [x], axes=axes, keepdims=int(keep))


@reads("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def _resize(site: ReadSite) -> None:
    if site.rank() != 4:
        raise RefusedError(f"of {counted(site.rank(), 'dimension')}")
    batch, *spatial, channels = site.shape()
    sizes = site.fixed_ints(1, "its size")
    if len(sizes) != 2 or min(sizes) < 1 or any(isinstance(d, Free) or not d for d in spatial):
        raise RefusedError(f"{[int(d) for d in spatial]} to {sizes}")
    corners, half = bool(site.option("alignCorners", False)), bool(site.option("halfPixelCenters", False))
    mode = "align_corners" if corners else "half_pixel" if half else "asymmetric"
    attributes = {"mode": "linear"}
    if site.code == "RESIZE_NEAREST_NEIGHBOR":
        attributes = {"mode": "nearest", "nearest_mode": "round_prefer_ceil" if corners or half else "floor"}
    x = site.get(0, (0, 3, 1, 2))
    scales = [np.float32(s) / np.float32(int(d)) for s, d in zip(sizes, spatial, strict=True)]
    # Where a rounded scale could lose a place, the size itself is given.
    exact = all(
        math.floor(int(d) * kind(f)) == s
        for d, f, s in zip(spatial, scales, sizes, strict=True)
        for kind in (np.float32, np.float64)
    )
    if exact:
        extent = ["", site.const(np.array([1, 1, *scales]))]
    else:
        head = site.build.vector([batch, channels])
        extent = ["", "", site.emit("Concat", [head, site.build.ints(sizes)], axis=0)]
    name = site.emit("Resize", [x, *extent], coordinate_transformation_mode=mode, **attributes)
    site.give(name, (batch, *sizes, channels), (0, 3, 1, 2))
