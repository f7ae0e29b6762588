"""What goes into the artifact, the front, the best."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.edgemodel import Activations, Budget, Objective, Precision, PruneMethod
from edgemodel_compressor import choose
from edgemodel_compressor.bench import Outcome
from edgemodel_compressor.candidates import Recipe, classes_on, single

AMD64, ARM64, ARM_V7 = "linux/amd64", "linux/arm64", "linux/arm/v7"
PLATFORMS = (AMD64, ARM64, ARM_V7)
RECIPES = tuple(
    r
    for precision, activations in (
        (Precision.INT8, Activations.NONE),
        (Precision.INT4, Activations.NONE),
        (Precision.FLOAT16, Activations.NONE),
        (Precision.INT8, Activations.STATIC),
        (Precision.INT8, Activations.DYNAMIC),
    )
    for r in single(precision, activations, PLATFORMS)
)
PRUNED = tuple(r.pruned(50, PruneMethod.MIN_ABSOLUTE) for r in RECIPES)


@dataclass(frozen=True)
class Fake:
    recipe: Recipe
    size_bytes: int

    lost: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return self.recipe.name

    def classes_on(self, platform):
        return Outcome("", self.recipe, lost=self.lost).classes_on(platform)


accepted_lists = st.lists(
    st.builds(Fake, st.sampled_from(RECIPES + PRUNED), st.integers(1, 1000)), unique_by=lambda f: f.name, max_size=14
)


@given(accepted=accepted_lists, platform=st.sampled_from(PLATFORMS), count=st.integers(1, 7))
def test_picks_are_few_fit_the_platform_and_hold_the_smallest_safe_one(accepted, platform, count):
    picked = choose.pick(accepted, platform, count)
    assert len(picked) <= count
    assert len({p.name for p in picked}) == len(picked)
    assert all(classes_on(p.recipe, platform) is not None for p in picked)
    assert list(picked) == sorted(picked, key=lambda c: (c.size_bytes, c.name))
    safe = [c for c in accepted if not c.recipe.integer_compute]
    if safe:
        assert min(safe, key=lambda c: (c.size_bytes, c.name)) in picked


@given(accepted=accepted_lists, order=st.randoms())
def test_the_order_of_candidates_does_not_matter(accepted, order):
    shuffled = list(accepted)
    order.shuffle(shuffled)
    assert choose.pick(accepted, AMD64, 5) == choose.pick(shuffled, AMD64, 5)


def test_a_small_static_file_does_not_push_out_the_weight_only_one():
    sizes = {"int8-static-u8s8": 10, "int8-static-u8s7": 11, "int8-static-u8u8": 12, "int8-weights": 50}
    accepted = [Fake(r, sizes[r.encoding]) for r in RECIPES if r.encoding in sizes]
    names = {c.name for c in choose.pick(accepted, AMD64, 3)}
    assert names == {"int8-weights", "int8-static-u8s8", "int8-static-u8s7"}


def test_each_class_gets_the_smallest_that_it_may_run():
    sizes = {"int8-static-s8s8": 10, "int8-static-u8u8": 12, "int8-weights": 50}
    accepted = [Fake(r, sizes[r.encoding]) for r in RECIPES if r.encoding in sizes]
    assert {c.name for c in choose.pick(accepted, ARM64, 2)} == {"int8-weights", "int8-static-s8s8"}
    assert {c.name for c in choose.pick(accepted, ARM_V7, 2)} == {"int8-weights"}


def test_where_only_size_counts_integers_have_to_be_smaller():
    sizes = {"int8-static-u8s8": 50, "int8-static-u8s7": 60, "int8-static-u8u8": 49, "int8-weights": 50}
    accepted = [Fake(r, sizes[r.encoding]) for r in RECIPES if r.encoding in sizes]
    names = [c.name for c in choose.pick(accepted, AMD64, 5, only_size=True)]
    assert names == ["int8-static-u8u8", "int8-weights"]
    alone = [c for c in accepted if c.recipe.integer_compute]
    assert choose.pick(alone, AMD64, 5, only_size=True) == choose.pick(alone, AMD64, 5)


@given(accepted=accepted_lists, platform=st.sampled_from(PLATFORMS))
def test_only_size_never_loses_the_smallest(accepted, platform):
    smallest = choose.pick(accepted, platform, 5, only_size=True)[:1]
    here = [c for c in accepted if c.classes_on(platform) is not None]
    assert [c.size_bytes for c in smallest] == sorted(c.size_bytes for c in here)[:1]


LIMITS = {
    "quality alone": (Objective.SMALLEST, {}, True),
    "the fastest": (Objective.FASTEST, {}, False),
    "time": (Objective.SMALLEST, {"max_latency": "5ms"}, False),
    "memory": (Objective.SMALLEST, {"max_memory": "64Mi"}, False),
    "bytes": (Objective.SMALLEST, {"max_size": "1Mi", "max_slowdown": "0%"}, True),
}


@pytest.mark.parametrize(("objective", "limits", "expected"), LIMITS.values(), ids=LIMITS)
def test_only_size_counts_unless_time_or_memory_do(objective, limits, expected):
    assert choose.only_size(objective, Budget(**limits)) is expected


def test_slots_keep_the_result_within_its_limit():
    assert [choose.slots(n) for n in (1, 2, 3, 20)] == [5, 4, 2, 1]
    assert all((choose.slots(n) + 1) * n <= choose.MOST_IN_ALL for n in (1, 2, 3))


points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(points)
def test_front_is_what_nothing_beats(found):
    front = choose.pareto_front(found)
    for p, on in zip(found, front, strict=True):
        beaten = any(all(a <= b for a, b in zip(q, p, strict=True)) and q != p for q in found)
        assert on == (not beaten)
    assert any(front) or not found


def test_best_by_objective():
    pairs = [(10, 3.0), (12, 1.0), (10, 2.0), (1, None)]

    def ask(objective, some):
        return choose.best(some, objective, size=lambda c: c[0], latency=lambda c: c[1])

    assert ask(Objective.SMALLEST, pairs) == (1, None)
    assert ask(Objective.SMALLEST, pairs[:3]) == (10, 2.0)
    assert ask(Objective.FASTEST, pairs) == (12, 1.0)
    assert ask(Objective.FASTEST, []) is None


def test_a_class_on_which_it_does_not_hold_gets_another_candidate():
    static = {r.encoding: r for r in single(Precision.INT8, Activations.STATIC, [AMD64])}
    lost = Fake(static["int8-static-u8u8"], 10, frozenset({"amd64-avx2", "amd64-base", "unknown"}))
    assert lost.classes_on(AMD64) == ("amd64-vnni",)
    other = Fake(static["int8-static-u8s7"], 20)
    assert {p.name for p in choose.pick([lost, other], AMD64, 5)} == {"int8-static-u8u8", "int8-static-u8s7"}
    nowhere = Fake(static["int8-static-u8s8"], 5, frozenset({"amd64-vnni"}))
    assert nowhere.classes_on(AMD64) is None
    assert nowhere not in choose.pick([nowhere, other], AMD64, 5)
    weights = Fake(single(Precision.INT8, Activations.NONE, [AMD64])[0], 5, frozenset({"arm64-base"}))
    assert (weights.classes_on(AMD64), weights.classes_on(ARM64)) == ((), ("arm64-dotprod",))
