"""Control flow and sequences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .base import Call, NotConvertibleError, Value, axis_of, is_static, known, known_ints, lift, op

#: Iterations of a Loop are written out one by one.
MAX_ITERATIONS = 256


@op("If", keep=(0,), note="both branches must give the same shapes where the condition depends on the inputs")
def _if(call: Call, condition: Value) -> tuple[Value, ...]:
    branches = call.attributes["then_branch"], call.attributes["else_branch"]
    if is_static(condition):
        return call.run(branches[0] if bool(known(condition, "condition").reshape(())) else branches[1], ())
    then, other = ((lambda g=g: tuple(lift(v) for v in call.run(g, ()))) for g in branches)
    found: tuple[Value, ...] = jax.lax.cond(condition.reshape(()), then, other)
    return found


@op("Loop", keep=range(2), note=f"at most {MAX_ITERATIONS} iterations, their number known beforehand")
def _loop(call: Call, trips: Value, condition: Value, *state: Value) -> tuple[Value, ...]:
    body = call.attributes["body"]
    what = "number of iterations"
    count = None if trips is None else known_ints(trips, what)[0]
    going = condition is None or bool(known(condition, what).reshape(()))
    scanned: list[tuple[Value, ...]] = []
    i = 0
    while going and (count is None or i < count):
        if i >= MAX_ITERATIONS:
            raise NotConvertibleError(f"it has more than {MAX_ITERATIONS} iterations")
        again, *results = call.run(body, (np.asarray(i, np.int64), np.asarray(True), *state))
        going = bool(known(again, what).reshape(()))
        state = tuple(results[: len(state)])
        scanned.append(tuple(results[len(state) :]))
        i += 1
    if not scanned:
        if len(call.outputs) > len(state):
            raise NotConvertibleError("it never runs, and yet its iterations' values are stacked")
        return tuple(state)
    return (*state, *(_stacked(column) for column in zip(*scanned, strict=True)))


def _stacked(values: tuple[Value, ...]) -> Value:
    return np.stack(values) if all(is_static(v) for v in values) else jnp.stack([lift(v) for v in values])


@op("Scan", since=9, traced=True)
def _scan(call: Call, *inputs: Value) -> tuple[Value, ...]:
    body = call.attributes["body"]
    count = int(call.get("num_scan_inputs"))
    state, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    outputs = len(call.outputs) - len(state)
    in_axes = call.ints("scan_input_axes", (0,) * count) or ()
    back = call.ints("scan_input_directions", (0,) * count) or ()
    out_axes = call.ints("scan_output_axes", (0,) * outputs) or ()
    out_back = call.ints("scan_output_directions", (0,) * outputs) or ()
    columns = [jnp.moveaxis(x, axis_of(a, x.ndim), 0) for x, a in zip(scanned, in_axes, strict=True)]
    columns = [x[::-1] if b else x for x, b in zip(columns, back, strict=True)]

    def step(carry: tuple[Value, ...], now: list[Value]) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
        results = tuple(lift(v) for v in call.run(body, (*carry, *now)))
        return results[: len(carry)], results[len(carry) :]

    last, stacked = jax.lax.scan(step, tuple(state), columns)
    stacked = tuple(y[::-1] if b else y for y, b in zip(stacked, out_back, strict=True))
    return (*last, *(jnp.moveaxis(y, 0, axis_of(a, y.ndim)) for y, a in zip(stacked, out_axes, strict=True)))
