"""Pruning: the least important weights become exact zeros, or whole channels go and the graph shrinks.

Importance of a weight w of tensor W:

- `MinAbsolute`: |w| (magnitude pruning; Han et al. 2015, "Learning both Weights and Connections", arXiv:1506.02626).
- `MaxRelative`: |w| / max |W|, the largest of its tensor, or of its output channel with granularity Channel: layers
  whose weights are small as a whole then keep their share (a magnitude score normalised by layer; cf. Lee et al.
  2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning", arXiv:2010.07611).

Granularity is the set in which the target holds: one tensor, one output channel, or (`Global`) all tensors together.
In a set of n elements exactly ⌊n·sparsity + ½⌋ are zero afterwards (more, if more were before); of equally important
ones those with the smaller index (row-major; tensors in the order of their nodes) go first. Zeros are stored as zeros:
the stored layer's entropy coder makes them small.

`pattern` N:M is in `nm`, `structure: Channels` in `shrink`. Biases, norms and element-wise constants stay: see `weights`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemodel_api.edgemodel import Granularity, PruneMethod, PruneStep, Structure
from edgemodel_api.quantities import counted
from edgemodel_compressor.formats.kept import is_kept

from .channels import trace
from .graph import attribute, copy_of, graphs, put_array
from .nm import gone, input_axis, parse
from .ranking import Mask, Scores, fraction, smallest, zeros_wanted
from .selection import unknown_excludes, weight_allowed
from .shrink import keep_by_share, shrink
from .streamed import smallest_of
from .weights import Weight, channels, from_channels, sparsity_of, weights

#: Elements of a large weight that are ranked together.
_AT_ONCE = 2**20


@dataclass(frozen=True)
class TensorSparsity:
    """Share of exact zeros in one weight, counted in the result; of its numbers that are gone, where channels went."""

    name: str
    sparsity: float


@dataclass(frozen=True)
class ChannelCount:
    """Channels (or heads, or hidden units) of one group, before and after."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class PruneResult:
    """What came out.

    Attributes:
        model: the pruned copy.
        sparsity: share of exact zeros, counted, among the weights that the step worked on; with `structure: Channels`
            the share of their numbers that are gone.
        tensors: the same for each of them.
        notes: what a user should know.
        channels: with `structure: Channels`, each group that could lose some.
    """

    model: Any
    sparsity: float
    tensors: tuple[TensorSparsity, ...]
    notes: tuple[str, ...] = ()
    channels: tuple[ChannelCount, ...] = ()


def prune(model: Any, step: PruneStep) -> PruneResult:
    """Set the least important weights to zero, or take the least important channels out, in a copy.

    Args:
        model: a ModelProto; float32, float16 and float64 weights are pruned.
        step: method, sparsity or pattern, granularity, structure and what to leave alone.

    Raises:
        InputError: a weight holds NaN or infinite values.
    """
    if step.structure is Structure.CHANNELS:
        return _prune_channels(model, step)
    result = copy_of(model)
    chosen = chosen_weights(result, step)
    notes = list(unknown_excludes(model, step.exclude))
    if step.pattern:
        left = [w.name for w in weights(result) if weight_allowed(w, step) and input_axis(w) is None]
        if left:
            more = f" and {len(left) - 5} more" if len(left) > 5 else ""
            notes.append(
                f"pattern {step.pattern}: {', '.join(left[:5])}{more} stay, as no axis of theirs is summed over"
            )
    if not chosen:
        notes.append("no weight is left to prune: the model has none, or exclude names them all")
    for weight, mask in going(result, chosen, step, fraction(step.sparsity or "0%")):
        _write(weight, mask)
    return PruneResult(
        result,
        sparsity_of(chosen),
        tuple(TensorSparsity(w.name, sparsity_of([w])) for w in chosen),
        tuple(notes),
    )


def chosen_weights(model: Any, step: PruneStep) -> tuple[Weight, ...]:
    """The weights that a step works on."""
    allowed = (w for w in weights(model) if weight_allowed(w, step))
    return tuple(w for w in allowed if step.pattern is None or input_axis(w) is not None)


def going(
    model: Any, chosen: Sequence[Weight], step: PruneStep, sparsity: Decimal, *, pattern: tuple[int, int] | None = None
) -> Iterator[tuple[Weight, Mask]]:
    """Which weights go: masks of their shapes.

    Args:
        model: that holds them.
        chosen: from `chosen_weights`.
        step: method, granularity, pattern.
        sparsity: share of each set that goes; not read where there is a pattern.
        pattern: N and M instead of the step's.

    Raises:
        InputError: a weight holds NaN or infinite values.
    """
    if step.pattern:
        n, m = pattern or parse(step.pattern)
        blocks = _transposed_groups(model)
        for weight in chosen:
            axis = input_axis(weight)
            if axis is not None:
                yield weight, gone(weight.values(), axis, n, m, blocks=blocks.get(weight.name, 1))
    elif step.granularity is Granularity.GLOBAL:
        yield from _together(chosen, step.method, sparsity)
    else:
        for weight in chosen:
            yield weight, _alone(weight, step, sparsity)


def _prune_channels(model: Any, step: PruneStep) -> PruneResult:
    traced = trace(model)
    keep = keep_by_share(
        model,
        1 - fraction(step.sparsity or "0%"),
        method=step.method,
        granularity=step.granularity,
        exclude=step.exclude,
        groups=traced.groups,
    )
    result = shrink(model, keep)
    notes = [*unknown_excludes(model, step.exclude), *traced.notes]
    blurred = [g for g in traced.groups if not g.exact]
    if blurred:
        names = ", ".join(g.name for g in blurred[:5]) + (f" and {len(blurred) - 5} more" if len(blurred) > 5 else "")
        went = any(g.name in keep for g in blurred)
        notes.append(
            f"a norm or mean is taken over the channels of {names}: "
            + ("it is now one over those that are left" if went else "they stay")
        )
    counts = tuple(ChannelCount(g.name, g.size, len(keep[g.name])) for g in traced.groups if g.name in keep)
    if not counts:
        notes.append("no channels can go: they all reach an input or output, or exclude names them all")
        return PruneResult(result, 0.0, (), tuple(notes))
    touched = {s.weight for g in traced.groups if g.name in keep for s in g.weights if s.kernel}
    after = {w.name: w.size for w in weights(result)}
    worked = [(w.name, w.size, after.get(w.name, 0)) for w in weights(model) if w.name in touched]
    total = sum(size for _, size, _ in worked)
    share = 1 - sum(left for _, _, left in worked) / total if total else 0.0
    out = sum(c.before - c.after for c in counts)
    notes.append(
        f"{out} of {counted(sum(c.before for c in counts), 'channel')} in {counted(len(counts), 'group')}"
        f" {'is' if out == 1 else 'are'} gone, and so {'is' if out == 1 else 'are'} {share:.0%} of the numbers of their"
        " weights"
    )
    tensors = tuple(TensorSparsity(name, 1 - left / size) for name, size, left in worked)
    return PruneResult(result, share, tensors, tuple(notes), counts)


def _transposed_groups(model: Any) -> dict[str, int]:
    """Of weights of grouped ConvTranspose: the input axis holds the groups behind one another."""
    return {
        node.input[1]: int(attribute(node, "group", 1))
        for graph in graphs(model.graph)
        for node in graph.node
        if node.op_type == "ConvTranspose" and len(node.input) > 1
    }


def _alone(weight: Weight, step: PruneStep, target: Decimal) -> Mask:
    values = weight.values()
    axes = weight.channel_axes if step.granularity is Granularity.CHANNEL else ()
    if not axes and is_kept(weight.tensor):
        return _alone_streamed(values, target)
    # Within one set the largest |w| is a common factor: both methods rank alike.
    scores = channels(np.abs(values.astype(np.float64)), axes)
    wanted = zeros_wanted(scores.shape[1], target)
    if len(scores) == 1:
        # One set: finding its edge takes a tenth of the time and half the memory of sorting it.
        return from_channels(smallest(scores[0], wanted).reshape(1, -1), values.shape, axes)
    order = np.argsort(scores, axis=1, kind="stable")[:, :wanted]
    mask: Mask = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(mask, order, True, axis=1)
    return from_channels(mask, values.shape, axes)


def _alone_streamed(values: npt.NDArray[Any], target: Decimal) -> Mask:
    """As `_alone` without axes; scores in float64 are there for a piece at a time only."""
    flat = values.reshape(-1)

    def parts() -> Iterator[Scores]:
        return (np.abs(flat[i : i + _AT_ONCE].astype(np.float64)) for i in range(0, flat.size, _AT_ONCE))

    mask: Mask = np.empty(flat.shape, dtype=bool)
    at = 0
    for part in smallest_of(parts, zeros_wanted(flat.size, target)):
        mask[at : at + part.size] = part
        at += part.size
    return mask.reshape(values.shape)


def _together(chosen: Sequence[Weight], method: PruneMethod, target: Decimal) -> Iterator[tuple[Weight, Mask]]:
    total = sum(w.size for w in chosen)
    wanted = zeros_wanted(total, target)
    if any(is_kept(w.tensor) for w in chosen):
        parts = smallest_of(lambda: (_scores(w.values(), method) for w in chosen), wanted)
        yield from ((w, mask.reshape(w.shape)) for w, mask in zip(chosen, parts, strict=True))
        return
    scores = np.concatenate([_scores(w.values(), method) for w in chosen]) if wanted else np.zeros(total)
    mask = smallest(scores, wanted)
    offset = 0
    for weight in chosen:
        yield weight, mask[offset : offset + weight.size].reshape(weight.shape)
        offset += weight.size


def _scores(values: npt.NDArray[Any], method: PruneMethod) -> Scores:
    magnitude: Scores = np.abs(values.astype(np.float64)).reshape(-1)
    if method is PruneMethod.MIN_ABSOLUTE:
        return magnitude
    largest = float(magnitude.max(initial=0.0))
    # A tensor of zeros has nothing to lose; a subnormal maximum must not divide to infinity.
    return magnitude if largest == 0 or not math.isfinite(1 / largest) else magnitude / largest


def _write(weight: Weight, mask: Mask) -> None:
    values = weight.values()
    pruned = np.where(mask, values.dtype.type(0), values)
    put_array(weight.tensor, np.ascontiguousarray(pruned, dtype=values.dtype))
