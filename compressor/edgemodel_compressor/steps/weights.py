"""Which initializers are weights: who reads them, and along which axes their output channels lie. Pure.

A weight is a float initializer that a node multiplies its input with (or looks rows up in). Biases, norms' scales and
constants of element-wise operators are none. The axes of the output channels follow from the operators' definitions
(onnx.ai/onnx/operators): y = x·W puts them on the last axis of W, Gemm with transB = 1 on axis 0, Conv [M, C/group,
k…] on axis 0, ConvTranspose [C, M/group, k…] on axis 1, LSTM, GRU and RNN [directions, gates·hidden, in] on axes 0
and 1, an embedding [rows, width] has one channel a row. Weights are also found behind Identity, Cast, Transpose,
Reshape, Squeeze and Unsqueeze of an initializer, as exporters leave them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemodel_api.errors import InputError

from .graph import FLOATS, Array, array_of, attribute, is_standard, subgraphs

#: Nodes that quantize.py adds end with this: their constants are scales, not weights.
SCALE_SUFFIX = "/block_scale"
_PASSES = frozenset({"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze"})
#: (op type, index of input) in the standard domain.
_SLOTS = {
    "MatMul": (1, 0), "Gemm": (1, 0), "Conv": (1,), "ConvTranspose": (1,), "DeformConv": (1,), "Gather": (0,),
    "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2), "Einsum": (1, 0),
}  # fmt: skip
_CONTRIB_SLOTS = {"Attention": (1,), "FusedConv": (1,), "FusedMatMul": (1, 0), "FusedGemm": (1, 0)}


@dataclass(frozen=True)
class Use:
    """One node that reads a weight: name (may be empty in a raw model) and operator."""

    node: str
    op: str


@dataclass(frozen=True)
class Weight:
    """A weight and its readers.

    Attributes:
        name: of the initializer.
        graph: the graph (of the model, or a subgraph) that holds it.
        tensor: the TensorProto; do not change it in a model that you were given.
        uses: readers, in the order of the nodes; one initializer is one weight, however many nodes share it.
        channel_axes: axes of the output channels for the first reader; empty: unknown, the tensor is one channel.
    """

    name: str
    graph: Any
    tensor: Any
    uses: tuple[Use, ...]
    channel_axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the initializer."""
        return tuple(int(d) for d in self.tensor.dims)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def node(self) -> str:
        """The first reader's name."""
        return self.uses[0].node

    @property
    def op(self) -> str:
        """The first reader's operator."""
        return self.uses[0].op

    def values(self) -> Array:
        """The numbers.

        Raises:
            InputError: some of them are NaN or infinite.
        """
        values = array_of(self.tensor)
        if not np.isfinite(values).all():
            bad = int(np.count_nonzero(~np.isfinite(values)))
            raise InputError(
                f"weight {self.name!r} of node {self.node!r} ({self.op}) holds {bad} NaN or infinite values:"
                " train or export the model again"
            )
        return values


def weights(model: Any) -> tuple[Weight, ...]:
    """All weights, subgraphs' too, in the order of their first readers."""
    found: dict[int, Weight] = {}
    _collect(model.graph, {}, found)
    return tuple(found.values())


def weight_nodes(model: Any) -> tuple[str, ...]:
    """Names of the nodes that read weights, each once, in order."""
    return tuple(dict.fromkeys(u.node for w in weights(model) for u in w.uses if u.node))


def sparsity_of(found: Iterable[Weight]) -> float:
    """Share of exact zeros among the elements of some weights; 0 where there are none."""
    zeros = total = 0
    for weight in found:
        zeros += int(np.count_nonzero(array_of(weight.tensor) == 0))
        total += weight.size
    return zeros / total if total else 0.0


def channels(values: npt.NDArray[Any], axes: tuple[int, ...]) -> npt.NDArray[Any]:
    """A view or copy as [channels, elements of one]: the channel axes first, in order."""
    if not axes:
        return values.reshape(1, -1)
    moved = np.moveaxis(values, axes, range(len(axes)))
    return moved.reshape(math.prod(moved.shape[: len(axes)]), -1)


def from_channels(rows: npt.NDArray[Any], shape: tuple[int, ...], axes: tuple[int, ...]) -> npt.NDArray[Any]:
    """The inverse of `channels`."""
    if not axes:
        return rows.reshape(shape)
    rest = [n for i, n in enumerate(shape) if i not in axes]
    return np.moveaxis(rows.reshape(*(shape[a] for a in axes), *rest), range(len(axes)), axes)


def _collect(graph: Any, outer: dict[str, tuple[Any, Any]], found: dict[int, Weight]) -> None:
    # Initializers that are also inputs may be fed by the caller: they are defaults, not weights.
    fed = {i.name for i in graph.input}
    scope = {**outer, **{t.name: (graph, t) for t in graph.initializer if t.name not in fed}}
    producers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for index, axes in _slots(node):
            name = node.input[index]
            if not name:
                continue
            origin = _origin(name, axes, producers, scope)
            if origin is not None:
                _add(found, *origin, Use(node.name, node.op_type))
        for inner in subgraphs(node):
            _collect(inner, scope, found)


def _add(found: dict[int, Weight], graph: Any, tensor: Any, axes: tuple[int, ...] | None, use: Use) -> None:
    rank = len(tensor.dims)
    if tensor.data_type not in FLOATS or rank < 2:
        return
    known = found.get(id(tensor))
    if known is not None:
        uses = known.uses if use in known.uses else (*known.uses, use)
        found[id(tensor)] = Weight(known.name, known.graph, tensor, uses, known.channel_axes)
        return
    kept = tuple(sorted({a % rank for a in axes})) if axes is not None and all(-rank <= a < rank for a in axes) else ()
    found[id(tensor)] = Weight(tensor.name, graph, tensor, (use,), kept)


def _slots(node: Any) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(index of input, axes of the output channels) for each input that may be a weight."""
    table = _SLOTS if is_standard(node) else _CONTRIB_SLOTS if node.domain == "com.microsoft" else {}
    if node.name.endswith(SCALE_SUFFIX):
        return
    for index in table.get(node.op_type, ()):
        if index < len(node.input):
            yield index, _axes(node, index)


def _axes(node: Any, index: int) -> tuple[int, ...]:
    op = node.op_type
    if op in ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention"):
        flipped = bool(attribute(node, "transB" if index else "transA", 0))
        # Columns of B and rows of A are the output's; a transposition swaps them.
        return (-1,) if (index == 1) != flipped else (-2,)
    if op == "ConvTranspose":
        return (1,)
    if op in ("LSTM", "GRU", "RNN"):
        return (0, 1)
    if op == "Gather":
        return (int(attribute(node, "axis", 0)),)
    if op == "Einsum":
        return _einsum_axes(node, index)
    return (0,)


def _einsum_axes(node: Any, index: int) -> tuple[int, ...]:
    """Letters of the operand that are in the output and in no other operand are its channels."""
    equation = attribute(node, "equation", b"").decode(errors="replace").replace(" ", "")
    operands, arrow, output = equation.partition("->")
    terms = operands.split(",")
    if not arrow or "." in equation or index >= len(terms):
        return ()
    others = "".join(t for i, t in enumerate(terms) if i != index)
    return tuple(i for i, letter in enumerate(terms[index]) if letter in output and letter not in others)


def _origin(
    name: str, axes: tuple[int, ...], producers: dict[str, Any], scope: dict[str, tuple[Any, Any]]
) -> tuple[Any, Any, tuple[int, ...] | None] | None:
    """Follow a tensor back to its initializer: (graph, initializer, channel axes there or None)."""
    at: tuple[int, ...] | None = axes
    for _ in range(16):
        if name in producers:
            node = producers[name]
            if node.op_type not in _PASSES or not is_standard(node):
                return None
            at = _axes_before(node, at)
            name = node.input[0]
        elif name in scope:
            return (*scope[name], at)
        else:
            return None
    return None


def _axes_before(node: Any, axes: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if axes is None or node.op_type in ("Identity", "Cast"):
        return axes
    if node.op_type == "Transpose":
        perm = attribute(node, "perm", None)
        if perm is None:
            # All axes reversed: the i-th from the front is the i-th from the back.
            return tuple(-1 - a for a in axes)
        if all(-len(perm) <= a < len(perm) for a in axes):
            return tuple(int(perm[a]) for a in axes)
    return None
