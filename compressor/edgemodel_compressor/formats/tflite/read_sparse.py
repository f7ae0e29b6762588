"""Weights that are stored sparse, as dense arrays.

A tensor of n dimensions, k of them cut into blocks, is a tree of n + k levels in the order of `traversalOrder`. A dense
level has all its places; a sparse one has those that `arrayIndices` names, between `arraySegments[p]` and the next for
each place p of the level above (compressed sparse rows). The leaves are the stored numbers, in order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgemodel_api.errors import InputError

from .graph import Array
from .schema import classes

#: Dense numbers for each stored one: pruned to more than that, a layer is not there.
MAX_EXPANSION, EXPANSION_FLOOR = 256, 2**16
_MAX_LEVELS = 16


def dense(table: Any, stored: Array, shape: tuple[int, ...], where: str) -> Array:
    """The dense array.

    Args:
        table: the schema's SparsityParameters.
        stored: the numbers that are there, flat.
        shape: of the tensor.
        where: for messages.

    Raises:
        InputError: the tables contradict each other, or claim far more than is there.
    """
    count = math.prod(shape)
    if count > MAX_EXPANSION * stored.size + EXPANSION_FLOOR:
        raise InputError(
            f"{where} stores {stored.size} of {count} numbers, fewer than one of {MAX_EXPANSION}: store it dense"
        )
    order = [int(v) for v in table.TraversalOrderAsNumpy()] if table.TraversalOrderLength() else []
    blocks = [int(v) for v in table.BlockMapAsNumpy()] if table.BlockMapLength() else []
    levels = len(order)
    rank = len(shape)
    sound = (
        0 < levels <= _MAX_LEVELS
        and sorted(order) == list(range(rank + len(blocks)))
        and table.DimMetadataLength() == levels
        and all(0 <= b < rank for b in blocks)
    )
    if not sound:
        raise _contradiction(where)
    leaves: Array = np.zeros(1, np.int64)
    places: dict[int, Array] = {}
    sizes: dict[int, int] = {}
    for level, axis in enumerate(order):
        metadata = table.DimMetadata(level)
        parents, leaves, found = _level(metadata, leaves, count, where)
        places = {a: p[parents] for a, p in places.items()} | {axis: found}
        sizes[axis] = int(metadata.DenseSize())
    whole = [places[axis] for axis in range(rank)]
    for number, axis in enumerate(blocks):
        whole[axis] = whole[axis] * max(1, sizes[rank + number]) + places[rank + number]
    if (leaves >= stored.size).any() or any((w >= d).any() or (w < 0).any() for w, d in zip(whole, shape, strict=True)):
        raise _contradiction(where)
    result: Array = np.zeros(shape, stored.dtype)
    result[tuple(whole)] = stored[leaves]
    return result


def _level(metadata: Any, above: Array, count: int, where: str) -> tuple[Array, Array, Array]:
    """For each place of a level: its parent, its number, and its coordinate."""
    if int(metadata.Format()) == classes().DimensionType.DENSE:
        size = int(metadata.DenseSize())
        if size < 1 or len(above) * size > count:
            raise _contradiction(where)
        coordinates = np.tile(np.arange(size, dtype=np.int64), len(above))
        parents = np.repeat(np.arange(len(above)), size)
        return parents, above[parents] * size + coordinates, coordinates
    segments = _numbers(metadata.ArraySegments(), int(metadata.ArraySegmentsType()), where)
    indices = _numbers(metadata.ArrayIndices(), int(metadata.ArrayIndicesType()), where)
    if (above + 1 >= len(segments)).any():
        raise _contradiction(where)
    begins, ends = segments[above], segments[above + 1]
    each = ends - begins
    if (each < 0).any() or (begins < 0).any() or (ends > len(indices)).any() or int(each.sum()) > count:
        raise _contradiction(where)
    parents = np.repeat(np.arange(len(above)), each)
    first = np.cumsum(each) - each
    leaves = begins[parents] + np.arange(len(parents)) - first[parents]
    return parents, leaves, indices[leaves]


def _numbers(raw: Any, kind: int, where: str) -> Array:
    """A vector of one of three integer types."""
    s = classes()
    known = {
        s.SparseIndexVector.Int32Vector: s.Int32Vector,
        s.SparseIndexVector.Uint16Vector: s.Uint16Vector,
        s.SparseIndexVector.Uint8Vector: s.Uint8Vector,
    }
    if kind not in known or raw is None:
        raise _contradiction(where)
    vector = known[kind]()
    vector.Init(raw.Bytes, raw.Pos)
    found: Array = np.array(vector.ValuesAsNumpy(), dtype=np.int64) if vector.ValuesLength() else np.zeros(0, np.int64)
    return found


def _contradiction(where: str) -> InputError:
    return InputError(f"{where}: the tables of its sparse numbers contradict each other: export the TFLite model again")
