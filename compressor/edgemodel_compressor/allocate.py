"""Which encoding for which layer: as few bytes as possible for the error, by Lagrangian allocation. Pure.

Each layer has a few options, each with its stored bytes and the squared error that it makes at the model's outputs.
Errors of different layers are taken to add up. Then the best choice for any exchange rate between error and bytes is
made of points on the lower convex hull of each layer's options, and going through all the hulls' segments by rising
error per byte saved gives every such choice in turn (Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary
set of quantizers", doi:10.1109/29.90373). A *move* is one segment. `n` moves are therefore one candidate, and the
number of moves is all that a search has to find.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """One way to store one layer.

    Attributes:
        key: which.
        bytes: stored.
        error: squared, at the outputs; not negative.
    """

    key: int
    bytes: int
    error: float


def hull(options: Sequence[Option]) -> tuple[Option, ...]:
    """The options worth choosing: bytes fall, errors rise, and so does the error per byte saved.

    It begins with the least error; of equal ones, with the fewest bytes.
    """
    at = min(options, key=lambda o: (o.error, o.bytes, o.key))
    found = [at]
    while smaller := [o for o in options if o.bytes < at.bytes]:
        at = min(smaller, key=lambda o, a=at: (_slope(a, o), o.bytes, o.key))  # type: ignore[misc]
        found.append(at)
    return tuple(found)


def moves(layers: Mapping[str, Sequence[Option]]) -> int:
    """How many moves there are in all."""
    return sum(len(hull(options)) - 1 for options in layers.values())


def moves_within(layers: Mapping[str, Sequence[Option]], error: float) -> int:
    """How many moves there are until the errors of all layers together come to more than `error`."""
    hulls = {name: hull(options) for name, options in layers.items()}
    total, count = sum(points[0].error for points in hulls.values()), 0
    for _, name, index in _segments(hulls):
        total += hulls[name][index].error - hulls[name][index - 1].error
        if total > error:
            break
        count += 1
    return count


def allocation(layers: Mapping[str, Sequence[Option]], count: int) -> dict[str, Option]:
    """The options after `count` moves, from the least error of each layer.

    Ties go to the layer that comes first in the order of names, so the same numbers give the same choice.
    """
    hulls = {name: hull(options) for name, options in layers.items()}
    chosen = {name: points[0] for name, points in hulls.items()}
    for _, name, index in _segments(hulls)[:count]:
        chosen[name] = hulls[name][index]
    return chosen


def _segments(hulls: Mapping[str, Sequence[Option]]) -> list[tuple[float, str, int]]:
    """Moves, in order: (error per byte saved, layer, the point of its hull that it leads to)."""
    return sorted(
        (_slope(a, b), name, index)
        for name, points in hulls.items()
        for index, (a, b) in enumerate(itertools.pairwise(points), 1)
    )


def _slope(a: Option, b: Option) -> float:
    """Error for each byte saved; nine digits, so that the order does not hang on the last bit of a sum."""
    return float(f"{(b.error - a.error) / (a.bytes - b.bytes):.9g}")
