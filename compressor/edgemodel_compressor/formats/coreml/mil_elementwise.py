"""MIL's elementwise operations and activations, from their documentation (coremltools, "MIL ops", iOS 15 and 16)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .mil import IMPLEMENTATIONS, Arguments, Array, mil


def _floor_div(x: Array, y: Array) -> Array:
    return np.floor_divide(x, y)


def _real_div(x: Array, y: Array) -> Array:
    # Of integers MIL gives integers, rounded towards negative infinity.
    return np.floor_divide(x, y) if x.dtype.kind in "iu" else np.true_divide(x, y)


_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": _real_div,
    "floor_div": _floor_div,
    "mod": np.mod,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}


_erf_each = np.frompyfunc(math.erf, 1, 1)


def _erf(x: Array) -> Array:
    return np.asarray(_erf_each(x), dtype=x.dtype)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e⁻ˣ), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


_UNARY: dict[str, Callable[[Array], Any]] = {
    "abs": np.abs,
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "erf": _erf,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "identity": lambda x: x,
    "logical_not": np.logical_not,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "round": np.rint,
    "sigmoid": sigmoid,
    "sign": np.sign,
    "silu": lambda x: x * sigmoid(x),
    "sin": np.sin,
    "sinh": np.sinh,
    "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}


def _register() -> None:
    def binary(function: Callable[[Array, Array], Array]) -> Callable[[Arguments], Array]:
        return lambda a: np.asarray(function(a["x"], a["y"]))

    def unary(function: Callable[[Array], Any]) -> Callable[[Arguments], Array]:
        return lambda a: np.asarray(function(a["x"]))

    IMPLEMENTATIONS.update({name: binary(f) for name, f in _BINARY.items()})
    IMPLEMENTATIONS.update({name: unary(f) for name, f in _UNARY.items()})


_register()


@mil("inverse")
def _inverse(a: Arguments) -> Array:
    return np.asarray(1 / (a["x"] + np.float32(a.float_or("epsilon", 1e-4))))


@mil("log")
def _log(a: Arguments) -> Array:
    return np.asarray(np.log(a["x"] + np.float32(a.float_or("epsilon", 1e-45))))


@mil("rsqrt")
def _rsqrt(a: Arguments) -> Array:
    return np.asarray(1 / np.sqrt(a["x"] + np.float32(a.float_or("epsilon", 1e-12))))


@mil("clip")
def _clip(a: Arguments) -> Array:
    return np.clip(a["x"], a["alpha"], a["beta"])


@mil("threshold")
def _threshold(a: Arguments) -> Array:
    return np.maximum(a["x"], a["alpha"])


@mil("cast")
def _cast(a: Arguments) -> Array:
    # To the declared type, by the interpreter; to bool every value but zero is true, to int32 towards zero.
    return a["x"] != 0 if a.text("dtype") == "bool" else a["x"]


@mil("select")
def _select(a: Arguments) -> Array:
    return np.where(a["cond"], a["a"], a["b"])


@mil("elu")
def _elu(a: Arguments) -> Array:
    x = a["x"]
    return np.where(x > 0, x, a["alpha"] * np.expm1(np.minimum(x, 0)))


@mil("leaky_relu")
def _leaky_relu(a: Arguments) -> Array:
    x = a["x"]
    return np.where(x >= 0, x, a["alpha"] * x)


@mil("prelu")
def _prelu(a: Arguments) -> Array:
    x = a["x"]
    alpha = a["alpha"].reshape(-1, *([1] * (x.ndim - 2)))
    return np.where(x > 0, x, alpha * x)


@mil("clamped_relu")
def _clamped_relu(a: Arguments) -> Array:
    x = a["x"]
    return np.minimum(a["beta"], np.where(x >= 0, x, a["alpha"] * x))


@mil("thresholded_relu")
def _thresholded_relu(a: Arguments) -> Array:
    return np.where(a["x"] >= a["alpha"], a["x"], 0)


@mil("linear_activation")
def _linear_activation(a: Arguments) -> Array:
    return np.asarray(a["x"] * a["alpha"] + a["beta"])


@mil("scaled_tanh")
def _scaled_tanh(a: Arguments) -> Array:
    return np.asarray(a["alpha"] * np.tanh(a["beta"] * a["x"]))


@mil("sigmoid_hard")
def _sigmoid_hard(a: Arguments) -> Array:
    return np.asarray(np.clip(a["alpha"] * a["x"] + a["beta"], 0, 1))


@mil("softplus_parametric")
def _softplus_parametric(a: Arguments) -> Array:
    shape = (-1, *([1] * (a["x"].ndim - 2)))
    alpha, beta = a["alpha"].reshape(shape), a["beta"].reshape(shape)
    return np.asarray(alpha * np.logaddexp(0, beta * a["x"]))


@mil("gelu")
def _gelu(a: Arguments) -> Array:
    x, mode = a["x"], a.text("mode", "EXACT")
    if mode == "EXACT":
        return np.asarray(0.5 * x * (1 + _erf(x / np.sqrt(np.float32(2)))))
    if mode == "TANH_APPROXIMATION":
        return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(np.float32(2 / np.pi)) * (x + 0.044715 * x**3))))
    return np.asarray(x * sigmoid(1.702 * x))


@mil("softmax")
def _softmax(a: Arguments) -> Array:
    axis = a.int_or("axis", -1)
    shifted = np.exp(a["x"] - a["x"].max(axis=axis, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=axis, keepdims=True))
