"""The per-layer table: each weight of the model, and what became of it in the chosen candidate.

Bytes are compressed ones (zstd, each layer alone), because that is what is stored: pruned zeros and four-bit values
take less room there, though not in the expanded file. Their sum is near the layer's size, not equal to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import zstandard

from edgemodel_api.report import Layer

from .formats import kept
from .steps.graph import array_of, graphs
from .steps.weight_only import DECODING
from .steps.weights import Weight, weights

_LEVEL = 12
#: As the layer of a large model is packed: level 12 would take minutes for each.
_LEVEL_LARGE = 1
_TYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT4: "int4",
}


def layers(
    source: Any,
    candidate: Any,
    sensitivity: Mapping[str, float],
    *,
    quality_drops: Mapping[str, float] | None = None,
    seconds: Mapping[str, float] | None = None,
    quantized_seconds: Mapping[str, float] | None = None,
) -> tuple[Layer, ...]:
    """One row for each weight of `source`.

    Args:
        source: the prepared ModelProto.
        candidate: the ModelProto made of it.
        sensitivity: node name to output error when only that node is quantized, where it was measured.
        quality_drops: the same for the evaluator's metric (`steps.sensitivity.quality_drops`).
        seconds: node name to seconds in the source (`profile.layer_seconds`).
        quantized_seconds: the same in the candidate.
    """
    found = weights(source)
    parts = _parts(source, candidate, found)
    tables = _Tables(sensitivity, quality_drops or {}, seconds or {}, quantized_seconds or {})
    return tuple(_layer(w, parts[w.name], tables) for w in found)


class _Tables(NamedTuple):
    """What is known by node name."""

    errors: Mapping[str, float]
    drops: Mapping[str, float]
    seconds: Mapping[str, float]
    quantized_seconds: Mapping[str, float]


def _layer(weight: Weight, parts: list[Any], tables: _Tables) -> Layer:
    before = _packed([weight.tensor])
    main = max(parts, key=_elements, default=weight.tensor)
    nodes = tuple(dict.fromkeys(u.node for u in weight.uses))

    def of(table: Mapping[str, float]) -> list[float]:
        return [table[n] for n in nodes if n in table]

    return Layer(
        name=weight.name,
        node=weight.node,
        op=weight.op,
        shape=weight.shape,
        source_bytes=before,
        bytes=_packed(parts) if parts else before,
        sparsity=_sparsity(main, parts),
        encoding=_encoding(_planes(main, parts)),
        sensitivity=max(of(tables.errors), default=None),
        quality_drop=max(of(tables.drops), default=None),
        latency_seconds=sum(of(tables.seconds)) if of(tables.seconds) else None,
        quantized_latency_seconds=sum(of(tables.quantized_seconds)) if of(tables.quantized_seconds) else None,
    )


def _parts(source: Any, candidate: Any, found: Sequence[Weight]) -> dict[str, list[Any]]:
    """The initializers (values, scales, zero points) that each weight became.

    Names of nodes stay (`steps.names`), so a weight is found by the nodes that decode it, or where its reader reads it; in
    files whose tensors kept their names also by these, which begin with the weight's.
    """
    tensors: dict[str, Any] = {}
    nodes: dict[str, Any] = {}
    for inner in graphs(candidate.graph):
        tensors.update((t.name, t) for t in inner.initializer)
        for node in inner.node:
            nodes.setdefault(node.name, node)
    places: dict[str, tuple[Any, int]] = {}
    for inner in graphs(source.graph):
        for node in inner.node:
            for index, name in enumerate(node.input):
                places.setdefault(name, (node, index))
    named = _by_name(tensors.values(), [w.name for w in found])
    return {w.name: _decoded(w, nodes, tensors) or _read(w, places, nodes, tensors) or named[w.name] for w in found}


def _decoded(weight: Weight, nodes: Mapping[str, Any], tensors: Mapping[str, Any]) -> list[Any]:
    """What the nodes that decode it read, but for the places of blocks."""
    decoding = (nodes[n] for n in (weight.name + s for s in DECODING) if n in nodes)
    read = dict.fromkeys(name for node in decoding for name in node.input if name in tensors)
    return [tensors[name] for name in read if tensors[name].data_type != onnx.TensorProto.INT64]


def _read(
    weight: Weight, places: Mapping[str, tuple[Any, int]], nodes: Mapping[str, Any], tensors: Mapping[str, Any]
) -> list[Any]:
    """What its reader reads in its place, as it is."""
    reader, index = places.get(weight.name, (None, 0))
    node = nodes.get(reader.name) if reader is not None and reader.name else None
    if node is None or node.op_type != reader.op_type or len(node.input) <= index:
        return []
    tensor = tensors.get(node.input[index])
    return [tensor] if tensor is not None and tuple(tensor.dims) == weight.shape else []


def _by_name(tensors: Iterable[Any], names: Iterable[str]) -> dict[str, list[Any]]:
    by_length = sorted(names, key=len, reverse=True)
    parts: dict[str, list[Any]] = {name: [] for name in by_length}
    for tensor in tensors:
        # The longest name first: `conv1` must not take what belongs to `conv1_b`.
        owner = next((n for n in by_length if tensor.name == n or tensor.name.startswith((f"{n}_", f"{n}/"))), None)
        if owner is not None:
            parts[owner].append(tensor)
    return parts


def _elements(tensor: Any) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))


def _packed(tensors: Iterable[Any]) -> int:
    tensors = list(tensors)
    raw = b"".join(np.ascontiguousarray(array_of(t)).tobytes() for t in tensors)
    level = _LEVEL_LARGE if any(map(kept.is_kept, tensors)) else _LEVEL
    return len(zstandard.ZstdCompressor(level=level).compress(raw))


def _planes(main: Any, parts: list[Any]) -> list[Any]:
    """The tensors that hold the numbers: two of a shape where they have more than eight bits."""
    alike = [t for t in parts if t.data_type == main.data_type == onnx.TensorProto.INT8 and t.dims == main.dims]
    return alike or [main]


def _sparsity(main: Any, parts: list[Any]) -> float:
    """Share of zeros; of numbers with a zero point, those that mean zero."""
    values = array_of(main)
    if not values.size:
        return 0.0
    planes = _planes(main, parts)
    if len(planes) > 1:
        return 1 - float(np.count_nonzero(np.logical_or.reduce([array_of(p) for p in planes])) / values.size)
    points = [array_of(t) for t in parts if t.name.endswith("zero_point")]
    zero = points[0].reshape(-1)[0] if points and points[0].size and points[0].dtype == values.dtype else 0
    return float(np.count_nonzero(values == zero) / values.size)


def _encoding(planes: Sequence[Any]) -> str:
    if len(planes) > 1:
        return "int12"
    (main,) = planes
    name = str(_TYPES.get(main.data_type, onnx.TensorProto.DataType.Name(main.data_type).lower()))
    if name == "int8":
        values = array_of(main)
        if values.size and values.min() >= -8 and values.max() <= 7:
            return "int4"
    return name
