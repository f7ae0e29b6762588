"""Reductions."""

from __future__ import annotations

from .graph import Tensor
from .layout import permuted, plain
from .site import Refused, Site, lowers

_CODES = {
    "ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN",
    "ReduceProd": "REDUCE_PROD", "ReduceL1": "SUM", "ReduceL2": "SUM", "ReduceSumSquare": "SUM",
    "ReduceLogSum": "SUM", "ReduceLogSumExp": "SUM",
}  # fmt: skip


@lowers(*_CODES, note="constant axes")
def _reduce(site: Site) -> None:
    e, rank = site.emit, site.rank()
    axes = site.ints("axes", 1)
    if not axes:
        axes = () if site.attr("noop_with_empty_axes", 0) else tuple(range(rank))
    axes = tuple(a % rank for a in axes)
    floats = ("MEAN", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp")
    if site.dtype().kind != "f" and (_CODES[site.op] in floats or site.op in floats):
        raise Refused(f"TFLite has it for floats, not for {site.dtype()}")
    perm = site.perm()
    x = site.get(0, perm)
    keep = bool(site.attr("keepdims", 1))
    at = [perm.index(a) for a in axes]
    y = _reduced(site, x, at, keep=keep) if axes else _before(site, x)
    if not axes and site.op in ("ReduceL2", "ReduceLogSum", "ReduceLogSumExp"):
        y = e.unary({"ReduceL2": "SQRT"}.get(site.op, "LOG"), y)
    if keep or not axes:
        layout = perm
    else:
        kept = [a for a in perm if a not in axes]
        layout = tuple(sorted(kept).index(a) for a in kept)
    out = site.out().shape
    if not out:
        site.give(e.reshape(y, ()), plain(0))
        return
    site.give(e.reshape(y, permuted(out, layout)), layout)


def _before(site: Site, x: Tensor) -> Tensor:
    e = site.emit
    if site.op == "ReduceL1":
        return e.unary("ABS", x)
    if site.op in ("ReduceL2", "ReduceSumSquare"):
        return e.mul(x, x)
    if site.op == "ReduceLogSumExp":
        return e.unary("EXP", x)
    return x


def _reduced(site: Site, x: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    e = site.emit
    if site.op == "ReduceLogSumExp":
        # log Σ eˣ = m + log Σ e^(x − m): no overflow.
        largest = e.reduce("REDUCE_MAX", x, axes)
        total = e.reduce("SUM", e.unary("EXP", e.sub(x, largest)), axes)
        y = e.add(e.unary("LOG", total), largest)
        return y if keep else e.reshape(y, tuple(d for i, d in enumerate(y.shape) if i not in axes))
    y = e.reduce(_CODES[site.op], _before(site, x), axes, keep=keep)
    if site.op == "ReduceL2":
        return e.unary("SQRT", y)
    return e.unary("LOG", y) if site.op == "ReduceLogSum" else y
