"""LSTM, GRU and RNN.

LSTM and RNN are MIL's own. GRU is written out step by step: the pages of MIL's `gru` contradict each other about its
biases and the order of its gates, and it lacks the variant that Keras and old PyTorch exports use.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemodel_api.quantities import counted

from .lower import Array, Node, Unsupported, Value, lowers
from .ops_elementwise import scalar

#: Steps that are written out.
MAX_STEPS = 512


def _activations(node: Node, defaults: list[str], directions: int) -> list[str]:
    given = node.attr("activations") or [d.encode() for d in defaults * directions]
    names = [g.decode().lower() if isinstance(g, bytes) else str(g).lower() for g in given]
    known = {"sigmoid", "tanh", "relu"}
    each = [names[i * len(defaults) : (i + 1) * len(defaults)] for i in range(directions)]
    if any(n not in known for n in names) or any(e != each[0] for e in each):
        raise Unsupported(f"activations {', '.join(names)}: only sigmoid, tanh and relu, alike in both directions")
    return each[0]


def _sequence(node: Node) -> tuple[Value, int, int, bool]:
    """The input as [steps, batch, features], steps, batch, and whether the node's layout has the batch first."""
    x, first = node[0], bool(node.attr("layout", 0))
    if first:
        x = node.mb.transpose(x=x, perm=[1, 0, 2])
    steps, batch = int(x.shape[0]), int(x.shape[1])
    if node.has(4):
        lengths = node.const(4, "sequence_lens")
        node.only((lengths == steps).all(), f"sequence_lens {lengths.tolist()} of {counted(steps, 'step')}")
    node.only(not node.attr("clip"), "clip")
    return node.conversion.var(x), steps, batch, first


def _initial(node: Node, index: int, direction: int, batch: int, hidden: int, *, first: bool) -> Value:
    value = node.get(index)
    if value is None:
        return np.zeros((batch, hidden), np.float32)
    if isinstance(value, np.ndarray):
        return value[:, direction] if first else value[direction]
    axis = 1 if first else 0
    begin, end = [0, 0, 0], [int(d) for d in value.shape]
    begin[axis], end[axis] = direction, direction + 1
    part = node.mb.slice_by_index(x=value, begin=begin, end=end)
    return node.mb.squeeze(x=part, axes=[axis])


def _weights(node: Node) -> tuple[Array, Array, Array, int]:
    """W, R, B (zeros where there is none) and the hidden size."""
    w, r = node.const(1, "W"), node.const(2, "R")
    bias = node.const(3, "B") if node.has(3) else np.zeros((w.shape[0], 2 * w.shape[1]), np.float32)
    return w, r, bias, int(r.shape[-1])


def _assembled(node: Node, sequences: list[Value], states: list[list[Value]], *, first: bool) -> list[Value]:
    """[steps, batch, hidden] and [batch, hidden] of each direction as ONNX's outputs."""
    outputs = []
    each = [node.mb.expand_dims(x=s, axes=[1]) for s in sequences]
    y = each[0] if len(each) == 1 else node.mb.concat(values=each, axis=1)
    outputs.append(node.mb.transpose(x=y, perm=[2, 0, 1, 3]) if first else y)
    for values in states:
        axis = 1 if first else 0
        ends = [node.mb.expand_dims(x=v, axes=[axis]) for v in values]
        outputs.append(ends[0] if len(ends) == 1 else node.mb.concat(values=ends, axis=axis))
    return outputs


def _directions(node: Node) -> list[bool]:
    """Whether each direction runs backwards."""
    return {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[node.attr("direction", "forward")]


def _blocks(value: Array, hidden: int, order: Sequence[int]) -> Array:
    """Gates in another order."""
    return np.concatenate([value[i * hidden : (i + 1) * hidden] for i in order])


@lowers("LSTM", note="without clip, input_forget and lengths other than the full one")
def _lstm(node: Node) -> list[Value]:
    node.only(not node.attr("input_forget", 0), "input_forget")
    x, _, batch, first = _sequence(node)
    w, r, bias, hidden = _weights(node)
    back = _directions(node)
    gate, cell, out = _activations(node, ["Sigmoid", "Tanh", "Tanh"], len(back))
    # ONNX has the gates as i, o, f, c; MIL as i, f, o, c.
    order = (0, 2, 1, 3)
    sequences, last_h, last_c = [], [], []
    for d, reverse in enumerate(back):
        total = bias[d][: 4 * hidden] + bias[d][4 * hidden :]
        peephole = _blocks(node.const(7, "P")[d], hidden, (0, 2, 1)) if node.has(7) else None
        sequence, h, c = node.mb.lstm(
            x=x,
            initial_h=_initial(node, 5, d, batch, hidden, first=first),
            initial_c=_initial(node, 6, d, batch, hidden, first=first),
            weight_ih=_blocks(w[d], hidden, order),
            weight_hh=_blocks(r[d], hidden, order),
            bias=_blocks(total, hidden, order),
            peephole=peephole,
            direction="reverse" if reverse else "forward",
            output_sequence=True,
            recurrent_activation=gate,
            cell_activation=cell,
            activation=out,
        )
        sequences.append(sequence)
        last_h.append(h)
        last_c.append(c)
    return _assembled(node, sequences, [last_h, last_c], first=first)


@lowers("RNN", note="without clip and lengths other than the full one")
def _rnn(node: Node) -> list[Value]:
    x, _, batch, first = _sequence(node)
    w, r, bias, hidden = _weights(node)
    back = _directions(node)
    (activation,) = _activations(node, ["Tanh"], len(back))
    sequences, last = [], []
    for d, reverse in enumerate(back):
        sequence, h = node.mb.rnn(
            x=x,
            initial_h=_initial(node, 5, d, batch, hidden, first=first),
            weight_ih=w[d],
            weight_hh=r[d],
            bias=bias[d][:hidden] + bias[d][hidden:],
            direction="reverse" if reverse else "forward",
            output_sequence=True,
            activation=activation,
        )
        sequences.append(sequence)
        last.append(h)
    return _assembled(node, sequences, [last], first=first)


@lowers("GRU", note=f"up to {MAX_STEPS} steps; without clip and lengths other than the full one")
def _gru(node: Node) -> list[Value]:
    x, steps, batch, first = _sequence(node)
    node.only(steps <= MAX_STEPS, f"{steps} steps, at most {MAX_STEPS} are written out")
    w, r, bias, hidden = _weights(node)
    back = _directions(node)
    gate, candidate = _activations(node, ["Sigmoid", "Tanh"], len(back))
    after = bool(node.attr("linear_before_reset", 0))
    sequences, last = [], []
    for d, reverse in enumerate(back):
        input_bias, hidden_bias = bias[d][: 3 * hidden], bias[d][3 * hidden :]
        # The inputs' part of all steps at once: [steps, batch, 3 · hidden], gates z, r, h.
        parts = node.mb.linear(x=x, weight=w[d], bias=input_bias)
        h = node.conversion.var(_initial(node, 5, d, batch, hidden, first=first))
        states: list[Value] = [None] * steps
        for step in reversed(range(steps)) if reverse else range(steps):
            part = node.mb.slice_by_index(
                x=parts, begin=[step, 0, 0], end=[step + 1, batch, 3 * hidden], squeeze_mask=[True, False, False]
            )
            h = _gru_step(node, part, h, (r[d], hidden_bias), (gate, candidate), after=after)
            states[step] = h
        sequences.append(node.mb.stack(values=states, axis=0))
        last.append(h)
    return _assembled(node, sequences, [last], first=first)


def _gru_step(
    node: Node,
    part: Value,
    h: Value,
    recurrent: tuple[Array, Array],
    activations: tuple[str, str],
    *,
    after: bool,
) -> Value:
    """One step; `after`: the reset gate is applied after the product (linear_before_reset)."""
    mb = node.mb
    r, bias = recurrent
    hidden = r.shape[1]
    gate, candidate = (getattr(mb, name) for name in activations)
    x_gates, x_new = mb.split(x=part, axis=1, split_sizes=[2 * hidden, hidden])
    if after:
        products = mb.linear(x=h, weight=r, bias=bias)
        h_gates, h_new = mb.split(x=products, axis=1, split_sizes=[2 * hidden, hidden])
        z, reset = mb.split(x=gate(x=mb.add(x=x_gates, y=h_gates)), axis=1, split_sizes=[hidden, hidden])
        inner = mb.mul(x=reset, y=h_new)
    else:
        h_gates = mb.linear(x=h, weight=r[: 2 * hidden], bias=bias[: 2 * hidden])
        z, reset = mb.split(x=gate(x=mb.add(x=x_gates, y=h_gates)), axis=1, split_sizes=[hidden, hidden])
        inner = mb.linear(x=mb.mul(x=reset, y=h), weight=r[2 * hidden :], bias=bias[2 * hidden :])
    new = candidate(x=mb.add(x=x_new, y=inner))
    kept = mb.mul(x=z, y=h)
    return mb.add(x=mb.mul(x=mb.sub(x=scalar(1), y=z), y=new), y=kept)
