"""Matrix products: FULLY_CONNECTED where a weight is constant, BATCH_MATMUL where both sides are computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from .emit import Emitter
from .graph import Array, Shape, Tensor, broadcast
from .layout import channels_last, plain
from .site import Refused, Site, lowers


@lowers("Gemm")
def _gemm(site: Site) -> None:
    e = site.emit
    if site.dtype().kind != "f":
        raise Refused(f"TFLite has it for floats, not for {site.dtype()}")
    alpha, beta = float(site.attr("alpha", 1.0)), float(site.attr("beta", 1.0))
    flip_a, flip_b = bool(site.attr("transA", 0)), bool(site.attr("transB", 0))
    weight, offset = site.const(1), site.const(2)
    out = site.out().shape
    x = None if flip_a else site.get(0)
    if x is None:
        x = site.get(0, (1, 0))
    bias = None
    if weight is not None:
        rows = weight if flip_b else weight.T
        if alpha != 1:
            rows = rows * np.float32(alpha)
        if offset is not None and offset.size in (1, rows.shape[0]) and (offset.ndim < 2 or offset.shape[0] == 1):
            values = np.broadcast_to(offset.reshape(-1), (rows.shape[0],))
            bias = e.constant(values * np.float32(beta) if beta != 1 else values, name=site.name(2))
        flat = None if flip_a else flattened(site)
        if flat is not None:
            x, order = flat
            rows = rows[:, order]
        y = e.dense(x, e.constant(rows, name=site.name(1)), bias)
    else:
        y = _batch_matmul(e, x, site.get(1, (1, 0) if flip_b else (0, 1)))
        y = e.mul(y, alpha) if alpha != 1 else y
    if site.has(2) and bias is None and beta:
        c = site.get(2)
        y = e.add(y, e.mul(c, beta) if beta != 1 else c)
    site.give(e.reshape(y, out))


def flattened(site: Site) -> tuple[Tensor, Array] | None:
    """Input 0 as a flattened channels-last tensor, and the order of its columns, where it is the flattening of one."""
    made = _producer(site)
    if made is None or made.op_type not in ("Flatten", "Reshape"):
        return None
    source = site.scope.values.get(made.input[0])
    out = site.shape()
    if source is None or len(source.shape) != 4 or len(out) != 2 or source.perm != channels_last(4):
        return None
    shape = source.shape
    if type(out[0]) is not type(shape[0]) or int(out[0]) != int(shape[0]):
        return None
    _, channels, height, width = (int(d) for d in shape)
    if height * width == 1 or channels == 1:
        return None
    order = np.arange(channels * height * width).reshape(channels, height, width).transpose(1, 2, 0).reshape(-1)
    return site.emit.reshape(source.held[source.perm], out), order


def _producer(site: Site) -> Any | None:
    return site.scope.producers.get(site.name(0))


@lowers("MatMul", note="floats")
def _matmul(site: Site) -> None:
    e = site.emit
    if site.dtype().kind != "f":
        raise Refused(f"TFLite has it for floats, not for {site.dtype()}")
    left, right = site.const(0), site.const(1)
    out = site.out().shape
    if right is not None and right.ndim <= 2:
        columns = right.reshape(-1, 1) if right.ndim == 1 else right
        flat = flattened(site)
        x, rows = (site.get(0), columns.T) if flat is None else (flat[0], columns.T[:, flat[1]])
        if len(x.shape) == 1:
            x = e.reshape(x, (1, *x.shape))
        site.give(e.reshape(e.dense(x, e.constant(rows, name=site.name(1))), out))
        return
    if left is not None and left.ndim == 2 and site.rank(1) >= 2:
        # W·x = (xᵀ·Wᵀ)ᵀ over the last two axes.
        swapped = (*range(site.rank(1) - 2), site.rank(1) - 1, site.rank(1) - 2)
        y = e.dense(site.get(1, swapped), e.constant(left, name=site.name(0)))
        site.give(y, swapped)
        return
    a, b = site.get(0), _right(site)
    flipped = b is None
    if b is None:
        rank = site.rank(1)
        b = site.get(1, (*range(rank - 2), rank - 1, rank - 2))
    if len(a.shape) == 1:
        a = e.reshape(a, (1, *a.shape))
    if len(b.shape) == 1:
        b = e.reshape(b, (*b.shape, 1))
    site.give(e.reshape(_batch_matmul(e, a, b, flipped=flipped), out))


def _right(site: Site) -> Tensor | None:
    """None where the right side is at hand with its last two axes swapped."""
    rank = site.rank(1)
    if rank >= 2 and site.perm(1) != plain(rank) and site.perm(1) == (*range(rank - 2), rank - 1, rank - 2):
        return None
    return site.get(1)


def _batch_matmul(e: Emitter, a: Tensor, b: Tensor, *, flipped: bool = False) -> Tensor:
    """A · b, or a · bᵀ where `flipped`."""
    rank = max(len(a.shape), len(b.shape))
    if rank > 5:
        raise Refused(f"a matrix product of {rank} dimensions; TFLite's have 5 at most")
    lead = broadcast(a.shape[:-2], b.shape[:-2])
    shape: Shape = (*lead, a.shape[-2], b.shape[-2] if flipped else b.shape[-1])
    return e.op("BATCH_MATMUL", [a, b], shape, adjX=False, adjY=flipped)


@lowers("Einsum", note="two operands, each letter once in an operand; sums over letters that both have, or one")
def _einsum(site: Site) -> None:
    e = site.emit
    equation = str(site.attr("equation", "")).replace(" ", "")
    terms, arrow, output = equation.partition("->")
    operands = terms.split(",")
    if "." in equation or len(operands) != len(site.node.input) or len(operands) > 2:
        raise Refused(f"the equation {equation!r}")
    if any(len(set(t)) != len(t) for t in operands):
        raise Refused(f"the equation {equation!r} takes a diagonal")
    if not arrow:
        letters = sorted(set("".join(operands)))
        output = "".join(c for c in letters if "".join(operands).count(c) == 1)
    tensors = [site.get(i) for i in range(len(operands))]
    sizes = {c: t.shape[k] for term, t in zip(operands, tensors, strict=True) for k, c in enumerate(term)}
    for i, term in enumerate(operands):
        others = output + "".join(t for j, t in enumerate(operands) if j != i)
        alone = [k for k, c in enumerate(term) if c not in others]
        if alone:
            tensors[i] = e.reduce("SUM", tensors[i], alone, keep=False)
            operands[i] = "".join(c for c in term if c in others)
    if len(operands) == 1:
        site.give(e.transpose(tensors[0], [operands[0].index(c) for c in output]))
        return
    a, b = operands
    batch = [c for c in output if c in a and c in b]
    summed = [c for c in a if c in b and c not in output]
    left = [c for c in output if c in a and c not in b]
    right = [c for c in output if c in b and c not in a]
    x = _matrix(e, tensors[0], a, [batch, left, summed], sizes)
    y = _matrix(e, tensors[1], b, [batch, summed, right], sizes)
    product_ = _batch_matmul(e, x, y)
    order = [*batch, *left, *right]
    spread = e.reshape(product_, tuple(sizes[c] for c in order))
    site.give(e.transpose(spread, [order.index(c) for c in output]))


def _matrix(e: Emitter, x: Tensor, term: str, groups: list[list[str]], sizes: dict[str, int]) -> Tensor:
    """Transposed and reshaped to [batch…, rows, columns]."""
    from .graph import product

    order = [c for g in groups for c in g]
    moved = e.transpose(x, [term.index(c) for c in order])
    batch, rows, columns = groups
    return e.reshape(
        moved, (*(sizes[c] for c in batch), product(sizes[c] for c in rows), product(sizes[c] for c in columns))
    )
