"""Mixtures: for each weight its options (encoding and sparsity, with bytes and error), and the model made of a choice.

The error that an option makes at the outputs is taken to be in proportion to the error that it makes in the weight:
k·‖W − W'‖², with k from one measurement of the node's sensitivity. So a layer costs one measurement, however many
options it has. Bytes are those of the numbers and scales under the entropy coder that stores them. Of large weights
both are estimated on a sample of the output channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from .allocate import Option
from .recipe import Quantize
from .steps.encodings import Encoding, Number
from .steps.graph import copy_of, put_array
from .steps.weight_only import MIN_ELEMENTS, encode, store_weights
from .steps.weights import Weight, sparsity_of, weights

#: In percent; with 0.
SPARSITIES = (0, *range(10, 96, 5))
#: Numbers of a weight that are looked at.
SAMPLE = 2**16
_LEVEL = 6


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
    found = {}
    for weight in weights(model):
        error = max((sensitivity.get(u.node, math.inf) for u in weight.uses), default=math.inf)
        if weight.size < MIN_ELEMENTS or not math.isfinite(error):
            continue
        whole = weight.values()
        values = _sample(whole, weight.channel_axes)
        scale = whole.size / max(1, values.size)
        base = _distance(values, _stored(values, weight, by)[0])
        factor = error**2 / base if base > 0 else 0.0
        found[weight.name] = tuple(
            Option(key, round(size * scale), factor * distance)
            for key, size, distance in _points(values, weight, ladder)
        )
    return found


@dataclass(frozen=True)
class Mixed:
    """What came out.

    Attributes:
        model: a copy.
        nodes: names of those whose weights are stored as small numbers.
        sparsity: share of exact zeros among all weights once pruned; None: nothing was.
    """

    model: Any
    nodes: tuple[str, ...]
    sparsity: float | None


def mix(model: Any, ladder: Sequence[Quantize], chosen: Mapping[str, Option]) -> Mixed:
    """A copy with each weight in its option.

    Args:
        model: as for `options`.
        ladder: the same.
        chosen: weight name to option.

    Raises:
        InputError: a weight holds NaN or infinite values.
    """
    result = copy_of(model)
    by_place: dict[int, list[Weight]] = {}
    nodes: dict[str, None] = {}
    pruned = False
    for weight in weights(result):
        if weight.name not in chosen:
            continue
        place, sparsity = _meaning(chosen[weight.name].key)
        if sparsity:
            put_array(weight.tensor, _sparse(weight.values(), sparsity))
            pruned = True
        by_place.setdefault(place, []).append(weight)
    zeros = sparsity_of(weights(result)) if pruned else None
    for place, some in sorted(by_place.items()):
        if place >= 0:
            done, _ = store_weights(result, some, ladder[place].encoding)
            nodes.update(dict.fromkeys(u.node for w in done for u in w.uses))
    return Mixed(result, tuple(nodes), zeros)


def words(ladder: Sequence[Quantize], chosen: Mapping[str, Option]) -> tuple[str, ...]:
    """What the report says of a choice: how many weights there are of each encoding, and their sparsities."""
    counts: dict[str, list[int]] = {}
    for option in chosen.values():
        place, sparsity = _meaning(option.key)
        counts.setdefault("float32" if place < 0 else ladder[place].encoding.name, []).append(sparsity)
    return tuple(
        f"{len(found)} weight{'s' if len(found) != 1 else ''} as {name}, pruned by {_span(found)}"
        for name, found in sorted(counts.items())
    )


def _span(percents: Sequence[int]) -> str:
    low, high = min(percents), max(percents)
    return f"{low} %" if low == high else f"{low} to {high} %"


def _points(values: npt.NDArray[Any], weight: Weight, ladder: Sequence[Quantize]) -> list[tuple[int, int, float]]:
    """(key, bytes, squared distance) of each option."""
    points = [(_key(-1, 0), _packed([values]), 0.0)]
    ordered = np.sort(np.abs(values), axis=None)
    for sparsity in SPARSITIES:
        zeroed = _below(values, _threshold(ordered, sparsity))
        for place, quantize in enumerate(ladder):
            # Halves of a pruned weight are never worth it: fewer bits cost less for the same bytes.
            if sparsity and quantize.encoding.weight is Number.FLOAT16:
                continue
            back, parts = _stored(zeroed, weight, quantize.encoding)
            if parts:
                points.append((_key(place, sparsity), _packed(parts), _distance(values, back)))
    return points


def _stored(
    values: npt.NDArray[Any], weight: Weight, encoding: Encoding
) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]]]:
    stored = encode(values, weight.channel_axes, encoding)
    if stored is None:
        return values, []
    return stored.values(values.dtype), [a for a in (stored.numbers, stored.scales) if a is not None]


def _sample(values: npt.NDArray[Any], axes: tuple[int, ...]) -> npt.NDArray[Any]:
    """Every n-th output channel of a large weight, so that about `SAMPLE` numbers stay."""
    if values.size <= SAMPLE or not axes:
        return values
    axis = max(axes, key=lambda a: (values.shape[a], -a))
    step = math.ceil(values.size / SAMPLE)
    return np.ascontiguousarray(np.take(values, np.arange(0, values.shape[axis], step), axis=axis))


def _sparse(values: npt.NDArray[Any], sparsity: int) -> npt.NDArray[Any]:
    return _below(values, _threshold(np.sort(np.abs(values), axis=None), sparsity))


def _threshold(ordered: npt.NDArray[Any], sparsity: int) -> float:
    count = round(ordered.size * sparsity / 100)
    return float(ordered[count - 1]) if count else -1.0


def _below(values: npt.NDArray[Any], threshold: float) -> npt.NDArray[Any]:
    return np.where(np.abs(values) <= threshold, 0, values).astype(values.dtype) if threshold >= 0 else values


def _distance(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(np.square(a.astype(np.float64) - b.astype(np.float64)).sum())


def _packed(arrays: Sequence[npt.NDArray[Any]]) -> int:
    raw = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)
    return len(zstandard.ZstdCompressor(level=_LEVEL).compress(raw))


def _key(place: int, sparsity: int) -> int:
    return (place + 1) * 100 + sparsity


def _meaning(key: int) -> tuple[int, int]:
    return key // 100 - 1, key % 100
