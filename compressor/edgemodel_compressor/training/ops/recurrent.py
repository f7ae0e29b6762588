"""Recurrent cells: LSTM, GRU, RNN, in both directions and layouts.

Weights are ONNX's: W [directions, gates·hidden, input], R [directions, gates·hidden, hidden], B [directions,
2·gates·hidden]; gates in the order i, o, f, c (LSTM) and z, r, h (GRU).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from edgemodel_api.quantities import counted

from .base import Call, NotConvertibleError, Value, op
from .elementwise import ACTIVATIONS

_OWN: dict[str, tuple[Callable[..., Value], tuple[float, ...]]] = {
    "affine": (lambda x, alpha, beta: alpha * x + beta, (1.0, 0.0)),
    "scaledtanh": (lambda x, alpha, beta: alpha * jnp.tanh(beta * x), (1.0, 1.0)),
}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class _Direction:
    """One direction's weights and activations; hidden state [batch, hidden]."""

    w: Value
    r: Value
    bias_w: Value
    bias_r: Value
    peepholes: Value
    activations: tuple[Callable[[Value], Value], ...]
    clip: float | None
    call: Call

    def bounded(self, x: Value) -> Value:
        """The input of an activation."""
        return x if self.clip is None else jnp.clip(x, -self.clip, self.clip)


@op("LSTM", "GRU", "RNN", traced=True, since=7)
def _recurrent(call: Call, x: Value, w: Value, r: Value, *optional: Value) -> tuple[Value, ...]:
    bias, lengths, h0, c0, peepholes = (*optional, *(None,) * 5)[:5]
    directions, hidden = w.shape[0], r.shape[-1]
    if call.get("layout", 0):
        x = x.swapaxes(0, 1)
        h0, c0 = (None if s is None else s.swapaxes(0, 1) for s in (h0, c0))
    batch = x.shape[1]
    direction = call.get("direction", "forward")
    if (direction == "bidirectional") != (directions == 2):
        raise ValueError(f"direction {direction!r} with weights for {counted(directions, 'direction')}")
    zeros = jnp.zeros((directions, batch, hidden), x.dtype)
    h0, c0 = (zeros if s is None else s for s in (h0, c0))
    gates = _GATES[call.op]
    if bias is None:
        bias = jnp.zeros((directions, 2 * gates * hidden), x.dtype)
    chosen = _activations(call, directions)
    ys, hs, cs = [], [], []
    for d in range(directions):
        backwards = direction == "reverse" or d == 1
        one = _Direction(
            w[d], r[d], bias[d, : gates * hidden], bias[d, gates * hidden :],
            None if peepholes is None else peepholes[d], chosen[d],
            float(call.get("clip")) if "clip" in call.attributes else None, call,
        )  # fmt: skip
        y, h, c = _scan(one, x, (h0[d], c0[d]), lengths, backwards=backwards)
        ys.append(y)
        hs.append(h)
        cs.append(c)
    y, h, c = jnp.stack(ys, 1), jnp.stack(hs), jnp.stack(cs)
    if call.get("layout", 0):
        y, h, c = y.transpose(2, 0, 1, 3), h.swapaxes(0, 1), c.swapaxes(0, 1)
    return (y, h, c) if call.op == "LSTM" else (y, h)


def _activations(call: Call, directions: int) -> list[tuple[Callable[[Value], Value], ...]]:
    defaults = _DEFAULTS[call.op] * directions
    names = [n.decode() if isinstance(n, bytes) else n for n in call.attributes.get("activations", defaults)]
    if len(names) != len(defaults):
        raise ValueError(f"{counted(len(names), 'activation')}, {len(defaults)} are needed")
    given = [list(call.attributes.get(f"activation_{k}", ())) for k in ("alpha", "beta")]
    functions: list[Callable[[Value], Value]] = []
    for name in names:
        found = {**ACTIVATIONS, **_OWN}.get(name.lower())
        if found is None:
            raise NotConvertibleError(f"the activation {name!r} has no conversion")
        function, values = found
        # Each activation that has an alpha (a beta) takes the next one of the list.
        numbers = tuple(rest.pop(0) if rest else value for rest, value in zip(given, values, strict=False))
        functions.append(_with(function, numbers))
    each = len(names) // directions
    return [tuple(functions[d * each : (d + 1) * each]) for d in range(directions)]


def _with(function: Callable[..., Value], numbers: tuple[float, ...]) -> Callable[[Value], Value]:
    return lambda v: function(v, *numbers)


def _scan(
    one: _Direction, x: Value, start: tuple[Value, Value], lengths: Value, *, backwards: bool
) -> tuple[Value, Value, Value]:
    """All steps of one direction: outputs [steps, batch, hidden], and the last hidden and cell states."""
    steps = x.shape[0]
    at = jnp.arange(steps)
    if backwards:
        x = _reversed(x, lengths)
    cell = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}[one.call.op]
    inputs = x @ one.w.T + one.bias_w

    def step(state: tuple[Value, Value], now: tuple[Value, Value]) -> tuple[tuple[Value, Value], Value]:
        given, t = now
        new = cell(one, given, state)
        if lengths is None:
            return new, new[0]
        live = (t < lengths)[:, None]
        kept = tuple(jnp.where(live, n, s) for n, s in zip(new, state, strict=True))
        return (kept[0], kept[1]), jnp.where(live, new[0], 0)

    (h, c), y = jax.lax.scan(step, start, (inputs, at))
    return (_reversed(y, lengths) if backwards else y), h, c


def _reversed(x: Value, lengths: Value) -> Value:
    """Reversed in time, each sequence within its own length."""
    if lengths is None:
        return x[::-1]
    t = jnp.arange(x.shape[0])[:, None]
    at = jnp.where(t < lengths[None], lengths[None] - 1 - t, t)
    return jnp.take_along_axis(x, at[:, :, None], 0)


def _lstm(one: _Direction, given: Value, state: tuple[Value, Value]) -> tuple[Value, Value]:
    h, c = state
    f, g, output = one.activations
    i, o, forget, candidate = jnp.split(given + h @ one.r.T + one.bias_r, 4, -1)
    pi, po, pf = (0, 0, 0) if one.peepholes is None else jnp.split(one.peepholes, 3)
    i = f(one.bounded(i + pi * c))
    forget = 1 - i if one.call.get("input_forget", 0) else f(one.bounded(forget + pf * c))
    c = forget * c + i * g(one.bounded(candidate))
    o = f(one.bounded(o + po * c))
    # As onnxruntime has it, the cell itself is not clipped.
    return o * output(c), c


def _gru(one: _Direction, given: Value, state: tuple[Value, Value]) -> tuple[Value, Value]:
    h, c = state
    f, g = one.activations
    n = h.shape[-1]
    recurrent = h @ one.r[: 2 * n].T + one.bias_r[: 2 * n]
    z, r = (f(one.bounded(v)) for v in jnp.split(given[:, : 2 * n] + recurrent, 2, -1))
    if one.call.get("linear_before_reset", 0):
        inner = r * (h @ one.r[2 * n :].T + one.bias_r[2 * n :])
    else:
        inner = (r * h) @ one.r[2 * n :].T + one.bias_r[2 * n :]
    candidate = g(one.bounded(given[:, 2 * n :] + inner))
    return (1 - z) * candidate + z * h, c


def _rnn(one: _Direction, given: Value, state: tuple[Value, Value]) -> tuple[Value, Value]:
    h, c = state
    return one.activations[0](one.bounded(given + h @ one.r.T + one.bias_r)), c
