"""Mixtures: for each weight its options (encodings, with bytes and error), and the model made of a choice.

The error that an option makes at the outputs is taken to be in proportion to the error that it makes in the weight:
k·‖W − W'‖², with k from one measurement of the node's sensitivity. So a layer costs one measurement, however many
options it has. Bytes are those of the numbers and scales under the entropy coder that stores them. Of large weights
both are estimated on a sample of the output channels. There are no sparsities to choose from: a larger step makes
zeros of small elements, too, and at the same bytes with less error than pruning them and storing the rest more finely.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from edgemodel_api.quantities import counted

from .allocate import Option
from .recipe import Quantize
from .steps.encodings import Encoding
from .steps.graph import copy_of
from .steps.names import shorten
from .steps.weight_only import MIN_ELEMENTS, Encode, encode, plainly, store_weights
from .steps.weights import Weight, weights

#: Numbers of a weight that are looked at.
SAMPLE = 2**16
#: Key of the option to leave a weight as it is; the others are places in the ladder.
_FLOAT = -1
_LEVEL = 1
#: An error of less than this share of a weight's square is none.
_EXACT = 1e-12
#: Bits a number that zstd's coder is above the entropy where most numbers are zero, and bytes of its tables (measured).
_ABOVE, _TABLE = 0.22, 20
#: Stored bytes of the nodes that decode a weight (measured on models with long names).
_NODES = 40


def options(
    model: Any, ladder: Sequence[Quantize], sensitivity: Mapping[str, float], by: Encoding
) -> dict[str, tuple[Option, ...]]:
    """For each weight of the model (by name) what may become of it.

    Args:
        model: prepared ModelProto; not changed.
        ladder: encodings of weights only.
        sensitivity: node name to relative output error when only its weights are stored as `by`.
        by: the encoding in which that was measured.
    """
    found = dict[str, list[tuple[int, int, float]]]()
    norms, costs = dict[str, float](), dict[str, float]()
    for weight in weights(model):
        error = max((sensitivity.get(u.node, math.inf) for u in weight.uses), default=math.inf)
        if weight.size < MIN_ELEMENTS or not math.isfinite(error):
            continue
        whole = weight.values()
        values = _sample(whole, weight.channel_axes)
        scale = whole.size / max(1, values.size)
        base, norm = _distance(values, _stored(values, weight, by)[0]), _distance(values, np.zeros_like(values))
        if base > _EXACT * norm:
            costs[weight.name] = error**2 / base
        norms[weight.name] = norm
        found[weight.name] = [
            (key, round(size * scale), distance) for key, size, distance in _points(values, weight, ladder)
        ]
    # Of a weight that `by` stores exactly nothing was learned: it counts as much as the dearest of the others.
    dearest = max((costs[name] * norms[name] for name in costs), default=1.0)
    return {
        name: tuple(
            Option(key, size, distance * costs.get(name, dearest / norms[name] if norms[name] > 0 else 0.0))
            for key, size, distance in points
        )
        for name, points in found.items()
    }


@dataclass(frozen=True)
class Mixed:
    """What came out.

    Attributes:
        model: a copy.
        nodes: names of those whose weights are stored as small numbers.
    """

    model: Any
    nodes: tuple[str, ...]


def mix(model: Any, ladder: Sequence[Quantize], chosen: Mapping[str, Option], how: Encode = plainly) -> Mixed:
    """A copy with each weight in its option, and short names inside.

    Args:
        model: as for `options`.
        ladder: the same.
        chosen: weight name to option.
        how: weights are rounded.

    Raises:
        InputError: a weight holds NaN or infinite values.
    """
    result = copy_of(model)
    by_place: dict[int, list[Weight]] = {}
    nodes: dict[str, None] = {}
    for weight in weights(result):
        if weight.name in chosen and chosen[weight.name].key != _FLOAT:
            by_place.setdefault(chosen[weight.name].key, []).append(weight)
    for place, some in sorted(by_place.items()):
        done, _ = store_weights(result, some, ladder[place].encoding, how)
        nodes.update(dict.fromkeys(u.node for w in done for u in w.uses))
    shorten(result)
    return Mixed(result, tuple(nodes))


def words(ladder: Sequence[Quantize], chosen: Mapping[str, Option]) -> tuple[str, ...]:
    """What the report says of a choice: how many weights there are of each kind of encoding, and their steps."""
    counts: dict[str, list[int]] = {}
    for option in chosen.values():
        encoding = None if option.key == _FLOAT else ladder[option.key].encoding
        counts.setdefault(_kind(encoding), []).append(encoding.limit if encoding is not None else 0)
    return tuple(f"{counted(len(found), 'weight')} as {name}{_span(found)}" for name, found in sorted(counts.items()))


def _kind(encoding: Encoding | None) -> str:
    if encoding is None:
        return "float32"
    if not encoding.limit:
        return encoding.name
    return f"steps of each {'output channel' if encoding.per_channel else 'weight'}"


def _span(limits: Sequence[int]) -> str:
    low, high = min(limits), max(limits)
    if not high:
        return ""
    return f", numbers up to {low}" if low == high else f", numbers up to {low} to {high}"


def _points(values: npt.NDArray[Any], weight: Weight, ladder: Sequence[Quantize]) -> list[tuple[int, int, float]]:
    """(key, bytes, squared distance) of each option."""
    points = [(_FLOAT, _packed(values), 0.0)]
    one = not weight.channel_axes
    for place, quantize in enumerate(ladder):
        # Where no channels are known, a step for each and a step for all are the same.
        if one and quantize.encoding.limit and not quantize.encoding.per_channel:
            continue
        back, parts = _stored(values, weight, quantize.encoding)
        if parts:
            points.append((place, _NODES + sum(map(_packed, parts)), _distance(values, back)))
    return points


def _stored(
    values: npt.NDArray[Any], weight: Weight, encoding: Encoding
) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]]]:
    stored = encode(values, weight.channel_axes, encoding)
    if stored is None:
        return values, []
    return stored.values(values.dtype), [a for a in (*stored.parts, stored.scales) if a is not None]


def _sample(values: npt.NDArray[Any], axes: tuple[int, ...]) -> npt.NDArray[Any]:
    """Every n-th output channel of a large weight, so that about `SAMPLE` numbers stay."""
    if values.size <= SAMPLE or not axes:
        return values
    axis = max(axes, key=lambda a: (values.shape[a], -a))
    step = math.ceil(values.size / SAMPLE)
    return np.ascontiguousarray(np.take(values, np.arange(0, values.shape[axis], step), axis=axis))


def _distance(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(np.square(a.astype(np.float64) - b.astype(np.float64)).sum())


def _packed(array: npt.NDArray[Any]) -> int:
    """Bytes that the artifact's zstd comes to, within a few percent and a hundred times as fast.

    (Its fast levels do not tell: at level 6 numbers of 2.1 bits take 2.7, at level 16 they take 2.2.)
    """
    raw = np.ascontiguousarray(array).tobytes()
    found = len(zstandard.ZstdCompressor(level=_LEVEL).compress(raw))
    if array.dtype != np.int8:
        return found
    counts = np.bincount(np.frombuffer(raw, np.uint8), minlength=1)
    counts = counts[counts > 0]
    entropy = float(-(counts * np.log2(counts / array.size)).sum())
    return min(found, math.ceil(min(_huffman(counts.tolist()), entropy + _ABOVE * array.size) / 8) + _TABLE)


def _huffman(counts: Sequence[int]) -> int:
    """Bits of a text in its best prefix code, from how often each letter is in it (Huffman 1952)."""
    heap, bits = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        bits += both
        heapq.heappush(heap, both)
    return bits
