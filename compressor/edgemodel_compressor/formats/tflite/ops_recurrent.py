"""LSTM, GRU and RNN, unrolled over a known length.

TFLite's own sequence operators keep their state between two runs and do not give the last state, so the answers to a
request would depend on those before it. Unrolled, every step is two matrix products and some element-wise operators;
weights are stored once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .emit import Emitter
from .graph import Array, Free, Tensor
from .site import NeedsFixedBatchError, Refused, Site, lowers

#: Steps of one node; a longer one would make tens of thousands of operators.
MAX_STEPS = 1024
_FUNCTIONS = {"Sigmoid": "LOGISTIC", "Tanh": "TANH", "Relu": "RELU"}
_NOTE = "known length up to 1024, unrolled; Sigmoid, Tanh and Relu; no clip, no peepholes, no varying lengths"


@dataclass(frozen=True)
class Cell:
    """One direction of a node.

    Attributes:
        gates: number of them.
        hidden: size of the state.
        functions: activations as TFLite operators.
        input_weight: [gates·hidden, in].
        state_weight: [gates·hidden, hidden].
        input_bias: [gates·hidden].
        state_bias: the same.
    """

    gates: int
    hidden: int
    functions: list[str]
    input_weight: Array
    state_weight: Array
    input_bias: Array
    state_bias: Array


Step = Callable[[Emitter, Tensor, Tensor, "Tensor | None"], "tuple[Tensor, Tensor | None]"]


@lowers("LSTM", "GRU", "RNN", note=_NOTE)
def _recurrent(site: Site) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[site.op]
    hidden = int(site.attr("hidden_size") or site.shape(2)[-1])
    directions = 2 if str(site.attr("direction", "forward")) == "bidirectional" else 1
    shape = site.shape()
    layout = int(site.attr("layout", 0))
    steps, batch = (shape[1], shape[0]) if layout else (shape[0], shape[1])
    if isinstance(steps, Free):
        raise NeedsFixedBatchError("the length of its sequence is the free dimension")
    _refuse(site, int(steps))
    e = site.emit
    x = site.get(0, (1, 0, 2) if layout else (0, 1, 2))
    outputs, states, memories = [], [], []
    before = len(e.graph.ops)
    for d in range(directions):
        backward = str(site.attr("direction", "forward")) == "reverse" or d == 1
        cell = _cell(site, d, gates, hidden, directions)
        made, state, memory = _unrolled(site, x, cell, d, batch=batch, layout=layout, backward=backward)
        outputs.append(made)
        states.append(state)
        memories.append(memory)
    for op in e.graph.ops[before:]:
        for tensor in op.outputs:
            # Thousands of long names would be a third of the file: they get the shortest.
            tensor.name = ""
    if site.wants(0):
        # [steps, directions, batch, hidden], or [batch, steps, directions, hidden].
        whole = e.concat([e.reshape(o, (steps, 1, batch, hidden)) for o in outputs], 1)
        site.give(whole, (1, 2, 0, 3) if layout else None)
    for i, parts in ((1, states), (2, memories)):
        if site.wants(i):
            tensors = [e.reshape(p, (1, batch, hidden)) for p in parts if p is not None]
            site.give(e.concat(tensors, 0), (1, 0, 2) if layout else None, i)


def _refuse(site: Site, steps: int) -> None:
    if steps > MAX_STEPS:
        raise Refused(f"{steps} steps; at most {MAX_STEPS} are unrolled")
    if site.attr("clip") is not None:
        raise Refused("clip")
    if site.attr("input_forget", 0):
        raise Refused("input_forget")
    if site.has(7):
        peepholes = site.const(7)
        if peepholes is None or np.any(peepholes):
            raise Refused("peepholes")
    if site.has(4):
        lengths = site.need_const(4, "sequence_lens")
        if np.any(lengths != steps):
            raise Refused("sequences of different lengths")
    for i in (1, 2):
        site.need_const(i, "a weight")


def _cell(site: Site, d: int, gates: int, hidden: int, directions: int) -> Cell:
    names = list(site.attr("activations") or ())
    names = [n.decode() if isinstance(n, bytes) else str(n) for n in names]
    count = {"LSTM": 3, "GRU": 2, "RNN": 1}[site.op]
    default = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}[site.op]
    names = names[d * count : (d + 1) * count] if names else default
    unknown = [n for n in names if n.capitalize() not in _FUNCTIONS]
    if unknown or len(names) != count:
        raise Refused(f"activations {names}")
    bias = site.need_const(3, "its bias")[d] if site.has(3) else np.zeros(2 * gates * hidden, np.float32)
    rows = gates * hidden
    return Cell(
        gates, hidden, [_FUNCTIONS[n.capitalize()] for n in names],
        site.need_const(1, "a weight")[d], site.need_const(2, "a weight")[d], bias[:rows], bias[rows:],
    )  # fmt: skip


def _initial(site: Site, i: int, d: int, *, batch: int, hidden: int, layout: int) -> Tensor:
    e = site.emit
    if not site.has(i):
        return e.fill((batch, hidden), 0.0, np.float32)
    state = site.get(i, (1, 0, 2) if layout else (0, 1, 2))
    return e.reshape(e.cut(state, 0, d, d + 1), (batch, hidden))


def _unrolled(
    site: Site, x: Tensor, cell: Cell, d: int, *, batch: int, layout: int, backward: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All outputs [steps, batch, hidden], the last state, and the last memory cell."""
    e = site.emit
    steps = int(x.shape[0])
    step, merged = _STEPS[site.op](site, cell)
    # The input's part of all steps is one product.
    bias = cell.input_bias + merged
    parts = e.dense(x, e.constant(cell.input_weight, name=site.name(1)), e.constant(bias, label="bias"))
    # What goes round stays float, or 8 bits would be rounded once more in every step.
    e.exact = True
    rows = cell.gates * cell.hidden
    slices = e.many("UNPACK", [parts], [(batch, rows)] * steps, num=steps, axis=0)
    state = _initial(site, 5, d, batch=batch, hidden=cell.hidden, layout=layout)
    memory = _initial(site, 6, d, batch=batch, hidden=cell.hidden, layout=layout) if site.op == "LSTM" else None
    made: list[Tensor | None] = [None] * steps
    for t in reversed(range(steps)) if backward else range(steps):
        state, memory = step(e, slices[t], state, memory)
        made[t] = state
    e.exact = False
    packed = e.op("PACK", made, (steps, batch, cell.hidden), axis=0, valuesCount=steps)
    return packed, state, memory


def _cut(e: Emitter, x: Tensor, count: int) -> list[Tensor]:
    axis = e.constant(np.asarray(1, dtype=np.int32))
    shape = (x.shape[0], int(x.shape[1]) // count)
    return e.many("SPLIT", [axis, x], [shape] * count, x.dtype, numSplits=count)


def _lstm(site: Site, cell: Cell) -> tuple[Step, Array]:
    """Gates in ONNX's order i, o, f, c."""
    f, g, h = cell.functions
    weight = site.emit.constant(cell.state_weight, name=site.name(2))

    def step(e: Emitter, part: Tensor, state: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        total = e.add(part, e.dense(state, weight))
        i, o, forget, c = _cut(e, total, 4)
        kept = e.mul(e.unary(f, forget), memory) if memory is not None else None
        new = e.mul(e.unary(f, i), e.unary(g, c))
        cell_state = e.add(new, kept) if kept is not None else new
        result = e.mul(e.unary(f, o), e.unary(h, cell_state))
        return result, cell_state

    return step, cell.state_bias


def _gru(site: Site, cell: Cell) -> tuple[Step, Array]:
    """Gates in ONNX's order z, r, h; the new state is (1 − z) · h + z · state."""
    f, g = cell.functions
    n = cell.hidden
    weight, before = cell.state_weight, bool(site.attr("linear_before_reset", 0))
    gate_weight = site.emit.constant(weight[: 2 * n], label=f"{site.name(2)}/gates")
    new_weight = site.emit.constant(weight[2 * n :], label=f"{site.name(2)}/new")
    new_bias = site.emit.constant(cell.state_bias[2 * n :], label="state_bias") if before else None
    merged = cell.state_bias.copy()
    if before:
        # Rb of the new state is inside the reset, so it is not merged.
        merged[2 * n :] = 0

    def step(e: Emitter, part: Tensor, state: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        gates = e.add(e.cut(part, 1, 0, 2 * n), e.dense(state, gate_weight))
        z, r = _cut(e, e.unary(f, gates), 2)
        inner = e.mul(r, e.dense(state, new_weight, new_bias)) if before else e.dense(e.mul(r, state), new_weight)
        new = e.unary(g, e.add(e.cut(part, 1, 2 * n, 3 * n), inner))
        # z · (state − new) + new
        result = e.add(e.mul(z, e.sub(state, new)), new)
        return result, memory

    return step, merged


def _rnn(site: Site, cell: Cell) -> tuple[Step, Array]:
    weight = site.emit.constant(cell.state_weight, name=site.name(2))

    def step(e: Emitter, part: Tensor, state: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return e.unary(cell.functions[0], e.add(part, e.dense(state, weight))), memory

    return step, cell.state_bias


_STEPS: dict[str, Callable[[Site, Cell], tuple[Step, Array]]] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
