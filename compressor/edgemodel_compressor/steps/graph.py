"""Walking ONNX graphs: scopes of subgraphs, producers, constants, attributes. Pure."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.formats import kept

Array = npt.NDArray[np.generic]

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
STANDARD_DOMAINS = ("", "ai.onnx")


def copy_of(model: Any) -> Any:
    """A model that may be changed: steps never touch what they are given."""
    return copy.deepcopy(model)


def opset(model: Any) -> int:
    """Version of the standard operators that the model is written in."""
    return max((int(o.version) for o in model.opset_import if o.domain in STANDARD_DOMAINS), default=1)


def subgraphs(node: Any) -> Iterator[Any]:
    """Graphs in the attributes of a node: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs(graph: Any) -> Iterator[Any]:
    """A graph and all graphs inside it, outermost first, in the order of their nodes."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def attribute(node: Any, name: str, default: Any) -> Any:
    """Value of an attribute, or the operator's default."""
    for a in node.attribute:
        if a.name == name:
            return helper.get_attribute_value(a)
    return default


def array_of(tensor: Any) -> Array:
    """Values of an initializer.

    Raises:
        InputError: its bytes do not fit its shape, or lie outside the file.
    """
    try:
        return kept.array_of(tensor) if kept.is_kept(tensor) else np.asarray(numpy_helper.to_array(tensor))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"initializer {tensor.name!r} cannot be read: {error}") from None


def put_array(tensor: Any, array: npt.NDArray[Any]) -> None:
    """Give an initializer new numbers, shape and type, in place; of a large model they stay outside (`formats.kept`).

    Raises:
        InputError: the disk refuses.
    """
    kept.put(tensor, array)


def tensor_of(array: npt.NDArray[Any], name: str, *, beside: Any) -> Any:
    """A new initializer; where `beside` is one of a large model, kept outside as that one is.

    Raises:
        InputError: the disk refuses.
    """
    tensor = TensorProto(name=name)
    kept.put(tensor, array, beside=beside)
    return tensor


def is_standard(node: Any) -> bool:
    """Whether the operator is one of ONNX's own."""
    return node.domain in STANDARD_DOMAINS


def uses_of(graph: Any) -> dict[str, int]:
    """How often each tensor is read: by nodes, by graphs inside them, and as an output of the graph."""
    counts: dict[str, int] = {}
    for inner in graphs(graph):
        for node in inner.node:
            for name in node.input:
                counts[name] = counts.get(name, 0) + 1
        for output in inner.output:
            counts[output.name] = counts.get(output.name, 0) + 1
    return counts


def names_in(graph: Any) -> set[str]:
    """Every tensor name of a graph and the graphs inside it."""
    names: set[str] = set()
    for inner in graphs(graph):
        names.update(t.name for t in inner.initializer)
        names.update(t.values.name for t in inner.sparse_initializer)
        names.update(v.name for v in (*inner.input, *inner.output))
        for node in inner.node:
            names.update(node.input)
            names.update(node.output)
    return names


def fresh(name: str, taken: set[str]) -> str:
    """`name`, with a number behind it where it is taken; it is taken afterwards."""
    found, n = name, 1
    while found in taken:
        n += 1
        found = f"{name}_{n}"
    taken.add(found)
    return found


def constant_values(graph: Any) -> set[str]:
    """Tensors of the outer graph that depend on no input: initializers and what is computed from them alone."""
    fed = {i.name for i in graph.input}
    known = {t.name for t in graph.initializer if t.name not in fed} | {t.values.name for t in graph.sparse_initializer}
    for node in graph.node:
        inputs = [n for n in node.input if n]
        if (
            is_standard(node)
            and not node.op_type.startswith(("Random", "Multinomial", "Bernoulli"))
            and not any(True for _ in subgraphs(node))
            and all(n in known for n in inputs)
            and (inputs or node.op_type == "Constant")
        ):
            known.update(node.output)
    return known


def sort_nodes(graph: Any) -> None:
    """Topological order, in place; of nodes that are ready, the one that came first before. Cycles stay at the end."""
    nodes = list(graph.node)
    producer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    needs: list[set[int]] = []
    feeds: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        read = [*node.input, *(name for inner in subgraphs(node) for name in uses_of(inner))]
        needs.append({producer[name] for name in read if producer.get(name, i) != i})
        for other in needs[i]:
            feeds[other].append(i)
    ready = [i for i, need in enumerate(needs) if not need]
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for reader in feeds[i]:
            needs[reader].discard(i)
            if not needs[reader]:
                heapq.heappush(ready, reader)
    placed = set(order)
    order += [i for i in range(len(nodes)) if i not in placed]
    if order != sorted(order):
        copies = [copy_of(nodes[i]) for i in order]
        del graph.node[:]
        graph.node.extend(copies)
