"""Activations that exporters write as many nodes, and TFLite has as one: GELU (both forms) and HardSwish.

They are found by what they compute, not by how they are written: around every Erf, Tanh, Clip or HardSigmoid, a part of
the graph that computes one tensor from one other with element-wise nodes and numbers alone is evaluated, and compared
with the activation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper

from edgemodel_compressor.steps.graph import attribute, uses_of

from .known import Known

Values = npt.NDArray[np.float64]
_POINTS: Values = np.linspace(-8, 8, 321)
_ERF = np.vectorize(math.erf, otypes=[np.float64])
#: How far nodes are followed from the one in the middle.
_DEPTH_UP, _DEPTH_DOWN = 7, 4
_TOLERANCE = 2e-6

_BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power,
}  # fmt: skip


def _gelu(x: Values) -> Values:
    return np.asarray(0.5 * x * (1 + _ERF(x / math.sqrt(2))))


def _gelu_tanh(x: Values) -> Values:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _hard_swish(x: Values) -> Values:
    return x * np.clip(x + 3, 0, 6) / 6


_KNOWN: Mapping[str, tuple[tuple[str, dict[str, Any], Callable[[Values], Values]], ...]] = {
    "Erf": (("Gelu", {"approximate": "none"}, _gelu),),
    "Tanh": (("Gelu", {"approximate": "tanh"}, _gelu_tanh),),
    "Clip": (("HardSwish", {}, _hard_swish),),
    "HardSigmoid": (("HardSwish", {}, _hard_swish),),
}


def find_activations(model: Any, known: Mapping[str, Known]) -> dict[str, Any]:
    """One node for each such part, by the name of the tensor that it makes; what only the part needed can be dropped.

    Args:
        model: prepared.
        known: of its tensors.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    uses = uses_of(graph)
    found: dict[str, Any] = {}
    for node in graph.node:
        for op, attributes, function in _KNOWN.get(node.op_type, ()):
            part = _part(node, function, producers, readers, known)
            if part is None or uses.get(part[1], 0) == 0:
                continue
            source, result = part
            found[result] = helper.make_node(op, [source], [result], name=producers[result].name, **attributes)
            break
    return found


def _part(
    middle: Any,
    function: Callable[[Values], Values],
    producers: Mapping[str, Any],
    readers: Mapping[str, list[Any]],
    known: Mapping[str, Known],
) -> tuple[str, str] | None:
    """(x, y) such that y = function(x), with the middle node between them."""
    results, level = [], [middle.output[0]]
    for _ in range(_DEPTH_DOWN):
        level = list(dict.fromkeys(r.output[0] for n in level for r in readers.get(n, []) if r.op_type in _BINARY))
        results += level
    sources, level = [], [middle.input[0]]
    for _ in range(_DEPTH_UP):
        sources += level
        made = [producers[n] for n in level if n in producers and producers[n].op_type in _BINARY]
        level = list(dict.fromkeys(i for m in made for i in m.input if i in known and known[i].value is None))
    wanted = function(_POINTS)
    for result in results:
        for source in dict.fromkeys(sources):
            if known[source].dtype.name != "float32" or known[source].shape != known[result].shape:
                continue
            got = _evaluate(result, source, producers, known)
            if got is not None and np.shape(got) == wanted.shape and np.allclose(got, wanted, rtol=0, atol=_TOLERANCE):
                return source, result
    return None


def _evaluate(
    name: str, source: str, producers: Mapping[str, Any], known: Mapping[str, Known], depth: int = 12
) -> Values | None:
    """A tensor where `source` has the sample values; None: it depends on something else."""
    if name == source:
        return _POINTS
    value = known[name].value if name in known else None
    if value is not None:
        return value.astype(np.float64).reshape(()) if value.size == 1 else None
    node = producers.get(name)
    if node is None or not depth:
        return None
    inputs = [_evaluate(n, source, producers, known, depth - 1) for n in node.input if n]
    if any(v is None for v in inputs):
        return None
    with np.errstate(all="ignore"):
        return _computed(node, inputs)


def _computed(node: Any, inputs: list[Any]) -> Values | None:
    op = node.op_type
    if op in _BINARY and len(inputs) == 2:
        return np.asarray(_BINARY[op](*inputs))
    if op == "Erf":
        return np.asarray(_ERF(inputs[0]))
    if op == "Tanh":
        return np.asarray(np.tanh(inputs[0]))
    if op == "HardSigmoid":
        alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
        return np.asarray(np.clip(alpha * inputs[0] + beta, 0, 1))
    if op == "Clip":
        limits = [attribute(node, "min", -np.inf), attribute(node, "max", np.inf)]
        given = iter(inputs[1:])
        for i, name in enumerate(node.input[1:3]):
            if name:
                limits[i] = float(next(given))
        return np.asarray(np.clip(inputs[0], *limits))
    return None
