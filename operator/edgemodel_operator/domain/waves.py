"""Waves: cumulative shares of the pool, and who gets in next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

from edgemodel_api.edgemodel import Rollout


def limit_of(value: int | str, total: int, *, at_least: int, round_up: bool) -> int:
    """A count, or a percentage of `total`, as a number of nodes: never more than `total`. Exact, in decimals.

    >>> limit_of("25%", 10, at_least=1, round_up=True), limit_of("25%", 10, at_least=0, round_up=False)
    (3, 2)
    >>> limit_of("7%", 100, at_least=1, round_up=True), limit_of("1%", 10, at_least=1, round_up=False)
    (7, 1)
    >>> limit_of(50, 10, at_least=1, round_up=True)
    10
    """
    if isinstance(value, int):
        count = value
    else:
        exact = Decimal(value.removesuffix("%")) * total / 100
        count = math.ceil(exact) if round_up else math.floor(exact)
    return min(total, max(at_least, count))


def wave_counts(rollout: Rollout, total: int) -> tuple[int, ...]:
    """How many nodes are let in up to and including each wave. A wave never lets in fewer than the one before.

    >>> from edgemodel_api.edgemodel import Wave
    >>> wave_counts(Rollout(waves=(Wave(nodes=1), Wave(nodes="25%"), Wave(nodes="100%"))), 10)
    (1, 3, 10)
    >>> wave_counts(Rollout(waves=(Wave(nodes=5), Wave(nodes="10%"))), 3)
    (3, 3)
    """
    counts: list[int] = []
    for wave in rollout.waves:
        count = limit_of(wave.nodes, total, at_least=1, round_up=True)
        counts.append(max(count, counts[-1] if counts else 0))
    return tuple(counts)


def wave_members(rollout: Rollout, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Each wave's own members, if all nodes can be reached: names are sorted before they are cut.

    A node that is offline, or that fails, gives its place to the next name, so that a wave always shows something.

    >>> from edgemodel_api.edgemodel import Wave
    >>> wave_members(Rollout(waves=(Wave(nodes=1), Wave(nodes="100%"))), ["c", "a", "b"])
    (('a',), ('b', 'c'))
    """
    ordered = sorted(names)
    ends = wave_counts(rollout, len(ordered))
    return tuple(tuple(ordered[start:end]) for start, end in zip((0, *ends), ends, strict=False))
