"""Convolutions: in channels-last order, one spatial dimension as two, explicit padding by PAD where SAME is not it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemodel_api.quantities import counted

from .emit import Emitter
from .graph import Array, Shape, Tensor
from .layout import channels_last, permuted
from .site import Refused, Site, lowers

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Window:
    """A kernel over the spatial axes.

    Attributes:
        kernel: size.
        strides: steps.
        dilations: distance of its elements.
        pads: before and after each axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads

    @property
    def extent(self) -> tuple[int, ...]:
        """Size with the gaps of the dilation."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def is_same(self, spatial: Shape) -> bool:
        """Whether the padding is what TFLite calls SAME for an input of this size."""
        for size, extent, stride, pads in zip(spatial, self.extent, self.strides, self.pads, strict=True):
            total = max(0, (math.ceil(int(size) / stride) - 1) * stride + extent - int(size))
            if pads != (total // 2, total - total // 2):
                return False
        return True

    def as_2d(self) -> Window:
        """With a first spatial axis of size 1, where there is only one."""
        if len(self.kernel) != 1:
            return self
        return Window((1, *self.kernel), (1, *self.strides), (1, *self.dilations), ((0, 0), *self.pads))


def window(site: Site, kernel: tuple[int, ...], spatial: Shape) -> Window:
    """From the attributes of a Conv or a pooling.

    Args:
        site: the node.
        kernel: size.
        spatial: the input's.
    """
    rank = len(kernel)
    strides = tuple(site.attr("strides") or (1,) * rank)
    dilations = tuple(site.attr("dilations") or (1,) * rank)
    auto = str(site.attr("auto_pad", "NOTSET"))
    given = site.attr("pads") or (0,) * (2 * rank)
    pads: Pads = tuple((int(given[i]), int(given[i + rank])) for i in range(rank))
    if auto == "VALID":
        pads = ((0, 0),) * rank
    elif auto.startswith("SAME"):
        made = []
        for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
            total = max(0, (math.ceil(int(size) / s) - 1) * s + (k - 1) * d + 1 - int(size))
            small, large = total // 2, total - total // 2
            made.append((small, large) if auto == "SAME_UPPER" else (large, small))
        pads = tuple(made)
    if any(p < 0 for pair in pads for p in pair):
        raise Refused(f"negative pads {list(given)}")
    return Window(tuple(int(k) for k in kernel), strides, dilations, pads)


def spatial_input(site: Site) -> Tensor:
    """Input 0 as (N, H, W, C); a single spatial axis gets a neighbour of size 1."""
    rank = site.rank()
    if rank not in (3, 4):
        raise Refused(f"{rank - 2} spatial dimensions; TFLite has 1 and 2 of them")
    x = site.get(0, channels_last(rank))
    return site.emit.reshape(x, (x.shape[0], 1, *x.shape[1:])) if rank == 3 else x


def give_spatial(site: Site, y: Tensor) -> None:
    """The result, (N, H, W, C)."""
    shape, perm = site.out().shape, channels_last(site.rank())
    if len(perm) == 3:
        y = site.emit.reshape(y, permuted(shape, perm))
    site.give(y, perm)


def padded(e: Emitter, x: Tensor, w: Window, value: float | None = None) -> tuple[Tensor, str]:
    """The input, and the padding that the operator must be told."""
    if w.is_same(x.shape[1:3]):
        return x, "SAME"
    return e.pad(x, ((0, 0), *w.pads, (0, 0)), value), "VALID"


def _after(x: Tensor, w: Window, padding: str, channels: int) -> Shape:
    sizes = []
    for size, extent, stride in zip(x.shape[1:3], w.extent, w.strides, strict=True):
        sizes.append(math.ceil(int(size) / stride) if padding == "SAME" else (int(size) - extent) // stride + 1)
    return (x.shape[0], *sizes, channels)


@lowers("Conv", note="1 and 2 spatial dimensions; any padding, strides, dilations, groups")
def _conv(site: Site) -> None:
    from .schema import enum

    e = site.emit
    weight = site.const(1)
    if weight is None:
        raise Refused("its weight is computed while the model runs")
    _check_float(site)
    rank = weight.ndim
    w = window(site, tuple(weight.shape[2:]), site.shape()[2:]).as_2d()
    x = spatial_input(site)
    kernel = weight[:, :, None] if rank == 3 else weight
    groups, channels, out = int(site.attr("group", 1)), int(x.shape[-1]), weight.shape[0]
    bias = _bias(site, 2, out)
    x, padding = padded(e, x, w)
    if max(w.strides) > 1 and max(w.dilations) > 1:
        # TFLite refuses both at once: compute at every place, keep every stride-th.
        if padding == "SAME":
            x, padding = e.pad(x, ((0, 0), *w.pads, (0, 0))), "VALID"
        dense = Window(w.kernel, (1, 1), w.dilations, w.pads)
        y = _convolved(e, x, kernel, bias, dense, padding=padding, groups=groups, name=site.name(1))
        cuts = {a + 1: (0, int(y.shape[a + 1]), s) for a, s in enumerate(w.strides) if s > 1}
        give_spatial(site, e.slices(y, cuts))
        return
    if groups == channels and groups > 1:
        shape = _after(x, w, padding, out)
        filters = e.constant(kernel.transpose(1, 2, 3, 0), name=site.name(1))
        y = e.op(
            "DEPTHWISE_CONV_2D", [x, filters, bias], shape,
            padding=enum("Padding", padding), strideH=w.strides[0], strideW=w.strides[1],
            dilationHFactor=w.dilations[0], dilationWFactor=w.dilations[1], depthMultiplier=out // groups,
        )  # fmt: skip
    else:
        y = _convolved(e, x, kernel, bias, w, padding=padding, groups=groups, name=site.name(1))
    give_spatial(site, y)


def _convolved(
    e: Emitter, x: Tensor, kernel: Array, bias: Tensor, w: Window, *, padding: str, groups: int, name: str
) -> Tensor:
    from .schema import enum

    def one(part: Tensor, weights: Array, offset: Tensor, label: str) -> Tensor:
        filters = e.constant(weights.transpose(0, 2, 3, 1), name=label)
        return e.op(
            "CONV_2D", [part, filters, offset], _after(part, w, padding, weights.shape[0]),
            padding=enum("Padding", padding), strideH=w.strides[0], strideW=w.strides[1],
            dilationHFactor=w.dilations[0], dilationWFactor=w.dilations[1],
        )  # fmt: skip

    if groups == 1:
        return one(x, kernel, bias, name)
    # CONV_2D knows groups, but not every kernel does (integers, delegates): one convolution for each group.
    per_in, per_out = int(x.shape[-1]) // groups, kernel.shape[0] // groups
    parts = []
    for g in range(groups):
        part = e.cut(x, 3, g * per_in, (g + 1) * per_in)
        rows = slice(g * per_out, (g + 1) * per_out)
        offset = e.constant(bias.data[rows] if bias.data is not None else np.zeros(per_out, np.float32), label="bias")
        parts.append(one(part, kernel[rows], offset, f"{name}/group{g}"))
    return e.concat(parts, 3)


def _bias(site: Site, i: int, channels: int) -> Tensor:
    if not site.has(i):
        return site.emit.constant(np.zeros(channels, np.float32), label="no_bias")
    values = site.const(i)
    if values is None:
        raise Refused("its bias is computed while the model runs")
    return site.emit.constant(values.reshape(channels), name=site.name(i))


def _check_float(site: Site) -> None:
    if site.dtype().kind != "f":
        raise Refused(f"TFLite has it for floats, not for {site.dtype()}")


@lowers("ConvTranspose", note="1 and 2 spatial dimensions; any padding, strides, dilations, groups, output padding")
def _conv_transpose(site: Site) -> None:
    e = site.emit
    weight = site.const(1)
    if weight is None:
        raise Refused("its weight is computed while the model runs")
    _check_float(site)
    x = spatial_input(site)
    kernel = weight[:, :, None] if weight.ndim == 3 else weight
    spatial = kernel.ndim - 2
    one_d = weight.ndim == 3
    attributes = {}
    for name, default in (("strides", 1), ("dilations", 1), ("output_padding", 0)):
        given = tuple(int(v) for v in site.attr(name) or (default,) * (weight.ndim - 2))
        attributes[name] = (default, *given) if one_d else given
    kernel = _dilated(kernel, attributes["dilations"])
    out_spatial = tuple(int(d) for d in site.out().shape[2:])
    wanted = (1, *out_spatial) if one_d else out_spatial
    starts = _starts(site, x, kernel, attributes, wanted, one_d=one_d)
    # All that the kernel reaches, and more where the output padding says so.
    strides = attributes["strides"]
    reach = [(int(x.shape[1 + a]) - 1) * strides[a] + kernel.shape[2 + a] for a in range(spatial)]
    full = [max(reach[a], starts[a] + wanted[a]) for a in range(spatial)]
    groups = int(site.attr("group", 1))
    per_in, per_out = kernel.shape[0] // groups, kernel.shape[1]
    bias = _bias(site, 2, per_out * groups)
    parts = []
    for g in range(groups):
        part = x if groups == 1 else e.cut(x, 3, g * per_in, (g + 1) * per_in)
        rows = kernel[g * per_in : (g + 1) * per_in]
        parts.append(_transposed(e, part, rows, strides, reach, name=site.name(1)))
    y = e.concat(parts, 3)
    more = [max(0, full[a] - reach[a]) for a in range(spatial)]
    y = e.pad(y, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)))
    cuts = {1 + a: (starts[a], starts[a] + wanted[a], 1) for a in range(spatial) if starts[a] or full[a] != wanted[a]}
    if cuts:
        y = e.slices(y, cuts)
    if site.has(2):
        y = e.add(y, bias)
    give_spatial(site, y)


def _dilated(kernel: Array, dilations: tuple[int, ...]) -> Array:
    if max(dilations) == 1:
        return kernel
    sizes = [(k - 1) * d + 1 for k, d in zip(kernel.shape[2:], dilations, strict=True)]
    spread = np.zeros((*kernel.shape[:2], *sizes), dtype=kernel.dtype)
    spread[:, :, :: dilations[0], :: dilations[1]] = kernel
    return spread


def _starts(
    site: Site,
    x: Tensor,
    kernel: Array,
    attributes: dict[str, tuple[int, ...]],
    wanted: tuple[int, ...],
    *,
    one_d: bool,
) -> list[int]:
    """How much of the full result is cut off in front, as the operator's definition has it."""
    auto = str(site.attr("auto_pad", "NOTSET"))
    given = site.attr("pads")
    rank = len(wanted)
    if auto in ("NOTSET", "VALID") and not site.attr("output_shape"):
        begins = [int(p) for p in (given or ())[: rank - one_d]] or [0] * (rank - one_d)
        return [0] * one_d + (begins if auto == "NOTSET" else [0] * (rank - one_d))
    starts = []
    for a in range(rank):
        reach = (int(x.shape[1 + a]) - 1) * attributes["strides"][a] + kernel.shape[2 + a]
        total = max(0, reach + attributes["output_padding"][a] - wanted[a])
        starts.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
    return starts


def _transposed(
    e: Emitter, x: Tensor, kernel: Array, strides: tuple[int, ...], reach: list[int], *, name: str
) -> Tensor:
    from .schema import enum

    shape = (x.shape[0], *reach, kernel.shape[1])
    filters = e.constant(kernel.transpose(1, 2, 3, 0), name=name)
    return e.op(
        "TRANSPOSE_CONV", [e.shape_vector(shape), filters, x], shape, x.dtype,
        padding=enum("Padding", "VALID"), strideH=strides[0], strideW=strides[1],
    )  # fmt: skip


@lowers("MaxPool", "AveragePool", note="1 and 2 spatial dimensions; no dilations, no indices output")
def _pool(site: Site) -> None:
    from .schema import enum

    e = site.emit
    _check_float(site)
    if site.wants(1):
        raise Refused("its second output (indices)")
    kernel = tuple(int(k) for k in site.attr("kernel_shape") or ())
    w = window(site, kernel, site.shape()[2:]).as_2d()
    if max(w.dilations) > 1:
        raise Refused(f"dilations {list(w.dilations)}")
    x = spatial_input(site)
    channels = int(x.shape[-1])
    out = tuple(int(d) for d in site.out().shape[2:])
    w = _with_ceil(w, x.shape[1:3], (1, *out) if len(out) == 1 else out)
    options: dict[str, Any] = {
        "strideH": w.strides[0],
        "strideW": w.strides[1],
        "filterHeight": w.kernel[0],
        "filterWidth": w.kernel[1],
    }
    if site.op == "MaxPool":
        x, padding = padded(e, x, w, float(np.finfo(np.float32).min))
        shape = _after(x, w, padding, channels)
        give_spatial(site, e.op("MAX_POOL_2D", [x], shape, padding=enum("Padding", padding), **options))
        return
    factor = _average_factor(site, x.shape[1:3], w)
    # TFLite's SAME leaves the padding out of the mean, as ONNX does unless told otherwise.
    plain_same = w.is_same(x.shape[1:3]) and (not site.attr("count_include_pad", 0) or not any(map(any, w.pads)))
    if plain_same:
        padding = "SAME"
    else:
        x, padding = e.pad(x, ((0, 0), *w.pads, (0, 0))), "VALID"
    y = e.op("AVERAGE_POOL_2D", [x], _after(x, w, padding, channels), padding=enum("Padding", padding), **options)
    if not plain_same and not np.all(factor == 1):
        y = e.mul(y, e.constant(factor[None, :, :, None].astype(np.float32), label="counts"))
    give_spatial(site, y)


def _with_ceil(w: Window, spatial: Shape, out: tuple[int, ...]) -> Window:
    """With as much padding behind as the output's size needs (`ceil_mode`), or less where a stride does not reach it."""
    pads = []
    for size, extent, stride, (before, after), count in zip(spatial, w.extent, w.strides, w.pads, out, strict=True):
        needed = (count - 1) * stride + extent - int(size) - before
        pads.append((before, max(needed, 0) if needed > after else after))
    return Window(w.kernel, w.strides, w.dilations, tuple(pads))


def _average_factor(site: Site, spatial: Shape, w: Window) -> Array:
    """Kernel size over the number of elements that ONNX divides by, for each place of the output."""
    include = bool(site.attr("count_include_pad", 0))
    rank = len(w.kernel)
    given = site.attr("pads") or (0,) * (2 * rank)
    axes = []
    for a in range(rank):
        size, (before, after) = int(spatial[a]), w.pads[a]
        inside = np.zeros(before + size + after)
        inside[before : before + size] = 1
        if include:
            # What ceil_mode adds beyond the given padding is not counted.
            offset = len(given) // 2 - rank
            behind = int(given[len(given) // 2 + a + offset]) if a + offset >= 0 else 0
            if str(site.attr("auto_pad", "NOTSET")) not in ("NOTSET", "VALID"):
                behind = after
            inside[: before + size + min(behind, after)] = 1
        starts = range(0, len(inside) - w.kernel[a] + 1, w.strides[a])
        axes.append(np.array([inside[s : s + w.kernel[a]].sum() for s in starts]))
    counts = axes[0][:, None] * axes[1][None, :] if rank == 2 else axes[0]
    factor: Array = math.prod(w.kernel) / np.maximum(counts, 1)
    return factor


@lowers("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(site: Site) -> None:
    _check_float(site)
    perm = channels_last(site.rank())
    held = perm if site.perm() == perm else site.perm()
    axes = [held.index(a) for a in range(2, site.rank())]
    code = "MEAN" if site.op == "GlobalAveragePool" else "REDUCE_MAX"
    site.give(site.emit.reduce(code, site.get(0, held), axes), held)


@lowers("LRN", note="on 4 dimensions, odd size")
def _lrn(site: Site) -> None:
    size = int(site.attr("size", 1))
    if site.rank() != 4 or size % 2 == 0:
        raise Refused(f"{counted(site.rank(), 'dimension')}, size {size}")
    perm = channels_last(4)
    x = site.get(0, perm)
    y = site.emit.unary(
        "LOCAL_RESPONSE_NORMALIZATION", x, radius=size // 2, bias=float(site.attr("bias", 1.0)),
        alpha=float(site.attr("alpha", 1e-4)) / size, beta=float(site.attr("beta", 0.75)),
    )  # fmt: skip
    site.give(y, perm)
