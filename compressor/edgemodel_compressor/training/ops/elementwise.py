"""Element-wise operators and activations."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .base import Call, NotConvertibleError, Value, bounded_broadcast, known, op

_UNARY = {
    "Abs": "abs", "Neg": "negative", "Ceil": "ceil", "Floor": "floor", "Sqrt": "sqrt", "Exp": "exp", "Log": "log",
    "Sin": "sin", "Cos": "cos", "Tan": "tan", "Asin": "arcsin", "Acos": "arccos", "Atan": "arctan", "Sinh": "sinh",
    "Cosh": "cosh", "Asinh": "arcsinh", "Acosh": "arccosh", "Atanh": "arctanh", "Tanh": "tanh", "Sign": "sign",
    "Not": "logical_not", "IsNaN": "isnan", "Round": "round", "BitwiseNot": "invert",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sub": "subtract", "Mul": "multiply", "And": "logical_and", "Or": "logical_or",
    "Xor": "logical_xor", "Equal": "equal", "Greater": "greater", "GreaterOrEqual": "greater_equal", "Less": "less",
    "LessOrEqual": "less_equal", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor",
}  # fmt: skip


def _unary(call: Call, x: Value) -> Value:
    return getattr(call.np, _UNARY[call.op])(x)


def _binary(call: Call, a: Value, b: Value) -> Value:
    bounded_broadcast(call, a, b)
    return getattr(call.np, _BINARY[call.op])(a, b)


op(*_UNARY)(_unary)
op(*_BINARY, since=7)(_binary)


@op("Div", since=7)
def _div(call: Call, a: Value, b: Value) -> Value:
    if np.dtype(a.dtype).kind in "iu":
        # ONNX leaves the sign of the remainder open; onnxruntime truncates, as C does.
        quotient = abs(a) // call.np.maximum(abs(b), 1)
        return (call.np.sign(a) * call.np.sign(b) * quotient).astype(a.dtype)
    return call.np.true_divide(a, b)


@op("Mod", since=10)
def _mod(call: Call, a: Value, b: Value) -> Value:
    return call.np.fmod(a, b) if call.get("fmod", 0) else call.np.mod(a, b)


@op("Pow", since=7)
def _pow(call: Call, a: Value, b: Value) -> Value:
    if call.np is jnp and np.dtype(b.dtype).kind == "f" and np.ndim(b) == 0 and not isinstance(b, jax.core.Tracer):
        exponent = float(b)
        if exponent.is_integer() and abs(exponent) <= 64:
            # x², not exp(2·log x): the latter has no gradient at negative x.
            return jax.lax.integer_pow(a, int(exponent)) if np.dtype(a.dtype).kind == "f" else a ** int(exponent)
    return call.np.power(a, b).astype(a.dtype)


@op("Max", "Min", "Sum", "Mean", since=8)
def _variadic(call: Call, *inputs: Value) -> Value:
    bounded_broadcast(call, *inputs)
    combine = {"Max": call.np.maximum, "Min": call.np.minimum}.get(call.op, call.np.add)
    result = inputs[0]
    for x in inputs[1:]:
        result = combine(result, x)
    return result / call.np.asarray(len(inputs), result.dtype) if call.op == "Mean" else result


@op("Identity")
def _identity(call: Call, x: Value) -> Value:
    return x


@op("Dropout", keep=(1, 2), note="off, as at inference")
def _dropout(call: Call, x: Value, ratio: Value = None, training: Value = None) -> tuple[Value, ...]:
    if training is not None and known(training, "training_mode").any():
        raise NotConvertibleError("training mode has no conversion: export the model for inference")
    return x, call.np.ones(x.shape, bool)


@op("Reciprocal")
def _reciprocal(call: Call, x: Value) -> Value:
    return call.np.asarray(1, x.dtype) / x


@op("IsInf", since=10)
def _isinf(call: Call, x: Value) -> Value:
    up, down = call.get("detect_positive", 1), call.get("detect_negative", 1)
    return call.np.isinf(x) & (((x > 0) & bool(up)) | ((x < 0) & bool(down)))


@op("Where", since=9)
def _where(call: Call, condition: Value, a: Value, b: Value) -> Value:
    bounded_broadcast(call, condition, a, b)
    return call.np.where(condition, a, b)


@op("BitShift", since=11)
def _bit_shift(call: Call, a: Value, b: Value) -> Value:
    return call.np.left_shift(a, b) if call.get("direction") == "LEFT" else call.np.right_shift(a, b)


@op("Clip", since=6)
def _clip(call: Call, x: Value, low: Value = None, high: Value = None) -> Value:
    if call.opset < 11:
        low, high = call.get("min"), call.get("max")
    if low is not None:
        x = call.np.maximum(x, call.np.asarray(low, x.dtype))
    return x if high is None else call.np.minimum(x, call.np.asarray(high, x.dtype))


def _erf(call: Call, x: Value) -> Value:
    if call.np is jnp:
        return jax.scipy.special.erf(x)
    return np.vectorize(math.erf, otypes=[x.dtype])(x) if x.size else x


op("Erf", since=9)(_erf)


def _activation(name: str, **defaults: float) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """An activation in JAX with attributes that are numbers."""

    def register(function: Callable[..., Value]) -> Callable[..., Value]:
        def convert(call: Call, x: Value) -> Value:
            return function(x, *(float(call.get(key, value)) for key, value in defaults.items()))

        ACTIVATIONS[name.lower()] = (function, tuple(defaults.values()))
        op(name, traced=True, since=6)(convert)
        return function

    return register


#: Lower-case name → (function, default alpha and beta): those of LSTM, GRU and RNN as well.
ACTIVATIONS: dict[str, tuple[Callable[..., Value], tuple[float, ...]]] = {"tanh": (jnp.tanh, ())}


@op("Relu")
def _relu(call: Call, x: Value) -> Value:
    return call.np.maximum(x, call.np.asarray(0, x.dtype)) if call.np is np else jax.nn.relu(x)


ACTIVATIONS["relu"] = (jax.nn.relu, ())


@_activation("Sigmoid")
def _sigmoid(x: Value) -> Value:
    return jax.nn.sigmoid(x)


@_activation("Elu", alpha=1.0)
def _elu(x: Value, alpha: float) -> Value:
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x)))


@_activation("Celu", alpha=1.0)
def _celu(x: Value, alpha: float) -> Value:
    return jax.nn.celu(x, alpha)


@_activation("Selu", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875)
def _selu(x: Value, alpha: float, gamma: float) -> Value:
    return gamma * _elu(x, alpha)


@_activation("LeakyRelu", alpha=0.01)
def _leaky_relu(x: Value, alpha: float) -> Value:
    return jnp.where(x >= 0, x, alpha * x)


@_activation("ThresholdedRelu", alpha=1.0)
def _thresholded_relu(x: Value, alpha: float) -> Value:
    return jnp.where(x > alpha, x, 0)


@_activation("HardSigmoid", alpha=0.2, beta=0.5)
def _hard_sigmoid(x: Value, alpha: float, beta: float) -> Value:
    return jnp.clip(alpha * x + beta, 0, 1)


@_activation("HardSwish")
def _hard_swish(x: Value) -> Value:
    return x * jnp.clip(x / 6 + 0.5, 0, 1)


@_activation("Softplus")
def _softplus(x: Value) -> Value:
    return jax.nn.softplus(x)


@_activation("Softsign")
def _softsign(x: Value) -> Value:
    return x / (1 + jnp.abs(x))


@_activation("Mish")
def _mish(x: Value) -> Value:
    return x * jnp.tanh(jax.nn.softplus(x))


@_activation("Swish", alpha=1.0)
def _swish(x: Value, alpha: float) -> Value:
    return x * jax.nn.sigmoid(alpha * x)


@_activation("Shrink", lambd=0.5, bias=0.0)
def _shrink(x: Value, lambd: float, bias: float) -> Value:
    return jnp.where(x < -lambd, x + bias, jnp.where(x > lambd, x - bias, 0)).astype(x.dtype)


@op("PRelu", since=7, traced=True)
def _prelu(call: Call, x: Value, slope: Value) -> Value:
    return jnp.where(x >= 0, x, slope * x)


@op("Gelu", since=20, traced=True)
def _gelu(call: Call, x: Value) -> Value:
    return jax.nn.gelu(x, approximate=call.get("approximate", "none") == "tanh")


@op("Gelu", domain="com.microsoft", traced=True)
def _gelu_ms(call: Call, x: Value) -> Value:
    return jax.nn.gelu(x, approximate=False)


@op("FastGelu", "BiasGelu", domain="com.microsoft", traced=True)
def _bias_gelu(call: Call, x: Value, bias: Value = None) -> Value:
    return jax.nn.gelu(x if bias is None else x + bias, approximate=call.op == "FastGelu")


@op("QuickGelu", domain="com.microsoft", traced=True)
def _quick_gelu(call: Call, x: Value) -> Value:
    return x * jax.nn.sigmoid(float(call.get("alpha", 1.702)) * x)


@op("Softmax", "LogSoftmax", "Hardmax", traced=True)
def _softmax(call: Call, x: Value) -> Value:
    axis = int(call.get("axis", 1 if call.opset < 13 else -1))
    shape = x.shape
    if call.opset < 13:  # flattened to two dimensions at the axis
        axis %= max(x.ndim, 1)
        x, axis = x.reshape(math.prod(shape[:axis]), -1), -1
    if call.op == "Hardmax":
        y = jax.nn.one_hot(jnp.argmax(x, axis), x.shape[axis], axis=axis, dtype=x.dtype)
    else:
        y = (jax.nn.softmax if call.op == "Softmax" else jax.nn.log_softmax)(x, axis)
    return y.reshape(shape)
