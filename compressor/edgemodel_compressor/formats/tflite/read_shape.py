"""Shapes: reshaping, moving axes, joining and cutting, padding and repeating."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from .graph import Array, Free, Shape, is_free
from .layout import Perm, permuted
from .read_build import FixedBatchError, RefusedError
from .read_site import MAX_KNOWN, ReadSite, joint_perm, known_of, reads

#: Of an axis whose places are listed one by one.
MAX_PLACES = 2**20


def _total(shape: Sequence[int]) -> int:
    return math.prod(int(d) for d in shape)


def reshaped(shape: Shape, target: Sequence[int], declared: Collection[int] | None = None) -> Shape:
    """The shape that a reshape gives, with its batch where it is.

    Args:
        shape: before.
        target: numbers; −1: what is left.
        declared: axes that the file calls free; None: the file has a fixed batch, so that what is left is no batch.
            Where several axes could be the batch, these decide.
    """
    dims = [int(d) for d in target]
    hints = {a for a, d in enumerate(target) if isinstance(d, Free) or (d == -1 and declared is not None)}
    hints = hints or set(declared or ())
    if dims.count(-1) > 1 or any(d < -1 for d in dims):
        raise RefusedError(f"a reshape to {dims}")
    if -1 in dims:
        rest = math.prod(d for d in dims if d != -1)
        if rest == 0 or _total(shape) % rest:
            raise RefusedError(f"a reshape of {[int(d) for d in shape]} to {dims}")
        dims[dims.index(-1)] = _total(shape) // rest
    if math.prod(dims) != _total(shape):
        raise RefusedError(f"a reshape of {[int(d) for d in shape]} to {dims}")
    free = [a for a, d in enumerate(shape) if isinstance(d, Free)]
    if not free:
        return tuple(dims)
    if len(free) > 1:
        raise FixedBatchError("two dimensions grow with the batch")
    # What lies before the batch must be before it still.
    before = _total(shape[: free[0]])
    possible = [a for a in range(len(dims)) if math.prod(dims[:a]) == before]
    if not possible:
        raise FixedBatchError("it mixes the batch with other dimensions")
    axis = next((a for a in possible if a in hints), possible[0])
    dims[axis] = Free(dims[axis])
    return tuple(dims)


@reads("RESHAPE")
def _reshape(site: ReadSite) -> None:
    value = site.value(0)
    if site.has(1) and known_of(site.value(1)) is not None:
        target = site.ints(1)
    elif site.option("newShape") is not None and len(site.option("newShape")):
        target = [int(d) for d in site.option("newShape")]
    else:
        target = [int(d) for d in site.outputs[0].shape]
    if value.known is not None and not value.constant:
        site.give_known(value.known.reshape([int(d) for d in target]))
        return
    _give_reshaped(site, reshaped(value.shape, target, None if site.lenient else site.outputs[0].declared))


def _give_reshaped(site: ReadSite, shape: Shape) -> None:
    value, target = site.value(0), site.outputs[0]
    q = value.quantization
    if value.data is not None and (q is None or not q.per_channel):
        target.shape, target.data = shape, value.data.reshape([int(d) for d in shape])
        target.quantization, target.stored_dtype = q, value.stored_dtype
        return
    site.give(site.build.reshape(site.get(), shape), shape)


@reads("SQUEEZE", "EXPAND_DIMS")
def _squeeze(site: ReadSite) -> None:
    shape = list(site.shape())
    if site.code == "EXPAND_DIMS":
        number = site.fixed_ints(1, "its axis")[0]
        shape.insert(site.axis(number, len(shape) + 1), 1)
    else:
        given = site.option("squeezeDims")
        axes = [site.axis(int(a)) for a in given] if given is not None and len(given) else None
        if axes is None:
            axes = [a for a, d in enumerate(shape) if int(d) == 1 and not isinstance(d, Free)]
        site.closed(axes)
        if any(int(shape[a]) != 1 for a in axes):
            raise RefusedError(f"axes {axes} of {[int(d) for d in shape]} are not 1")
        shape = [d for a, d in enumerate(shape) if a not in axes]
    value = site.value(0)
    if value.known is not None and not value.constant:
        site.give_known(value.known.reshape([int(d) for d in shape]))
        return
    _give_reshaped(site, tuple(shape))


@reads("TRANSPOSE")
def _transpose(site: ReadSite) -> None:
    value, target = site.value(0), site.outputs[0]
    order = tuple(site.axis(a) for a in site.fixed_ints(1, "its permutation"))
    if sorted(order) != list(range(value.rank)):
        raise RefusedError(f"permutation {list(order)} of {value.rank} dimensions")
    target.shape = permuted(value.shape, order)
    if value.data is not None:
        q = value.quantization
        if q is not None and q.per_channel:
            q = type(q)(q.scale, q.zero, order.index(q.axis))
        target.data, target.quantization, target.stored_dtype = value.data.transpose(order), q, value.stored_dtype
        return
    # Only the names of the axes change.
    moved: Perm = tuple(order.index(a) for a in value.perm)
    site.give(site.get(0, value.perm), target.shape, moved)


@reads("SHAPE", "RANK")
def _shape(site: ReadSite) -> None:
    site.give_known(site.rank() if site.code == "RANK" else list(site.shape()))


@reads("CONCATENATION")
def _concat(site: ReadSite) -> None:
    count = len(site.inputs)
    if int(site.option("fusedActivationFunction", 0)):
        raise RefusedError("a fused activation, which kernels refuse or ignore")
    axis = site.axis(int(site.option("axis", 0)))
    values = [site.value(i) for i in range(count)]
    known = [known_of(v) for v in values]
    if any(not v.constant for v in values) and all(k is not None and k.ndim == 1 for k in known):
        site.give_known(np.concatenate([k for k in known if k is not None]))
        return
    shape = list(values[0].shape)
    for v in values[1:]:
        others = [(a, b) for i, (a, b) in enumerate(zip(shape, v.shape, strict=False)) if i != axis]
        if v.rank != len(shape) or any(int(a) != int(b) for a, b in others):
            raise RefusedError(f"shapes {[[int(d) for d in v.shape] for v in values][:8]}")
        if any(isinstance(a, Free) != isinstance(b, Free) for a, b in others):
            raise FixedBatchError("one operand has no batch")
    for i in range(count):
        site.closed([axis], i)
    shape[axis] = sum(int(v.shape[axis]) for v in values)
    perm = joint_perm(site, range(count), len(shape))
    names = [site.get(i, perm) for i in range(count)]
    site.give(site.emit("Concat", names, axis=perm.index(axis)), shape, perm)


@reads("PACK")
def _pack(site: ReadSite) -> None:
    count = len(site.inputs)
    rank = site.rank() + 1
    axis = site.axis(int(site.option("axis", 0)), rank)
    known = [known_of(site.value(i)) for i in range(count)]
    if any(not site.value(i).constant for i in range(count)) and all(k is not None and k.ndim == 0 for k in known):
        site.give_known(np.array([k.item() for k in known if k is not None], dtype=object))
        return
    frees = {tuple(isinstance(d, Free) for d in site.shape(i)) for i in range(count)}
    if len({tuple(map(int, site.shape(i))) for i in range(count)}) > 1:
        raise RefusedError("its operands differ in shape")
    if len(frees) > 1:
        raise FixedBatchError("one operand has no batch")
    wide = (*site.shape()[:axis], 1, *site.shape()[axis:])
    names = [site.build.op("Unsqueeze", [site.get(i), site.build.ints([axis])]) for i in range(count)]
    shape = (*wide[:axis], count, *wide[axis + 1 :])
    site.give(site.emit("Concat", names, axis=axis) if count > 1 else names[0], shape)


@reads("UNPACK")
def _unpack(site: ReadSite) -> None:
    axis, count = site.axis(int(site.option("axis", 0))), len(site.outputs)
    site.closed([axis])
    known = site.value(0).known
    if known is not None and not site.value(0).constant and known.ndim == 1:
        for i, number in enumerate(known[:count]):
            site.give_known(number, i=i)
        return
    if int(site.shape()[axis]) != count:
        raise RefusedError(f"{count} parts of {int(site.shape()[axis])}")
    parts = [site.get()] if count == 1 else site.build.node("Split", [site.get()], _label(site), count=count, axis=axis)
    shape = tuple(d for a, d in enumerate(site.shape()) if a != axis)
    for i, part in enumerate(parts):
        site.give(site.emit("Squeeze", [part, site.build.ints([axis])]), shape, i=i)


def _label(site: ReadSite) -> str:
    return f"{site.build.origin}/part"


@reads("SPLIT", "SPLIT_V")
def _split(site: ReadSite) -> None:
    place, count = (1 if site.code == "SPLIT" else 0), len(site.outputs)
    value = site.value(place)
    axis = site.axis(site.fixed_ints(0 if place else 2, "its axis")[0], value.rank)
    site.closed([axis], place)
    whole = int(value.shape[axis])
    if place:
        if count == 0 or whole % count:
            raise RefusedError(f"{whole} in {count} equal parts")
        sizes = [whole // count] * count
    else:
        sizes = site.fixed_ints(1, "the sizes of its parts")
        if sizes.count(-1) == 1:
            sizes[sizes.index(-1)] = whole - sum(s for s in sizes if s != -1)
    if len(sizes) != count or sum(sizes) != whole or min(sizes) < 0:
        raise RefusedError(f"{whole} in parts of {sizes[:8]}")
    perm = value.perm
    x = site.get(place, perm)
    names = [x]
    if count > 1:
        parts = [x, site.build.ints(sizes)]
        names = site.build.node("Split", parts, _label(site), count=count, axis=perm.index(axis))
    for i, (name, size) in enumerate(zip(names, sizes, strict=True)):
        site.give(name, (*value.shape[:axis], size, *value.shape[axis + 1 :]), perm, i=i)


@reads("PAD", "PADV2", "MIRROR_PAD")
def _pad(site: ReadSite) -> None:
    value = site.value(0)
    numbers = site.known(1, "its padding")
    if numbers.shape != (value.rank, 2):
        raise RefusedError(f"padding of shape {list(numbers.shape)} for {value.rank} dimensions")
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
        if _total(scalar.shape) != 1:
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
            raise RefusedError(f"padding {[before, after]} of {size} places")
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
        raise RefusedError(f"counts {[int(c) for c in counts]} for {value.rank} dimensions")
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
    if _total(site.shape(1)) != 1:
        raise RefusedError("its value is no scalar")
    value = known_of(site.value(1))
    if value is not None and len(dims) <= 1 and _total(dims) <= MAX_KNOWN and not is_free(dims):
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
        raise RefusedError(f"blocks of {n} in {site.rank()} dimensions")
    batch, *rest = site.shape()
    if is_free(rest):
        raise FixedBatchError("it works along the batch")
    height, width, channels = (int(d) for d in rest)
    first: Perm = (0, 3, 1, 2)
    if site.code == "DEPTH_TO_SPACE":
        if channels % (n * n):
            raise RefusedError(f"{channels} channels in blocks of {n}")
        name = site.emit("DepthToSpace", [site.get(0, first)], blocksize=n, mode="DCR")
        site.give(name, (batch, height * n, width * n, channels // (n * n)), first)
        return
    if height % n or width % n:
        raise RefusedError(f"{height} x {width} in blocks of {n}")
    name = site.emit("SpaceToDepth", [site.get(0, first)], blocksize=n)
    site.give(name, (batch, height // n, width // n, channels * n * n), first)
