"""Quantized numbers, for models that learn through them: rounding passes the gradient on (straight-through).

Traced quantized values are float32 numbers that are whole: JAX has no gradient for integers. Source: Bengio, Léonard,
Courville 2013, "Estimating or propagating gradients through stochastic neurons".
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .base import Call, NotConvertibleError, Value, axis_of, dtype_of, is_static, lift, op

_INTEGERS = {"int8": 8, "uint8": 8, "int16": 16, "uint16": 16, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2}


def _aligned(v: Value, x: Value, call: Call) -> Value:
    """A scale or zero point, broadcast to x: one number, one per index of the axis, or one per block."""
    if v.ndim == 0 or (v.ndim == 1 and v.size == 1):
        return v.reshape(())
    axis = axis_of(int(call.get("axis", 1)), x.ndim)
    block = int(call.get("block_size", 0))
    if block:
        repeated = (np if is_static(v) else jnp).repeat(v, block, axis)
        return repeated[tuple(slice(0, n) for n in x.shape)]
    return v.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def _range(dtype: Any) -> tuple[float, float]:
    bits = _INTEGERS.get(dtype.name)
    if bits is None:
        raise NotConvertibleError(f"quantization to {dtype.name} has no conversion")
    return (0, 2**bits - 1) if dtype.name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def rounded(x: Value) -> Value:
    """Half to even, with the gradient of the identity."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


@op("QuantizeLinear", keep=(2,), since=10, traced=True, note="integers; the gradient passes through the rounding")
def _quantize(call: Call, x: Value, scale: Value, zero: Value = None) -> Value:
    if zero is not None:
        if not is_static(zero):
            raise NotConvertibleError("a zero point that depends on the inputs has no conversion")
        dtype = np.asarray(zero).dtype
    else:
        dtype = dtype_of(int(call.get("output_dtype", 0)) or 2, static=True)
    low, high = _range(dtype)
    shift = 0 if zero is None else _aligned(lift(np.asarray(zero).astype(np.float32)), x, call)
    return jnp.clip(rounded(x / _aligned(scale, x, call)) + shift, low, high)


@op("DequantizeLinear", since=10)
def _dequantize(call: Call, x: Value, scale: Value, zero: Value = None) -> Value:
    y = x.astype(np.float32)
    if zero is not None:
        y = y - _aligned(zero.astype(np.float32), x, call)
    return y * _aligned(scale, x, call).astype(np.float32)


@op("DynamicQuantizeLinear", since=11, traced=True, note="the gradient passes through the rounding")
def _dynamic_quantize(call: Call, x: Value) -> tuple[Value, ...]:
    low, high = jnp.minimum(x.min(), 0), jnp.maximum(x.max(), 0)
    scale = (high - low) / 255
    safe = jnp.where(scale == 0, 1, scale)
    zero = jnp.clip(jnp.round(-low / safe), 0, 255)
    return jnp.clip(rounded(x / safe) + zero, 0, 255), scale, zero
