"""A TFLite graph while it is made: tensors, operators, and dimensions that grow with the batch. Pure; no flatbuffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


class Free(int):
    """A dimension that grows with the batch; as a number, what it is for one sample. Written as −1."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Free({int(self)})"


def product(dims: Iterable[int]) -> int:
    """Of dimensions; free where one of them is."""
    size, free = 1, False
    for d in dims:
        size *= int(d)
        free |= isinstance(d, Free)
    return Free(size) if free else size


def is_free(shape: Sequence[int]) -> bool:
    """Whether a dimension grows with the batch."""
    return any(isinstance(d, Free) for d in shape)


def broadcast(*shapes: Sequence[int]) -> Shape:
    """Numpy's rule, with free dimensions kept; the shapes are known to fit."""
    rank = max((len(s) for s in shapes), default=0)
    result = []
    for axis in range(-rank, 0):
        dims = [s[axis] for s in shapes if len(s) >= -axis]
        wide = [d for d in dims if int(d) != 1]
        free = [d for d in dims if isinstance(d, Free)]
        result.append(free[0] if free and (not wide or int(free[0]) == int(wide[0])) else wide[0] if wide else 1)
    return tuple(result)


@dataclass(frozen=True)
class Quantization:
    """value = scale · (stored − zero), with one scale, or one for each index of `axis`."""

    scale: Array
    zero: Array
    axis: int = 0

    @property
    def per_channel(self) -> bool:
        """Whether there are several scales."""
        return self.scale.size > 1


@dataclass(eq=False)
class Tensor:
    """One tensor.

    Attributes:
        name: a wish; made unique when the file is written.
        shape: for one sample, with `Free` where the batch counts.
        dtype: of the stored numbers.
        data: of a constant; may be a view.
        quantization: of integers that stand for floats.
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    data: Array | None = None
    quantization: Quantization | None = None

    @property
    def is_constant(self) -> bool:
        """Whether its numbers are in the file."""
        return self.data is not None


@dataclass(eq=False)
class Op:
    """One operator.

    Attributes:
        code: TFLite's name, such as `CONV_2D`.
        options: fields of its options table, by their names in the schema's Python classes.
        node: name of the ONNX node that it was made for.
        exact: it stays float whatever the encoding (parts of norms and recurrent states).
    """

    code: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    node: str = ""
    exact: bool = False


@dataclass(eq=False)
class Graph:
    """Operators in an order in which they can run; inputs and outputs by the ONNX model's names."""

    ops: list[Op] = field(default_factory=list)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def producers(self) -> dict[int, Op]:
        """The operator that makes each tensor, by the tensor's id."""
        return {id(t): op for op in self.ops for t in op.outputs}

    def readers(self) -> dict[int, list[Op]]:
        """The operators that read each tensor, by the tensor's id; one that reads it twice is there twice."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for tensor in op.inputs:
                if tensor is not None:
                    found.setdefault(id(tensor), []).append(op)
        return found

    def tensors(self) -> list[Tensor]:
        """All of them, each once: inputs first, then in the order of the operators."""
        everything = [*self.inputs.values()]
        for op in self.ops:
            everything += [t for t in (*op.inputs, *op.outputs) if t is not None]
        everything += self.outputs.values()
        return list({id(t): t for t in everything}.values())

    def drop_dead(self) -> None:
        """Remove operators of which nothing comes to an output."""
        needed = {id(t) for t in self.outputs.values()}
        kept = []
        for op in reversed(self.ops):
            if any(id(t) in needed for t in op.outputs):
                kept.append(op)
                needed.update(id(t) for t in op.inputs if t is not None)
        self.ops = kept[::-1]

    def replace(self, old: Tensor, new: Tensor, *, where: Callable[[Op], bool] = lambda _: True) -> None:
        """Let the readers of one tensor read another."""
        for op in self.ops:
            if where(op):
                op.inputs = [new if t is old else t for t in op.inputs]
