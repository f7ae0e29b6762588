"""Convolutions and pooling: channels-first, with the padding as numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgemodel_api.quantities import counted

from .graph import Free, Shape
from .layout import Perm
from .read_build import RefusedError, Value
from .read_site import ReadSite, reads
from .schema import name_of

FIRST: Perm = (0, 3, 1, 2)
#: (out, H, W, in) as (out, in, H, W); (1, H, W, out) and (out, H, W, in) as (last, first, H, W).
WEIGHTS: Perm = (0, 3, 1, 2)
FLIPPED: Perm = (3, 0, 1, 2)


def spatial(site: ReadSite, i: int = 0) -> tuple[int, int]:
    """Height and width of (N, H, W, C)."""
    shape = site.shape(i)
    if len(shape) != 4 or isinstance(shape[1], Free) or isinstance(shape[2], Free):
        raise RefusedError(f"its input has shape {[int(d) for d in shape]}, not (N, H, W, C)")
    return int(shape[1]), int(shape[2])


def padding(
    site: ReadSite, size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]
) -> tuple[list[int], tuple[int, int]]:
    """ONNX's pads, and the size of the result.

    Args:
        site: the operator.
        size: of the input, like the others height and width.
        kernel: of the window.
        strides: of it.
        dilations: of it.
    """
    if min(*strides, *dilations, *kernel) < 1:
        raise RefusedError(f"kernel {list(kernel)}, strides {list(strides)}, dilations {list(dilations)}")
    same = name_of("Padding", int(site.option("padding", 0))) == "SAME"
    given = site.option("explicitPads")
    before, after, out = [], [], []
    for axis, (n, k, s, d) in enumerate(zip(size, kernel, strides, dilations, strict=True)):
        extent = (k - 1) * d + 1
        if given is not None:
            before.append(given[axis][0])
            after.append(given[axis][1])
            out.append(n + sum(given[axis]) - extent + 1)
            if out[-1] < 1:
                raise RefusedError(f"a window of {extent} in {counted(n, 'place')}")
            continue
        count = -(-n // s) if same else (n - extent) // s + 1
        total = max(0, (count - 1) * s + extent - n) if same else 0
        if count < 1:
            raise RefusedError(f"a window of {extent} in {counted(n, 'place')}")
        before.append(total // 2)
        after.append(total - total // 2)
        out.append(count)
    return [*before, *after], (out[0], out[1])


def pair(site: ReadSite, *names: str) -> tuple[int, int]:
    """Two options."""
    first, second = (int(site.option(n, 1)) for n in names)
    return first, second


def bias(site: ReadSite, i: int) -> list[str]:
    """An optional bias: whole numbers without a scale have that of input times weight."""
    if not site.has(i):
        return []
    value = site.value(i)
    x, weight = site.value(0 if site.code != "TRANSPOSE_CONV" else 2), site.value(1)
    if value.data is not None and value.quantization is None and value.data.dtype.kind == "i":
        if x.quantization is None or weight.quantization is None:
            raise RefusedError("its bias has no scale")
        scale = float(x.quantization.scale[0]) * weight.quantization.scale.astype(np.float64)
        return [site.const((value.data * scale).astype(np.float32))]
    if value.data is not None and value.data.dtype == np.int64:
        return [site.const(value.numbers())]
    return [site.get(i)]


def _weight(site: ReadSite, *, channels_in: int) -> Value:
    weight = site.value(1)
    if weight.rank != 4 or 0 in map(int, weight.shape):
        raise RefusedError(f"its weight has shape {[int(d) for d in weight.shape]}")
    if channels_in < 1:
        raise RefusedError("it has no channels")
    return weight


@reads("CONV_2D", note="groups, dilations, fused activations")
def _conv(site: ReadSite) -> None:
    size, channels = spatial(site), int(site.shape()[3])
    weight = _weight(site, channels_in=channels)
    out, height, width, per_group = (int(d) for d in weight.shape)
    if channels % per_group or out % (channels // per_group):
        raise RefusedError(f"{counted(channels, 'channel')} in, {out} out, {per_group} a group")
    _convolved(site, size, (height, width), groups=channels // per_group, out=out)


@reads("DEPTHWISE_CONV_2D", note="multipliers, dilations, fused activations")
def _depthwise(site: ReadSite) -> None:
    size, channels = spatial(site), int(site.shape()[3])
    weight = _weight(site, channels_in=channels)
    one, height, width, out = (int(d) for d in weight.shape)
    if one != 1 or out % channels:
        raise RefusedError(f"a weight of shape {[one, height, width, out]} for {counted(channels, 'channel')}")
    _convolved(site, size, (height, width), groups=channels, out=out)


def _convolved(site: ReadSite, size: tuple[int, int], kernel: tuple[int, int], *, groups: int, out: int) -> None:
    perm = FLIPPED if site.code == "DEPTHWISE_CONV_2D" else WEIGHTS
    strides = pair(site, "strideH", "strideW")
    dilations = pair(site, "dilationHFactor", "dilationWFactor")
    pads, sizes = padding(site, size, kernel, strides, dilations)
    name = site.emit(
        "Conv", [site.get(0, FIRST), site.get(1, perm), *bias(site, 2)], kernel_shape=list(kernel), strides=list(strides),
        dilations=list(dilations), pads=pads, group=groups,
    )  # fmt: skip
    site.give(site.activated(name), (site.shape()[0], *sizes, out), FIRST)


@reads("TRANSPOSE_CONV")
def _transpose_conv(site: ReadSite) -> None:
    size, channels = spatial(site, 2), int(site.shape(2)[3])
    weight = _weight(site, channels_in=channels)
    out, *kernel, given = (int(d) for d in weight.shape)
    shape = site.ints(0, "its output's shape")
    if given != channels or len(shape) != 4:
        raise RefusedError(f"a weight for {counted(given, 'channel')}, where {channels} are there")
    wanted = (int(shape[1]), int(shape[2]))
    strides = pair(site, "strideH", "strideW")
    # What the operator that it reverses would pad.
    pads, _ = padding(site, wanted, (kernel[0], kernel[1]), strides, (1, 1))
    begin, end, more = [], [], []
    for a in range(2):
        rest = (size[a] - 1) * strides[a] + kernel[a] - pads[a] - wanted[a]
        begin.append(pads[a])
        end.append(max(rest, 0))
        more.append(max(-rest, 0))
        if more[a] >= strides[a] or end[a] >= kernel[a] + strides[a]:
            raise RefusedError(f"its output is {wanted[a]} long, which its input of {size[a]} does not give")
    name = site.emit(
        "ConvTranspose", [site.get(2, FIRST), site.get(1, FLIPPED), *bias(site, 3)], kernel_shape=kernel,
        strides=list(strides), pads=[*begin, *end], output_padding=more if any(more) else None,
    )  # fmt: skip
    site.give(site.activated(name), (site.shape(2)[0], *wanted, out), FIRST)


@reads("MAX_POOL_2D", "AVERAGE_POOL_2D", "L2_POOL_2D")
def _pool(site: ReadSite) -> None:
    size = spatial(site)
    kernel, strides = pair(site, "filterHeight", "filterWidth"), pair(site, "strideH", "strideW")
    pads, sizes = padding(site, size, kernel, strides, (1, 1))
    shape: Shape = (site.shape()[0], *sizes, site.shape()[3])
    x = site.get(0, FIRST)
    if site.code == "L2_POOL_2D":
        x = site.emit("Mul", [x, x])
    whole = kernel == size and not any(pads)
    name = _pooled(site, x, kernel, strides, None if whole else pads)
    if site.code == "L2_POOL_2D":
        name = site.emit("Sqrt", [name])
    site.give(site.activated(name), shape, FIRST)


def _pooled(site: ReadSite, x: str, kernel: tuple[int, int], strides: tuple[int, int], pads: list[int] | None) -> str:
    """Pads of None: the window is all there is."""
    op = "MaxPool" if site.code == "MAX_POOL_2D" else "AveragePool"
    if pads is None:
        return site.emit(f"Global{op}", [x])
    if max(kernel) > 2**16 or math.prod(kernel) > 2**24:
        raise RefusedError(f"a window of {list(kernel)}")
    attributes: dict[str, Any] = {"kernel_shape": list(kernel), "strides": list(strides), "pads": pads}
    return site.emit(op, [x], **attributes)
