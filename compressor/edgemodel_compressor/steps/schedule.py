"""When how much is pruned while a model learns, and which weights stay zero meanwhile.

The cubic schedule of Zhu and Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878, equation 1):

    s(t) = s_f + (s_i - s_f) · (1 - (t - t_0) / (t_1 - t_0))³      for t_0 <= t <= t_1

prunes fast while there is much to spare, and slowly at the end.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np

from edgemodel_api.edgemodel import PruneStep, Structure

from .channels import ChannelGroup, channel_groups, constants
from .nm import parse
from .prune import chosen_weights, going
from .ranking import Mask, fraction, zeros_wanted
from .shrink import keep_by_share


def sparsity_at(step: int, *, begin: int, end: int, target: float, initial: float = 0.0) -> float:
    """Sparsity that the schedule asks for at a step of learning: `initial` before `begin`, `target` from `end` on.

    >>> [sparsity_at(t, begin=0, end=4, target=0.8) for t in (0, 2, 4)]
    [0.0, 0.7, 0.8]
    """
    if step >= end:
        return target
    if step <= begin:
        return initial
    return target + (initial - target) * (1 - (step - begin) / (end - begin)) ** 3


def target_of(step: PruneStep) -> float:
    """Final sparsity of a step: as given, or what its pattern N:M makes of a whole group.

    >>> target_of(PruneStep(pattern="1:4"))
    0.75
    """
    if step.pattern:
        n, m = parse(step.pattern)
        return 1 - n / m
    return float(fraction(step.sparsity or "0%"))


def masks(
    model: Any, step: PruneStep, sparsity: float | None = None, *, groups: tuple[ChannelGroup, ...] | None = None
) -> dict[str, Mask]:
    """Which numbers stay, by initializer of the outer graph: True stays, False is (held at) zero.

    Weights that are zero already are the first to go, so that masks only grow from step to step while they are applied.
    With a pattern N:M and a lower sparsity a group keeps more than N: M minus the nearest number of zeros. With
    `structure: Channels` a removed channel's biases and norms are zero, too; `prune` then takes out the same channels.

    Args:
        model: with the weights as they are now.
        step: what to prune.
        sparsity: of this moment, 0 … 1; None: the step's own.
        groups: with `structure: Channels`, the model's, where they are known already (they do not change by learning).

    Raises:
        InputError: a weight holds NaN or infinite values.
    """
    share = Decimal(str(target_of(step) if sparsity is None else sparsity))
    if step.structure is Structure.CHANNELS:
        return _channel_masks(model, step, share, channel_groups(model) if groups is None else groups)
    pattern = None
    if step.pattern:
        n, m = parse(step.pattern)
        pattern = (max(n, m - zeros_wanted(m, share)), m)
    outer = {t.name for t in model.graph.initializer}
    chosen = [w for w in chosen_weights(model, step) if w.graph is model.graph and w.name in outer]
    return {w.name: ~mask for w, mask in going(model, chosen, step, share, pattern=pattern)}


def _channel_masks(model: Any, step: PruneStep, sparsity: Decimal, groups: tuple[ChannelGroup, ...]) -> dict[str, Mask]:
    keep = keep_by_share(
        model, 1 - sparsity, method=step.method, granularity=step.granularity, exclude=step.exclude, groups=groups
    )
    held = constants(model.graph)
    found: dict[str, Mask] = {}
    for group in groups:
        if group.name not in keep:
            continue
        stays = np.zeros(group.size, dtype=bool)
        stays[keep[group.name]] = True
        for piece in group.weights:
            mask = found.setdefault(piece.weight, np.ones(tuple(held[piece.weight].dims), dtype=bool))
            np.moveaxis(mask, piece.axis, 0)[(piece.classes >= 0) & ~stays[piece.classes]] = False
    return found
