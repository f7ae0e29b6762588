"""Products of matrices."""

from __future__ import annotations

import jax.numpy as jnp

from .base import Call, Value, op


@op("MatMul")
def _matmul(call: Call, a: Value, b: Value) -> Value:
    return call.np.matmul(a, b)


@op("Gemm", since=7)
def _gemm(call: Call, a: Value, b: Value, c: Value = None) -> Value:
    a = a.T if call.get("transA", 0) else a
    b = b.T if call.get("transB", 0) else b
    alpha, beta = float(call.get("alpha", 1.0)), float(call.get("beta", 1.0))
    y = call.np.matmul(a, b)
    if alpha != 1.0:
        y = y * call.np.asarray(alpha, y.dtype)
    if c is None:
        return y
    return y + (c if beta == 1.0 else c * call.np.asarray(beta, c.dtype))


@op("Einsum", since=12, traced=True)
def _einsum(call: Call, *inputs: Value) -> Value:
    return jnp.einsum(call.get("equation"), *inputs)


@op("FusedMatMul", domain="com.microsoft", traced=True)
def _fused_matmul(call: Call, a: Value, b: Value) -> Value:
    if call.get("transBatchA", 0):
        a = jnp.moveaxis(a, 0, -2)
    if call.get("transBatchB", 0):
        b = jnp.moveaxis(b, 0, -2)
    a = jnp.swapaxes(a, -1, -2) if call.get("transA", 0) and a.ndim > 1 else a
    b = jnp.swapaxes(b, -1, -2) if call.get("transB", 0) and b.ndim > 1 else b
    return jnp.matmul(a, b) * float(call.get("alpha", 1.0))
