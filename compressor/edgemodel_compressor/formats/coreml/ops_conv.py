"""Convolutions and pooling over one to three spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .lower import Node, Unsupported, Value, kind_of, lowers
from .ops_elementwise import as_float


def explicit_pads(
    node: Node, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """`pads` and `auto_pad` as MIL's pairs: before and after each axis."""
    mode = node.attr("auto_pad", "NOTSET")
    rank = len(size)
    pads = [int(p) for p in node.attr("pads", [0] * (2 * rank))]
    if mode in ("NOTSET", ""):
        return [pads[i + j * rank] for i in range(rank) for j in range(2)]
    if mode == "VALID":
        return [0] * (2 * rank)
    result = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        result += [small, large] if mode == "SAME_UPPER" else [large, small]
    return result


def _spatial(node: Node) -> int:
    rank = node.rank(0) - 2
    node.only(1 <= rank <= 3, f"{rank} spatial axes, Core ML has one to three")
    return rank


def cropped(node: Node, x: Value, pads: Sequence[int]) -> tuple[Value, list[int]]:
    """Negative pads cut x; what is left is not negative."""
    if min(pads, default=0) >= 0:
        return x, list(pads)
    shape = x.shape
    cut = [max(-p, 0) for p in pads]
    begin = [0, 0, *cut[::2]]
    end = [*shape[:2], *(n - c for n, c in zip(shape[2:], cut[1::2], strict=True))]
    return node.mb.slice_by_index(x=x, begin=begin, end=[int(e) for e in end]), [max(p, 0) for p in pads]


@lowers("Conv", note="one to three spatial axes; dilated ones with constant weights")
def _conv(node: Node) -> Value:
    rank = _spatial(node)
    weight = node[1]
    strides = node.ints("strides") or [1] * rank
    dilations = node.ints("dilations") or [1] * rank
    node.only(isinstance(weight, np.ndarray) or set(dilations) == {1}, "dilations with weights that are no constants")
    pads = explicit_pads(node, node.shape(0)[2:], node.shape(1)[2:], strides, dilations)
    x, pads = cropped(node, node.var(0), pads)
    bias = node.get(2)
    fixed_bias = bias is None or isinstance(bias, np.ndarray)
    result = node.mb.conv(
        x=x,
        weight=weight,
        bias=bias if fixed_bias else None,
        strides=strides,
        pad_type="custom",
        pad=pads,
        dilations=dilations,
        groups=int(node.attr("group", 1)),
    )
    if fixed_bias:
        return result
    return node.mb.add(x=result, y=node.mb.reshape(x=bias, shape=[1, -1] + [1] * rank))


@lowers("ConvTranspose", note="one to three spatial axes, constant weights")
def _conv_transpose(node: Node) -> Value:
    rank = _spatial(node)
    weight, groups = node.const(1, "the weight"), int(node.attr("group", 1))
    strides = node.ints("strides") or [1] * rank
    dilations = node.ints("dilations") or [1] * rank
    extra = node.ints("output_padding") or [0] * rank
    size, kernel = node.shape(0)[2:], weight.shape[2:]
    full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(size, strides, kernel, dilations, strict=True)]
    # With an output_shape pads are not looked at.
    wanted, _ = node.ints("output_shape"), node.attr("pads")
    mode = node.attr("auto_pad", "NOTSET")
    if wanted is not None or mode.startswith("SAME"):
        out = wanted[-rank:] if wanted is not None else [n * s for n, s in zip(size, strides, strict=True)]
        pads = []
        for f, e, o in zip(full, extra, out, strict=True):
            total = f + e - o
            small = total // 2
            pads += [small, total - small] if mode == "SAME_UPPER" else [total - small, small]
    else:
        pads = explicit_pads(node, size, kernel, strides, dilations)
    # More output at the end is less padding there; what is missing beyond the full result is zero.
    ends = [p - e for p, e in zip(pads[1::2], extra, strict=True)]
    pads[1::2] = [max(p, 0) for p in ends]
    missing = [[max(-b, 0), max(-e, 0)] for b, e in zip(pads[::2], ends, strict=True)]
    pads[::2] = [max(p, 0) for p in pads[::2]]
    grow = any(m for pair in missing for m in pair)
    bias = node.const(2, "the bias") if node.has(2) else None
    result = node.mb.conv_transpose(
        x=node[0],
        weight=weight,
        bias=None if grow else bias,
        strides=strides,
        pad_type="custom",
        pad=pads,
        dilations=dilations,
        groups=groups,
    )
    if grow:
        result = node.mb.pad(x=result, pad=[0, 0, 0, 0, *(m for pair in missing for m in pair)], mode="constant")
        if bias is not None:
            result = node.mb.add(x=result, y=bias.reshape(1, -1, *([1] * rank)))
    return result


def _out_size(n: int, k: int, s: int, before: int, after: int) -> int:
    """With ceil_mode: no window starts in the padding at the end."""
    out = math.ceil((n + before + after - k) / s) + 1
    return out - 1 if (out - 1) * s >= n + before else out


def _window(node: Node) -> tuple[list[int], list[int], list[int], bool]:
    """Kernel, strides, pads and whether ceil_mode made the padding longer."""
    rank = _spatial(node)
    kernel = [int(k) for k in node.attr("kernel_shape")]
    strides = node.ints("strides") or [1] * rank
    dilations = node.ints("dilations") or [1] * rank
    node.only(
        set(dilations) == {1} or all(k == 1 or d == 1 for k, d in zip(kernel, dilations, strict=True)),
        "dilated windows, which Core ML's pooling lacks",
    )
    size = node.shape(0)[2:]
    pads = explicit_pads(node, size, kernel, strides, [1] * rank)
    longer = False
    if node.attr("ceil_mode", 0):
        for i in range(rank):
            before, after = pads[2 * i], pads[2 * i + 1]
            out = _out_size(size[i], kernel[i], strides[i], before, after)
            more = (out - 1) * strides[i] + kernel[i] - (size[i] + before + after)
            if more > 0:
                pads[2 * i + 1] += more
                longer = True
    node.only(
        all(p < k for p, k in zip(pads, [k for k in kernel for _ in range(2)], strict=True)) or not any(pads),
        f"padding {pads} as wide as the window {kernel}",
    )
    return kernel, strides, pads, longer


@lowers("MaxPool", note="without dilations and the output Indices")
def _max_pool(node: Node) -> Value:
    node.only(not node.wants(1), "its output Indices is used, which Core ML's pooling lacks")
    node.only(not node.attr("storage_order", 0), "storage_order 1")
    kernel, strides, pads, _ = _window(node)
    x = as_float(node, node[0])
    result = node.mb.max_pool(x=x, kernel_sizes=kernel, strides=strides, pad_type="custom", pad=pads)
    return result if kind_of(node[0]) == "f" else node.mb.cast(x=result, dtype="int32")


@lowers("AveragePool", note="without dilations; ceil_mode where padding is not counted")
def _average_pool(node: Node) -> Value:
    kernel, strides, pads, longer = _window(node)
    counted = bool(node.attr("count_include_pad", 0))
    if longer and counted and any(node.attr("pads", [])):
        raise Unsupported("ceil_mode with count_include_pad, where Core ML counts differently")
    return node.mb.avg_pool(
        x=node[0],
        kernel_sizes=kernel,
        strides=strides,
        pad_type="custom",
        pad=pads,
        exclude_padding_from_average=not counted or longer,
    )


@lowers("LpPool", note="without dilations")
def _lp_pool(node: Node) -> Value:
    p = float(node.attr("p", 2))
    kernel, strides, pads, _ = _window(node)
    mean = node.mb.avg_pool(
        x=_powers(node, p),
        kernel_sizes=kernel,
        strides=strides,
        pad_type="custom",
        pad=pads,
        exclude_padding_from_average=False,
    )
    return _root(node, node.mb.mul(x=mean, y=np.float32(np.prod(kernel))), p)


def _powers(node: Node, p: float) -> Value:
    """|x|^p."""
    if p == 2:
        return node.mb.mul(x=node[0], y=node[0])
    size = node.mb.abs(x=node[0])
    return size if p == 1 else node.mb.pow(x=size, y=np.float32(p))


def _root(node: Node, total: Value, p: float) -> Value:
    if p == 1:
        return total
    return node.mb.sqrt(x=total) if p == 2 else node.mb.pow(x=total, y=np.float32(1 / p))


@lowers("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(node: Node) -> Value:
    axes = list(range(2, node.rank(0)))
    node.only(axes, "no spatial axes")
    reduce = node.mb.reduce_mean if node.op == "GlobalAveragePool" else node.mb.reduce_max
    return reduce(x=node[0], axes=axes, keep_dims=True)


@lowers("GlobalLpPool")
def _global_lp_pool(node: Node) -> Value:
    p = float(node.attr("p", 2))
    total = node.mb.reduce_sum(x=_powers(node, p), axes=list(range(2, node.rank(0))), keep_dims=True)
    return _root(node, total, p)
