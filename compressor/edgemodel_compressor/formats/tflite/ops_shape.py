"""Operators that move numbers: reshapes, transpositions, joins, cuts, padding, repetition."""

from __future__ import annotations

import numpy as np

from .emit import INDEX, Emitter
from .graph import Free, Tensor
from .layout import channels_last, permuted, plain
from .site import NeedsFixedBatchError, Refused, Site, lowers


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(site: Site) -> None:
    shape, out = site.shape(), site.out().shape
    perm = site.perm()
    last = channels_last(len(shape))
    together = len(shape) > 2 and len(out) > 2 and shape[:2] == out[:2] and type(shape[0]) is type(out[0])
    if together and perm == last and perm != plain(len(perm)):
        # Batch and channels stay: the other axes are merged or cut among themselves, wherever the channels are.
        wanted = channels_last(len(out))
        site.give(site.emit.reshape(site.get(0, perm), permuted(out, wanted)), wanted)
        return
    site.give(site.emit.reshape(site.get(0), out))


@lowers("Transpose")
def _transpose(site: Site) -> None:
    rank = site.rank()
    order = tuple(int(a) for a in site.attr("perm") or reversed(range(rank)))
    held = site.perm()
    # Axis k of the tensor is axis held[k] of x, which is axis order.index(held[k]) of the result.
    site.give(site.get(0, held), tuple(order.index(a) for a in held))


@lowers("Concat")
def _concat(site: Site) -> None:
    rank = len(site.out().shape)
    axis = site.axis(1, rank)
    # Empty parts add nothing, and some kernels refuse them.
    inputs = [i for i in range(len(site.node.input)) if site.has(i) and 0 not in map(int, site.shape(i))]
    if not inputs:
        raise Refused("all its inputs are empty")
    sizes = sorted(((int(np.prod(site.shape(i))), -i) for i in inputs if site.const(i) is None), reverse=True)
    perm = site.perm(-sizes[0][1]) if sizes else plain(rank)
    parts = [site.get(i, perm) for i in inputs]
    batch = next((p.shape for p in parts if any(isinstance(d, Free) for d in p.shape)), None)
    if batch is not None:
        # Constants have one row: they are repeated with the batch.
        parts = [_with_batch(site, p, batch, perm.index(axis)) for p in parts]
    site.give(site.emit.concat(parts, perm.index(axis)), perm)


def _with_batch(site: Site, part: Tensor, like: tuple[int, ...], axis: int) -> Tensor:
    wanted = tuple(d if i == axis else like[i] for i, d in enumerate(part.shape))
    return part if part.data is None else site.emit.expand(part, wanted)


@lowers("Split")
def _split(site: Site) -> None:
    axis = site.axis(0)
    perm = site.perm()
    x = site.get(0, perm)
    at = perm.index(axis)
    if isinstance(x.shape[at], Free):
        raise NeedsFixedBatchError("it splits the batch")
    outputs = [i for i in range(len(site.node.output)) if site.wants(i)]
    sizes = [int(site.out(i).shape[axis]) for i in outputs]
    if len(outputs) < len(site.node.output):
        raise Refused("an output without a name")
    shapes = [permuted(site.out(i).shape, perm) for i in outputs]
    e = site.emit
    if len(outputs) == 1:
        made = [x]
    elif x.dtype != np.float32:
        ends = np.cumsum(sizes).tolist()
        made = [e.cut(x, at, end - size, end) for size, end in zip(sizes, ends, strict=True)]
    elif len(set(sizes)) == 1:
        made = e.many("SPLIT", [e.constant(np.asarray(at, dtype=INDEX)), x], shapes, x.dtype, numSplits=len(sizes))
    else:
        inputs = [x, e.indices(sizes), e.constant(np.asarray(at, dtype=INDEX))]
        made = e.many("SPLIT_V", inputs, shapes, x.dtype, numSplits=len(sizes))
    for i, tensor in zip(outputs, made, strict=True):
        site.give(tensor, perm, i)


@lowers("Slice", note="constant starts, ends, axes and steps")
def _slice(site: Site) -> None:
    shape, out = site.shape(), site.out().shape
    starts, ends = site.ints("starts", 1), site.ints("ends", 2)
    if starts is None or ends is None:
        raise Refused("starts or ends are missing")
    axes = site.ints("axes", 3) or tuple(range(len(starts)))
    steps = site.ints("steps", 4) or (1,) * len(starts)
    perm = site.perm()
    x = site.get(0, perm)
    cuts: dict[int, tuple[int, int, int]] = {}
    for start, end, axis, step in zip(starts, ends, (a % len(shape) for a in axes), steps, strict=True):
        cut = slice(start, None if step < 0 and end < -(2**31) else end, step).indices(int(shape[axis]))
        if cut == (0, int(shape[axis]), 1) and type(out[axis]) is type(shape[axis]):
            continue
        if isinstance(shape[axis], Free):
            raise NeedsFixedBatchError("it cuts the batch")
        cuts[perm.index(axis)] = cut
    if 0 in map(int, out):
        raise Refused("its result is empty")
    site.give(site.emit.slices(x, cuts) if cuts else x, perm)


@lowers("Pad", note="constant pads; constant, reflect, edge and wrap")
def _pad(site: Site) -> None:
    shape, rank = site.shape(), site.rank()
    given = site.ints("pads", 1) or site.ints("paddings")
    if given is None:
        raise Refused("pads are missing")
    axes = [a % rank for a in site.ints("axes", 3) or range(rank)]
    pads = [(0, 0)] * rank
    for k, axis in enumerate(axes):
        pads[axis] = (given[k], given[k + len(axes)])
    mode = str(site.attr("mode", "constant"))
    perm = site.perm()
    x, e = site.get(0, perm), site.emit
    for axis, pair in enumerate(pads):
        before, after = pair
        at, size = perm.index(axis), int(shape[axis])
        if not (before or after):
            continue
        if isinstance(shape[axis], Free):
            raise NeedsFixedBatchError("it pads the batch")
        if before < 0 or after < 0:
            x = e.cut(x, at, max(0, -before), size - max(0, -after))
            before, after = max(0, before), max(0, after)
            pads[axis] = (before, after)
            size = int(x.shape[at])
        if mode != "constant" and (before or after):
            x = _extended(e, x, at, (before, after), mode)
    if mode == "constant":
        value = site.attr("value", 0.0)
        if site.has(2):
            value = site.need_const(2, "constant_value").reshape(-1)[0]
        if x.dtype == np.bool_:
            raise Refused("TFLite does not pad bool")
        x = e.pad(x, [pads[a] for a in perm], None if not value else float(value))
    site.give(x, perm)


def _extended(e: Emitter, x: Tensor, axis: int, pads: tuple[int, int], mode: str) -> Tensor:
    """By its own numbers along one axis: mirrored, the rim again and again, or around."""
    size, (before, after) = int(x.shape[axis]), pads
    if mode == "reflect":
        if max(pads) >= size:
            raise Refused(f"it reflects {max(pads)} of {size}; TFLite's MIRROR_PAD reflects less than all")
        widths = [pads if a == axis else (0, 0) for a in range(len(x.shape))]
        shape = tuple(size + before + after if a == axis else d for a, d in enumerate(x.shape))
        return e.op("MIRROR_PAD", [x, e.constant(np.asarray(widths, dtype=INDEX), label="pads")], shape, mode=0)
    if mode not in ("edge", "wrap"):
        raise Refused(f"mode {mode}")
    if mode == "wrap" and max(pads) > size:
        raise Refused(f"it wraps {max(pads)} of {size}")
    parts = [x]
    for width, first in ((before, True), (after, False)):
        if not width:
            continue
        if mode == "wrap":
            part = e.cut(x, axis, size - width, size) if first else e.cut(x, axis, 0, width)
        else:
            rim = e.cut(x, axis, 0, 1) if first else e.cut(x, axis, size - 1, size)
            repeats = [width if a == axis else 1 for a in range(len(x.shape))]
            shape = tuple(width if a == axis else d for a, d in enumerate(x.shape))
            part = e.op("TILE", [rim, e.indices(repeats)], shape)
        parts = [part, *parts] if first else [*parts, part]
    return e.concat(parts, axis)


@lowers("Expand")
def _expand(site: Site) -> None:
    out = site.out().shape
    x = site.get(0)
    if tuple(map(int, x.shape)) == tuple(map(int, out)) and [type(d) for d in x.shape] == [type(d) for d in out]:
        site.give(x)
        return
    site.give(site.emit.expand(site.emit.reshape(x, (1,) * (len(out) - len(x.shape)) + x.shape), out))


@lowers("Tile", note="constant repeats")
def _tile(site: Site) -> None:
    repeats = [int(r) for r in site.need_const(1, "repeats").reshape(-1)]
    perm = site.perm()
    x = site.get(0, perm)
    if any(isinstance(d, Free) and repeats[a] != 1 for a, d in enumerate(site.shape())):
        raise NeedsFixedBatchError("it repeats the batch")
    shape = permuted(site.out().shape, perm)
    site.give(site.emit.op("TILE", [x, site.emit.indices([repeats[a] for a in perm])], shape), perm)


@lowers("DepthToSpace", "SpaceToDepth", note="4 dimensions; both modes")
def _depth(site: Site) -> None:
    e, block = site.emit, int(site.attr("blocksize"))
    perm = channels_last(4)
    x = site.get(0, perm)
    if site.op == "DepthToSpace" and site.attr("mode", "DCR") == "CRD":
        channels = int(x.shape[-1]) // block**2
        order = np.arange(int(x.shape[-1])).reshape(channels, block * block).T.reshape(-1)
        x = e.gather(x, e.indices(order), 3)
    code = "DEPTH_TO_SPACE" if site.op == "DepthToSpace" else "SPACE_TO_DEPTH"
    y = e.op(code, [x], permuted(site.out().shape, perm), blockSize=block)
    if site.op == "SpaceToDepth" and site.attr("mode", "DCR") == "CRD":
        channels = int(y.shape[-1]) // block**2
        order = np.arange(int(y.shape[-1])).reshape(block * block, channels).T.reshape(-1)
        y = e.gather(y, e.indices(order), 3)
    site.give(y, perm)
