"""Which candidates go into the artifact, which lie on the Pareto front, and which is the best here. Pure.

What is in the artifact depends on size and quality alone, so that two runs give the same bytes. The trial on each kind
of node decides by its own clock, hence alternatives: a small integer file may be slow where a weight-only one is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol, TypeVar

from edgemodel_api.edgemodel import Budget, Format, Objective

from .recipe import Recipe

#: Variants of a platform, the source included, and of all platforms together (the result has 4096 bytes).
MOST_VARIANTS = 6
MOST_IN_ALL = 11


class Accepted(Protocol):
    """A candidate that passed the deterministic gates."""

    @property
    def recipe(self) -> Recipe:
        """What was done."""

    @property
    def name(self) -> str:
        """Its name."""

    def classes_on(self, platform: str) -> tuple[str, ...] | None:
        """Hardware classes of `platform` that it is for: `()` all of them, None: it is not for it."""

    @property
    def size_bytes(self) -> int:
        """Stored."""


#: Of Core ML beside other formats: it is one platform more.
MOST_COREML = 2

T = TypeVar("T")
A = TypeVar("A", bound=Accepted)


def slots(platforms: int) -> int:
    """Compressed variants that each platform may have.

    >>> slots(1), slots(2), slots(3)
    (5, 4, 2)
    """
    return max(1, min(MOST_VARIANTS, MOST_IN_ALL // max(1, platforms)) - 1)


def shares(platforms: int, formats: Collection[Format]) -> dict[Format, int]:
    """Compressed variants that each platform may have, by format; Core ML's platform is one of its own.

    >>> [{f.value: n for f, n in shares(p, [Format.ONNX, Format.TFLITE]).items()} for p in (1, 2, 3)]
    [{'ONNX': 5, 'TFLite': 3}, {'ONNX': 3, 'TFLite': 1}, {'ONNX': 1, 'TFLite': 1}]
    """
    wanted = set(formats)
    if wanted == {Format.ONNX}:
        return {Format.ONNX: slots(platforms)}
    left, found = MOST_IN_ALL, dict[Format, int]()
    if Format.COREML in wanted:
        found[Format.COREML] = MOST_COREML if len(wanted) > 1 else MOST_VARIANTS - 1
        left -= found[Format.COREML] + (Format.ONNX not in wanted)
    each = left // max(1, platforms)
    if wanted >= {Format.ONNX, Format.TFLITE}:
        tflite = max(1, min(each, MOST_VARIANTS + MOST_VARIANTS // 2) // 3)
        return {Format.ONNX: max(1, min(MOST_VARIANTS, each - tflite) - 1), Format.TFLITE: tflite, **found}
    rest = max(1, min(MOST_VARIANTS, each) - 1)
    return {f: rest for f in (Format.ONNX, Format.TFLITE) if f in wanted} | found


def only_size(objective: Objective, budget: Budget) -> bool:
    """Whether nothing but bytes decides among candidates that keep the quality.

    Weights only run the source's own kernels, as fast and in as much memory as it. So integer kernels are needed for the
    objective Fastest, or where the budget limits time or memory, which the source itself may break.
    """
    return objective is Objective.SMALLEST and budget.max_latency is None and budget.max_memory is None


def pick(accepted: Sequence[A], platform: str, count: int, *, only_size: bool = False) -> tuple[A, ...]:
    """At most `count` for one platform, the smallest first.

    In this order of need: the smallest that every class may run (weights only: float kernels, as the source); for each
    class the integer encoding that is most its own (likely its fastest); the smallest for each class; the smallest of
    each further encoding. Where only size counts, integer encodings that are no smaller than the first are left out:
    each would have to be verified on every kind of CPU, and is never chosen.
    """
    here = sorted((c for c in accepted if c.classes_on(platform) is not None), key=_size)
    meant = {c.name: c.classes_on(platform) or () for c in here}
    if only_size:
        least = next((c.size_bytes for c in here if not meant[c.name] and not c.recipe.integer_compute), math.inf)
        here = [c for c in here if not c.recipe.integer_compute or c.size_bytes < least]
    classes = sorted({name for names in meant.values() for name in names})

    def suits(c: A, name: str) -> bool:
        return not meant[c.name] or name in meant[c.name]

    integer = [c for c in here if c.recipe.integer_compute]
    own = sorted(integer, key=lambda c: (len(meant[c.name]) or len(classes) + 1, c.recipe.dynamic))
    wanted = [c for c in here if not meant[c.name] and not c.recipe.integer_compute][:1]
    for name in classes or ("",):
        wanted += [c for c in own if suits(c, name)][:1]
    for name in classes:
        wanted += [c for c in here if suits(c, name)][:1]
    wanted += _first_of_each(here)
    chosen: dict[str, A] = {}
    for c in wanted:
        if len(chosen) < count:
            chosen.setdefault(c.name, c)
    return tuple(sorted(chosen.values(), key=_size))


def pareto_front(points: Sequence[tuple[float, ...]]) -> tuple[bool, ...]:
    """Whether each point (smaller is better in all coordinates) is beaten by none.

    >>> pareto_front([(1, 2), (2, 1), (2, 2)])
    (True, True, False)
    """

    def beaten(p: tuple[float, ...]) -> bool:
        return any(q != p and all(a <= b for a, b in zip(q, p, strict=True)) for q in points)

    return tuple(not beaten(p) for p in points)


def best(
    candidates: Iterable[T], objective: Objective, *, size: Callable[[T], int], latency: Callable[[T], float | None]
) -> T | None:
    """The best by objective; equal ones: the first."""

    def rank(c: T) -> tuple[float, float]:
        seconds = latency(c)
        pair = (float(size(c)), math.inf if seconds is None else seconds)
        return pair if objective is Objective.SMALLEST else (pair[1], pair[0])

    return min(candidates, key=rank, default=None)


def _size(c: Accepted) -> tuple[int, str]:
    return c.size_bytes, c.name


def _first_of_each(candidates: Iterable[A]) -> list[A]:
    first: dict[str, A] = {}
    for c in candidates:
        first.setdefault(c.recipe.encoding, c)
    return list(first.values())
