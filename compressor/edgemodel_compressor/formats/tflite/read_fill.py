"""Padding, repeating, and tensors that are made of a shape."""

from __future__ import annotations

import math

import numpy as np

from edgemodel_api.quantities import counted

from .graph import Array, Free, is_free
from .layout import Perm
from .read_build import FixedBatchError, RefusedError
from .read_shape import total
from .read_site import MAX_KNOWN, ReadSite, known_of, reads

#: Of an axis whose places are listed one by one.
MAX_PLACES = 2**20


@reads("PAD", "PADV2", "MIRROR_PAD")
def _pad(site: ReadSite) -> None:
    value = site.value(0)
    numbers = site.known(1, "its padding")
    if numbers.shape != (value.rank, 2):
        raise RefusedError(f"padding of shape {list(numbers.shape)} for {counted(value.rank, 'dimension')}")
    pads = [(int(a), int(b)) for a, b in numbers]
    if any(p < 0 for pair in pads for p in pair):
        raise RefusedError("negative padding")
    site.closed([a for a, pair in enumerate(pads) if any(pair)])
    shape = tuple(d if not any(p) else int(d) + sum(p) for d, p in zip(value.shape, pads, strict=True))
    perm = value.perm
    x = site.get(0, perm)
    if site.code == "MIRROR_PAD":
        site.give(_mirrored(site, x, pads, perm), shape, perm)
        return
    moved = [pads[a] for a in perm]
    inputs = [x, site.build.ints([*(b for b, _ in moved), *(a for _, a in moved)])]
    if site.code == "PADV2" and site.has(2):
        scalar = site.value(2)
        if total(scalar.shape) != 1:
            raise RefusedError("its value is no scalar")
        inputs.append(site.get(2) if scalar.rank == 0 else site.build.reshape(site.get(2), ()))
    site.give(site.emit("Pad", inputs, mode="constant"), shape, perm)


def _mirrored(site: ReadSite, x: str, pads: list[tuple[int, int]], perm: Perm) -> str:
    """By indices: ONNX's modes leave the one that repeats the border out."""
    symmetric = int(site.option("mode", 0)) == 1
    for axis, (before, after) in enumerate(pads):
        if not before and not after:
            continue
        size = int(site.shape()[axis])
        most = size if symmetric else size - 1
        if max(before, after) > most:
            raise RefusedError(f"padding {[before, after]} of {counted(size, 'place')}")
        if not symmetric:
            continue
        if before + size + after > MAX_PLACES:
            raise RefusedError(f"{before + size + after} places along axis {axis}")
        places = [*range(before - 1, -1, -1), *range(size), *range(size - 1, size - 1 - after, -1)]
        x = site.emit("Gather", [x, site.build.ints(places)], axis=perm.index(axis))
    if symmetric:
        return x
    moved = [pads[a] for a in perm]
    return site.emit("Pad", [x, site.build.ints([*(b for b, _ in moved), *(a for _, a in moved)])], mode="reflect")


@reads("TILE")
def _tile(site: ReadSite) -> None:
    value, counts = site.value(0), site.ints(1, "its counts")
    if len(counts) != value.rank or any(int(c) < 1 for c in counts):
        raise RefusedError(f"counts {[int(c) for c in counts]} for {counted(value.rank, 'dimension')}")
    site.closed([a for a, c in enumerate(counts) if int(c) != 1 or isinstance(c, Free)])
    shape = []
    for d, c in zip(value.shape, counts, strict=True):
        if isinstance(c, Free) and int(d) != 1:
            raise FixedBatchError("it repeats as often as there are samples")
        shape.append(d if isinstance(d, Free) else Free(int(d) * int(c)) if isinstance(c, Free) else int(d) * int(c))
    if is_free(counts):
        site.give(site.emit("Tile", [site.get(), site.build.vector(counts)]), shape)
        return
    perm = value.perm
    order = site.build.ints([int(counts[a]) for a in perm])
    site.give(site.emit("Tile", [site.get(0, perm), order]), shape, perm)


@reads("BROADCAST_TO")
def _broadcast_to(site: ReadSite) -> None:
    target = site.ints(1, "its shape")
    own = (*(1,) * (len(target) - site.rank()), *site.shape())
    if len(own) != len(target):
        raise RefusedError("it has fewer dimensions than its input")
    shape: list[int] = []
    for d, t in zip(own, target, strict=True):
        if isinstance(d, Free) and not isinstance(t, Free) and not (site.lenient and int(t) == int(d)):
            raise FixedBatchError("it broadcasts the batch")
        if int(d) not in (1, int(t)):
            raise RefusedError(f"{[int(v) for v in own]} to {[int(v) for v in target]}")
        shape.append(d if isinstance(d, Free) else t)
    # 1 keeps what is there.
    vector = site.build.vector([1 if isinstance(d, Free) else s for d, s in zip(own, shape, strict=True)])
    site.give(site.emit("Expand", [site.get(), vector]), shape)


@reads("FILL")
def _fill(site: ReadSite) -> None:
    dims = site.ints(0, "its shape")
    if total(site.shape(1)) != 1:
        raise RefusedError("its value is no scalar")
    value = known_of(site.value(1))
    if value is not None and len(dims) <= 1 and total(dims) <= MAX_KNOWN and not is_free(dims):
        site.give_known(np.full([int(d) for d in dims], value.reshape(-1)[0], dtype=object))
        return
    scalar = site.get(1) if site.rank(1) == 0 else site.build.reshape(site.get(1), ())
    site.give(site.emit("Expand", [scalar, site.build.vector(dims)]), dims)


@reads("RANGE")
def _range(site: ReadSite) -> None:
    if site.value(0).dtype.kind not in "iu":
        start, limit, step = (float(site.value(i).numbers().reshape(-1)[0]) for i in range(3))
        count = 0 if step == 0 else max(0, math.ceil((limit - start) / step))
        if not 0 < count <= MAX_KNOWN:
            raise RefusedError(f"{count} numbers")
        made: Array = (start + step * np.arange(count)).astype(np.float32)
        site.outputs[0].shape, site.outputs[0].data = made.shape, made
        return
    begin, end, by = (site.fixed_ints(i, "a limit")[0] for i in range(3))
    if by == 0 or not 0 <= -(-(end - begin) // by) <= MAX_KNOWN:
        raise RefusedError(f"numbers from {begin} to {end} by {by}")
    site.give_known(list(range(begin, end, by)))


@reads("DEPTH_TO_SPACE", "SPACE_TO_DEPTH")
def _depth(site: ReadSite) -> None:
    n = int(site.option("blockSize", 0))
    if site.rank() != 4 or n < 1:
        raise RefusedError(f"blocks of {n} in {counted(site.rank(), 'dimension')}")
    batch, *rest = site.shape()
    if is_free(rest):
        raise FixedBatchError("it works along the batch")
    height, width, channels = (int(d) for d in rest)
    first: Perm = (0, 3, 1, 2)
    if site.code == "DEPTH_TO_SPACE":
        if channels % (n * n):
            raise RefusedError(f"{counted(channels, 'channel')} in blocks of {n}")
        name = site.emit("DepthToSpace", [site.get(0, first)], blocksize=n, mode="DCR")
        site.give(name, (batch, height * n, width * n, channels // (n * n)), first)
        return
    if height % n or width % n:
        raise RefusedError(f"{height} x {width} in blocks of {n}")
    name = site.emit("SpaceToDepth", [site.get(0, first)], blocksize=n)
    site.give(name, (batch, height // n, width // n, channels * n * n), first)
