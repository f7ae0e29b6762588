"""Weight-only storage: small numbers in the file, float in every kernel.

An initializer W becomes `stored → Cast → Mul(scale)`, and the Mul's output is called W again, so readers (in subgraphs
too) need no change. Every runtime computes nodes of constants once, when it loads the model: inference then runs the
source's own kernels, at the source's speed, on any CPU. (DequantizeLinear is no choice: onnxruntime never folds it.)
A float16 weight is scaled in float32 and cast back: a Mul of halves has no kernel on most CPUs, so it is not folded.

- int8, one scale per output channel: s = max |w| / 127, q = round(w / s), so |w − q·s| ≤ s/2.
- int4 values −8…7, in int8 storage that an entropy coder halves, one scale per block of input channels per output
  channel (block-wise quantization; Dettmers et al. 2022, arXiv:2110.02861). The scale of each block is the one of
  `CLIPS`·max |w| / 7 with the least squared error: a block's largest weight may be clipped where the rest gains.
  |w − q·s| ≤ max(s/2, |w| − 7·s). Block scales are stored once and spread by a Gather over constants, also folded.
- float16: stored half, cast to float; no scale. A tensor beyond ±65504 stays as it is.

All are symmetric: zero stays zero, so pruning is kept.

Why not ONNX's INT4 tensors, or onnxruntime's MatMulNBits? Measured with onnxruntime 1.32 on a 2048 × 2048 MatMul, one
thread: what is stored is as large (2.36 MB entropy coded, either way); the expanded file is half as large (2.6 against
4.7 MB). MatMulNBits with 8-bit activations is eight times faster than float for one row (0.18 against 1.5 ms), but
slower for 16 rows of a 512 × 512 one (0.13 against 0.09 ms) and 0.5 % off in its answers, in a way that hangs on the
CPU; with float activations it is slower than float for several rows. It exists for MatMul alone, and in no other
runtime. So int4 here is a way to store, which holds on every CPU and in every format.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper

from .encodings import Encoding, Number
from .graph import fresh, names_in, tensor_of
from .weights import SCALE_SUFFIX, Weight, channels, from_channels

#: Smaller tensors gain less than the nodes and scales around them cost.
MIN_ELEMENTS = 256
HALF_MAX = 65504.0
#: Elements that are computed with together.
_AT_ONCE = 2**20
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_LIMIT = {Number.INT8: 127, Number.INT4: 7}


@dataclass(frozen=True)
class Stored:
    """Numbers in the file. W ≈ numbers · (scales, each spread over the elements of its channel or block).

    Attributes:
        numbers: int8 or float16, shape of W.
        scales: broadcastable to W after `spread`; None: no scale.
        spread: (axis, index of the block for each position along it) where scales are per block.
    """

    numbers: npt.NDArray[Any]
    scales: npt.NDArray[Any] | None = None
    spread: tuple[int, npt.NDArray[np.int64]] | None = None

    def values(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """What the runtime computes at load, in the weight's own type."""
        if self.scales is None:
            return self.numbers.astype(dtype)
        floats, scales = self.numbers.astype(_computed(dtype)), self.scales.astype(_computed(dtype))
        if self.spread is not None:
            scales = np.take(scales, self.spread[1], axis=self.spread[0])
        return np.asarray(floats * scales, dtype=dtype)


def store_weights(model: Any, chosen: Iterable[Weight], encoding: Encoding) -> tuple[tuple[Weight, ...], list[str]]:
    """Rewrite some weights of a model, in place.

    Returns:
        The weights that were rewritten, and sentences on the others.

    Raises:
        InputError: a weight holds NaN or infinite values.
    """
    done: list[Weight] = []
    notes: list[str] = []
    taken = names_in(model.graph)
    for weight in chosen:
        values = weight.values()
        if encoding.weight is Number.FLOAT16 and values.dtype == np.float16:
            continue
        stored = encode(values, weight.channel_axes, encoding)
        if stored is None:
            notes.append(f"weight {weight.name!r} has values beyond ±{HALF_MAX:.0f}: it stays {values.dtype}")
            continue
        _rewrite(weight, values.dtype, stored, taken)
        done.append(weight)
    return tuple(done), notes


def encode(values: npt.NDArray[Any], axes: tuple[int, ...], encoding: Encoding) -> Stored | None:
    """The stored form of a weight, or None where the type cannot hold it.

    Args:
        values: finite floats.
        axes: of the output channels.
        encoding: weight type, channels, blocks.
    """
    if encoding.weight is Number.FLOAT16:
        if values.size and max(float(values.max()), -float(values.min())) > HALF_MAX:
            return None
        return Stored(values.astype(np.float16))
    if encoding.block:
        return _in_blocks(values, axes, encoding.block, _LIMIT[encoding.weight])
    axes = axes if encoding.per_channel else ()
    rows = channels(values, axes)
    largest = np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0)).astype(np.float64)
    scales = _scales(largest, _LIMIT[encoding.weight], values.dtype)
    numbers = _rounded(rows, scales.astype(np.float64))
    kept = [n if i in axes else 1 for i, n in enumerate(values.shape)]
    return Stored(np.ascontiguousarray(from_channels(numbers, values.shape, axes)), scales.reshape(kept))


def _rounded(rows: npt.NDArray[Any], scales: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
    """Piece by piece: in float64 all of a large weight would take twice its room, several times."""
    numbers = np.empty(rows.shape, dtype=np.int8)
    width = max(1, min(rows.shape[1], _AT_ONCE))
    height = max(1, _AT_ONCE // width)
    for top in range(0, rows.shape[0], height):
        for left in range(0, rows.shape[1], width):
            part = rows[top : top + height, left : left + width].astype(np.float64)
            part /= scales[top : top + height, None]
            np.clip(np.rint(part, out=part), -127, 127, out=part)
            numbers[top : top + height, left : left + width] = part
    return numbers


def _in_blocks(values: npt.NDArray[Any], axes: tuple[int, ...], block: int, limit: int) -> Stored:
    """Blocks lie along the longest axis that is no channel's; other axes (a kernel's) are within the block."""
    axes = axes[:-1] if len(axes) == values.ndim else axes
    others = [a for a in range(values.ndim) if a not in axes]
    axis = max(others, key=lambda a: (values.shape[a], -a))
    inner = [a for a in others if a != axis]
    length = values.shape[axis]
    within = math.prod(values.shape[a] for a in inner)
    step = max(1, block // max(1, within))
    index = np.arange(length, dtype=np.int64) // step
    # Axes as [channels…, axis, inner…], so that one block is one row.
    order = [*axes, axis, *inner]
    moved = np.transpose(values.astype(np.float64), order)
    lead = moved.shape[: len(axes)]
    rows = moved.reshape(math.prod(lead), length, within)
    blocks = math.ceil(length / step)
    padded = np.zeros((rows.shape[0], blocks * step, within))
    padded[:, :length] = rows
    flat = padded.reshape(rows.shape[0] * blocks, step * within)
    scales, numbers = _least_error(flat, limit, values.dtype)
    numbers = numbers.reshape(rows.shape[0], blocks * step, within)[:, :length]
    restored = np.transpose(numbers.reshape(moved.shape), np.argsort(order))
    kept = [values.shape[a] if a in axes else blocks if a == axis else 1 for a in range(values.ndim)]
    placed = scales.reshape(*lead, blocks, *([1] * len(inner)))
    placed = np.transpose(placed, np.argsort(order)).reshape(kept)
    return Stored(
        np.ascontiguousarray(restored), np.ascontiguousarray(placed), (axis, index) if step < length else None
    )


def _least_error(
    rows: npt.NDArray[np.float64], limit: int, dtype: npt.DTypeLike
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int8]]:
    largest = np.abs(rows).max(axis=1, initial=0.0)
    best = np.full(len(rows), np.inf)
    scales = _scales(largest, limit, dtype)
    numbers = np.zeros(rows.shape, dtype=np.int8)
    for clip in CLIPS:
        trial = _scales(largest * clip, limit, dtype)
        wide = trial[:, None].astype(np.float64)
        rounded = np.clip(np.rint(rows / wide), -limit - 1, limit)
        error = ((rounded * wide - rows) ** 2).sum(axis=1)
        # A strict comparison: of equal errors the wider range wins, on every machine.
        better = error < best * (1 - 1e-9)
        best[better] = error[better]
        scales[better] = trial[better]
        numbers[better] = rounded[better].astype(np.int8)
    return scales, numbers


def _scales(largest: npt.NDArray[np.float64], limit: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Max / limit in the weight's type, rounded up, so that the largest is not clipped; 1 for channels of zeros."""
    scales: npt.NDArray[Any] = (largest / limit).astype(dtype)
    low = scales.astype(np.float64) * limit < largest
    scales[low] = np.nextafter(scales[low], np.asarray(np.inf, dtype=dtype))
    scales[scales == 0] = 1
    return scales


def _computed(dtype: npt.DTypeLike) -> npt.DTypeLike:
    """The type in which scales are multiplied: CPUs have no half kernels, and what has no kernel is not folded."""
    return np.float32 if np.dtype(dtype) == np.float16 else dtype


def _rewrite(weight: Weight, dtype: npt.DTypeLike, stored: Stored, taken: set[str]) -> None:
    graph, name = weight.graph, weight.name

    def constant(array: npt.NDArray[Any], suffix: str) -> str:
        tensor = tensor_of(np.ascontiguousarray(array), fresh(name + suffix, taken), beside=weight.tensor)
        graph.initializer.append(tensor)
        return str(tensor.name)

    index = next(i for i, t in enumerate(graph.initializer) if t.name == name)
    del graph.initializer[index]
    to, inner = (helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in (dtype, _computed(dtype)))
    suffix = "/half" if stored.scales is None else "/quantized"
    numbers = constant(stored.numbers, suffix)
    nodes = []
    if stored.scales is None:
        nodes.append(helper.make_node("Cast", [numbers], [name], name=f"{name}/cast", to=to))
    else:
        cast = fresh(f"{name}/float", taken)
        scales = constant(stored.scales, "/scale")
        nodes.append(helper.make_node("Cast", [numbers], [cast], name=f"{name}/cast", to=inner))
        if stored.spread is not None:
            axis, positions = stored.spread
            where = constant(positions, "/block")
            spread = fresh(f"{name}/scales", taken)
            nodes.append(helper.make_node("Gather", [scales, where], [spread], name=f"{name}{SCALE_SUFFIX}", axis=axis))
            scales = spread
        if inner == to:
            nodes.append(helper.make_node("Mul", [cast, scales], [name], name=f"{name}/dequantize"))
        else:
            wide, product = fresh(f"{name}/scale_float", taken), fresh(f"{name}/product", taken)
            nodes.append(helper.make_node("Cast", [scales], [wide], name=f"{name}/cast_scale", to=inner))
            nodes.append(helper.make_node("Mul", [cast, wide], [product], name=f"{name}/dequantize"))
            nodes.append(helper.make_node("Cast", [product], [name], name=f"{name}/cast_back", to=to))
    # In front of all readers; `insert` moves nodes without copying, so graphs inside them stay the same objects.
    for node in reversed(nodes):
        graph.node.insert(0, node)
