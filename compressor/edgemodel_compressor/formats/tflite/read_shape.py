"""Shapes: reshaping, moving axes, joining and cutting."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from edgemodel_api.quantities import counted

from .graph import Free, Shape
from .layout import Perm, permuted
from .read_build import FixedBatchError, RefusedError
from .read_site import ReadSite, joint_perm, known_of, reads


def total(shape: Sequence[int]) -> int:
    """Number of elements."""
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
        if rest == 0 or total(shape) % rest:
            raise RefusedError(f"a reshape of {[int(d) for d in shape]} to {dims}")
        dims[dims.index(-1)] = total(shape) // rest
    if math.prod(dims) != total(shape):
        raise RefusedError(f"a reshape of {[int(d) for d in shape]} to {dims}")
    free = [a for a, d in enumerate(shape) if isinstance(d, Free)]
    if not free:
        return tuple(dims)
    if len(free) > 1:
        raise FixedBatchError("two dimensions grow with the batch")
    # What lies before the batch must be before it still.
    before = total(shape[: free[0]])
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
        raise RefusedError(f"permutation {list(order)} of {counted(value.rank, 'dimension')}")
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
        raise RefusedError(f"{counted(count, 'part')} of {int(site.shape()[axis])}")
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
