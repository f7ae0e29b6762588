"""Element-wise operators: in the layout that their operands are held in."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from .graph import Array, Free
from .layout import plain
from .read_build import FixedBatchError, RefusedError, onnx_type
from .read_site import (
    MAX_KNOWN,
    ReadSite,
    aligned,
    broadcast_shape,
    joint_perm,
    known_of,
    reads,
)

_UNARY = {
    "RELU": "Relu", "LOGISTIC": "Sigmoid", "TANH": "Tanh", "HARD_SWISH": "HardSwish", "ABS": "Abs", "NEG": "Neg",
    "EXP": "Exp", "LOG": "Log", "SQRT": "Sqrt", "SIN": "Sin", "COS": "Cos", "FLOOR": "Floor", "CEIL": "Ceil",
    "ROUND": "Round", "SIGN": "Sign", "LOGICAL_NOT": "Not", "ELU": "Elu",
}  # fmt: skip
_BINARY = {
    "ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "POW": "Pow", "MAXIMUM": "Max", "MINIMUM": "Min",
    "EQUAL": "Equal", "LESS": "Less", "LESS_EQUAL": "LessOrEqual", "GREATER": "Greater",
    "GREATER_EQUAL": "GreaterOrEqual", "LOGICAL_AND": "And", "LOGICAL_OR": "Or",
}  # fmt: skip


@reads(*_UNARY)
def _unary(site: ReadSite) -> None:
    perm = site.perm()
    site.give(site.emit(_UNARY[site.code], [site.get(0, perm)]), site.shape(), perm)


@reads("RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")
def _clip(site: ReadSite) -> None:
    perm = site.perm()
    low, high = {"RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0), "RELU_0_TO_1": (0.0, 1.0)}[site.code]
    site.give(site.clipped(site.get(0, perm), low, high), site.shape(), perm)


@reads("LEAKY_RELU")
def _leaky(site: ReadSite) -> None:
    perm = site.perm()
    alpha = float(site.option("alpha", 0.0))
    site.give(site.emit("LeakyRelu", [site.get(0, perm)], alpha=alpha), site.shape(), perm)


@reads("PRELU")
def _prelu(site: ReadSite) -> None:
    perm, rank = site.perm(), site.rank()
    shape = broadcast_shape(site, (0, 1))
    if tuple(map(int, shape)) != tuple(map(int, site.shape())):
        raise RefusedError("its slope is larger than its input")
    site.give(site.emit("PRelu", [site.get(0, perm), aligned(site, 1, rank, perm)]), shape, perm)


@reads("RSQRT", "SQUARE", "ZEROS_LIKE", "GELU")
def _made(site: ReadSite) -> None:
    perm = site.perm()
    x = site.get(0, perm)
    if site.code == "RSQRT":
        name = site.emit("Reciprocal", [site.emit("Sqrt", [x])])
    elif site.code == "SQUARE":
        name = site.emit("Mul", [x, x])
    elif site.code == "ZEROS_LIKE":
        name = site.emit("Mul", [x, site.const(0, site.value(0).dtype)])
    else:
        name = _gelu(site, x)
    site.give(name, site.shape(), perm)


def _gelu(site: ReadSite, x: str) -> str:
    def c(value: float) -> str:
        return site.const(np.float32(value))

    if bool(site.option("approximate", False)):
        cube = site.emit("Mul", [site.emit("Mul", [x, x]), x])
        inner = site.emit("Add", [x, site.emit("Mul", [cube, c(0.044715)])])
        gate = site.emit("Tanh", [site.emit("Mul", [inner, c(math.sqrt(2 / math.pi))])])
    else:
        gate = site.emit("Erf", [site.emit("Div", [x, c(math.sqrt(2))])])
    return site.emit("Mul", [site.emit("Mul", [x, site.emit("Add", [gate, c(1)])]), c(0.5)])


@reads(*_BINARY, "NOT_EQUAL", "SQUARED_DIFFERENCE", "FLOOR_DIV", "FLOOR_MOD", note="broadcasting, fused activations")
def _binary(site: ReadSite) -> None:
    if _folded(site):
        return
    shape = broadcast_shape(site, (0, 1))
    perm = joint_perm(site, (0, 1), len(shape))
    left, right = (aligned(site, i, len(shape), perm) for i in (0, 1))
    dtype = site.value(0).dtype
    if site.value(1).dtype != dtype:
        raise RefusedError(f"operands of {dtype} and {site.value(1).dtype}")
    if site.code in _BINARY:
        name = site.emit(_BINARY[site.code], [left, right])
    elif site.code == "NOT_EQUAL":
        name = site.emit("Not", [site.emit("Equal", [left, right])])
    elif site.code == "SQUARED_DIFFERENCE":
        difference = site.emit("Sub", [left, right])
        name = site.emit("Mul", [difference, difference])
    else:
        name = _floored(site, left, right, dtype)
    site.give(site.activated(name), shape, perm)


def _floored(site: ReadSite, left: str, right: str, dtype: np.dtype[np.generic]) -> str:
    """Quotient rounded down, or what remains of it, which has the divisor's sign."""
    if dtype.kind == "f":
        if site.code == "FLOOR_DIV":
            return site.emit("Floor", [site.emit("Div", [left, right])])
        zero = site.const(0, dtype)
        rest = site.emit("Mod", [left, right], fmod=1)
        signs = site.emit("Xor", [site.emit("Less", [rest, zero]), site.emit("Less", [right, zero])])
        other = site.emit("And", [signs, site.emit("Not", [site.emit("Equal", [rest, zero])])])
        return site.emit("Where", [other, site.emit("Add", [rest, right]), rest])
    rest = site.emit("Mod", [left, right])
    return rest if site.code == "FLOOR_MOD" else site.emit("Div", [site.emit("Sub", [left, rest]), right])


_FOLDS: dict[str, Callable[[int, int], int]] = {
    "ADD": operator.add, "SUB": operator.sub, "MUL": operator.mul, "MAXIMUM": max, "MINIMUM": min,
}  # fmt: skip
_QUOTIENTS = ("DIV", "FLOOR_DIV")


def _folded(site: ReadSite) -> bool:
    """Arithmetic with sizes is done here."""
    if site.code not in (*_FOLDS, *_QUOTIENTS) or int(site.option("fusedActivationFunction", 0)):
        return False
    if site.value(0).dtype.kind not in "iu" or (site.value(0).constant and site.value(1).constant):
        return False
    left, right = known_of(site.value(0)), known_of(site.value(1))
    if left is None or right is None:
        return False
    pairs = np.broadcast(left, right)
    if pairs.size > MAX_KNOWN:
        return False
    result: Array = np.empty(pairs.shape, dtype=object)
    result.reshape(-1)[:] = [_fold(site.code, a, b) for a, b in pairs]
    site.give_known(result)
    return True


def _fold(code: str, a: int, b: int) -> int:
    value = _divided(int(a), int(b)) if code in _QUOTIENTS else int(_FOLDS[code](int(a), int(b)))
    if not isinstance(a, Free) and not isinstance(b, Free):
        return value
    grows = (code == "MUL" and isinstance(a, Free) != isinstance(b, Free)) or (
        code in _QUOTIENTS and isinstance(a, Free) and not isinstance(b, Free) and value * int(b) == int(a)
    )
    if not grows:
        raise FixedBatchError("sizes are computed of the batch")
    return Free(value)


def _divided(a: int, b: int) -> int:
    if b == 0:
        raise RefusedError("a size is divided by 0")
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


@reads("ADD_N")
def _add_n(site: ReadSite) -> None:
    perm = joint_perm(site, range(len(site.inputs)), site.rank())
    if any(tuple(map(int, site.shape(i))) != tuple(map(int, site.shape())) for i in range(len(site.inputs))):
        raise RefusedError("its operands differ in shape")
    site.give(site.emit("Sum", [site.get(i, perm) for i in range(len(site.inputs))]), site.shape(), perm)


@reads("ATAN2")
def _atan2(site: ReadSite) -> None:
    shape = broadcast_shape(site, (0, 1))
    y, x = (aligned(site, i, len(shape), plain(len(shape))) for i in (0, 1))

    def c(value: float) -> str:
        return site.const(np.float32(value))

    # The half of the plane left of the axis is turned; on the axis atan(±∞) is right.
    upright = site.emit("Atan", [site.emit("Div", [y, x])])
    turn = site.emit("Where", [site.emit("Less", [y, c(0)]), c(-math.pi), c(math.pi)])
    left = site.emit("Where", [site.emit("Less", [x, c(0)]), turn, c(0)])
    origin = site.emit("And", [site.emit("Equal", [x, c(0)]), site.emit("Equal", [y, c(0)])])
    name = site.emit("Where", [origin, c(0), site.emit("Add", [upright, left])])
    site.give(name, shape)


@reads("SELECT", "SELECT_V2")
def _select(site: ReadSite) -> None:
    if site.code == "SELECT" and site.rank(0) == 1 and site.rank(1) > 1:
        # One truth a row.
        rows = site.build.reshape(site.get(0), (site.shape(0)[0], *(1,) * (site.rank(1) - 1)))
        site.give(site.emit("Where", [rows, site.get(1), site.get(2)]), site.shape(1))
        return
    shape = broadcast_shape(site, (0, 1, 2))
    perm = joint_perm(site, (0, 1, 2), len(shape))
    names = [aligned(site, i, len(shape), perm) for i in range(3)]
    site.give(site.emit("Where", names), shape, perm)


@reads("CAST")
def _cast(site: ReadSite) -> None:
    value, target = site.value(0), site.outputs[0]
    known = known_of(value)
    if known is not None and not value.constant and target.dtype.kind in "iu":
        site.give_known(known)
        return
    perm = value.perm
    name = site.get(0, perm)
    if value.dtype != target.dtype:
        name = site.emit("Cast", [name], to=onnx_type(target.dtype))
    site.give(name, value.shape, perm)


@reads("DENSIFY", note="of constants")
def _densify(site: ReadSite) -> None:
    value, target = site.value(0), site.outputs[0]
    if value.data is None:
        raise RefusedError("of numbers that are computed")
    target.shape, target.data, target.dtype = value.shape, value.data, value.dtype
    target.quantization, target.stored_dtype = value.quantization, value.stored_dtype


@reads("QUANTIZE", "DEQUANTIZE", note="also of float16 and int8 weights, which stay as they are stored")
def _quantize(site: ReadSite) -> None:
    value, target = site.value(0), site.outputs[0]
    if value.constant and site.code == "DEQUANTIZE":
        if value.quantization is None and value.data is not None and value.data.dtype != np.float16:
            raise RefusedError(f"it stands for floats, and has no scale ({value.data.dtype})")
        target.shape, target.data = value.shape, value.data
        target.quantization, target.stored_dtype = value.quantization, value.stored_dtype
        return
    perm = value.perm
    name = site.get(0, perm)
    if value.dtype == np.float16:
        name = site.emit("Cast", [name], to=TensorProto.FLOAT)
    elif value.dtype != np.float32:
        raise RefusedError(f"of {value.dtype} that stands for no floats")
    site.give(name, value.shape, perm)
