"""The chain of segments that a network's main stream is made of. Pure.

The nodes are read in their order. A segment leads from one tensor to the next through which everything passes that is
computed between them; tensors that only pass by (an attention mask, positions) may do so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgemodel_compressor.steps.graph import constant_values, subgraphs, uses_of

#: Nodes after a tensor that may have to come before the chain can begin at it.
_PATIENCE = 64


@dataclass(frozen=True)
class Segment:
    """Nodes between two tensors.

    Attributes:
        entry: tensor that goes in.
        exit: tensor that comes out.
        nodes: positions of the nodes.
        signature: equal for segments with the same operators, attributes and shapes of weights.
        weighted: whether there is a weight in it.
        residual: whether an Add takes the entry itself.
    """

    entry: str
    exit: str
    nodes: range
    signature: tuple[Any, ...]
    weighted: bool
    residual: bool


@dataclass(frozen=True)
class _Flow:
    """Which tensors are live where: made before a position, and read there or later. Sets are bits of a number.

    Attributes:
        nodes: of the graph.
        fixed: tensors that depend on no input.
        weights: shapes of the initializers.
        bits: bit of each tensor that depends on an input.
        live: before each node, and after the last.
    """

    nodes: Sequence[Any]
    fixed: set[str]
    weights: dict[str, tuple[int, ...]]
    bits: dict[str, int]
    live: list[int]


def segments_of(model: Any) -> list[Segment]:
    """The longest chain of segments, by the number of weights in it."""
    flow = _flow(model.graph)
    chain = _chain(flow)
    # What passes by a segment is live to the end: the last layer is then like those before it.
    beside = 0
    for segment in chain:
        beside |= flow.live[segment.nodes.start] & flow.live[segment.nodes.stop] & ~flow.bits[segment.exit]
    seen = 0
    for position, now in enumerate(flow.live):
        seen |= now & beside
        flow.live[position] = now | seen
    return _chain(flow) if beside else chain


def _flow(graph: Any) -> _Flow:
    fixed = constant_values(graph)
    nodes = list(graph.node)
    reads = [[n for n in dict.fromkeys(_reads(node)) if n and n not in fixed] for node in nodes]
    pending = Counter(name for read in (*reads, [o.name for o in graph.output]) for name in read)
    bits: dict[str, int] = {}

    def bit(name: str) -> int:
        return bits.setdefault(name, 1 << len(bits)) if pending[name] and name not in fixed else 0

    live = [sum(bit(value.name) for value in graph.input)]
    for node, read in zip(nodes, reads, strict=True):
        now = live[-1]
        for name in node.output:
            now |= bit(name)
        for name in read:
            pending[name] -= 1
            if not pending[name]:
                now &= ~bits.get(name, 0)
        live.append(now)
    return _Flow(nodes, fixed, {t.name: tuple(t.dims) for t in graph.initializer}, bits, live)


def _chain(flow: _Flow) -> list[Segment]:
    by_bit = {value: name for name, value in flow.bits.items()}
    following: dict[tuple[int, str], tuple[int, str]] = {}
    made = {o: p + 1 for p, node in enumerate(flow.nodes) for o in node.output}
    for name, bit in flow.bits.items():
        position = made.get(name, 0)
        # What is computed beside it just then (a mask) may have to be ready first.
        for begin in range(position, min(position + _PATIENCE, len(flow.live))):
            to = _next(flow.live, begin, bit)
            if to is not None:
                following[begin, name] = (to[0], by_bit[to[1]])
                break
    best: list[Segment] = []
    ends = set(following.values())
    for start in following:
        chain, at = list[Segment](), start
        while start not in ends and at in following:
            chain.append(_segment(flow, at, following[at]))
            at = following[at]
        if sum(s.weighted for s in chain) > sum(s.weighted for s in best):
            best = chain
    return best


def _next(live: Sequence[int], position: int, mine: int) -> tuple[int, int] | None:
    """Where one new tensor has taken the place of `mine` among those that are live, and which (as a bit)."""
    if not live[position] & mine:
        return None
    for later in range(position + 1, len(live)):
        gone, new = live[position] & ~live[later], live[later] & ~live[position]
        if gone & ~mine:
            return None
        if gone and new.bit_count() == 1:
            return later, new
    return None


def _segment(flow: _Flow, at: tuple[int, str], to: tuple[int, str]) -> Segment:
    fixed, weights = flow.fixed, flow.weights
    some = [n for n in flow.nodes[at[0] : to[0]] if any(o not in fixed for o in n.output)]
    signature = tuple(
        (
            n.domain,
            n.op_type,
            tuple(sorted(a.SerializeToString(deterministic=True) for a in n.attribute)),
            tuple(weights.get(i, ()) if i in fixed else None for i in n.input),
        )
        for n in some
    )
    weighted = any(len(weights.get(i, ())) >= 2 for n in some for i in n.input)
    residual = any(n.op_type in ("Add", "Sum") and at[1] in n.input for n in some)
    return Segment(at[1], to[1], range(at[0], to[0]), signature, weighted, residual)


def _reads(node: Any) -> list[str]:
    return [*node.input, *(name for inner in subgraphs(node) for name in uses_of(inner))]
