"""Arithmetic, comparison, logic, rounding and activations, elementwise with numpy's broadcasting."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from onnx import TensorProto

from .lower import Node, Unsupported, Value, kind_of, lowers, shape_of


def as_float(node: Node, value: Value) -> Value:
    """For operations that MIL has for floats only."""
    if isinstance(value, np.ndarray):
        return value.astype(np.float32) if kind_of(value) != "f" else value
    return value if kind_of(value) == "f" else node.mb.cast(x=value, dtype="fp32")


def as_int(node: Node, value: Value) -> Value:
    """Booleans as 0 and 1."""
    if isinstance(value, np.ndarray):
        return value.astype(np.int32) if kind_of(value) == "b" else value
    return node.mb.cast(x=value, dtype="int32") if kind_of(value) == "b" else value


def as_bool(node: Node, value: Value) -> Value:
    """Numbers that are not zero as true."""
    if isinstance(value, np.ndarray):
        return value.astype(bool)
    if kind_of(value) == "b":
        return value
    return node.mb.not_equal(x=value, y=np.zeros((), np.float32 if kind_of(value) == "f" else np.int32))


def scalar(value: float) -> Any:
    """A float32 constant."""
    return np.float32(value)


_BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul"}
_COMPARE = {
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Equal": "equal",
}
_LOGIC = {"And": "logical_and", "Or": "logical_or", "Xor": "logical_xor"}
_FOLD = {"Max": "maximum", "Min": "minimum", "Sum": "add"}
_UNARY = {
    "Abs": "abs",
    "Acos": "acos",
    "Asin": "asin",
    "Atan": "atan",
    "Atanh": "atanh",
    "Cos": "cos",
    "Cosh": "cosh",
    "Erf": "erf",
    "Exp": "exp",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "sqrt",
    "Tan": "tan",
    "Tanh": "tanh",
}
_ROUNDING = {"Ceil": "ceil", "Floor": "floor", "Round": "round"}


def _old_broadcast(node: Node) -> None:
    node.only(not node.attr("broadcast") or node.opset >= 7, "broadcasting of opset 6 and before")


@lowers(*_BINARY)
def _binary(node: Node) -> Value:
    _old_broadcast(node)
    return getattr(node.mb, _BINARY[node.op])(x=node[0], y=node[1])


@lowers("Div")
def _div(node: Node) -> Value:
    x, y = node[0], node[1]
    if kind_of(x) == "f":
        return node.mb.real_div(x=x, y=y)
    # ONNX rounds integers towards zero, MIL towards negative infinity.
    size = node.mb.floor_div(x=node.mb.abs(x=x), y=node.mb.abs(x=y))
    return node.mb.mul(x=size, y=node.mb.mul(x=node.mb.sign(x=x), y=node.mb.sign(x=y)))


@lowers("Mod")
def _mod(node: Node) -> Value:
    x, y = node[0], node[1]
    if not node.attr("fmod", 0):
        return node.mb.mod(x=x, y=y)
    # The result has the dividend's sign.
    rest = node.mb.mod(x=node.mb.abs(x=x), y=node.mb.abs(x=y))
    return node.mb.mul(x=rest, y=node.mb.sign(x=x))


@lowers("Pow")
def _pow(node: Node) -> Value:
    base, exponent = node[0], node[1]
    if (
        isinstance(exponent, np.ndarray)
        and exponent.size == 1
        and float(exponent.reshape(())) == 2
        and len(shape_of(exponent)) <= len(shape_of(base))
    ):
        return node.mb.mul(x=base, y=base)
    result = node.mb.pow(x=as_float(node, base), y=as_float(node, exponent))
    return result if kind_of(base) == "f" else node.mb.cast(x=result, dtype="int32")


@lowers(*_COMPARE)
def _compare(node: Node) -> Value:
    x, y = as_int(node, node[0]), as_int(node, node[1])
    return getattr(node.mb, _COMPARE[node.op])(x=x, y=y)


@lowers(*_LOGIC)
def _logic(node: Node) -> Value:
    return getattr(node.mb, _LOGIC[node.op])(x=node[0], y=node[1])


@lowers("Not")
def _not(node: Node) -> Value:
    return node.mb.logical_not(x=node[0])


@lowers(*_FOLD)
def _fold(node: Node) -> Value:
    values = [node[i] for i in range(node.count())]
    if len(values) == 1:
        return node.mb.identity(x=values[0])
    op = getattr(node.mb, _FOLD[node.op])
    return reduce(lambda x, y: op(x=x, y=y), values)


@lowers("Mean")
def _mean(node: Node) -> Value:
    values = [node[i] for i in range(node.count())]
    total = reduce(lambda x, y: node.mb.add(x=x, y=y), values)
    return node.mb.mul(x=total, y=scalar(1 / len(values)))


@lowers(*_UNARY)
def _unary(node: Node) -> Value:
    if kind_of(node[0]) == "i":
        # MIL has most of them for floats only.
        node.only(node.op in ("Abs", "Sign", "Relu"), "integers")
        if node.op == "Relu":
            return node.mb.maximum(x=node[0], y=np.int32(0))
    return getattr(node.mb, _UNARY[node.op])(x=node[0])


@lowers(*_ROUNDING)
def _rounding(node: Node) -> Value:
    return getattr(node.mb, _ROUNDING[node.op])(x=node[0])


@lowers("Neg")
def _neg(node: Node) -> Value:
    minus = scalar(-1) if kind_of(node[0]) == "f" else np.int32(-1)
    return node.mb.mul(x=node[0], y=minus)


@lowers("Reciprocal")
def _reciprocal(node: Node) -> Value:
    # Not `inverse`, which adds an epsilon.
    return node.mb.real_div(x=scalar(1), y=node[0])


@lowers("Log")
def _log(node: Node) -> Value:
    return node.mb.log(x=node[0])


@lowers("Acosh")
def _acosh(node: Node) -> Value:
    x = node[0]
    root = node.mb.sqrt(x=node.mb.sub(x=node.mb.mul(x=x, y=x), y=scalar(1)))
    return node.mb.log(x=node.mb.add(x=x, y=root))


@lowers("Asinh")
def _asinh(node: Node) -> Value:
    # Of |x| with the sign put back, so that nothing cancels.
    x = node[0]
    size = node.mb.abs(x=x)
    root = node.mb.sqrt(x=node.mb.add(x=node.mb.mul(x=x, y=x), y=scalar(1)))
    return node.mb.mul(x=node.mb.sign(x=x), y=node.mb.log(x=node.mb.add(x=size, y=root)))


@lowers("Clip")
def _clip(node: Node) -> Value:
    x = node[0]
    low, high = (node.attr(name, node.get(i + 1)) for i, name in enumerate(("min", "max")))
    if kind_of(x) == "f" and not any(_is_var(b) for b in (low, high)):
        limit = float(np.finfo(np.float32).max)
        bounds = [limit * sign if b is None else float(np.asarray(b).reshape(())) for b, sign in ((low, -1), (high, 1))]
        bounds = [min(max(b, -limit), limit) for b in bounds]
        if bounds[0] == 0 and bounds[1] == limit:
            return node.mb.relu(x=x)
        if bounds == [0, 6]:
            return node.mb.relu6(x=x)
        if bounds[0] <= bounds[1]:
            return node.mb.clip(x=x, alpha=bounds[0], beta=bounds[1])
    if low is not None:
        x = node.mb.maximum(x=x, y=_like(x, low))
    if high is not None:
        x = node.mb.minimum(x=x, y=_like(x, high))
    return x if x is not node[0] else node.mb.identity(x=x)


def _is_var(value: Any) -> bool:
    return value is not None and not isinstance(value, (float, int, np.ndarray, np.generic))


def _like(x: Value, bound: Any) -> Value:
    if _is_var(bound):
        return bound
    info = np.iinfo(np.int32)
    array = np.asarray(bound).reshape(())
    if kind_of(x) == "f":
        limit = np.finfo(np.float32).max
        return np.float32(np.clip(array.astype(np.float64), -limit, limit))
    return np.int32(np.clip(array.astype(np.int64), info.min, info.max))


@lowers("Identity", "Dropout")
def _identity(node: Node) -> list[Value]:
    if node.op == "Dropout" and node.has(2):
        node.only(not node.const(2, "training_mode").any(), "training mode")
    result = [node.mb.identity(x=node[0])]
    if node.op == "Dropout" and node.wants(1):
        result.append(np.ones(node.shape(0), bool))
    return result


@lowers("LeakyRelu")
def _leaky_relu(node: Node) -> Value:
    return node.mb.leaky_relu(x=node[0], alpha=scalar(node.attr("alpha", 0.01)))


@lowers("PRelu")
def _prelu(node: Node) -> Value:
    x, slope = node[0], node[1]
    shape, rank = shape_of(slope), node.rank(0)
    padded = (1,) * (rank - len(shape)) + shape
    if (
        isinstance(slope, np.ndarray)
        and 3 <= rank <= MAX_PRELU_RANK
        and all(d == 1 or (i == 1 and d == node.shape(0)[1]) for i, d in enumerate(padded))
    ):
        return node.mb.prelu(x=x, alpha=np.broadcast_to(slope.reshape(-1), (node.shape(0)[1],)).astype(np.float32))
    # max(x, 0) + slope · min(x, 0)
    low = node.mb.mul(x=node.mb.minimum(x=x, y=scalar(0)), y=slope)
    return node.mb.add(x=node.mb.relu(x=x), y=low)


MAX_PRELU_RANK = 5


@lowers("Elu")
def _elu(node: Node) -> Value:
    return node.mb.elu(x=node[0], alpha=scalar(node.attr("alpha", 1.0)))


@lowers("Selu")
def _selu(node: Node) -> Value:
    alpha = node.attr("alpha", 1.67326319217681884765625)
    gamma = node.attr("gamma", 1.05070102214813232421875)
    return node.mb.mul(x=node.mb.elu(x=node[0], alpha=scalar(alpha)), y=scalar(gamma))


@lowers("Celu")
def _celu(node: Node) -> Value:
    alpha = node.attr("alpha", 1.0)
    inner = node.mb.elu(x=node.mb.mul(x=node[0], y=scalar(1 / alpha)), alpha=scalar(1))
    low = node.mb.minimum(x=node.mb.mul(x=inner, y=scalar(alpha)), y=scalar(0))
    return node.mb.add(x=node.mb.relu(x=node[0]), y=low)


@lowers("ThresholdedRelu")
def _thresholded_relu(node: Node) -> Value:
    # Not `thresholded_relu`, which lets the threshold itself through.
    x = node[0]
    return node.mb.select(cond=node.mb.greater(x=x, y=scalar(node.attr("alpha", 1.0))), a=x, b=scalar(0))


@lowers("Shrink")
def _shrink(node: Node) -> Value:
    x, bias, limit = node[0], node.attr("bias", 0.0), node.attr("lambd", 0.5)
    low = node.mb.select(cond=node.mb.less(x=x, y=scalar(-limit)), a=node.mb.add(x=x, y=scalar(bias)), b=scalar(0))
    return node.mb.select(cond=node.mb.greater(x=x, y=scalar(limit)), a=node.mb.sub(x=x, y=scalar(bias)), b=low)


@lowers("HardSigmoid")
def _hard_sigmoid(node: Node) -> Value:
    return node.mb.sigmoid_hard(x=node[0], alpha=scalar(node.attr("alpha", 0.2)), beta=scalar(node.attr("beta", 0.5)))


@lowers("HardSwish")
def _hard_swish(node: Node) -> Value:
    gate = node.mb.sigmoid_hard(x=node[0], alpha=scalar(1 / 6), beta=scalar(0.5))
    return node.mb.mul(x=node[0], y=gate)


@lowers("Swish")
def _swish(node: Node) -> Value:
    alpha = node.attr("alpha", 1.0)
    if alpha == 1.0:
        return node.mb.silu(x=node[0])
    return node.mb.mul(x=node[0], y=node.mb.sigmoid(x=node.mb.mul(x=node[0], y=scalar(alpha))))


@lowers("QuickGelu")
def _quick_gelu(node: Node) -> Value:
    gate = node.mb.sigmoid(x=node.mb.mul(x=node[0], y=scalar(node.attr("alpha", 1.702))))
    return node.mb.mul(x=node[0], y=gate)


@lowers("Mish")
def _mish(node: Node) -> Value:
    return node.mb.mul(x=node[0], y=node.mb.tanh(x=node.mb.softplus(x=node[0])))


@lowers("Gelu")
def _gelu(node: Node) -> Value:
    tanh = node.attr("approximate", "none") == "tanh"
    return node.mb.gelu(x=node[0], mode="TANH_APPROXIMATION" if tanh else "EXACT")


@lowers("FastGelu", "BiasGelu")
def _fast_gelu(node: Node) -> Value:
    x = node.mb.add(x=node[0], y=node[1]) if node.has(1) else node[0]
    return node.mb.gelu(x=x, mode="TANH_APPROXIMATION" if node.op == "FastGelu" else "EXACT")


@lowers("Where")
def _where(node: Node) -> Value:
    a, b = node[1], node[2]
    if kind_of(a) == "b":
        a, b = as_int(node, a), as_int(node, b)
        return as_bool(node, node.mb.select(cond=node[0], a=a, b=b))
    return node.mb.select(cond=node[0], a=_finite(node, a), b=_finite(node, b))


def _finite(node: Node, value: Value) -> Value:
    """Masks of -inf as the lowest float: half precision has it as -inf again, and no constant is infinite."""
    if isinstance(value, np.ndarray) and kind_of(value) == "f" and np.isinf(value).any():
        limit = np.finfo(np.float32).max
        return np.clip(value, -limit, limit).astype(np.float32)
    return value


_CASTS = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp32",
    TensorProto.DOUBLE: "fp32",
    TensorProto.BFLOAT16: "fp32",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int32",
    TensorProto.BOOL: "bool",
}


@lowers("Cast", "CastLike", note="to float, int32, int64 and bool; float16 and double as float, int64 as int32")
def _cast(node: Node) -> Value:
    if node.op == "CastLike":
        target = {"f": "fp32", "i": "int32", "b": "bool"}[kind_of(node[1])]
    else:
        wanted = _CASTS.get(node.attr("to"))
        if wanted is None:
            raise Unsupported(
                f"to {TensorProto.DataType.Name(node.attr('to'))}, a type that Core ML does not compute in"
            )
        target = wanted
    if target == "bool":
        value = as_bool(node, node[0])
        return value if value is not node[0] else node.mb.identity(x=value)
    same = {"f": "fp32", "i": "int32", "b": "bool"}[kind_of(node[0])] == target
    return node.mb.identity(x=node[0]) if same else node.mb.cast(x=node[0], dtype=target)


@lowers("IsNaN")
def _is_nan(node: Node) -> Value:
    return node.mb.not_equal(x=node[0], y=node[0])
