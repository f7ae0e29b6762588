"""Attention: ONNX's operator, onnxruntime's, rotary embeddings and what goes with them.

Attention written out as MatMul, Softmax and MatMul needs nothing of this.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .base import Call, NotConvertibleError, Value, op


def _heads(x: Value, count: int) -> Value:
    """[batch, time, heads·size] → [batch, heads, time, size]."""
    return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)


def _joined(x: Value) -> Value:
    """The inverse of `_heads`."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def _softmax(scores: Value, bias: Value) -> Value:
    """Over the last axis; a row with nothing to attend to (all −∞) is 0, without NaN in its gradient."""
    blind = jnp.isneginf(jnp.broadcast_to(bias, scores.shape).max(-1, keepdims=True))
    return jnp.where(blind, 0, jax.nn.softmax(jnp.where(blind, 0, scores), -1))


@op("Attention", traced=True, since=23)
def _attention(call: Call, q: Value, k: Value, v: Value, *optional: Value) -> tuple[Value, ...]:
    mask, past_key, past_value, lengths = (*optional, *(None,) * 4)[:4]
    flat = q.ndim == 3
    if flat:
        q = _heads(q, int(call.get("q_num_heads")))
        k, v = (_heads(t, int(call.get("kv_num_heads"))) for t in (k, v))
    if past_key is not None:
        k = jnp.concatenate([past_key, k], 2)
    if past_value is not None:
        v = jnp.concatenate([past_value, v], 2)
    present = k, v
    if q.shape[1] != k.shape[1]:  # grouped queries
        k, v = (jnp.repeat(t, q.shape[1] // t.shape[1], 1) for t in (k, v))
    before: Any = 0
    if past_key is not None:
        before = past_key.shape[2]
    elif lengths is not None:
        before = lengths.reshape(-1, 1, 1, 1) - q.shape[2]
    bias = _bias(call, (q.shape[2], k.shape[2]), mask, before)
    if lengths is not None:
        valid = jnp.arange(k.shape[2]) < lengths.reshape(-1, 1, 1, 1)
        bias = bias + jnp.where(valid, 0, -jnp.inf)
    scale = call.get("scale")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) * scale
    seen = [scores]
    softcap = float(call.get("softcap", 0.0))
    capped = softcap * jnp.tanh(scores / softcap) if softcap > 0 else scores
    biased = capped + bias
    weights = _softmax(biased, bias)
    seen += [capped, biased, weights]
    y = weights @ v
    shown = seen[int(call.get("qk_matmul_output_mode", 0))]
    return (_joined(y) if flat else y), *present, shown


def _bias(call: Call, size: tuple[int, int], mask: Value, before: Any) -> Value:
    """What is added to the scores: 0 where a query may look, −∞ where not; [queries, keys] or with axes before."""
    queries, keys = size
    bias = jnp.zeros(size, jnp.float32)
    if mask is not None:
        if mask.dtype == bool:
            mask = jnp.where(mask, 0.0, -jnp.inf)
        short = keys - mask.shape[-1]
        if short > 0:
            mask = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, short)], constant_values=-np.inf)
        bias = bias + mask
    distance = jnp.arange(queries)[:, None] + before - jnp.arange(keys)[None]
    if call.get("is_causal", 0):
        bias = bias + jnp.where(distance >= 0, 0.0, -jnp.inf)
    left, right = int(call.get("left_window_size", -1)), int(call.get("right_window_size", -1))
    if left >= 0:
        bias = bias + jnp.where(distance <= left, 0.0, -jnp.inf)
    if right >= 0:
        bias = bias + jnp.where(-distance <= right, 0.0, -jnp.inf)
    return bias


@op("RotaryEmbedding", traced=True, since=23)
def _rotary_embedding(call: Call, x: Value, cos: Value, sin: Value, positions: Value = None) -> Value:
    flat = x.ndim == 3
    heads = _heads(x, int(call.get("num_heads"))) if flat else x
    width = int(call.get("rotary_embedding_dim", 0)) or heads.shape[-1]
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos[:, None], sin[:, None]
    turned, rest = heads[..., :width], heads[..., width:]
    if call.get("interleaved", 0):
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = jnp.stack([cos * a - sin * b, sin * a + cos * b], -1).reshape(turned.shape)
    else:
        a, b = jnp.split(turned, 2, -1)
        turned = jnp.concatenate([cos * a - sin * b, sin * a + cos * b], -1)
    y = jnp.concatenate([turned, rest], -1)
    return _joined(y) if flat else y


@op("SwiGLU", traced=True)
def _swiglu(call: Call, a: Value, b: Value) -> Value:
    return a * jax.nn.sigmoid(float(call.get("alpha", 1.0)) * a) * b


@op("Attention", domain="com.microsoft", traced=True, note="without past, rotary embeddings and relative positions")
def _attention_ms(call: Call, x: Value, weight: Value, bias: Value = None, *optional: Value) -> Value:
    mask, past, added = (*optional, *(None,) * 3)[:3]
    if past is not None or call.wants(1) or call.get("do_rotary", 0) or any(v is not None for v in optional[3:]):
        raise NotConvertibleError("past states and rotary embeddings inside of it have no conversion")
    count = int(call.get("num_heads"))
    together = x @ weight if bias is None else x @ weight + bias
    sizes = call.ints("qkv_hidden_sizes") or (together.shape[-1] // 3,) * 3
    q, k, v = (_heads(t, count) for t in jnp.split(together, np.cumsum(sizes)[:2].tolist(), -1))
    return _joined(_attend(call, (q, k, v), _padding(call, mask, x.shape[1]), added))


@op(
    "MultiHeadAttention", domain="com.microsoft", traced=True, note="of separate queries, keys and values, without past"
)
def _multi_head_attention(call: Call, q: Value, k: Value = None, v: Value = None, *optional: Value) -> Value:
    bias, mask, added = (*optional, *(None,) * 3)[:3]
    if k is None or v is None or q.ndim != 3 or k.ndim != 3 or any(t is not None for t in optional[3:]):
        raise NotConvertibleError("packed inputs and past states have no conversion")
    if any(call.wants(i) for i in (1, 2)):
        raise NotConvertibleError("its present states have no conversion")
    if bias is not None:
        sizes = np.cumsum([q.shape[-1], k.shape[-1]]).tolist()
        q, k, v = (t + b for t, b in zip((q, k, v), jnp.split(bias, sizes), strict=True))
    count = int(call.get("num_heads"))
    q, k, v = (_heads(t, count) for t in (q, k, v))
    return _joined(_attend(call, (q, k, v), _padding(call, mask, k.shape[2]), added))


def _padding(call: Call, mask: Value, keys: int) -> Value:
    """Onnxruntime's integer masks as a bias [batch, 1, 1 or queries, keys]; 0 hides."""
    if mask is None:
        return jnp.zeros((1, 1, 1, 1), jnp.float32)
    hidden = float(call.get("mask_filter_value", -10000.0))
    if mask.ndim == 1:  # lengths
        mask = jnp.arange(keys)[None] < mask[:, None]
    if mask.ndim == 2:
        mask = mask[:, None]
    if mask.ndim != 3:
        raise NotConvertibleError(f"a mask of rank {mask.ndim} has no conversion")
    return jnp.where(mask[:, None] != 0, 0.0, hidden)


def _attend(call: Call, heads: tuple[Value, Value, Value], bias: Value, added: Value) -> Value:
    q, k, v = heads
    scale = float(call.get("scale", 0.0)) or 1 / math.sqrt(q.shape[-1])
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) * scale + bias
    if added is not None:
        scores = scores + added
    if call.get("unidirectional", 0):
        queries, keys = scores.shape[-2:]
        seen = jnp.arange(queries)[:, None] + keys - queries >= jnp.arange(keys)[None]
        scores = jnp.where(seen, scores, np.finfo(np.float32).min)
    return jax.nn.softmax(scores, -1) @ v


@op("LinearAttention", traced=True)
def _linear_attention(call: Call, q: Value, k: Value, v: Value, *optional: Value) -> tuple[Value, Value]:
    state, decay, beta = (*optional, *(None,) * 3)[:3]
    queries, keys = int(call.get("q_num_heads")), int(call.get("kv_num_heads"))
    rule = call.get("update_rule", "gated_delta")
    q, k, v = _heads(q, queries), _heads(k, keys), _heads(v, keys)
    scale = float(call.get("scale", 0.0)) or 1 / math.sqrt(q.shape[-1])
    if state is None:
        state = jnp.zeros((*k.shape[:2], k.shape[-1], v.shape[-1]), q.dtype)
    one = jnp.ones((q.shape[0], 1, q.shape[2], 1), q.dtype)
    gate = jnp.exp(_heads(decay, keys)) if rule in ("gated", "gated_delta") else one
    rate = _heads(beta, beta.shape[-1]) if rule in ("delta", "gated_delta") else one

    def step(s: Value, now: tuple[Value, ...]) -> tuple[Value, Value]:
        q_t, k_t, v_t, gate_t, rate_t = now
        s = s * gate_t[..., None]
        if rule in ("delta", "gated_delta"):
            v_t = rate_t * (v_t - jnp.einsum("bhdm,bhd->bhm", s, k_t))
        s = s + k_t[..., :, None] * v_t[..., None, :]
        return s, scale * jnp.einsum("bhd,bhdm->bhm", q_t, jnp.repeat(s, queries // keys, 1))

    last, y = jax.lax.scan(step, state, tuple(jnp.moveaxis(t, 2, 0) for t in (q, k, v, gate, rate)))
    return _joined(jnp.moveaxis(y, 0, 2)), last
