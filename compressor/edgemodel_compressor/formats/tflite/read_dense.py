"""Matrix products, embeddings, softmax and normalisations."""

from __future__ import annotations

import math

import numpy as np

from edgemodel_api.quantities import counted

from .graph import Free, Shape, product
from .layout import Perm, plain
from .read_build import FixedBatchError, RefusedError, Value
from .read_conv import bias
from .read_site import ReadSite, broadcast_shape, reads
from .schema import enum


@reads("FULLY_CONNECTED", note="fused activations")
def _fully_connected(site: ReadSite) -> None:
    if int(site.option("weightsFormat", 0)) != enum("FullyConnectedOptionsWeightsFormat", "DEFAULT"):
        raise RefusedError("its weights are stored shuffled")
    weight, shape = site.value(1), site.shape()
    if weight.rank != 2:
        raise RefusedError(f"its weight has shape {[int(d) for d in weight.shape]}")
    out, inner = (int(d) for d in weight.shape)
    if inner == 0 or math.prod(map(int, shape)) % inner:
        raise RefusedError(f"an input of {[int(d) for d in shape]} for {inner} columns")
    keep = bool(site.option("keepNumDims", False)) and bool(shape) and int(shape[-1]) == inner
    if keep and isinstance(shape[-1], Free):
        raise FixedBatchError("it works along the batch")
    flat: Shape = shape if keep else (_divided(product(shape), inner, shape), inner)
    x = site.get()
    if flat != shape or [isinstance(d, Free) for d in flat] != [isinstance(d, Free) for d in shape]:
        x = site.build.reshape(x, flat)
    # (in, out), which is what quantizers and pruners look for.
    matrix = site.get(1, (1, 0))
    offsets = bias(site, 2)
    if len(flat) == 2:
        name = site.emit("Gemm", [x, matrix, *offsets])
    else:
        name = site.emit("MatMul", [x, matrix])
        if offsets:
            name = site.emit("Add", [name, *offsets])
    site.give(site.activated(name), (*flat[:-1], out))


def _divided(size: int, inner: int, shape: Shape) -> int:
    """Rows. A batch that is not outermost does not become rows."""
    count = int(size) // inner
    free = [a for a, d in enumerate(shape) if isinstance(d, Free)]
    if free and math.prod(map(int, shape[: free[0]])) != 1:
        raise FixedBatchError("its rows mix samples")
    return Free(count) if free else count


@reads("BATCH_MATMUL")
def _batch_matmul(site: ReadSite) -> None:
    ranks = site.rank(0), site.rank(1)
    if min(ranks) < 2:
        raise RefusedError("an operand is no matrix")
    shapes, names = [], []
    for i, flip in ((0, bool(site.option("adjX"))), (1, bool(site.option("adjY")))):
        order = list(plain(ranks[i]))
        if flip:
            order[-2:] = order[:-3:-1]
        perm: Perm = tuple(order)
        shapes.append(tuple(site.shape(i)[a] for a in perm))
        names.append(site.get(i, perm))
    left, right = shapes
    if int(left[-1]) != int(right[-2]):
        raise RefusedError(f"shapes {[list(map(int, s)) for s in shapes]}")
    if isinstance(left[-1], Free) or isinstance(right[-2], Free):
        raise FixedBatchError("it works along the batch")
    batch = _leading(site, left[:-2], right[:-2])
    site.give(site.emit("MatMul", names), (*batch, left[-2], right[-1]))


def _leading(site: ReadSite, left: Shape, right: Shape) -> Shape:
    stand_ins: list[Value | None] = [Value("", s, np.dtype(np.float32)) for s in (left, right)]
    return broadcast_shape(ReadSite(site.op, site.build, stand_ins, [], lenient=site.lenient), (0, 1))


@reads("SOFTMAX", "LOG_SOFTMAX")
def _softmax(site: ReadSite) -> None:
    rank, perm = site.rank(), site.perm()
    if rank == 0:
        raise RefusedError("of a scalar")
    site.closed([rank - 1])
    x = site.get(0, perm)
    beta = float(site.option("beta", 1.0)) if site.code == "SOFTMAX" else 1.0
    if beta != 1:
        x = site.emit("Mul", [x, site.const(np.float32(beta))])
    op = "Softmax" if site.code == "SOFTMAX" else "LogSoftmax"
    site.give(site.emit(op, [x], axis=perm.index(rank - 1)), site.shape(), perm)


@reads("L2_NORMALIZATION")
def _l2_normalization(site: ReadSite) -> None:
    rank, perm = site.rank(), site.perm()
    site.closed([rank - 1])
    x = site.get(0, perm)
    norm = site.emit("ReduceL2", [x], axes=[perm.index(rank - 1)], keepdims=1)
    # Kernels divide by 1e-6 at least.
    name = site.emit("Div", [x, site.emit("Max", [norm, site.const(np.float32(1e-6))])])
    site.give(site.activated(name), site.shape(), perm)


@reads("LOCAL_RESPONSE_NORMALIZATION")
def _lrn(site: ReadSite) -> None:
    if site.rank() != 4:
        raise RefusedError(f"of {counted(site.rank(), 'dimension')}")
    size = 2 * int(site.option("radius", 0)) + 1
    if not 1 <= size <= 2**16:
        raise RefusedError(f"radius {site.option('radius')}")
    name = site.emit(
        "LRN", [site.get(0, (0, 3, 1, 2))], size=size, alpha=float(site.option("alpha", 0.0)) * size,
        beta=float(site.option("beta", 0.0)), bias=float(site.option("bias", 0.0)),
    )  # fmt: skip
    site.give(name, site.shape(), (0, 3, 1, 2))
