"""Where labels go beside their points, so that none lies over another. Pure geometry, in any unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

#: Right, left, above, below, then the diagonals.
ANGLES = (0, 180, 90, 270, 35, 325, 145, 215, 65, 295, 115, 245)
DISTANCES = (7.0, 13.0, 22.0, 34.0, 48.0, 64.0, 82.0)
#: Labels further away than this need a line to their point.
LEADER_FROM = 14.0


class Box(NamedTuple):
    """A rectangle; `x0 <= x1`, `y0 <= y1`."""

    x0: float
    y0: float
    x1: float
    y1: float

    def meets(self, other: Box) -> bool:
        """Whether the two share any area."""
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def within(self, other: Box) -> bool:
        """Whether it lies in the other."""
        return other.x0 <= self.x0 and self.x1 <= other.x1 and other.y0 <= self.y0 and self.y1 <= other.y1


class Wish(NamedTuple):
    """A label of this width and height wants to stand beside (x, y)."""

    x: float
    y: float
    width: float
    height: float


class Spot(NamedTuple):
    """Where the label's box is, and whether a line must lead to its point."""

    box: Box
    leader: bool


def place(
    wishes: Sequence[Wish], *, area: Box, taken: Iterable[Box], rather_not: Iterable[Box] = ()
) -> list[Spot | None]:
    """A spot for each label, the first ones chosen first; None where there is no room.

    Args:
        wishes: in order of importance.
        area: no label leaves it.
        taken: boxes (points, other text) that no label may cover.
        rather_not: boxes (lines) that a label covers only where it finds no other spot.
    """
    used, lines = list(taken), list(rather_not)
    spots: list[Spot | None] = []
    for wish in wishes:
        free = [s for s in _around(wish) if s.box.within(area) and not any(map(s.box.meets, used))]
        spot = next((s for s in free if not any(map(s.box.meets, lines))), free[0] if free else None)
        if spot is not None:
            used.append(spot.box)
        spots.append(spot)
    return spots


def _around(wish: Wish) -> Iterable[Spot]:
    for distance in DISTANCES:
        for angle in ANGLES:
            dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            # The box touches the end of the arm with the side that faces the point.
            cx = wish.x + dx * distance + _side(dx) * wish.width / 2
            cy = wish.y + dy * distance + _side(dy) * wish.height / 2
            box = Box(cx - wish.width / 2, cy - wish.height / 2, cx + wish.width / 2, cy + wish.height / 2)
            yield Spot(box, distance > LEADER_FROM)


def _side(direction: float) -> float:
    return max(-1.0, min(1.0, direction * 1.5))
