"""The ONNX graph while it is made of a TFLite one: nodes, constants, and the layouts that each value is held in.

A layout is a permutation as in `layout`, the other way round: axis j of the ONNX tensor is axis `perm[j]` of the TFLite
tensor. ONNX's convolutions make and take channels-first tensors; what does not care about the order works in the one its
operands are held in; a TFLite TRANSPOSE only changes the permutation. So a chain of convolutions, activations, additions
and poolings has no transposition inside, and one is written where another order is asked for, once for each value.

Integers that stand for floats are DequantizeLinear's output where something is computed with them, and every result of
such a type goes through QuantizeLinear and DequantizeLinear: the pairs that onnxruntime makes integer operators of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.errors import InputError

from .graph import Array, Free, Quantization, Shape, is_free
from .layout import Perm, between, only_units_move, permuted, plain

OPSET = 17
MAX_NAME = 160
#: Constants that may be written for each byte of the file: one may be needed in two layouts, or as floats.
MAX_GROWTH, GROWTH_FLOOR = 8, 16 * 2**20
BATCH = "batch"
#: Types that are computed with as they are stored, or by a pair of Quantize and Dequantize.
_QUANTIZED = ("int8", "uint8")


class FixedBatchError(Exception):
    """An operator does not allow the first axis to be free."""


class RefusedError(Exception):
    """An operator, or this use of it, has no translation: why."""


@dataclass(eq=False)
class Value:
    """A tensor of the TFLite graph in the ONNX graph.

    Attributes:
        name: a wish for what is computed of it.
        shape: TFLite's order, with `Free` where the batch counts.
        dtype: of what is computed with: float32 where `quantization` is, or where half floats are stored.
        data: the stored numbers of a constant.
        quantization: of integers that stand for floats.
        stored_dtype: of the stored numbers, where that is another one.
        known: small integers whose values follow from the shapes: an object array of ints and `Free`.
        declared: axes that the file calls free.
        held: names of what is computed with, by layout; the one it was made in first.
        stored: names of the integers, by layout, where there are any.
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    data: Array | None = None
    quantization: Quantization | None = None
    stored_dtype: np.dtype[Any] | None = None
    known: Array | None = None
    declared: tuple[int, ...] = ()
    held: dict[Perm, str] = field(default_factory=dict)
    stored: dict[Perm, str] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def perm(self) -> Perm:
        """The layout that it was made in."""
        return next(iter(self.held), None) or next(iter(self.stored), plain(self.rank))

    @property
    def constant(self) -> bool:
        """Whether its numbers are in the file."""
        return self.data is not None

    def numbers(self) -> Array:
        """Of a constant: what is computed with, as floats where it stands for them."""
        if self.data is None:
            raise RefusedError("a value that must be in the file is computed while the model runs")
        if self.quantization is not None:
            q = self.quantization
            shape = [1] * self.rank
            if q.per_channel:
                shape[q.axis] = -1
            centred = self.data.astype(np.float64) - q.zero.reshape(shape if q.per_channel else ())
            found: Array = (centred * q.scale.reshape(shape if q.per_channel else ())).astype(np.float32)
            return found
        return self.data.astype(self.dtype, copy=False)


class Builder:
    """Nodes and constants, with unique names.

    Args:
        reserved: names that are inputs' and outputs'.
        file_bytes: size of the file, to which constants are held.
        integers: whether the file computes with integers. Where it does not, weights of 8 bits are made floats by Cast and
            Mul, which runtimes do once, when they load the model; a DequantizeLinear in front of an operator of floats is
            done with each request (onnxruntime 1.32: ten times the time of a small dense network).
    """

    def __init__(self, reserved: Iterable[str], *, file_bytes: int, integers: bool = False) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.origin = ""
        self._integers = integers
        self._taken = set(reserved)
        self._constants: dict[tuple[Any, ...], str] = {}
        self._left = MAX_GROWTH * file_bytes + GROWTH_FLOOR
        self._looked_at = 16 * self._left
        self._batch = ""
        self._counts: dict[str, int] = {}

    def unique(self, wish: str) -> str:
        """A name that nothing else has."""
        base = wish.partition(";")[0][:MAX_NAME] or "value"
        name = base
        while name in self._taken:
            self._counts[base] = count = self._counts.get(base, 0) + 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, *, count: int = 1, **attributes: Any) -> list[str]:
        """Append a node.

        Args:
            op: of ONNX.
            inputs: names; "" where one is left out.
            name: a wish for its outputs.
            count: of outputs.
            **attributes: None: left out.

        Returns:
            names of its outputs.
        """
        outputs = [self.unique(name) for _ in range(count)]
        given = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=outputs[0], **given))
        return outputs

    def op(self, op: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """A node with one output."""
        return self.node(op, inputs, name or f"{self.origin}/{op}", **attributes)[0]

    def const(self, values: Any, name: str = "", dtype: Any = None) -> str:
        """A constant; equal ones are one.

        Raises:
            InputError: the file makes more constants than its size can explain.
        """
        array = np.ascontiguousarray(np.asarray(values, dtype=dtype))
        array = array.reshape(np.shape(values))
        self._looked_at -= array.nbytes
        digest = hashlib.sha256(array.reshape(-1).view(np.uint8).data if array.size else b"").digest()
        key = (digest, array.dtype.str, array.shape)
        found = self._constants.get(key)
        if found is None:
            self._left -= array.nbytes
            if min(self._left, self._looked_at) < 0:
                raise InputError("the TFLite model uses its constants in too many ways to be read: give it as ONNX")
            found = self._constants[key] = self.unique(name or f"{self.origin}/const")
            self.initializers.append(numpy_helper.from_array(array, found))
        return found

    def ints(self, values: Iterable[int]) -> str:
        """A vector of int64."""
        return self.const([int(v) for v in values], dtype=np.int64)

    def vector(self, values: Iterable[int]) -> str:
        """As `ints`; what is free is computed from the size of the batch."""
        dims = list(values)
        if not is_free(dims):
            return self.ints(dims)
        parts = [
            (self.op("Mul", [self.batch(), self.ints([int(d)])]) if int(d) != 1 else self.batch())
            if isinstance(d, Free)
            else self.ints([d])
            for d in dims
        ]
        return self.op("Concat", parts, axis=0) if len(parts) > 1 else parts[0]

    def set_batch(self, name: str) -> None:
        """The graph's input that tells the size of the batch."""
        self._batch = name

    def batch(self) -> str:
        """A vector of one number: the size of the batch."""
        shape = self._once("Shape", [self._batch])
        return self._once("Slice", [shape, self.ints([0]), self.ints([1])])

    def _once(self, op: str, inputs: list[str]) -> str:
        key = ("node", op, *inputs)
        if key not in self._constants:
            self._constants[key] = self.op(op, inputs, f"{BATCH}/{op}")
        return self._constants[key]

    # ---- values ----

    def get(self, value: Value, perm: Perm | None = None) -> str:
        """The name of what is computed with, in a layout (default: plain)."""
        wanted = plain(value.rank) if perm is None else perm
        if wanted not in value.held:
            value.held[wanted] = self._made(value, wanted)
        return value.held[wanted]

    def _made(self, value: Value, wanted: Perm) -> str:
        if value.data is not None:
            return self._constant(value, wanted)
        if value.known is not None:
            numbers = value.known
            if numbers.ndim > 1:
                raise RefusedError("a table of sizes is computed while the model runs")
            vector = self.vector([*numbers.reshape(-1)])
            flat = vector if numbers.ndim else self.op("Squeeze", [vector, self.ints([0])])
            return flat if value.dtype == np.int64 else self.op("Cast", [flat], to=onnx_type(value.dtype))
        if value.held:
            return self._moved(value, value.held, wanted)
        if wanted not in value.stored:
            value.stored[wanted] = self._moved(value, value.stored, wanted)
        return self._dequantized(value.stored[wanted], value.quantization, wanted, value.name, value.stored_dtype)

    def get_stored(self, value: Value) -> str:
        """The name of the stored numbers, plain: of a graph's output."""
        order = plain(value.rank)
        if value.quantization is None or value.stored_dtype is None:
            return self.get(value)
        if order not in value.stored:
            if value.stored:
                value.stored[order] = self._moved(value, value.stored, order)
            elif value.data is not None:
                value.stored[order] = self.const(value.data, value.name)
            else:
                value.stored[order] = self.quantized(
                    self.get(value), value.quantization, value.stored_dtype, value.name
                )
        return value.stored[order]

    def give(self, value: Value, name: str, perm: Perm) -> None:
        """What was computed of a value; integers of 8 bits that stand for floats are rounded to what they can hold."""
        q, dtype = value.quantization, value.stored_dtype
        if q is None or dtype is None or dtype.name not in _QUANTIZED:
            value.held[perm] = name
            return
        stored = value.stored[perm] = self.quantized(name, q, dtype, f"{value.name}/quantized")
        value.held[perm] = self._dequantized(stored, q, perm, f"{value.name}/float", dtype)

    def _moved(self, value: Value, held: dict[Perm, str], wanted: Perm) -> str:
        if not held:
            raise RefusedError("it reads a tensor that nothing has computed")
        perm, name = next(iter(held.items()))
        shape = permuted(value.shape, perm)
        by = between(perm, wanted)
        if only_units_move(shape, by):
            return self.reshape(name, permuted(value.shape, wanted))
        return self.op("Transpose", [name], f"{value.name}/layout", perm=list(by))

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """To a shape with at most one free dimension."""
        if sum(isinstance(d, Free) for d in shape) > 1:
            raise FixedBatchError("two dimensions grow with the batch")
        target = [-1 if isinstance(d, Free) else int(d) for d in shape]
        return self.op("Reshape", [name, self.ints(target)])

    def _constant(self, value: Value, perm: Perm) -> str:
        data, q = value.data, value.quantization
        if data is None:
            raise RefusedError("no constant")
        name = self.const(data.transpose(perm), value.name)
        if q is not None:
            return self._dequantized(name, q, perm, f"{value.name}/float", data.dtype, once=not self._integers)
        if data.dtype != value.dtype:
            return self.op("Cast", [name], f"{value.name}/float", to=onnx_type(value.dtype))
        return name

    def _dequantized(
        self,
        name: str,
        q: Quantization | None,
        perm: Perm,
        wish: str,
        kind: np.dtype[Any] | None,
        *,
        once: bool = False,
    ) -> str:
        if q is None or kind is None:
            return name
        axis = perm.index(q.axis) if q.per_channel else None
        scale: Any = q.scale if q.per_channel else q.scale[0]
        if not once and (kind.name in _QUANTIZED or (kind == np.int32 and not q.zero.any())):
            zero = q.zero.astype(kind) if q.per_channel else q.zero[0].astype(kind)
            inputs = [name, self.const(scale, dtype=np.float32)]
            if kind != np.int32:
                inputs.append(self.const(zero, dtype=kind))
            return self.op("DequantizeLinear", inputs, wish, axis=axis)
        # Of other integers onnxruntime has no such operator.
        shape = [1] * len(perm)
        if axis is not None:
            shape[axis] = -1
        real = self.op("Cast", [name], to=TensorProto.FLOAT)
        if q.zero.any():
            zeros = q.zero.astype(np.float32)
            real = self.op("Sub", [real, self.const(zeros.reshape(shape) if q.per_channel else zeros[0])])
        return self.op("Mul", [real, self.const(q.scale.reshape(shape) if q.per_channel else q.scale[0])], wish)

    def quantized(self, name: str, q: Quantization, dtype: np.dtype[Any], wish: str) -> str:
        """Floats as stored integers."""
        if q.per_channel or not q.scale[0] > 0:
            raise RefusedError("its result has no single scale above 0")
        scale = self.const(q.scale[0], dtype=np.float32)
        if dtype.name in _QUANTIZED:
            return self.op("QuantizeLinear", [name, scale, self.const(q.zero[0].astype(dtype), dtype=dtype)], wish)
        info = np.iinfo(dtype)
        steps = self.op("Round", [self.op("Div", [name, scale])])
        moved = self.op("Add", [steps, self.const(np.float32(q.zero[0]))]) if q.zero[0] else steps
        limits = [self.const(np.float32(info.min)), self.const(np.float32(info.max))]
        return self.op("Cast", [self.op("Clip", [moved, *limits])], wish, to=onnx_type(dtype))


def onnx_type(dtype: Any) -> int:
    """ONNX's number of a type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
