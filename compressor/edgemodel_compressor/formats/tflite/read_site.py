"""One operator while it is translated: its operands as ONNX names in a layout, its options, and what it gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import Array, Free, Shape, is_free
from .layout import Perm, permuted, plain
from .read_build import Builder, FixedBatchError, RefusedError, Value
from .read_file import SourceOp
from .schema import name_of

#: TFLite operator → (translation, note on what of it is read).
READERS: dict[str, tuple[Callable[[ReadSite], None], str]] = {}
#: Numbers that are folded: shapes, axes and the like.
MAX_KNOWN = 4096


def reads(*codes: str, note: str = "") -> Callable[[Callable[[ReadSite], None]], Callable[[ReadSite], None]]:
    """Register a translation."""

    def register(function: Callable[[ReadSite], None]) -> Callable[[ReadSite], None]:
        for code in codes:
            READERS[code] = (function, note)
        return function

    return register


class ReadSite:
    """One operator.

    Attributes:
        op: as the file has it.
        build: of the graph.
        inputs: values; None: left out.
        outputs: values, without shapes.
        lenient: whether the file fixes the batch, so that a number there may mean all of it.
    """

    def __init__(
        self, op: SourceOp, build: Builder, inputs: list[Value | None], outputs: list[Value], *, lenient: bool
    ) -> None:
        self.op, self.build, self.inputs, self.outputs, self.lenient = op, build, inputs, outputs, lenient

    @property
    def code(self) -> str:
        """Of the operator."""
        return self.op.code

    def option(self, name: str, default: Any = None) -> Any:
        """A field of the options table."""
        value = getattr(self.op.options, name, default)
        return default if value is None else value

    def has(self, i: int) -> bool:
        """Whether the input is there."""
        return i < len(self.inputs) and self.inputs[i] is not None

    def value(self, i: int) -> Value:
        """An input."""
        found = self.inputs[i] if i < len(self.inputs) else None
        if found is None:
            raise RefusedError(f"its input {i} is missing")
        return found

    def shape(self, i: int = 0) -> Shape:
        """Of an input."""
        return self.value(i).shape

    def rank(self, i: int = 0) -> int:
        """Of an input."""
        return len(self.shape(i))

    def perm(self, i: int = 0) -> Perm:
        """The layout that an input is held in."""
        return self.value(i).perm

    def get(self, i: int = 0, perm: Perm | None = None) -> str:
        """Name of an input, in a layout (default: plain)."""
        return self.build.get(self.value(i), perm)

    def known(self, i: int, what: str = "an operand") -> Array:
        """Small integers that are known before the model runs: an object array of ints and `Free`."""
        value = self.value(i)
        found = known_of(value)
        if found is None:
            raise RefusedError(f"{what} (input {i}) is computed while the model runs")
        return found

    def ints(self, i: int, what: str = "an operand") -> list[int]:
        """As a list."""
        return list(self.known(i, what).reshape(-1))

    def fixed_ints(self, i: int, what: str = "an operand") -> list[int]:
        """As a list of plain numbers."""
        found = self.ints(i, what)
        if is_free(found):
            raise FixedBatchError(f"{what} depends on the batch")
        return [int(v) for v in found]

    def axis(self, number: int, rank: int | None = None) -> int:
        """Made positive."""
        limit = self.rank() if rank is None else rank
        if not -limit <= number < limit:
            raise RefusedError(f"axis {number} of {limit} dimensions")
        return number % limit

    def closed(self, axes: Iterable[int], i: int = 0) -> None:
        """Axes along which samples would be mixed, so none of them may be free."""
        if any(isinstance(self.shape(i)[a], Free) for a in axes):
            raise FixedBatchError("it works along the batch")

    def emit(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """An ONNX node with one output."""
        return self.build.op(op, inputs, **attributes)

    def const(self, values: Any, dtype: Any = np.float32) -> str:
        """A constant."""
        return self.build.const(values, dtype=dtype)

    def give(self, name: str, shape: Sequence[int], perm: Perm | None = None, *, i: int = 0) -> None:
        """What an output is: an ONNX name, in a layout (default: plain), with a shape in TFLite's order."""
        if i >= len(self.outputs):
            return
        self._check(shape)
        value = self.outputs[i]
        value.shape = tuple(shape)
        self.build.give(value, name, plain(len(shape)) if perm is None else perm)

    def give_known(self, values: Any, *, i: int = 0) -> None:
        """What an output is: integers that follow from shapes."""
        array = np.asarray(values, dtype=object)
        if array.size > MAX_KNOWN:
            raise RefusedError(f"{array.size} numbers that follow from shapes")
        self.outputs[i].shape = array.shape
        self.outputs[i].known = array

    def activated(self, name: str) -> str:
        """With the fused activation, but where the output's integers can hold nothing else."""
        number = int(self.option("fusedActivationFunction", 0))
        kind = name_of("ActivationFunctionType", number)
        if kind == "NONE":
            return name
        low, high = _RANGES.get(kind, (None, None))
        if low is None and high is None:
            # Kernels differ in what they make of tanh here, and converters do not write it.
            raise RefusedError(f"the fused activation {kind}")
        held = _holds(self.outputs[0])
        if (
            held is not None
            and (low is None or held[0] >= low - held[2])
            and (high is None or held[1] <= high + held[2])
        ):
            return name
        return self.clipped(name, low, high)

    def clipped(self, name: str, low: float | None, high: float | None) -> str:
        """Relu, or Clip."""
        if low == 0 and high is None:
            return self.emit("Relu", [name])
        limits = ["" if v is None else self.const(np.float32(v)) for v in (low, high)]
        return self.emit("Clip", [name, *limits])

    @staticmethod
    def _check(shape: Sequence[int]) -> None:
        if any(int(d) < 0 for d in shape) or math.prod(int(d) for d in shape) > 2**40:
            raise RefusedError(f"its result has the shape {[int(d) for d in shape]}")


_RANGES: dict[str, tuple[float | None, float | None]] = {
    "RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0),
}  # fmt: skip


def _holds(value: Value) -> tuple[float, float, float] | None:
    """Least and largest number that 8 bits hold, and half a step; None: it is no such value."""
    q, dtype = value.quantization, value.stored_dtype
    if q is None or dtype is None or dtype.itemsize != 1:
        return None
    info = np.iinfo(dtype)
    scale, zero = float(q.scale[0]), int(q.zero[0])
    return (info.min - zero) * scale, (info.max - zero) * scale, scale / 2


def known_of(value: Value) -> Array | None:
    """Integers that follow from weights and shapes; None: it is no such value."""
    if value.known is None and value.data is not None and value.quantization is None:
        if value.data.dtype.kind not in "iub" or value.data.size > MAX_KNOWN:
            return None
        value.known = value.data.astype(object)
    return value.known


def aligned(site: ReadSite, i: int, rank: int, perm: Perm) -> str:
    """An operand of an element-wise operator, in a layout of the result's rank."""
    value = site.value(i)
    if value.rank == rank:
        return site.get(i, perm)
    if perm == plain(rank):
        return site.get(i)
    missing = rank - value.rank
    full = (*(1,) * missing, *value.shape)
    if value.data is not None and not (value.quantization is not None and value.quantization.per_channel):
        numbers = value.data.reshape(full).transpose(perm)
        while numbers.ndim and numbers.shape[0] == 1:
            numbers = numbers[0]
        stand_in = Value(value.name, numbers.shape, value.dtype, numbers, value.quantization, value.stored_dtype)
        return site.build.get(stand_in)
    if math.prod(map(int, value.shape)) == 1 and not is_free(value.shape):
        return site.get(i)
    own = tuple(a - missing for a in perm if a >= missing)
    return site.build.reshape(site.get(i, own), permuted(full, perm))


def joint_perm(site: ReadSite, operands: Iterable[int], rank: int) -> Perm:
    """The layout to work in: of the first computed operand of full rank that is held in another than the plain one."""
    perms = [site.perm(i) for i in operands if site.rank(i) == rank and not site.value(i).constant]
    return next((p for p in perms if p != plain(rank)), plain(rank))


def broadcast_shape(site: ReadSite, operands: Iterable[int]) -> Shape:
    """Numpy's rule; a free dimension meets only its like, or 1."""
    shapes = [site.shape(i) for i in operands]
    rank = max((len(s) for s in shapes), default=0)
    result: list[int] = []
    for axis in range(-rank, 0):
        dims = [s[axis] for s in shapes if len(s) >= -axis]
        free = [d for d in dims if isinstance(d, Free)]
        wide = sorted({int(d) for d in dims if isinstance(d, Free) or d != 1})
        if len(wide) > 1:
            if free:
                raise FixedBatchError("the batch meets another dimension")
            raise RefusedError(f"shapes {[list(map(int, s)) for s in shapes]} do not broadcast")
        if free and any(not isinstance(d, Free) and d != 1 for d in dims):
            raise FixedBatchError("the batch meets another dimension")
        result.append(free[0] if free else wide[0] if wide else 1)
    return tuple(result)


Numbers = npt.NDArray[Any]
