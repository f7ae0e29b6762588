"""The per-layer table: each weight of the model, and what became of it in the chosen candidate.

Bytes are compressed ones (zstd, each layer alone), because that is what is stored: pruned zeros and four-bit values
take less room there, though not in the expanded file. Their sum is near the layer's size, not equal to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import zstandard

from edgemodel_api.report import Layer

from .formats import kept
from .steps.graph import array_of
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
    parts = _parts(candidate, [w.name for w in found])
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
        encoding=_encoding(main),
        sensitivity=max(of(tables.errors), default=None),
        quality_drop=max(of(tables.drops), default=None),
        latency_seconds=sum(of(tables.seconds)) if of(tables.seconds) else None,
        quantized_latency_seconds=sum(of(tables.quantized_seconds)) if of(tables.quantized_seconds) else None,
    )


def _parts(candidate: Any, names: Iterable[str]) -> dict[str, list[Any]]:
    """The initializers (values, scales, zero points) that each weight became: their names begin with the weight's."""
    by_length = sorted(names, key=len, reverse=True)
    parts: dict[str, list[Any]] = {name: [] for name in by_length}
    for tensor in candidate.graph.initializer:
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


def _sparsity(main: Any, parts: list[Any]) -> float:
    """Share of zeros; of numbers with a zero point, those that mean zero."""
    values = array_of(main)
    if not values.size:
        return 0.0
    points = [array_of(t) for t in parts if t.name.endswith("zero_point")]
    zero = points[0].reshape(-1)[0] if points and points[0].size and points[0].dtype == values.dtype else 0
    return float(np.count_nonzero(values == zero) / values.size)


def _encoding(main: Any) -> str:
    name = str(_TYPES.get(main.data_type, onnx.TensorProto.DataType.Name(main.data_type).lower()))
    if name == "int8":
        values = array_of(main)
        if values.size and values.min() >= -8 and values.max() <= 7:
            return "int4"
    return name
