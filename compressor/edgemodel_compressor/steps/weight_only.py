"""Weight-only storage: small numbers in the file, float in every kernel.

An initializer W becomes `stored → Cast → Mul(scale)`, and the Mul's output is called W again, so readers (in subgraphs
too) need no change. Every runtime computes nodes of constants once, when it loads the model: inference then runs the
source's own kernels, at the source's speed, on any CPU. (DequantizeLinear is no choice: onnxruntime never folds it.)
A float16 weight is scaled in float32 and cast back: a Mul of halves has no kernel on most CPUs, so it is not folded.

- int8, one scale per output channel: s = max |w| / 127, q = round(w / s), so |w − q·s| ≤ s/2.
- stepped (a search's own): as int8 with a smaller largest number `limit`, per channel or for the whole weight; elements
  below `dead` steps become 0. Numbers are chosen with s = max |w| / limit, rounded up to 8 significant bits, so that
  |w − q·s| ≤ dead·s; what is stored is the s of 8 bits whose sum of (w − q·s)² over these numbers is not larger.
- stepped with numbers of more than 8 bits: n = 16·high + low, two tensors of int8 instead of one of int16: in that the
  entropy coder, which sees bytes, has one table for two kinds of them (measured on normal numbers of 10 bits: 9.9 bits
  stored against 12.0).
- int4 values −8…7, in int8 storage that an entropy coder halves, one scale per block of input channels per output
  channel (block-wise quantization; Dettmers et al. 2022, arXiv:2110.02861). The scale of each block is the one of
  `CLIPS`·max |w| / 7 with the least squared error: a block's largest weight may be clipped where the rest gains.
  |w − q·s| ≤ max(s/2, |w| − 7·s). Block scales are stored once and spread by a Gather over constants, also folded.
- float16: stored half, cast to float; no scale. A tensor beyond ±65504 stays as it is.

All are symmetric: zero stays zero, so pruning is kept. Of weights near their type's largest number a scale is the
largest whose numbers the type still holds: the last bits of those weights are clipped.

Why not ONNX's INT4 tensors, or onnxruntime's MatMulNBits? Measured with onnxruntime 1.32 on a 2048 × 2048 MatMul, one
thread: what is stored is as large (2.36 MB entropy coded, either way); the expanded file is half as large (2.6 against
4.7 MB). MatMulNBits with 8-bit activations is eight times faster than float for one row (0.18 against 1.5 ms), but
slower for 16 rows of a 512 × 512 one (0.13 against 0.09 ms) and 0.5 % off in its answers, in a way that hangs on the
CPU; with float activations it is slower than float for several rows. It exists for MatMul alone, and in no other
runtime. So int4 here is a way to store, which holds on every CPU and in every format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper

from .encodings import Encoding, Number
from .graph import fresh, graphs, names_in, tensor_of
from .weights import SCALE_SUFFIX, Weight, channels, from_channels

#: Smaller tensors gain less than the nodes and scales around them cost.
MIN_ELEMENTS = 256
HALF_MAX = 65504.0
#: Names of the nodes that decode a weight end with these, behind its own name.
DECODING = ("/cast", "/cast_low", "/cast_scale", SCALE_SUFFIX, "/dequantize")
#: And these, which read nothing that is stored.
_NODES = (*DECODING, "/times", "/add", "/cast_back")
#: Elements that are computed with together.
_AT_ONCE = 2**20
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
#: Half a step: below it, what is rounded is zero anyway.
_PLAIN = 0.5
_LIMIT = {Number.INT8: 127, Number.INT4: 7}
#: Numbers of more than eight bits: times how much the high part counts.
BASE = 16


@dataclass(frozen=True)
class Stored:
    """Numbers in the file. W ≈ numbers · (scales, each spread over the elements of its channel or block).

    Attributes:
        numbers: int8, int16 (of at most 12 bits: see `planes`) or float16, shape of W.
        scales: broadcastable to W after `spread`; None: no scale.
        spread: (axis, index of the block for each position along it) where scales are per block.
    """

    numbers: npt.NDArray[Any]
    scales: npt.NDArray[Any] | None = None
    spread: tuple[int, npt.NDArray[np.int64]] | None = None

    @property
    def parts(self) -> tuple[npt.NDArray[Any], ...]:
        """The tensors of numbers in the file."""
        return planes(self.numbers) if self.numbers.dtype == np.int16 else (self.numbers,)

    def values(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """What the runtime computes at load, in the weight's own type."""
        if self.scales is None:
            return self.numbers.astype(dtype)
        floats, scales = self.numbers.astype(_computed(dtype)), self.scales.astype(_computed(dtype))
        if self.spread is not None:
            scales = np.take(scales, self.spread[1], axis=self.spread[0])
        return np.asarray(floats * scales, dtype=dtype)


def planes(numbers: npt.NDArray[np.int16]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """(high, low) with numbers = 16·high + low and low in −8…7.

    Args:
        numbers: within −2040…2039.
    """
    low = (numbers + BASE // 2) % BASE - BASE // 2
    return ((numbers - low) // BASE).astype(np.int8), low.astype(np.int8)


#: (weight, its values, encoding) to its stored form: `encode`, or one that knows more (`compensate.Encoder`).
Encode = Callable[[Weight, npt.NDArray[Any], Encoding], Stored | None]


def plainly(weight: Weight, values: npt.NDArray[Any], encoding: Encoding) -> Stored | None:
    """`encode`."""
    return encode(values, weight.channel_axes, encoding)


def limits_of(encoding: Encoding) -> tuple[int, int]:
    """Smallest and largest number of an encoding of whole numbers."""
    limit = encoding.limit or _LIMIT[encoding.weight]
    return (-limit - 1 if encoding.block else -limit), limit


def alike(a: Encoding, b: Encoding) -> bool:
    """Whether two encodings of weights give about the same values: the same numbers, from steps that are nearly the same."""
    if a == b or Number.FLOAT16 in (a.weight, b.weight):
        return a == b
    same = (a.weight, a.per_channel, a.block, a.dead) == (b.weight, b.per_channel, b.block, b.dead)
    return same and limits_of(a) == limits_of(b)


def store_weights(
    model: Any, chosen: Iterable[Weight], encoding: Encoding, how: Encode = plainly
) -> tuple[tuple[Weight, ...], list[str]]:
    """Rewrite some weights of a model, in place.

    Returns:
        The weights that were rewritten, and sentences on the others.

    Raises:
        InputError: a weight holds NaN or infinite values.
    """
    done: list[Weight] = []
    notes: list[str] = []
    taken = names_in(model.graph)
    named = {n.name for g in graphs(model.graph) for n in g.node}
    for weight in chosen:
        values = weight.values()
        if encoding.weight is Number.FLOAT16 and values.dtype == np.float16:
            continue
        stored = how(weight, values, encoding)
        if stored is None:
            notes.append(f"weight {weight.name!r} has values beyond ±{HALF_MAX:.0f}: it stays {values.dtype}")
            continue
        _rewrite(weight, values.dtype, stored, taken, named)
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
    _, limit = limits_of(encoding)
    scales = _scales(largest, limit, values.dtype, short=bool(encoding.limit))
    numbers = _rounded(rows, scales.astype(np.float64), limit, encoding.dead)
    if encoding.limit:
        scales = _refitted(rows, numbers, scales, limit)
    kept = [n if i in axes else 1 for i, n in enumerate(values.shape)]
    return Stored(np.ascontiguousarray(from_channels(numbers, values.shape, axes)), scales.reshape(kept))


def _rounded(rows: npt.NDArray[Any], scales: npt.NDArray[np.float64], limit: int, dead: float) -> npt.NDArray[Any]:
    numbers = np.empty(rows.shape, dtype=np.int8 if limit <= np.iinfo(np.int8).max else np.int16)
    for part in _pieces(rows.shape):
        steps = rows[part].astype(np.float64)
        steps /= scales[part[0], None]
        small = np.abs(steps) < dead if dead > _PLAIN else None
        np.clip(np.rint(steps, out=steps), -limit, limit, out=steps)
        if small is not None:
            steps[small] = 0
        numbers[part] = steps
    return numbers


def _refitted(
    rows: npt.NDArray[Any], numbers: npt.NDArray[Any], scales: npt.NDArray[Any], limit: int
) -> npt.NDArray[Any]:
    """The scale of least squared error for numbers that are chosen: Σ w·q / Σ q², where that is better than `scales`."""
    mixed, squares = np.zeros(len(rows)), np.zeros(len(rows))
    before = scales.astype(np.float64)
    # What overflows (sums of huge float64, scales past a half's range) is not better.
    with np.errstate(over="ignore", invalid="ignore"):
        for part in _pieces(rows.shape):
            found = numbers[part].astype(np.float64)
            mixed[part[0]] += (rows[part] * found).sum(axis=1)
            squares[part[0]] += (found * found).sum(axis=1)
        found = _short(mixed / np.maximum(squares, 1), np.rint).astype(scales.dtype)
        after = np.where((found > 0) & (found <= _largest_scale(limit, scales.dtype)), found, scales).astype(np.float64)
        better = squares * after**2 - 2 * mixed * after <= squares * before**2 - 2 * mixed * before
    return np.where(better, after, before).astype(scales.dtype)


def _short(values: npt.NDArray[np.float64], rounding: Any) -> npt.NDArray[np.float64]:
    """Rounded to eight significant bits: zero bytes are left, which the entropy coder stores in half the room."""
    fraction, exponent = np.frexp(values)
    return np.asarray(np.ldexp(rounding(np.ldexp(fraction, 8)), exponent - 8))


def _pieces(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Of a table: in float64 all of a large weight would take twice its room, several times."""
    width = max(1, min(shape[1], _AT_ONCE))
    height = max(1, _AT_ONCE // width)
    for top in range(0, shape[0], height):
        for left in range(0, shape[1], width):
            yield slice(top, top + height), slice(left, left + width)


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
    # Exact, by powers of two: squares of the largest float64 would overflow.
    _, exponent = np.frexp(largest)
    rows = np.ldexp(rows, -exponent[:, None])
    most = _largest_scale(limit + 1, np.dtype(dtype))
    best = np.full(len(rows), np.inf)
    scales = _scales(largest, limit, dtype)
    numbers = np.zeros(rows.shape, dtype=np.int8)
    for clip in CLIPS:
        trial = _scales(largest * clip, limit, dtype)
        wide = np.ldexp(trial.astype(np.float64), -exponent)[:, None]
        rounded = np.clip(np.rint(rows / wide), np.where(trial <= most, -limit - 1, -limit)[:, None], limit)
        error = ((rounded * wide - rows) ** 2).sum(axis=1)
        # A strict comparison: of equal errors the wider range wins, on every machine.
        better = error < best * (1 - 1e-9)
        best[better] = error[better]
        scales[better] = trial[better]
        numbers[better] = rounded[better].astype(np.int8)
    return scales, numbers


def _scales(
    largest: npt.NDArray[np.float64], limit: int, dtype: npt.DTypeLike, *, short: bool = False
) -> npt.NDArray[Any]:
    """Max / limit in the weight's type, rounded up, so that the largest is not clipped; 1 for channels of zeros.

    No larger than what keeps `limit` steps finite.
    """
    most = _largest_scale(limit, np.dtype(dtype))
    # Infinite, where `most` is taken: the largest float64, rounded up.
    with np.errstate(over="ignore"):
        wanted = _short(largest / limit, np.ceil) if short else largest / limit
        scales: npt.NDArray[Any] = np.minimum(wanted, most).astype(dtype)
        low = scales.astype(np.float64) * limit < largest
    scales[low] = np.nextafter(scales[low], np.asarray(np.inf, dtype=dtype))
    scales[scales == 0] = 1
    return np.asarray(np.minimum(scales, most))


@cache
def _largest_scale(limit: int, dtype: np.dtype[Any]) -> float:
    """The largest of this type whose product with `limit` is finite, as the runtime computes it."""
    number, up, down = np.asarray([limit]), np.asarray(np.inf, dtype), np.asarray(0, dtype)
    with np.errstate(over="ignore"):
        found = np.nextafter(np.asarray([np.finfo(dtype).max / limit], dtype), up)
        while not np.isfinite(Stored(number, found).values(dtype)).all():
            found = np.nextafter(found, down)
    return float(found[0])


def _computed(dtype: npt.DTypeLike) -> npt.DTypeLike:
    """The type in which scales are multiplied: CPUs have no half kernels, and what has no kernel is not folded."""
    return np.float32 if np.dtype(dtype) == np.float16 else dtype


def _rewrite(weight: Weight, dtype: npt.DTypeLike, stored: Stored, taken: set[str], named: set[str]) -> None:
    graph, name = weight.graph, weight.name

    def constant(array: npt.NDArray[Any], suffix: str) -> str:
        tensor = tensor_of(np.ascontiguousarray(array), fresh(name + suffix, taken), beside=weight.tensor)
        graph.initializer.append(tensor)
        return str(tensor.name)

    stem = _stem(name, named)
    index = next(i for i, t in enumerate(graph.initializer) if t.name == name)
    del graph.initializer[index]
    to, inner = (helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in (dtype, _computed(dtype)))
    suffix = "/half" if stored.scales is None else "/quantized"
    numbers, *rest = (constant(part, suffix) for part in stored.parts)
    nodes = []
    if stored.scales is None:
        nodes.append(helper.make_node("Cast", [numbers], [name], name=f"{stem}/cast", to=to))
    else:
        cast = fresh(f"{name}/float", taken)
        scales = constant(stored.scales, "/scale")
        nodes.append(helper.make_node("Cast", [numbers], [cast], name=f"{stem}/cast", to=inner))
        for low in rest:
            base = constant(np.asarray(BASE, dtype=helper.tensor_dtype_to_np_dtype(inner)), "/base")
            high, small, both = (fresh(name + s, taken) for s in ("/high", "/low", "/whole"))
            nodes.append(helper.make_node("Mul", [cast, base], [high], name=f"{stem}/times"))
            nodes.append(helper.make_node("Cast", [low], [small], name=f"{stem}/cast_low", to=inner))
            nodes.append(helper.make_node("Add", [high, small], [both], name=f"{stem}/add"))
            cast = both
        if stored.spread is not None:
            axis, positions = stored.spread
            where = constant(positions, "/block")
            spread = fresh(f"{name}/scales", taken)
            nodes.append(helper.make_node("Gather", [scales, where], [spread], name=f"{stem}{SCALE_SUFFIX}", axis=axis))
            scales = spread
        if inner == to:
            nodes.append(helper.make_node("Mul", [cast, scales], [name], name=f"{stem}/dequantize"))
        else:
            wide, product = fresh(f"{name}/scale_float", taken), fresh(f"{name}/product", taken)
            nodes.append(helper.make_node("Cast", [scales], [wide], name=f"{stem}/cast_scale", to=inner))
            nodes.append(helper.make_node("Mul", [cast, wide], [product], name=f"{stem}/dequantize"))
            nodes.append(helper.make_node("Cast", [product], [name], name=f"{stem}/cast_back", to=to))
    # In front of all readers; `insert` moves nodes without copying, so graphs inside them stay the same objects.
    for node in reversed(nodes):
        graph.node.insert(0, node)
    named.update(n.name for n in nodes)


def _stem(name: str, named: set[str]) -> str:
    """What the nodes' names begin with: the weight's name, unless the model has a node of such a name."""
    found, n = name, 1
    while any(found + suffix in named for suffix in _NODES):
        n += 1
        found = f"{name}_{n}"
    return found
