"""One ONNX node while it is lowered: its attributes, constants and operands, and where its results go.

Each operator is a function of a `Site`, registered with `@lowers`. It may refuse, with a reason for the user; then it
must not have given a result that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemodel_compressor.steps.graph import attribute

from .emit import FLOAT, Emitter
from .graph import Array, Free, Shape, Tensor, broadcast
from .known import Known
from .layout import Perm, Value, between, permuted, plain

Lowering = Callable[["Site"], None]
#: By ONNX operator: how, and what of it.
REGISTRY: dict[str, tuple[Lowering, str]] = {}
#: TFLite has no arithmetic for these: they are computed as float32.
AS_FLOAT = frozenset({"float16", "float64"})


class Refused(Exception):  # noqa: N818
    """A node cannot be converted; the message says why."""


class NeedsFixedBatchError(Refused):
    """It could be, if the batch had a fixed size."""


def lowers(*ops: str, note: str = "") -> Callable[[Lowering], Lowering]:
    """Register a function for some operators.

    Args:
        ops: names in ONNX's standard domain.
        note: what of them is converted; empty: everything.
    """

    def register(function: Lowering) -> Lowering:
        for op in ops:
            REGISTRY[op] = (function, note)
        return function

    return register


def kind_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that a tensor has in TFLite."""
    return FLOAT if dtype.name in AS_FLOAT else dtype


@dataclass
class Scope:
    """What all nodes share."""

    emit: Emitter
    known: dict[str, Known]
    values: dict[str, Value]
    opset: int
    producers: dict[str, Any]


class Site:
    """One node."""

    def __init__(self, node: Any, scope: Scope) -> None:
        self.node = node
        self.scope = scope
        self.emit = scope.emit
        self.opset = scope.opset

    @property
    def op(self) -> str:
        """Operator type."""
        return str(self.node.op_type)

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute; texts are decoded."""
        value = attribute(self.node, name, default)
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    def has(self, i: int) -> bool:
        """Whether input i is given."""
        return i < len(self.node.input) and bool(self.node.input[i])

    def name(self, i: int) -> str:
        """Of input i."""
        if not self.has(i):
            raise Refused(f"input {i} is missing")
        return str(self.node.input[i])

    def known(self, i: int) -> Known:
        """What is known of input i."""
        return self.scope.known[self.name(i)]

    def shape(self, i: int = 0) -> Shape:
        """Of input i, in ONNX's order."""
        return self.known(i).shape

    def rank(self, i: int = 0) -> int:
        """Of input i."""
        return len(self.shape(i))

    def dtype(self, i: int = 0) -> np.dtype[Any]:
        """Of input i, as TFLite has it."""
        return kind_of(self.known(i).dtype)

    def out(self, i: int = 0) -> Known:
        """What is known of output i."""
        return self.scope.known[str(self.node.output[i])]

    def wants(self, i: int) -> bool:
        """Whether output i is named."""
        return i < len(self.node.output) and bool(self.node.output[i])

    def const(self, i: int) -> Array | None:
        """Value of input i where it is a constant."""
        if not self.has(i):
            return None
        value = self.known(i).value
        return None if value is None else value.astype(kind_of(value.dtype), copy=False)

    def need_const(self, i: int, what: str) -> Array:
        """Value of input i, which must be a constant.

        Raises:
            Refused: it is none.
        """
        value = self.const(i)
        if value is None:
            kind = NeedsFixedBatchError if self.known(i).varying is not None else Refused
            raise kind(f"{what} is computed while the model runs, and TFLite needs a constant")
        return value

    def ints(self, name: str, i: int | None = None) -> tuple[int, ...] | None:
        """Integers that older opsets have as an attribute and newer ones as a constant input."""
        found = self.attr(name)
        if found is not None:
            return tuple(int(v) for v in found)
        if i is None or not self.has(i):
            return None
        return tuple(int(v) for v in self.need_const(i, name).reshape(-1))

    def axis(self, default: int, rank: int | None = None, name: str = "axis") -> int:
        """An axis attribute, counted from the front."""
        size = self.rank() if rank is None else rank
        return int(self.attr(name, default)) % max(1, size)

    def value(self, i: int) -> Value:
        """How input i is held."""
        name = self.name(i)
        if name not in self.scope.values:
            self.scope.values[name] = Value(self.scope.known[name].shape)
        return self.scope.values[name]

    def perm(self, i: int = 0) -> Perm:
        """The layout that input i was made in."""
        return self.value(i).perm

    def get(self, i: int, perm: Perm | None = None) -> Tensor:
        """Input i as a tensor, plain or in another layout; transposed at most once.

        Raises:
            Refused: it is an integer computed from the size of the batch that TFLite cannot compute.
        """
        return fetch(self.scope, self.name(i), perm)

    def give(self, tensor: Tensor, perm: Perm | None = None, i: int = 0) -> None:
        """Output i is this tensor, in this layout."""
        if not self.wants(i):
            return
        name = str(self.node.output[i])
        known = self.scope.known[name]
        wanted = kind_of(known.dtype)
        if tensor.dtype != wanted:
            tensor = self.emit.cast(tensor, wanted)
        layout = plain(len(known.shape)) if perm is None else perm
        shape = permuted(known.shape, layout)
        if len(tensor.shape) != len(shape) and int(np.prod(tensor.shape)) == int(np.prod(shape)):
            # A constant operand came without its leading ones.
            tensor = self.emit.reshape(tensor, shape)
        if tuple(map(int, tensor.shape)) != tuple(map(int, shape)):
            raise Refused(f"its result would be {[int(d) for d in tensor.shape]} instead of {[int(d) for d in shape]}")
        if tensor.data is None and layout == plain(len(layout)):
            tensor.name = name
        self.scope.values.setdefault(name, Value(known.shape)).held[layout] = tensor

    def aligned(self, inputs: Sequence[int], rank: int) -> tuple[list[Tensor], Perm]:
        """Operands of an element-wise operator in one layout: that of the largest one that is computed."""
        sizes = [(int(np.prod(self.shape(i))), -k, i) for k, i in enumerate(inputs)]
        computed = [i for _, _, i in sorted(sizes, reverse=True) if self.const(i) is None and self.rank(i) == rank]
        perm = self.perm(computed[0]) if computed else plain(rank)
        return [self._operand(i, perm) for i in inputs], perm

    def _operand(self, i: int, perm: Perm) -> Tensor:
        rank, own = len(perm), self.rank(i)
        constant = self.const(i)
        if constant is not None:
            full = constant.reshape((1,) * (rank - own) + constant.shape).transpose(perm)
            while full.ndim > 1 and full.shape[0] == 1:
                full = full[0]
            return self.emit.constant(full.reshape(1) if full.ndim == 0 else full, name=self.name(i))
        if own == rank:
            return self.get(i, perm)
        if perm == plain(rank):
            return self.get(i)
        padded = self.emit.reshape(self.get(i), (1,) * (rank - own) + self.shape(i))
        return self.emit.transpose(padded, perm)

    def elementwise(self, compute: Callable[..., Tensor]) -> None:
        """Lower to `compute(*operands)` in whatever layout they are held."""
        inputs = [i for i in range(len(self.node.input)) if self.has(i)]
        operands, perm = self.aligned(inputs, len(self.out().shape))
        result = compute(*operands)
        wanted = permuted(self.out().shape, perm)
        if tuple(map(int, broadcast(result.shape, wanted))) != tuple(map(int, result.shape)):
            result = self.emit.expand(result, wanted)
        if len(result.shape) < len(wanted):
            result = self.emit.reshape(result, wanted)
        self.give(result, perm)


def fetch(scope: Scope, name: str, perm: Perm | None = None) -> Tensor:
    """A value as a tensor in a layout."""
    known = scope.known[name]
    wanted = plain(len(known.shape)) if perm is None else perm
    value = scope.values.setdefault(name, Value(known.shape))
    if wanted in value.held:
        return value.held[wanted]
    if not value.held:
        if known.value is None:
            value.held[plain(len(known.shape))] = _varying(scope, name, known)
        else:
            data = known.value.astype(kind_of(known.value.dtype), copy=False)
            if data.dtype.name not in ("float32", "bool", "int8", "int16", "int32", "int64", "uint8"):
                raise Refused(f"{name!r} is of type {data.dtype}, which TFLite's kernels do not compute with")
            value.held[plain(data.ndim)] = Tensor(name, tuple(int(d) for d in data.shape), data.dtype, data)
        return fetch(scope, name, perm)
    held, tensor = next(iter(value.held.items()))
    made = scope.emit.transpose(tensor, between(held, wanted))
    if made.data is None and wanted == plain(len(wanted)):
        made.name = name
    value.held[wanted] = made
    return made


def _varying(scope: Scope, name: str, known: Known) -> Tensor:
    """A value that depends on the size of the batch alone."""
    if known.varying is None:
        raise Refused(f"{name!r} was not converted")
    one, many = known.varying
    if one.dtype.kind in "iu" and one.ndim <= 1 and one.shape == many.shape:
        dims = varying_dims(one, many)
        if dims is not None:
            vector = scope.emit.reshape(scope.emit.shape_vector(dims), tuple(int(d) for d in one.shape))
            return scope.emit.cast(vector, one.dtype)
    if one.size and (one == one.flat[0]).all() and (many == one.flat[0]).all():
        return scope.emit.fill(known.shape, float(one.flat[0]), kind_of(one.dtype))
    alone = all(not isinstance(d, Free) or int(d) == 1 for d in known.shape)
    if alone and one.ndim == many.ndim and np.array_equal(np.broadcast_to(one, many.shape), many):
        return scope.emit.expand(scope.emit.constant(one.astype(kind_of(one.dtype)), name=name), known.shape)
    raise NeedsFixedBatchError(f"{name!r} depends on the size of the batch")


def varying_dims(one: Array, many: Array) -> tuple[int, ...] | None:
    """Dimensions for one sample and for three as dimensions that may be free; None: some do not grow so."""
    from .known import ROWS

    dims: list[int] = []
    for a, b in zip(one.reshape(-1).tolist(), many.reshape(-1).tolist(), strict=True):
        if a == b:
            dims.append(int(a))
        elif b == ROWS * a:
            dims.append(Free(a))
        else:
            return None
    return tuple(dims)
