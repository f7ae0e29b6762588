"""The search for the smallest (or fastest) candidate within the budget. Pure: it measures through a function.

1. Each technique alone: weights only as Int8, Int4 and Float16, static and dynamic Int8 in each encoding.
2. Where Int4 breaks the quality: each layer in its own encoding, by least error for each byte saved (`allocate`); how
   far to go is found by bisection. Where a static encoding breaks it: as many of its least sensitive nodes as the
   budget allows, the rest stored as Int8.
3. The smallest of these on a pruned model: the highest sparsity that keeps the quality, by bisection; where size alone
   decides, only from the sparsity on that may beat a mixture. Integer encodings are pruned as far, or one level less.
4. With training data: the smallest weights with channels taken out and learned again, and pruned further and learned
   again.

Where size alone decides, integer encodings are not tried as long as weights only keep the quality: the same numbers are in
both files, and the rounding of activations comes on top.

Bisection takes quality to fall with sparsity and with the number of moves; where it does not, the result is still one
that was measured to be good. Decisions look at quality and size only, never at a clock, so the same inputs give the
same candidates. A plan asks for recipes in rounds: those of one round do not depend on each other and may be measured
at the same time. What is measured under a smaller limit is the beginning of what is measured under a larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, TypeVar

from edgemodel_api.edgemodel import Activations, Precision, PruneMethod, Recover

from .candidates import Quantize, Recipe, classes_on, local, mixed, single, weights_only
from .steps.encodings import INT4_COARSE

#: Levels of sparsity that are tried, in percent.
SPARSITIES = tuple(range(5, 100, 5))
#: Shares of channels that are taken out, in percent.
CHANNELS = (15, 30, 45, 60, 75)
#: How many integer encodings are tried on a pruned model, and how many static ones in part.
INTEGER_BASES = 3
PARTIAL_STATIC = 2
#: A file so much larger than with all weights as Int8 holds mostly floats.
MOSTLY_FLOAT = 1.5
#: What is learned again in a search; more is a matter of explicit steps.
RECOVER = Recover()
MIN_ABSOLUTE = PruneMethod.MIN_ABSOLUTE
#: Two mixtures whose sizes differ by less than this share have none between them that is worth measuring.
NEAR = 0.02


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


#: Measures some recipes, in order; fewer answers than recipes: the time is up. How exactly is the caller's business.
Measure = Callable[[Sequence[Recipe]], Sequence[Found]]
T = TypeVar("T")
#: A plan: yields the recipes that it wants measured next, is sent what was found, and returns its conclusion.
Plan = Generator[tuple[Recipe, ...], tuple[Found, ...], T]


@dataclass(frozen=True)
class Space:
    """What may be tried.

    Attributes:
        platforms: `os/architecture`.
        only_size: whether nothing but bytes decides among candidates that keep the quality (`choose.only_size`).
        static: whether there is real calibration data: ranges of random numbers mean nothing.
        nodes: how many nodes a quantize step can work on.
        moves: how many moves the allocation of encodings to layers has.
        like: after how many of them it is predicted to err as much as a recipe of weights only; 0: not known.
        training: whether there is data to learn from.
        channels: whether the model has channels that can be taken out.
    """

    platforms: tuple[str, ...]
    only_size: bool
    static: bool
    nodes: Callable[[Quantize], int]
    moves: Callable[[], int]
    like: Callable[[Recipe], int] = lambda _: 0
    training: bool = False
    channels: bool = False

    def singles(self) -> tuple[Recipe, ...]:
        """Techniques alone."""
        integer = [Activations.DYNAMIC]
        if self.static:
            integer.insert(0, Activations.STATIC)
        return (
            *single(Precision.INT8, Activations.NONE, self.platforms),
            weights_only(INT4_COARSE),
            *single(Precision.FLOAT16, Activations.NONE, self.platforms),
            *(r for a in integer for r in self._distinct(single(Precision.INT8, a, self.platforms))),
        )

    def _distinct(self, recipes: Sequence[Recipe]) -> Sequence[Recipe]:
        """One encoding for each set of hardware classes here: the first is the likely best."""
        first: dict[tuple[tuple[str, ...] | None, ...], Recipe] = {}
        for r in recipes:
            first.setdefault(tuple(classes_on(r, p) for p in self.platforms), r)
        return tuple(first.values())


def search(measure: Measure, space: Space, *, limit: int) -> tuple[Found, ...]:
    """Everything that was measured, in order.

    Args:
        measure: builds and measures recipes; never raises for a bad candidate.
        space: what may be tried.
        limit: number of different recipes.
    """
    return follow(plan(space), measure, limit=limit)


def follow(steps: Plan[Any], measure: Measure, *, limit: int) -> tuple[Found, ...]:
    """Measure what a plan asks for, no recipe twice, until it ends, the limit is reached or the time is up."""
    found: dict[Recipe, Found] = {}
    running = _Running(steps)
    while running.asked is not None:
        new = tuple(r for r in dict.fromkeys(running.asked) if r not in found)
        wanted = new[: limit - len(found)]
        answers = measure(wanted) if wanted else ()
        found.update(zip(wanted, answers, strict=False))
        if len(answers) < len(new):
            break
        running.send(tuple(found[r] for r in running.asked))
    return tuple(found.values())


class _Running:
    """A plan under way: `asked` is what it wants next, None once it has ended with `result`."""

    def __init__(self, plan: Plan[Any]) -> None:
        self._plan = plan
        self.asked: tuple[Recipe, ...] | None = ()
        self.result: Any = None
        self._advance(lambda: next(plan))

    def send(self, answers: tuple[Found, ...]) -> None:
        """Answers to `asked`, in order."""
        self._advance(lambda: self._plan.send(answers))

    def _advance(self, step: Callable[[], tuple[Recipe, ...]]) -> None:
        try:
            self.asked = step()
        except StopIteration as end:
            self.asked, self.result = None, end.value


def together(*plans: Plan[Any]) -> Plan[tuple[Any, ...]]:
    """Plans side by side: each round asks for what all of them want next. Their conclusions, in order."""
    running = [_Running(p) for p in plans]
    while active := [r for r in running if r.asked is not None]:
        sizes = [len(r.asked or ()) for r in active]
        answers = yield tuple(recipe for r in active for recipe in r.asked or ())
        for r, size in zip(active, sizes, strict=True):
            r.send(answers[:size])
            answers = answers[size:]
    return tuple(r.result for r in running)


def most(
    low: int,
    high: int,
    good: Callable[[int], Plan[bool]],
    enough: Callable[[int, int], bool] = lambda *_: False,
) -> Plan[int]:
    """The largest n in [low, high] with `good(n)`, by bisection; low − 1: none. `good` should fall from true to false.

    Args:
        low: the least n.
        high: the largest.
        good: measures one.
        enough: whether what lies between a good and a bad n is not worth looking at.
    """
    best = low - 1
    while low <= high and not enough(best, high + 1):
        middle = (low + high) // 2
        if (yield from good(middle)):
            best, low = middle, middle + 1
        else:
            high = middle - 1
    return best


def least_sensitive(recipe: Recipe, nodes: int, rest: Recipe | None = None) -> Plan[int]:
    """`recipe` on as many of the least sensitive nodes as stay good; the whole is known to be bad."""
    return most(1, nodes - 1, lambda n: is_good(local(recipe, n, rest=rest)))


def is_good(recipe: Recipe) -> Plan[bool]:
    """Measure one recipe."""
    (found,) = yield (recipe,)
    return found.good


def plan(space: Space) -> Plan[None]:
    """The whole search."""
    return _Search(space).plan()


class _Search:
    """A search under way, with all that it has been told so far."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._seen: dict[Recipe, Found] = {}

    def plan(self) -> Plan[None]:
        inner = _Running(self._steps())
        while inner.asked is not None:
            answers = yield inner.asked
            self._seen.update(zip(inner.asked, answers, strict=True))
            inner.send(answers)

    def _steps(self) -> Plan[None]:
        singles = yield from self._alone()
        whole = next((f for f in singles if _kind(f.recipe) == (Precision.INT8, Activations.NONE)), None)
        broken = [
            f for f in singles if _kind(f.recipe) == (Precision.INT8, Activations.STATIC) and f.loads and not f.good
        ]
        if not self._integers_needed(singles):
            broken = []
        rest = whole.recipe if whole is not None and whole.good else None
        yield from together(
            self._mixture(singles),
            *(
                least_sensitive(f.recipe, self._space.nodes(f.recipe.quantizes[0]), rest)
                for f in broken[:PARTIAL_STATIC]
            ),
        )
        yield from self._pruned()
        if self._space.training:
            yield from self._learned()

    def _alone(self) -> Plan[list[Found]]:
        """The first encoding of each kind, then those of a kind that are worth it; weights only before all others."""
        wanted = self._space.singles()
        first = tuple({_kind(r): r for r in reversed(wanted)}.values())[::-1]
        singles: list[Found] = []
        if self._space.only_size:
            singles += yield tuple(r for r in first if _universal(r))
            if not self._integers_needed(singles):
                return singles
        singles += yield tuple(r for r in first if all(r != f.recipe for f in singles))
        others = tuple(r for r in wanted if r not in first and not _mostly_float(r, singles))
        return singles + list((yield others))

    def _integers_needed(self, singles: Sequence[Found]) -> bool:
        """Whether integer encodings are there for more than their bytes, or nothing else keeps the quality."""
        return not self._space.only_size or not any(f.good and _universal(f.recipe) for f in singles)

    def _mixture(self, singles: Sequence[Found]) -> Plan[int]:
        """The most moves that keep the quality. They are looked for between what is good and what is too rough, by the
        error that is predicted; beyond, only where the prediction turns out wrong.
        """
        moves = self._space.moves()
        known = [(f.good, min(moves, self._space.like(f.recipe))) for f in singles if f.loads and _universal(f.recipe)]
        low = max((n for good, n in known if good), default=0) or 1
        high = min((n for good, n in known if not good and n > low), default=moves)

        def good(n: int) -> Plan[bool]:
            return is_good(mixed(n))

        def enough(best: int, bad: int) -> bool:
            a, b = self._seen.get(mixed(best)), self._seen.get(mixed(bad))
            return a is not None and b is not None and b.size_bytes > (1 - NEAR) * a.size_bytes

        best = yield from most(low, high, good, enough)
        if best == high:
            return (yield from most(high + 1, moves, good, enough)) if high < moves else best
        return best if best >= low else (yield from most(1, low - 1, good, enough))

    def _pruned(self) -> Plan[None]:
        base = self._smallest(lambda r: _universal(r) and r.mixture is None)
        # Where nothing but bytes decides, it has to be smaller than this one.
        rival = next((f for f in self._good() if f.recipe.mixture is not None), None) if self._space.only_size else None
        # What cannot bear 8 bits bears no zeros.
        if rival is not None and base is not None and base.quantizes and _kind(base)[0] is Precision.FLOAT16:
            return
        needed = self._needed(base, rival)
        if needed > len(SPARSITIES):
            return
        # Less would be larger than what is there: where that much breaks the quality, one measurement was enough.
        if needed > 1 and not (yield from is_good((base or Recipe(())).pruned(SPARSITIES[needed - 1], MIN_ABSOLUTE))):
            return
        reached = yield from self._sparsest(base or Recipe(()), MIN_ABSOLUTE, needed if needed > 1 else 0)
        integers = {f.recipe.encoding: f.recipe for f in reversed(self._good()) if f.recipe.integer_compute}
        chosen = list(integers.values())[::-1][:INTEGER_BASES]
        yield from together(*(self._as_far(r, reached) for r in chosen))

    def _needed(self, base: Recipe | None, rival: Found | None) -> int:
        """Index (1-based) of the sparsity from which `base` is about as small as its rival; 1: there is none."""
        if base is None or rival is None:
            return 1
        share = 100 * (1 - rival.size_bytes / self._seen[base].size_bytes)
        return 1 + sum(s < share for s in SPARSITIES)

    def _as_far(self, base: Recipe, reached: int) -> Plan[None]:
        """An integer encoding pruned as far as weights are, or one level less."""
        for level in (reached, reached - 1):
            if level > 0 and (yield from is_good(base.pruned(SPARSITIES[level - 1], MIN_ABSOLUTE))):
                return

    def _sparsest(self, base: Recipe, method: PruneMethod, above: int, recover: Recover | None = None) -> Plan[int]:
        """Index (1-based) of the highest sparsity that stays good, searched for above index `above`."""

        def good(level: int) -> Plan[bool]:
            return is_good(base.pruned(SPARSITIES[level - 1], method, recover=recover))

        # The next level first: a method that cannot beat the other costs one measurement.
        if above and (above >= len(SPARSITIES) or not (yield from good(above + 1))):
            return above
        return (yield from most(above + 1, len(SPARSITIES), good))

    def _learned(self) -> Plan[None]:
        """Channels taken out, and weights pruned further, with learning after it; then both pruned as far as they bear."""
        found = self._smallest(lambda r: _universal(r) and not r.prunes and r.mixture is None)
        base = found or Recipe(())
        reached = max((SPARSITIES.index(p) + 1 for p in self._sparsities(base)), default=0)
        shares = CHANNELS if self._space.channels else ()
        kept, _ = yield from together(
            most(1, len(shares), lambda n: is_good(base.narrowed(shares[n - 1], RECOVER))),
            self._sparsest(base, MIN_ABSOLUTE, reached, RECOVER),
        )
        if kept:
            narrow = base.narrowed(shares[kept - 1], RECOVER)
            yield from self._sparsest(narrow, MIN_ABSOLUTE, 0)

    def _sparsities(self, base: Recipe) -> list[int]:
        """Of what was pruned without learning on this base and stayed good."""
        wanted = {base.pruned(s, MIN_ABSOLUTE): s for s in SPARSITIES}
        return [wanted[f.recipe] for f in self._seen.values() if f.good and f.recipe in wanted]

    def _good(self) -> list[Found]:
        """What stays within the quality, the smallest first."""
        return sorted((f for f in self._seen.values() if f.good), key=lambda f: (f.size_bytes, f.recipe.name))

    def _smallest(self, wanted: Callable[[Recipe], bool]) -> Recipe | None:
        return next((f.recipe for f in self._good() if wanted(f.recipe)), None)


def _universal(recipe: Recipe) -> bool:
    """Weights only: float kernels, as the source's, on every kind of CPU."""
    return recipe.classes is None and not recipe.integer_compute


def _mostly_float(recipe: Recipe, singles: Sequence[Found]) -> bool:
    """Whether an earlier encoding of the same kind left most weights float (dynamic Int8 has no kernel for Conv, say)."""
    whole = [f.size_bytes for f in singles if f.loads and _kind(f.recipe) == (Precision.INT8, Activations.NONE)]
    same = [f.size_bytes for f in singles if f.loads and _kind(f.recipe) == _kind(recipe)]
    return bool(whole and same and min(same) > MOSTLY_FLOAT * whole[0])


def _kind(recipe: Recipe) -> tuple[Precision, Activations]:
    step = recipe.quantizes[0].step
    return step.precision, step.activations
