"""Matching the dimensions before and behind a reshape, with names for those that are unknown. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Dimension = int | str
#: A product of dimensions: the numbers multiplied, and the names with how often each occurs.
Product = tuple[int, tuple[tuple[str, int], ...]]
#: Names of products are joined with this.
_TIMES = "*"


def product(dimensions: Sequence[Dimension]) -> Product:
    """Of numbers and names.

    >>> product([2, "n", 3])
    (6, (('n', 1),))
    """
    number, names = 1, Counter[str]()
    for d in dimensions:
        if isinstance(d, int):
            number *= d
        else:
            for part in d.split(_TIMES):
                if part.isdecimal():
                    number *= int(part)
                else:
                    names[part] += 1
    return number, tuple(sorted(names.items()))


def solved(before: Sequence[Dimension], after: Sequence[Dimension | None]) -> list[Dimension] | None:
    """`after` with its one unknown (None) computed; None: it cannot be, or there are more.

    >>> solved(["n", 8, 7, 7], ["n", None])
    ['n', 392]
    """
    known = [d for d in after if d is not None]
    if len(known) == len(after):
        return known
    if len(known) < len(after) - 1:
        return None
    whole, part = product(before), product(known)
    names = Counter(dict(whole[1]))
    names.subtract(dict(part[1]))
    if part[0] <= 0 or whole[0] % part[0] or min(names.values(), default=0) < 0:
        return None
    parts = sorted(names.elements())
    number = whole[0] // part[0]
    rest: Dimension = number
    if parts:
        rest = _TIMES.join([*([] if number == 1 else [str(number)]), *parts])
    return [rest if d is None else d for d in after]


def split_blocks(before: Sequence[Dimension], after: Sequence[Dimension]) -> list[tuple[list[int], list[int]]] | None:
    """Cut both shapes into the smallest blocks with equal products, in order; None: they do not fit.

    Axes of one index carry nothing and are left out.

    >>> split_blocks(["n", 8, 7, 7], ["n", 392])
    [([0], [0]), ([1, 2, 3], [1])]
    """
    left = [i for i, d in enumerate(before) if d != 1]
    right = [j for j, d in enumerate(after) if d != 1]
    ends = {product([before[i] for i in left[:k]]): k for k in range(len(left) + 1)}
    blocks: list[tuple[list[int], list[int]]] = []
    a = b = 0
    for k in range(1, len(right) + 1):
        reached = ends.get(product([after[j] for j in right[:k]]))
        if reached is not None and reached > a:
            blocks.append((left[a:reached], right[b:k]))
            a, b = reached, k
    return blocks if a == len(left) and b == len(right) else None
