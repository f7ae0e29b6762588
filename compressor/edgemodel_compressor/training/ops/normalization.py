"""Normalizations. Statistics of BatchNormalization are frozen, as at inference."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .base import Call, NotConvertibleError, Value, axis_of, op


def _per_channel(v: Value, rank: int) -> Value:
    return v.reshape(-1, *(1,) * (rank - 2)) if rank > 1 else v


def _standardized(x: Value, axes: tuple[int, ...], epsilon: float) -> tuple[Value, Value, Value]:
    """(x − mean) / √(variance + ε) over axes, the mean, and 1 / √(variance + ε)."""
    mean = x.mean(axes, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(x - mean).mean(axes, keepdims=True) + epsilon)
    return (x - mean) * inverse, mean, inverse


@op("BatchNormalization", traced=True, since=7, note="with the stored statistics (inference)")
def _batch_normalization(call: Call, x: Value, *statistics: Value) -> Value:
    scale, bias, mean, variance = statistics
    if call.get("training_mode", 0) or (call.opset < 14 and any(call.wants(i) for i in range(1, 5))):
        raise NotConvertibleError("training mode has no conversion: export the model for inference")
    factor = scale * jax.lax.rsqrt(variance + float(call.get("epsilon", 1e-5)))
    return x * _per_channel(factor, x.ndim) + _per_channel(bias - mean * factor, x.ndim)


@op("LayerNormalization", traced=True)
def _layer_normalization(call: Call, x: Value, scale: Value, bias: Value = None) -> tuple[Value, ...]:
    axis = axis_of(int(call.get("axis", -1)), x.ndim)
    y, mean, inverse = _standardized(x, tuple(range(axis, x.ndim)), float(call.get("epsilon", 1e-5)))
    y = y * scale
    return (y if bias is None else y + bias), mean, inverse


@op("RMSNormalization", traced=True)
def _rms_normalization(call: Call, x: Value, scale: Value) -> Value:
    return _rms(call, x, scale)[0]


@op("SimplifiedLayerNormalization", traced=True, note="onnxruntime's, in ONNX's own domain")
def _simplified_layer_normalization(call: Call, x: Value, scale: Value) -> tuple[Value, ...]:
    return _rms(call, x, scale)


def _rms(call: Call, x: Value, scale: Value) -> tuple[Value, Value]:
    axis = axis_of(int(call.get("axis", -1)), x.ndim)
    square = jnp.square(x).mean(tuple(range(axis, x.ndim)), keepdims=True)
    inverse = jax.lax.rsqrt(square + float(call.get("epsilon", 1e-5)))
    return x * inverse * scale, inverse


@op("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft", traced=True)
def _skip_layer_normalization(call: Call, x: Value, skip: Value, gamma: Value, *rest: Value) -> tuple[Value, ...]:
    simplified = call.op == "SkipSimplifiedLayerNormalization"
    beta, bias = (None, *rest, None)[:2] if simplified else (*rest, None, None)[:2]
    total = x + skip if bias is None else x + skip + bias
    epsilon = float(call.get("epsilon", 1e-12))
    if simplified:
        inverse = jax.lax.rsqrt(jnp.square(total).mean(-1, keepdims=True) + epsilon)
        return total * inverse * gamma, None, inverse, total
    y, mean, inverse = _standardized(total, (-1,), epsilon)
    return y * gamma + (0 if beta is None else beta), mean, inverse, total


@op("InstanceNormalization", traced=True, since=6)
def _instance_normalization(call: Call, x: Value, scale: Value, bias: Value) -> Value:
    y = _standardized(x, tuple(range(2, x.ndim)), float(call.get("epsilon", 1e-5)))[0]
    return y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)


@op("GroupNormalization", traced=True, since=18)
def _group_normalization(call: Call, x: Value, scale: Value, bias: Value) -> Value:
    groups = int(call.get("num_groups"))
    grouped = x.reshape(x.shape[0], groups, -1)
    y = _standardized(grouped, (2,), float(call.get("epsilon", 1e-5)))[0].reshape(x.shape)
    if call.opset < 21:  # one number a group
        scale, bias = (jnp.repeat(v, x.shape[1] // groups) for v in (scale, bias))
    return y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)


@op("MeanVarianceNormalization", traced=True, since=9)
def _mean_variance_normalization(call: Call, x: Value) -> Value:
    axes = tuple(axis_of(a, x.ndim) for a in call.ints("axes", (0, 2, 3)) or ())
    mean = x.mean(axes, keepdims=True)
    deviation = jnp.sqrt(jnp.square(x - mean).mean(axes, keepdims=True))
    return (x - mean) / (deviation + np.float32(1e-9))


@op("LpNormalization", traced=True)
def _lp_normalization(call: Call, x: Value) -> Value:
    axis = axis_of(int(call.get("axis", -1)), x.ndim)
    if int(call.get("p", 2)) == 1:
        norm = jnp.abs(x).sum(axis, keepdims=True)
    else:
        square = jnp.square(x).sum(axis, keepdims=True)
        norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return jnp.where(norm == 0, 0, x / jnp.where(norm == 0, 1, norm))
