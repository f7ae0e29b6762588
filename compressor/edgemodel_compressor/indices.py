"""Indices in the data that a model looks up where nothing is: a token id beyond the vocabulary, a category that was not there.

The runtime says so too, in its own words, of the first one that it meets. The model itself says more: an input that goes
unchanged into a Gather over a weight may hold −n … n − 1, where n are the rows of that weight. So the data are read once,
before any work. A Cast to a narrower integer type keeps the lowest bits, and the Gather sees what that makes of a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted

from .evaluate.runner import Batches
from .steps.graph import attribute

#: Where numbers stay as they are, one by one; and those that may also leave none of them, by what their second input says.
_UNCHANGED = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
_REPEATING = frozenset({"Expand", "Tile"})
_ROWS = 256
_MAX_RANK = 64


@dataclass(frozen=True)
class Table:
    """A weight that an input's numbers are looked up in.

    Attributes:
        array: the input's name.
        node: that looks them up; empty where it has no name.
        rows: of the weight, along the axis.
        casts: what the numbers become on the way, one after the other, where that may make other numbers of them.
    """

    array: str
    node: str
    rows: int
    casts: tuple[np.dtype[Any], ...] = ()

    def index(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What is looked up for these numbers of the input."""
        for dtype in self.casts:
            values = values.astype(dtype)
        return values


@dataclass(frozen=True)
class _Path:
    """An input's numbers somewhere in the graph: their type there, and `Table.casts` up to there."""

    array: str
    dtype: np.dtype[Any]
    casts: tuple[np.dtype[Any], ...] = ()

    def to(self, dtype: np.dtype[Any]) -> _Path:
        casts = self.casts if np.can_cast(self.dtype, dtype) else (*self.casts, dtype)
        return _Path(self.array, dtype, casts)


def tables(model: Any) -> tuple[Table, ...]:
    """What inputs are looked up in; of tables that the same numbers are looked up in, the smallest.

    Args:
        model: a ModelProto whose structure was checked.
    """
    graph = model.graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    counts = _nowhere_zero(graph)
    paths: dict[str, _Path] = {}
    for given in graph.input:
        dtype = _integer(given.type.tensor_type.elem_type)
        if given.name not in shapes and dtype is not None:
            paths[given.name] = _Path(given.name, dtype)
    found: dict[tuple[str, tuple[np.dtype[Any], ...]], Table] = {}
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or not node.input:
            continue
        if path := paths.get(node.input[0]):
            if node.op_type in _UNCHANGED or (
                node.op_type in _REPEATING and len(node.input) > 1 and node.input[1] in counts
            ):
                paths[node.output[0]] = path
            elif node.op_type == "Cast" and (dtype := _integer(attribute(node, "to", 0))) is not None:
                paths[node.output[0]] = path.to(dtype)
        if node.op_type == "Gather" and len(node.input) == 2 and (path := paths.get(node.input[1])):
            shape, axis = shapes.get(node.input[0]), attribute(node, "axis", 0)
            if shape and -len(shape) <= axis < len(shape):
                key, table = (path.array, path.casts), Table(path.array, node.name, shape[axis], path.casts)
                if key not in found or table.rows < found[key].rows:
                    found[key] = table
    return tuple(found.values())


def _nowhere_zero(graph: Any) -> frozenset[str]:
    """Constants that are shapes or numbers of repeats, none of them zero, whatever is fed."""
    from onnx import numpy_helper

    fed = {i.name for i in graph.input}
    named = [(t.name, t) for t in graph.initializer if t.name not in fed]
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            named += [(node.output[0], a.t) for a in node.attribute if a.name == "value"]
    small = [(name, t) for name, t in named if len(t.dims) == 1 and t.dims[0] <= _MAX_RANK]
    return frozenset(name for name, t in small if _integer(t.data_type) is not None and numpy_helper.to_array(t).all())


def _integer(kind: int) -> np.dtype[Any] | None:
    """The numpy type of ONNX's, of whole bytes; None: it holds no integers, or smaller ones."""
    from onnx import TensorProto

    names = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
    return next((np.dtype(n.lower()) for n in names if getattr(TensorProto, n) == kind), None)


def check_indices(data: Batches, found: Sequence[Table], what: str) -> None:
    """Read the data once.

    Args:
        data: of the model's inputs.
        found: of `tables`.
        what: names the data in messages, such as `data.validation`.

    Raises:
        InputError: a number has no row, with the first sample that has one.
    """
    if not found:
        return
    begin = 0
    for batch in data.batches(_ROWS):
        for table in found:
            values = batch[table.array]
            index = table.index(values)
            if (place := _outside(index, -table.rows, table.rows - 1)) is None:
                continue
            row, at = place
            given, looked_up = (int(a.reshape(len(a), -1)[row, at]) for a in (values, index))
            cast = f", which a Cast makes {looked_up}" if looked_up != given else ""
            node = f"node {table.node!r}" if table.node else "a Gather"
            raise InputError(
                f"{what}: array {table.array!r} has {given} in sample {begin + row}{cast}, and the model looks it up in a"
                f" table of {counted(table.rows, 'row')} ({node}): only 0 … {table.rows - 1} have one (and −1 …"
                f" −{table.rows}, from the end): make the data with the vocabulary that the model was trained with"
            )
        begin += max(len(a) for a in batch.values())


def _outside(values: npt.NDArray[Any], low: int, high: int) -> tuple[int, int] | None:
    """(row, place in it) of the first number that is."""
    flat = values.reshape(len(values), -1)
    wrong = (flat > high) | (flat < low) if values.dtype.kind == "i" else flat > high
    rows = np.flatnonzero(wrong.any(axis=1))
    return (int(rows[0]), int(np.argmax(wrong[rows[0]]))) if len(rows) else None
