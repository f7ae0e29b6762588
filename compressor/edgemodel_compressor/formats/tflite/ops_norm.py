"""Normalisations and softmax, from reductions and element-wise operators where TFLite has no operator for them."""

from __future__ import annotations

import numpy as np

from .emit import Emitter
from .graph import Array, Tensor, product
from .layout import Perm, plain
from .site import Refused, Site, lowers


@lowers("Softmax", "LogSoftmax")
def _softmax(site: Site) -> None:
    e, rank = site.emit, site.rank()
    code, options = ("SOFTMAX", {"beta": 1.0}) if site.op == "Softmax" else ("LOG_SOFTMAX", {})
    axis = site.axis(1 if site.opset < 13 else -1)
    if site.opset < 13 and axis != rank - 1:
        # Before opset 13 all axes from this one on are one.
        x = site.get(0)
        flat = e.reshape(x, (product(x.shape[:axis]), product(x.shape[axis:])))
        site.give(e.reshape(e.unary(code, flat, **options), x.shape))
        return
    held = site.perm()
    perm: Perm = held if held[-1] == axis else (*(a for a in range(rank) if a != axis), axis)
    site.give(e.unary(code, site.get(0, perm), **options), perm)


@lowers("BatchNormalization", note="inference")
def _batch_norm(site: Site) -> None:
    if site.attr("training_mode", 0) or any(site.wants(i) for i in range(1, len(site.node.output))):
        raise Refused("training mode")
    e, rank = site.emit, site.rank()
    scale, shift, mean, variance = (site.need_const(i, "a parameter").astype(np.float64) for i in range(1, 5))
    factor = scale / np.sqrt(variance + float(site.attr("epsilon", 1e-5)))
    perm = site.perm()
    x = site.get(0, perm)
    y = e.mul(x, _along(e, factor, 1, perm, rank))
    site.give(e.add(y, _along(e, shift - mean * factor, 1, perm, rank)), perm)


def _along(e: Emitter, values: Array, axis: int, perm: Perm, rank: int) -> Tensor:
    """A vector along one axis of the ONNX tensor, for a tensor in a layout."""
    shape = [1] * rank
    shape[perm.index(axis)] = values.size
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return e.constant(values.astype(np.float32).reshape(shape), label="parameter")


def _normalized(e: Emitter, x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    """(x − mean) / √(variance + ε)."""
    centred = e.sub(x, e.reduce("MEAN", x, axes))
    variance = e.reduce("MEAN", e.mul(centred, centred), axes)
    return e.mul(centred, e.unary("RSQRT", e.add(variance, epsilon)))


@lowers("InstanceNormalization")
def _instance_norm(site: Site) -> None:
    e, rank = site.emit, site.rank()
    e.exact = True
    perm = site.perm()
    axes = [perm.index(a) for a in range(2, rank)]
    y = _normalized(e, site.get(0, perm), axes, float(site.attr("epsilon", 1e-5)))
    for i, code in ((1, "MUL"), (2, "ADD")):
        y = e.binary(code, y, _along(e, site.need_const(i, "a parameter").reshape(-1), 1, perm, rank))
    site.give(y, perm)


@lowers("LayerNormalization", "RMSNormalization", note="no outputs but the first")
def _layer_norm(site: Site) -> None:
    if site.wants(1) or site.wants(2):
        raise Refused("outputs besides the first")
    e, rank = site.emit, site.rank()
    e.exact = True
    axis = site.axis(-1)
    epsilon = float(site.attr("epsilon", 1e-5))
    perm = site.perm()
    x = site.get(0, perm)
    axes = [perm.index(a) for a in range(axis, rank)]
    if site.op == "LayerNormalization":
        y = _normalized(e, x, axes, epsilon)
    else:
        y = e.mul(x, e.unary("RSQRT", e.add(e.reduce("MEAN", e.mul(x, x), axes), epsilon)))
    for i, code in ((1, "MUL"), (2, "ADD")):
        if site.has(i):
            values = site.need_const(i, "a parameter")
            full = values.reshape((1,) * (rank - values.ndim) + values.shape).transpose(perm)
            y = e.binary(code, y, e.constant(full, name=site.name(i)))
    site.give(y, perm)


@lowers("GroupNormalization")
def _group_norm(site: Site) -> None:
    e, rank, shape = site.emit, site.rank(), site.shape()
    e.exact = True
    groups = int(site.attr("num_groups"))
    channels = int(shape[1])
    scale, shift = (site.need_const(i, "a parameter").reshape(-1) for i in (1, 2))
    if scale.size == groups and groups != channels:
        # Opset 18 has one for a group.
        scale, shift = (np.repeat(v, channels // groups) for v in (scale, shift))
    grouped = e.reshape(site.get(0), (shape[0], groups, product(shape[1:]) // groups))
    y = e.reshape(_normalized(e, grouped, [2], float(site.attr("epsilon", 1e-5))), shape)
    y = e.mul(y, _along(e, scale, 1, plain(rank), rank))
    site.give(e.add(y, _along(e, shift, 1, plain(rank), rank)))


@lowers("LpNormalization", note="p = 1 and 2")
def _lp_norm(site: Site) -> None:
    e = site.emit
    e.exact = True
    p = int(site.attr("p", 2))
    perm = site.perm()
    x = site.get(0, perm)
    axis = [perm.index(site.axis(-1))]
    if p == 1:
        norm = e.reduce("SUM", e.unary("ABS", x), axis)
    elif p == 2:
        norm = e.unary("SQRT", e.reduce("SUM", e.mul(x, x), axis))
    else:
        raise Refused(f"p = {p}")
    # 0 / 0 is 0 here.
    site.give(e.div(x, e.at_least(norm, float(np.finfo(np.float32).tiny))), perm)


@lowers("MeanVarianceNormalization")
def _mean_variance(site: Site) -> None:
    e = site.emit
    e.exact = True
    perm = site.perm()
    axes = [perm.index(int(a)) for a in site.attr("axes") or (0, 2, 3)]
    x = site.get(0, perm)
    centred = e.sub(x, e.reduce("MEAN", x, axes))
    deviation = e.unary("SQRT", e.reduce("MEAN", e.mul(centred, centred), axes))
    site.give(e.div(centred, e.add(deviation, 1e-9)), perm)
