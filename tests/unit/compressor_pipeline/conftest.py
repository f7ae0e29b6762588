"""A model that exists only as formulas: quality and size follow from the recipe."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from edgemodel_api.edgemodel import Precision, PruneMethod, Structure
from edgemodel_compressor.recipe import Recipe
from edgemodel_compressor.search import Space

AMD64 = ("linux/amd64",)
NODES = 16
MOVES = 40


@dataclass(frozen=True)
class Fake:
    """What the search sees of a candidate."""

    recipe: Recipe
    size_bytes: int
    good: bool
    loads: bool = True


@dataclass
class FakeModel:
    """Each technique costs quality; `budget` is what may be lost.

    Attributes:
        costs: quality lost when a precision is used on all nodes (static: key "static"; all moves: key "moves").
        sparsity_limit: the highest percent of zeros that costs nothing worth mentioning, by method.
        recovered: how many percent more learning again makes up for.
        channel_limit: the highest percent of channels that learning again makes up for.
        broken: encodings that crash.
        calls: recipes, in order; `rounds`: as they were asked for together.
    """

    costs: dict[str, float] = field(default_factory=dict)
    budget: float = 0.01
    sparsity_limit: dict[PruneMethod, int] = field(
        default_factory=lambda: {PruneMethod.MIN_ABSOLUTE: 50, PruneMethod.MAX_RELATIVE: 50}
    )
    recovered: int = 20
    channel_limit: int = 30
    broken: frozenset[str] = frozenset()
    calls: list[Recipe] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)

    def measure(self, recipes) -> tuple[Fake, ...]:
        self.rounds.append(len(recipes))
        return tuple(self.one(r) for r in recipes)

    def one(self, recipe: Recipe) -> Fake:
        self.calls.append(recipe)
        lost, bits, left = 0.0, 0.0, NODES
        if recipe.mixture is not None:
            share = recipe.mixture.moves / MOVES
            lost += self.costs.get("moves", 0.0) * share**2
            bits, left = NODES * (32 - 28 * share), 0
        for q in recipe.quantizes if recipe.mixture is None else ():
            if q.encoding.name in self.broken:
                return Fake(recipe, 0, good=False, loads=False)
            count = left if q.count is None else min(q.count, left)
            left -= count
            key = "static" if q.needs_ranges else str(q.step.precision)
            # Nodes are taken least sensitive first, so the loss grows faster than their number.
            lost += self.costs.get(key, 0.0) * (count / NODES) ** 2
            bits += count * {Precision.INT8: 8, Precision.INT4: 4, Precision.FLOAT16: 16}[q.step.precision]
        bits += left * 32
        keep = 1.0
        for p in recipe.prunes:
            percent = int(p.sparsity.rstrip("%"))
            if p.structure is Structure.CHANNELS:
                keep *= 1 - percent / 100
                lost += 1.0 if percent > self.channel_limit else 0.0
                continue
            keep *= 1 - percent / 100 * 0.9
            more = self.recovered if p.recover is not None else 0
            if percent > self.sparsity_limit[p.method] + more:
                lost += 1.0
        return Fake(recipe, round(bits * keep * 1000), good=lost <= self.budget)


@pytest.fixture
def fake_model() -> Callable[..., FakeModel]:
    return FakeModel


@pytest.fixture
def space() -> Space:
    return Space(platforms=AMD64, only_size=True, static=True, nodes=lambda _: NODES, moves=lambda: MOVES)
