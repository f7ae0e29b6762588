"""Small weights: int8 or float16 constants with a DEQUANTIZE in front of their readers.

The arithmetic stays float32, so every runtime computes the same numbers. (With int8 weights directly at a float
operator, runtimes quantize activations while they run, each in its own way: LiteRT 2.3 and tflite-runtime 2.14 were seen
to answer 0.679 and 0.489.) DEQUANTIZE of a constant runs once, when the model is prepared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from .graph import Array, Graph, Op, Quantization, Tensor

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
    made: dict[int, Tensor] = {}
    skipped = 0
    for op, place, axis in list(weight_slots(graph, float_nodes)):
        tensor = op.inputs[place]
        if tensor is None or tensor.data is None:
            continue
        if id(tensor) not in made:
            channels = tensor.data.shape[axis]
            finite = bool(np.isfinite(tensor.data).all())
            if not finite or 3 * tensor.data.size <= 12 * channels + OVERHEAD_BYTES:
                skipped += 1
                continue
            numbers, scale = symmetric(tensor.data, axis)
            quantization = Quantization(scale, np.zeros(channels, np.int64), axis)
            made[id(tensor)] = _dequantized(graph, tensor, numbers, quantization)
        op.inputs[place] = made[id(tensor)]
    return (f"{len(made)} weights are int8, one scale an output channel; {skipped} small ones stay float32",)


def halve_weights(graph: Graph, float_nodes: Collection[str] = ()) -> tuple[str, ...]:
    """Make weights float16 where they fit and where that saves bytes.

    Returns:
        notes.
    """
    made: dict[int, Tensor] = {}
    skipped = 0
    for op, place, _ in list(weight_slots(graph, float_nodes)):
        tensor = op.inputs[place]
        if tensor is None or tensor.data is None:
            continue
        if id(tensor) not in made:
            if not np.abs(tensor.data).max(initial=0) <= HALF_MAX or 2 * tensor.data.size <= OVERHEAD_BYTES:
                skipped += 1
                continue
            made[id(tensor)] = _dequantized(graph, tensor, tensor.data.astype(np.float16), None)
        op.inputs[place] = made[id(tensor)]
    return (f"{len(made)} weights are float16; {skipped} small or large-valued ones stay float32",)


def _dequantized(graph: Graph, tensor: Tensor, numbers: Array, quantization: Quantization | None) -> Tensor:
    """A float tensor that is computed from small numbers, in front of everything."""
    stored = Tensor(f"{tensor.name}/stored", tensor.shape, numbers.dtype, numbers, quantization)
    result = Tensor(tensor.name, tensor.shape, np.dtype(np.float32))
    place = next((i for i, op in enumerate(graph.ops) if op.code != "DEQUANTIZE"), 0)
    graph.ops.insert(place, Op("DEQUANTIZE", [stored], [result]))
    return result
