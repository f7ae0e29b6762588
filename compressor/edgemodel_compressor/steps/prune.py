"""Pruning: the least important weights become exact zeros, which the stored layer's entropy coder makes small.

Importance of a weight w of tensor W:

- `MinAbsolute`: |w| (magnitude pruning; Han et al. 2015, "Learning both Weights and Connections", arXiv:1506.02626).
- `MaxRelative`: |w| / max |W|, the largest of its tensor, or of its output channel with granularity Channel: layers
  whose weights are small as a whole then keep their share (a magnitude score normalised by layer; cf. Lee et al.
  2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning", arXiv:2010.07611).

Granularity is the set in which the target holds: one tensor, one output channel, or (`Global`) all tensors together.
In a set of n elements exactly ⌊n·sparsity + ½⌋ are zero afterwards (more, if more were before); of equally important
ones those with the smaller index (row-major; tensors in the order of their nodes) go first.

Biases, norms and element-wise constants stay: see `weights`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from edgemodel_api.edgemodel import Granularity, PruneMethod, PruneStep

from .graph import copy_of
from .selection import unknown_excludes, weight_allowed
from .weights import Weight, channels, from_channels, sparsity_of, weights

Scores = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TensorSparsity:
    """Share of exact zeros in one weight, counted in the result."""

    name: str
    sparsity: float


@dataclass(frozen=True)
class PruneResult:
    """What came out.

    Attributes:
        model: the pruned copy.
        sparsity: share of exact zeros, counted, among the weights that the step worked on.
        tensors: the same for each of them.
        notes: what a user should know.
    """

    model: Any
    sparsity: float
    tensors: tuple[TensorSparsity, ...]
    notes: tuple[str, ...] = ()


def prune(model: Any, step: PruneStep) -> PruneResult:
    """Set the least important weights to zero, in a copy.

    Args:
        model: a ModelProto; float32, float16 and float64 weights are pruned.
        step: method, sparsity, granularity and what to leave alone.

    Raises:
        InputError: a weight holds NaN or infinite values.
    """
    target = _fraction(step.sparsity or "0%")
    result = copy_of(model)
    chosen = [w for w in weights(result) if weight_allowed(w, step)]
    notes = list(unknown_excludes(model, step.exclude))
    if not chosen:
        notes.append("no weight is left to prune: the model has none, or exclude names them all")
    if step.granularity is Granularity.GLOBAL:
        _prune_together(chosen, step.method, target)
    else:
        for weight in chosen:
            _prune_alone(weight, step, target)
    return PruneResult(
        result,
        sparsity_of(chosen),
        tuple(TensorSparsity(w.name, sparsity_of([w])) for w in chosen),
        tuple(notes),
    )


def zeros_wanted(elements: int, sparsity: Decimal) -> int:
    """Number of zeros in a set: half rounds up.

    >>> zeros_wanted(5, Decimal("0.5")), zeros_wanted(10, Decimal("0.25"))
    (3, 3)
    """
    return int((elements * sparsity).to_integral_value(ROUND_HALF_UP))


def _fraction(percent: str) -> Decimal:
    """Exact: 0.35 as a float would make 2.9999… of 30 % of ten."""
    return Decimal(percent.rstrip("%")) / 100


def _prune_alone(weight: Weight, step: PruneStep, target: Decimal) -> None:
    values = weight.values()
    axes = weight.channel_axes if step.granularity is Granularity.CHANNEL else ()
    # Within one set the largest |w| is a common factor: both methods rank alike.
    scores = channels(np.abs(values.astype(np.float64)), axes)
    wanted = zeros_wanted(scores.shape[1], target)
    order = np.argsort(scores, axis=1, kind="stable")[:, :wanted]
    mask: Mask = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(mask, order, True, axis=1)
    _write(weight, values, from_channels(mask, values.shape, axes))


def _prune_together(chosen: Sequence[Weight], method: PruneMethod, target: Decimal) -> None:
    values = [w.values() for w in chosen]
    total = sum(v.size for v in values)
    wanted = zeros_wanted(total, target)
    if not wanted:
        return
    scores = np.concatenate([_scores(v, method) for v in values])
    mask = smallest(scores, wanted)
    offset = 0
    for weight, array in zip(chosen, values, strict=True):
        _write(weight, array, mask[offset : offset + array.size].reshape(array.shape))
        offset += array.size


def smallest(scores: Scores, count: int) -> Mask:
    """Mask of exactly `count` elements with the smallest scores; of equal ones, the first."""
    mask: Mask = np.zeros(scores.shape, dtype=bool)
    if count <= 0:
        return mask
    edge = np.partition(scores, count - 1)[count - 1]
    np.less(scores, edge, out=mask)
    mask[np.flatnonzero(scores == edge)[: count - int(np.count_nonzero(mask))]] = True
    return mask


def _scores(values: npt.NDArray[Any], method: PruneMethod) -> Scores:
    magnitude: Scores = np.abs(values.astype(np.float64)).reshape(-1)
    if method is PruneMethod.MIN_ABSOLUTE:
        return magnitude
    largest = float(magnitude.max(initial=0.0))
    # A tensor of zeros has nothing to lose; a subnormal maximum must not divide to infinity.
    return magnitude if largest == 0 or not math.isfinite(1 / largest) else magnitude / largest


def _write(weight: Weight, values: npt.NDArray[Any], mask: Mask) -> None:
    pruned = np.where(mask, values.dtype.type(0), values)
    weight.tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(pruned, dtype=values.dtype), weight.name))
