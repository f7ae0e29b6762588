"""Small weights: int8 or float16 constants with a DEQUANTIZE in front of their readers.

The arithmetic stays float32, so every runtime computes the same numbers. (With int8 weights directly at a float
operator, runtimes quantize activations while they run, each in its own way: LiteRT 2.3 and tflite-runtime 2.14 were seen
to answer 0.679 and 0.489.) DEQUANTIZE of a constant runs once, when the model is prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias

import numpy as np

from edgemodel_api.quantities import counted

from .graph import Array, Graph, Op, Quantization, Tensor

#: What is stored of a weight, and what its integers stand for.
Small: TypeAlias = tuple[Array, Quantization | None]
#: A tensor, an operator and a quantization take about so much of a file.
OVERHEAD_BYTES = 240
HALF_MAX = 65504.0
#: Where an operator has its weight, and the axis of its output channels.
SLOTS: dict[str, tuple[tuple[int, int], ...]] = {
    "CONV_2D": ((1, 0),), "DEPTHWISE_CONV_2D": ((1, 3),), "FULLY_CONNECTED": ((1, 0),), "TRANSPOSE_CONV": ((1, 0),),
    "GATHER": ((0, 0),), "BATCH_MATMUL": ((0, -2), (1, -1)),
}  # fmt: skip


def weight_slots(graph: Graph, float_nodes: Collection[str] = ()) -> Iterator[tuple[Op, int, int]]:
    """(operator, index of input, channel axis) of each float weight, but for those of some ONNX nodes."""
    for op in graph.ops:
        if op.node in float_nodes:
            continue
        for place, axis in SLOTS.get(op.code, ()):
            tensor = op.inputs[place]
            if tensor is not None and tensor.data is not None and tensor.dtype == np.float32 and tensor.data.ndim >= 2:
                flipped = op.code == "BATCH_MATMUL" and bool(op.options.get("adjY" if place else "adjX"))
                channel = axis if not flipped else -3 - axis
                yield op, place, channel % tensor.data.ndim


def symmetric(values: Array, axis: int) -> tuple[Array, Array]:
    """int8 numbers in [−127, 127] and a scale for each index of `axis`: the largest magnitude over 127.

    Args:
        values: float32.
        axis: of the channels.
    """
    others = tuple(a for a in range(values.ndim) if a != axis)
    largest = np.abs(values).max(axis=others).astype(np.float64)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    shape = [1] * values.ndim
    shape[axis] = -1
    numbers = np.clip(np.rint(values / scale.reshape(shape).astype(np.float64)), -127, 127).astype(np.int8)
    return numbers, scale


def quantize_weights(graph: Graph, float_nodes: Collection[str] = ()) -> tuple[str, ...]:
    """Make weights int8, one scale an output channel, wherever that saves bytes.

    Returns:
        notes.
    """

    def int8(data: Array, axis: int) -> Small | None:
        channels = data.shape[axis]
        if not np.isfinite(data).all() or 3 * data.size <= 12 * channels + OVERHEAD_BYTES:
            return None
        numbers, scale = symmetric(data, axis)
        return numbers, Quantization(scale, np.zeros(channels, np.int64), axis)

    made, skipped = _made_small(graph, float_nodes, int8)
    rest = counted(skipped, "small one stays", "small ones stay")
    return (f"{counted(made, 'weight is', 'weights are')} int8, one scale an output channel; {rest} float32",)


def halve_weights(graph: Graph, float_nodes: Collection[str] = ()) -> tuple[str, ...]:
    """Make weights float16 where they fit and where that saves bytes.

    Returns:
        notes.
    """

    def half(data: Array, _: int) -> Small | None:
        if not np.abs(data).max(initial=0) <= HALF_MAX or 2 * data.size <= OVERHEAD_BYTES:
            return None
        return data.astype(np.float16), None

    made, skipped = _made_small(graph, float_nodes, half)
    rest = counted(skipped, "small or large-valued one stays", "small or large-valued ones stay")
    return (f"{counted(made, 'weight is', 'weights are')} float16; {rest} float32",)


def _made_small(
    graph: Graph, float_nodes: Collection[str], small: Callable[[Array, int], Small | None]
) -> tuple[int, int]:
    """Store weights otherwise: how many were, and how many of their uses stay as they are.

    Args:
        graph: changed.
        float_nodes: names of ONNX nodes whose weights stay.
        small: numbers and axis of the output channels → what is stored; None: it stays.
    """
    made: dict[int, Tensor] = {}
    skipped = 0
    for op, place, axis in list(weight_slots(graph, float_nodes)):
        tensor = op.inputs[place]
        if tensor is None or tensor.data is None:
            continue
        if id(tensor) not in made:
            found = small(tensor.data, axis)
            if found is None:
                skipped += 1
                continue
            made[id(tensor)] = _dequantized(graph, tensor, *found)
        op.inputs[place] = made[id(tensor)]
    return len(made), skipped


def _dequantized(graph: Graph, tensor: Tensor, numbers: Array, quantization: Quantization | None) -> Tensor:
    """A float tensor that is computed from small numbers, in front of everything."""
    stored = Tensor(f"{tensor.name}/stored", tensor.shape, numbers.dtype, numbers, quantization)
    result = Tensor(tensor.name, tensor.shape, np.dtype(np.float32))
    place = next((i for i, op in enumerate(graph.ops) if op.code != "DEQUANTIZE"), 0)
    graph.ops.insert(place, Op("DEQUANTIZE", [stored], [result]))
    return result
