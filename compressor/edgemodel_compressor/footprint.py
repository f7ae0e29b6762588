"""How much memory a model's own numbers take while it runs, told from their shapes before it runs. Pure.

Of six real models (`benchmarks/models.py`; the seventh has a fixed batch) what a run of 32 rows allocates is 0.8 to 1.5 times 32 times
what is told here of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from .steps.graph import constant_values, subgraphs, uses_of

#: INT32 and INT64 of ONNX, which shapes are computed in.
_WHOLE = (6, 7)
_RANK, _MOST_NUMBERS = 64, 2_000_000


def footprint(model: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> int:
    """Bytes of all tensors that are there at a time, when nodes run in their order and nothing stays longer than it is needed.

    From the shapes that ONNX infers for such feeds; what it cannot infer is not counted, nor are weights, nor what is computed within
    the branches of an If or a Loop.

    Args:
        model: a ModelProto in memory; not changed.
        feeds: one request.
    """
    import onnx

    shaped = onnx.ModelProto()
    shaped.CopyFrom(model)
    graph = shaped.graph
    # Shapes that were declared may have names for sizes, which would hide the numbers.
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in graph.input:
        if value.name in feeds:
            del value.type.tensor_type.shape.dim[:]
            for size in feeds[value.name].shape:
                value.type.tensor_type.shape.dim.add().dim_value = size
    try:
        inferred = onnx.shape_inference.infer_shapes(shaped).graph
        if _is_short(shaped, _types(inferred)):
            inferred = onnx.shape_inference.infer_shapes(shaped, data_prop=True).graph
    except Exception:  # onnxruntime runs models that ONNX's own inference takes for wrong, in many words
        return 0
    fixed = constant_values(graph)
    sizes = {
        v.name: size
        for v in (*inferred.value_info, *inferred.output)
        if v.name not in fixed and (size := _bytes(v.type.tensor_type)) is not None
    }
    return _most_at_a_time(graph, sizes)


def _most_at_a_time(graph: Any, sizes: Mapping[str, int]) -> int:
    last: dict[str, int] = {}
    for place, node in enumerate(graph.node):
        # What nothing reads is gone at once.
        last.update(dict.fromkeys(node.output, place))
        last.update(dict.fromkeys(node.input, place))
        for branch in subgraphs(node):
            last.update(dict.fromkeys(uses_of(branch), place))
    last.update((value.name, len(graph.node)) for value in graph.output)
    ends: dict[int, list[str]] = {}
    for name, place in last.items():
        ends.setdefault(place, []).append(name)
    alive: dict[str, int] = {}
    now = peak = 0
    for place, node in enumerate(graph.node):
        for name in node.output:
            now += sizes.get(name, 0) - alive.get(name, 0)
            alive[name] = sizes.get(name, 0)
        peak = max(peak, now)
        for name in ends.get(place, ()):
            now -= alive.pop(name, 0)
    return peak


def _types(graph: Any) -> dict[str, int]:
    values = (*graph.input, *graph.value_info, *graph.output)
    return {t.name: t.data_type for t in graph.initializer} | {v.name: v.type.tensor_type.elem_type for v in values}


def _is_short(model: Any, types: Mapping[str, int]) -> bool:
    """Whether numbers may be followed through the graph, for the shapes that are computed of them.

    ONNX keeps a message for each number, and a few nodes make millions (a Range, Concats of Concats): more than a shape ever has is
    no shape.
    """
    if model.functions:
        return False
    lengths = {t.name: math.prod(t.dims) for t in model.graph.initializer if len(t.dims) < 2 and t.data_type in _WHOLE}
    total = sum(lengths.values())
    for node in model.graph.node:
        if node.op_type == "Range" or any(True for _ in subgraphs(node)):
            return False
        given = [lengths.get(n, 0) for n in node.input] + [
            math.prod(a.t.dims) for a in node.attribute if a.HasField("t")
        ]
        length = sum(given) if node.op_type == "Concat" else max((_RANK, *given))
        for name in node.output:
            # Of a type that is not known it may be a whole number.
            if types.get(name, 0) in (0, *_WHOLE):
                lengths[name] = length
                total += length
        if total > _MOST_NUMBERS:
            return False
    return bool(total <= _MOST_NUMBERS)


def _bytes(tensor: Any) -> int | None:
    """Of a TypeProto.Tensor; None: a size or the type is not known."""
    from onnx import helper

    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    try:
        width = helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    except KeyError:
        return None
    count: int = math.prod(d.dim_value for d in tensor.shape.dim)
    return count * int(width)
