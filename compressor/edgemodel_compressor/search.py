"""The search for the smallest (or fastest) candidate within the budget. Pure: it measures through a function.

1. Each technique alone: weights only as Int8, Int4 and Float16, static and dynamic Int8 in each encoding.
2. Where Int4 breaks the quality, as many of the least sensitive nodes as the budget allows, the rest Int8 (and where
   Int8 breaks it, Int8 and the rest Float16): found by bisection.
3. Where a static encoding breaks it, the same: its least sensitive nodes, the rest float.
4. The smallest of these on a pruned model: the highest sparsity that keeps the quality, by bisection, first by
   absolute size, then by size relative to the tensor's largest, which has to beat the first. Integer encodings are
   pruned as far, or one level less.

Bisection takes quality to fall with sparsity and with the number of quantized nodes; where it does not, the result
is still one that was measured to be good. Decisions look at quality and size only, never at a clock, so the same
inputs give the same candidates. At most `MOST_MEASUREMENTS` of them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from edgemodel_api.edgemodel import Activations, Objective, Precision, PruneMethod

from .candidates import Quantize, Recipe, classes_on, local, single

MOST_MEASUREMENTS = 32
#: Levels of sparsity that are tried, in percent.
SPARSITIES = tuple(range(10, 100, 10))
#: How many are tried on a pruned model (computing in float, in integers), and how many static ones in part.
BASES = 2
INTEGER_BASES = 3
PARTIAL_STATIC = 2
#: A file so much larger than with all weights as Int8 holds mostly floats.
MOSTLY_FLOAT = 1.5


class Effort(IntEnum):
    """How exactly to measure quality. With few samples both are the same.

    QUICK: a first look at some samples. FULL: on all of them, unless the first look says no.
    """

    QUICK = 0
    FULL = 1


class Found(Protocol):
    """What the search needs to know of a measured candidate."""

    @property
    def recipe(self) -> Recipe:
        """What was done."""

    @property
    def size_bytes(self) -> int:
        """Stored."""

    @property
    def good(self) -> bool:
        """Built, loaded, and within the quality budget (whatever its size)."""

    @property
    def loads(self) -> bool:
        """Whether it could be built and run at all."""


#: How exactly to measure is the caller's business: the search asks for a first look.
Measure = Callable[[Recipe], Found]


@dataclass(frozen=True)
class Space:
    """What may be tried.

    Attributes:
        platforms: `os/architecture`.
        objective: what is best.
        static: whether there is real calibration data: ranges of random numbers mean nothing.
        nodes: how many nodes a quantize step can work on.
    """

    platforms: tuple[str, ...]
    objective: Objective
    static: bool
    nodes: Callable[[Quantize], int]

    def singles(self) -> tuple[Recipe, ...]:
        """Techniques alone."""
        kinds = [
            (Precision.INT8, Activations.NONE),
            (Precision.INT4, Activations.NONE),
            (Precision.FLOAT16, Activations.NONE),
            *([(Precision.INT8, Activations.STATIC)] if self.static else []),
            (Precision.INT8, Activations.DYNAMIC),
        ]
        return tuple(r for kind in kinds for r in self._distinct(single(*kind, self.platforms)))

    def _distinct(self, recipes: Sequence[Recipe]) -> Sequence[Recipe]:
        """One encoding for each set of hardware classes here: the first is the likely best."""
        first: dict[tuple[tuple[str, ...] | None, ...], Recipe] = {}
        for r in recipes:
            first.setdefault(tuple(classes_on(r, p) for p in self.platforms), r)
        return tuple(first.values())


class _ExhaustedError(Exception):
    """The bound on measurements is reached."""


class _Meter:
    """Counts measurements of different recipes, and remembers them."""

    def __init__(self, measure: Measure, limit: int) -> None:
        self._measure, self._limit = measure, limit
        self.found: dict[Recipe, Found] = {}

    def __call__(self, recipe: Recipe) -> Found:
        if recipe not in self.found:
            if len(self.found) >= self._limit:
                raise _ExhaustedError
            self.found[recipe] = self._measure(recipe)
        return self.found[recipe]


def search(measure: Measure, space: Space, *, limit: int = MOST_MEASUREMENTS) -> tuple[Found, ...]:
    """Everything that was measured, in order.

    Args:
        measure: builds and measures a recipe; never raises for a bad candidate.
        space: what may be tried.
        limit: number of measurements.
    """
    meter = _Meter(measure, limit)
    with contextlib.suppress(_ExhaustedError):
        _search(meter, space)
    return tuple(meter.found.values())


def most(low: int, high: int, good: Callable[[int], bool]) -> int:
    """The largest n in [low, high] with `good(n)`, by bisection; low − 1: none. `good` should fall from true to false.

    >>> most(1, 9, lambda n: n <= 6), most(1, 9, lambda n: False)
    (6, 0)
    """
    best = low - 1
    while low <= high:
        middle = (low + high) // 2
        if good(middle):
            best, low = middle, middle + 1
        else:
            high = middle - 1
    return best


def least_sensitive(meter: Measure, recipe: Recipe, nodes: int, rest: Recipe | None = None) -> None:
    """Measure `recipe` on as many of the least sensitive nodes as stay good; the whole is known to be bad."""
    most(1, nodes - 1, lambda n: meter(local(recipe, n, rest=rest)).good)


def _search(meter: _Meter, space: Space) -> None:
    singles: list[Found] = []
    for recipe in space.singles():
        if not _mostly_float(recipe, singles):
            singles.append(meter(recipe))
    by_kind = {kind: [f for f in singles if _kind(f.recipe) == kind] for kind in {_kind(f.recipe) for f in singles}}

    def of(precision: Precision, activations: Activations = Activations.NONE) -> Sequence[Found]:
        return by_kind.get((precision, activations), [])

    ladder = [*of(Precision.INT4)[:1], *of(Precision.INT8)[:1], *of(Precision.FLOAT16)[:1]]
    for lower, upper in itertools.pairwise(ladder):
        if upper.good and not lower.good and lower.loads:
            least_sensitive(meter, lower.recipe, space.nodes(lower.recipe.quantizes[0]), upper.recipe)
            break
    broken = [f for f in of(Precision.INT8, Activations.STATIC) if f.loads and not f.good]
    for f in broken[:PARTIAL_STATIC]:
        least_sensitive(meter, f.recipe, space.nodes(f.recipe.quantizes[0]))
    _prune(meter, space)


def _mostly_float(recipe: Recipe, singles: Sequence[Found]) -> bool:
    """Whether an earlier encoding of the same kind left most weights float (dynamic Int8 has no kernel for Conv, say)."""
    whole = [f.size_bytes for f in singles if f.loads and _kind(f.recipe) == (Precision.INT8, Activations.NONE)]
    same = [f.size_bytes for f in singles if f.loads and _kind(f.recipe) == _kind(recipe)]
    return bool(whole and same and min(same) > MOSTLY_FLOAT * whole[0])


def _prune(meter: _Meter, space: Space) -> None:
    good = sorted((f for f in meter.found.values() if f.good), key=lambda f: (f.size_bytes, f.recipe.name))
    if not any(f.recipe.classes is None for f in good):
        _sparsest(meter, Recipe(()), PruneMethod.MIN_ABSOLUTE, 0)
    smallest: dict[str, Recipe] = {}
    for f in good:
        # Two mixtures of the same encodings differ by a few nodes: one of them is enough.
        smallest.setdefault(f.recipe.encoding, f.recipe)
    safe = [r for r in smallest.values() if r.classes is None and not r.integer_compute]
    reached = 0
    for rank, base in enumerate(safe[: BASES if space.objective is Objective.SMALLEST else 1]):
        # The second need not be searched from below: what the first bears, it bears too, or a little less.
        found = _sparsest(meter, base, PruneMethod.MIN_ABSOLUTE, max(0, reached - 1))
        if rank == 0:
            _sparsest(meter, base, PruneMethod.MAX_RELATIVE, found)
        reached = max(reached, found)
    for base in [r for r in smallest.values() if r.integer_compute][:INTEGER_BASES]:
        for level in (reached, reached - 1):
            if level > 0 and meter(base.pruned(SPARSITIES[level - 1], PruneMethod.MIN_ABSOLUTE)).good:
                break


def _sparsest(meter: _Meter, base: Recipe, method: PruneMethod, above: int) -> int:
    """Index (1-based) of the highest sparsity that stays good, searched for above index `above`."""

    def good(level: int) -> bool:
        return meter(base.pruned(SPARSITIES[level - 1], method)).good

    # The next level first: a method that cannot beat the other costs one measurement.
    if above and (above >= len(SPARSITIES) or not good(above + 1)):
        return above
    return most(above + 1, len(SPARSITIES), good)


def _kind(recipe: Recipe) -> tuple[Precision, Activations]:
    step = recipe.quantizes[0].step
    return step.precision, step.activations
