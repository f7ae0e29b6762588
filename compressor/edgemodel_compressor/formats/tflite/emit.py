"""Writing TFLite operators one by one, with their outputs' shapes: the vocabulary that the lowering is written in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import Array, Free, Graph, Op, Shape, Tensor, broadcast, is_free, product
from .layout import only_units_move

FLOAT = np.dtype(np.float32)
INDEX = np.dtype(np.int32)
BOOL = np.dtype(np.bool_)
_BROADCAST_RANK = 4
_TRANSPOSE_RANK = 4


class Emitter:
    """Appends to a graph.

    Attributes:
        graph: that grows.
        node: name of the ONNX node that operators are made for.
        exact: whether the operators must stay float.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.node = ""
        self.exact = False
        self._batch: Tensor | None = None

    def op(
        self,
        code: str,
        inputs: Sequence[Tensor | None],
        shape: Shape,
        dtype: npt.DTypeLike | None = None,
        **options: Any,
    ) -> Tensor:
        """An operator with one output, of the first input's type unless another is given."""
        return self.many(code, inputs, [shape], dtype, **options)[0]

    def many(
        self,
        code: str,
        inputs: Sequence[Tensor | None],
        shapes: Sequence[Shape],
        dtype: npt.DTypeLike | None = None,
        **options: Any,
    ) -> list[Tensor]:
        """An operator with several outputs of one type."""
        kind = np.dtype(dtype) if dtype is not None else next(t.dtype for t in inputs if t is not None)
        outputs = [Tensor(f"{self.node}/{code.lower()}", tuple(s), kind) for s in shapes]
        self.graph.ops.append(Op(code, list(inputs), outputs, options, self.node, self.exact))
        return outputs

    def constant(
        self, values: Any, dtype: npt.DTypeLike | None = None, *, name: str | None = None, label: str = "constant"
    ) -> Tensor:
        """Numbers that are stored in the file: an initializer by its name, or something of this node's."""
        data = np.asarray(values, dtype=dtype)
        return Tensor(name or f"{self.node}/{label}", tuple(int(d) for d in data.shape), data.dtype, data)

    def scalar(self, value: float, like: Tensor) -> Tensor:
        """A constant of another tensor's type that broadcasts to any shape."""
        return self.constant(np.asarray([value], dtype=like.dtype))

    def indices(self, values: Sequence[int] | Array) -> Tensor:
        """An int32 vector."""
        return self.constant(np.asarray([int(v) for v in values], dtype=INDEX), label="indices")

    def unary(self, code: str, x: Tensor, **options: Any) -> Tensor:
        """Of the same shape and type."""
        return self.op(code, [x], x.shape, **options)

    def binary(self, code: str, a: Tensor, b: Tensor, dtype: npt.DTypeLike | None = None) -> Tensor:
        """With broadcasting."""
        return self.broadcasting(code, [a, b], a.dtype if dtype is None else dtype)

    def broadcasting(self, code: str, operands: Sequence[Tensor], dtype: npt.DTypeLike) -> Tensor:
        """Kernels broadcast 4 dimensions: of more, neighbours that are broadcast alike become one."""
        shape = broadcast(*(t.shape for t in operands))
        if len(shape) <= _BROADCAST_RANK:
            return self.op(code, operands, shape, dtype)
        groups = _alike_axes([t.shape for t in operands], len(shape))
        merged = [self.reshape(t, _merged(t.shape, groups, len(shape))) for t in operands]
        return self.reshape(self.op(code, merged, broadcast(*(t.shape for t in merged)), dtype), shape)

    def add(self, a: Tensor, b: Tensor | float) -> Tensor:
        """A + b."""
        return self.binary("ADD", a, b if isinstance(b, Tensor) else self.scalar(b, a))

    def sub(self, a: Tensor, b: Tensor | float) -> Tensor:
        """A − b."""
        return self.binary("SUB", a, b if isinstance(b, Tensor) else self.scalar(b, a))

    def mul(self, a: Tensor, b: Tensor | float) -> Tensor:
        """A · b."""
        return self.binary("MUL", a, b if isinstance(b, Tensor) else self.scalar(b, a))

    def div(self, a: Tensor, b: Tensor | float) -> Tensor:
        """A / b."""
        return self.binary("DIV", a, b if isinstance(b, Tensor) else self.scalar(b, a))

    def at_most(self, a: Tensor, b: Tensor | float) -> Tensor:
        """min(a, b)."""
        return self.binary("MINIMUM", a, b if isinstance(b, Tensor) else self.scalar(b, a))

    def at_least(self, a: Tensor, b: Tensor | float) -> Tensor:
        """max(a, b)."""
        return self.binary("MAXIMUM", a, b if isinstance(b, Tensor) else self.scalar(b, a))

    def select(self, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """A where the condition holds, else b."""
        return self.broadcasting("SELECT_V2", [condition, a, b], a.dtype)

    def cast(self, x: Tensor, dtype: npt.DTypeLike) -> Tensor:
        """To another type; nothing where it has it."""
        to = np.dtype(dtype)
        return x if x.dtype == to else self.op("CAST", [x], x.shape, to)

    def reshape(self, x: Tensor, shape: Shape) -> Tensor:
        """To `shape`, of which one dimension may be free; nothing where it has it."""
        if tuple(map(int, x.shape)) == tuple(map(int, shape)) and [isinstance(d, Free) for d in x.shape] == [
            isinstance(d, Free) for d in shape
        ]:
            return x
        if x.data is not None and not is_free(shape):
            return self.constant(x.data.reshape(shape), label="reshaped")
        if sum(isinstance(d, Free) for d in shape) > 1:
            return self.op("RESHAPE", [x, self.shape_vector(shape)], shape)
        target = [-1 if isinstance(d, Free) else int(d) for d in shape]
        return self.op("RESHAPE", [x, self.indices(target)], shape, newShape=target)

    def transpose(self, x: Tensor, perm: Sequence[int]) -> Tensor:
        """Axis j of the result is axis `perm[j]`; a reshape where only dimensions of 1 move."""
        order = tuple(perm)
        shape = tuple(x.shape[a] for a in order)
        if order == tuple(range(len(order))):
            return x
        if x.data is not None:
            return self.constant(np.transpose(x.data, order), label="transposed")
        if only_units_move(x.shape, order):
            return self.reshape(x, shape)
        if len(order) > _TRANSPOSE_RANK:
            # Axes that stay neighbours are one.
            groups = _runs(order)
            if len(groups) < len(order):
                small = self.reshape(x, tuple(product(x.shape[a] for a in g) for g in sorted(groups)))
                places = [sorted(groups).index(g) for g in groups]
                return self.reshape(self.transpose(small, places), shape)
        return self.op("TRANSPOSE", [x, self.indices(order)], shape)

    def reduce(self, code: str, x: Tensor, axes: Sequence[int], *, keep: bool = True) -> Tensor:
        """MEAN, SUM, REDUCE_MAX and their like."""
        gone = {a % len(x.shape) for a in axes}
        kept = tuple(1 if i in gone else d for i, d in enumerate(x.shape) if keep or i not in gone)
        return self.op(code, [x, self.indices(sorted(gone))], kept, keepDims=keep)

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """Along an axis that is not negative."""
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        size = sum(int(p.shape[axis]) for p in parts)
        shape[axis] = Free(size) if is_free(tuple(p.shape[axis] for p in parts)) else size
        return self.op("CONCATENATION", parts, tuple(shape), axis=axis)

    def cut(self, x: Tensor, axis: int, start: int, stop: int, step: int = 1) -> Tensor:
        """x[start:stop:step] along one axis; start and stop count from the front, within it."""
        return self.slices(x, {axis: (start, stop, step)})

    def slices(self, x: Tensor, ranges: dict[int, tuple[int, int, int]]) -> Tensor:
        """Of several axes at once, as Python's `range(start, stop, step)`; the other axes stay whole."""
        rank = len(x.shape)
        begin, end, strides = [0] * rank, [0] * rank, [1] * rank
        whole = 0
        shape = list(x.shape)
        for axis in range(rank):
            if axis not in ranges:
                whole |= 1 << axis
        end_mask = whole
        for axis, (start, stop, step) in ranges.items():
            begin[axis], end[axis], strides[axis] = start, stop, step
            shape[axis] = len(range(start, stop, step))
            if stop < 0:
                end_mask |= 1 << axis
                end[axis] = 0
        inputs = [x, self.indices(begin), self.indices(end), self.indices(strides)]
        return self.op("STRIDED_SLICE", inputs, tuple(shape), beginMask=whole, endMask=end_mask)

    def pad(self, x: Tensor, pads: Sequence[tuple[int, int]], value: float | None = None) -> Tensor:
        """With zeros, or with a value; nothing where there is nothing to pad."""
        if not any(a or b for a, b in pads):
            return x
        shape = tuple(d if not (a or b) else int(d) + a + b for d, (a, b) in zip(x.shape, pads, strict=True))
        widths = self.constant(np.asarray(pads, dtype=INDEX).reshape(-1, 2), label="pads")
        if value is None:
            return self.op("PAD", [x, widths], shape)
        return self.op("PADV2", [x, widths, self.constant(np.asarray(value, dtype=x.dtype))], shape)

    def gather(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:
        """Along an axis that is not negative."""
        shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
        return self.op("GATHER", [x, indices], shape, axis=axis, batchDims=0)

    def dense(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """X · weightᵀ + bias over the last axis; weight [out, in]."""
        shape = (*x.shape[:-1], weight.shape[0])
        keep: dict[str, Any] = {"keepNumDims": True} if len(shape) != 2 else {}
        return self.op("FULLY_CONNECTED", [x, weight, bias], shape, **keep)

    def shape_vector(self, dims: Sequence[int]) -> Tensor:
        """An int32 vector of dimensions, computed from the batch where some are free."""
        if not is_free(tuple(dims)):
            return self.indices(dims)
        if self._batch is None:
            source = next(t for t in self.graph.inputs.values() if is_free(t.shape))
            axis = next(i for i, d in enumerate(source.shape) if isinstance(d, Free))
            whole = self.op("SHAPE", [source], (len(source.shape),), INDEX, outType=_int32())
            self._batch = self.slices(whole, {0: (axis, axis + 1, 1)})
        parts = [
            self.mul(self._batch, self.indices([int(d)])) if isinstance(d, Free) else self.indices([d]) for d in dims
        ]
        return self.concat(parts, 0)

    def expand(self, x: Tensor, shape: Shape) -> Tensor:
        """Broadcast to a shape."""
        if tuple(map(int, x.shape)) == tuple(map(int, shape)) and is_free(x.shape) == is_free(shape):
            return x
        return self.op("BROADCAST_TO", [x, self.shape_vector(shape)], shape)

    def fill(self, shape: Shape, value: float, dtype: npt.DTypeLike) -> Tensor:
        """One number everywhere; a constant, unless the batch counts."""
        if not is_free(shape):
            return self.constant(np.full(shape, value, dtype=dtype))
        return self.op("FILL", [self.shape_vector(shape), self.constant(np.asarray(value, dtype=dtype))], shape, dtype)


def _alike_axes(shapes: Sequence[Shape], rank: int) -> list[list[int]]:
    """Axes in groups of neighbours along which each operand is either broadcast or not."""
    padded = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    groups: list[list[int]] = []
    last: tuple[bool, ...] | None = None
    for axis in range(rank):
        wide = max(int(s[axis]) for s in padded)
        free = any(isinstance(s[axis], Free) for s in padded)
        kind = tuple(int(s[axis]) != wide or (free and not isinstance(s[axis], Free)) for s in padded)
        unit = wide == 1 and not free
        # One that is 1 for all belongs to any group.
        if groups and (unit or last in (None, kind)):
            groups[-1].append(axis)
        else:
            groups.append([axis])
        last = last if unit else kind
    return groups


def _merged(shape: Shape, groups: list[list[int]], rank: int) -> Shape:
    padded = (1,) * (rank - len(shape)) + tuple(shape)
    return tuple(product(padded[a] for a in g) for g in groups)


def _runs(order: Sequence[int]) -> list[list[int]]:
    """Of a permutation: runs of axes that follow each other before and after."""
    groups: list[list[int]] = []
    for a in order:
        if groups and groups[-1][-1] + 1 == a:
            groups[-1].append(a)
        else:
            groups.append([a])
    return groups


def _int32() -> int:
    from .schema import enum

    return enum("TensorType", "INT32")
