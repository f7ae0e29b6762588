"""The search over a model of formulas."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.edgemodel import Objective, PruneMethod
from edgemodel_compressor.search import least_sensitive, most, search


def smallest(found):
    return min((f for f in found if f.good), key=lambda f: f.size_bytes)


@given(limit=st.integers(-1, 40), low=st.integers(0, 5), high=st.integers(0, 40))
def test_most_is_the_largest_good_number(limit, low, high):
    assert most(low, high, lambda n: n <= limit) == max(
        [n for n in range(low, high + 1) if n <= limit], default=low - 1
    )


@given(good=st.sets(st.integers(1, 20)))
def test_most_is_good_even_if_not_monotone(good):
    best = most(1, 20, lambda n: n in good)
    assert best == 0 or best in good


CASES = {
    "int4 holds: pruned int4": ({}, {}, "int4-weights-prune50"),
    "int4 breaks: part of it, the rest int8, pruned": ({"Int4": 0.04}, {}, "int4-weights-local8-int8-weights-prune50"),
    "int8 breaks too: part of it, the rest float16": (
        {"Int4": 1.0, "Int8": 0.04, "static": 1.0},
        {},
        "int8-weights-local8-float16-weights-prune50",
    ),
    "relative pruning goes further": ({}, {PruneMethod.MAX_RELATIVE: 80}, "int4-weights-pruner80"),
    "no pruning at all": ({}, {PruneMethod.MIN_ABSOLUTE: 0, PruneMethod.MAX_RELATIVE: 0}, "int4-weights"),
}


@pytest.mark.parametrize(("costs", "sparsity", "name"), CASES.values(), ids=CASES)
def test_finds_the_smallest(fake_model, space, costs, sparsity, name):
    model = fake_model(costs=costs)
    model.sparsity_limit |= sparsity
    assert smallest(search(model.measure, space)).recipe.name == name


def test_static_in_part_where_the_whole_breaks_quality(fake_model, space):
    found = search(fake_model(costs={"static": 0.04}).measure, space)
    partial = [f for f in found if f.good and f.recipe.integer_compute and "local" in f.recipe.name]
    assert {f.recipe.quantizes[0].count for f in partial} & {8}


def test_when_nothing_else_is_good_plain_pruning_is_tried(fake_model, space):
    model = fake_model(costs={"Int4": 1, "Int8": 1, "static": 1, "Float16": 1})
    found = search(model.measure, space)
    assert smallest([f for f in found if f.recipe.classes is None]).recipe.name == "prune50"


def test_crashing_encodings_are_left_behind(fake_model, space):
    model = fake_model(broken=frozenset({"int8-static-s8s8", "int4-weights"}))
    found = search(model.measure, space)
    assert smallest([f for f in found if f.recipe.classes is None]).recipe.name == "int8-weights-prune50"
    assert not any(f.good for f in found if "s8s8" in f.recipe.name)


def test_without_calibration_nothing_static(fake_model, space):
    found = search(fake_model().measure, replace(space, static=False))
    assert not any(q.needs_ranges for f in found for q in f.recipe.quantizes)


def test_never_measures_twice_and_keeps_the_bound(fake_model, space):
    model = fake_model(costs={"Int4": 0.04, "static": 0.04})
    search(model.measure, space, limit=12)
    assert len(model.calls) == 12
    assert len(set(model.calls)) == 12


def test_same_inputs_same_order(fake_model, space):
    one, two = fake_model(costs={"Int4": 0.03}), fake_model(costs={"Int4": 0.03})
    search(one.measure, space)
    search(two.measure, space)
    assert one.calls == two.calls


def test_fastest_spends_less_on_pruning(fake_model, space):
    model, other = fake_model(), fake_model()
    search(model.measure, space)
    search(other.measure, replace(space, objective=Objective.FASTEST))
    assert len(other.calls) < len(model.calls)


def test_one_encoding_for_each_set_of_classes(space):
    names = [r.encoding for r in space.singles() if r.integer_compute]
    assert "int8-static-u8s8" in names
    assert "int8-static-s8s8" not in names  # for the same CPUs here
    both = replace(space, platforms=("linux/amd64", "linux/arm64"))
    assert "int8-static-s8s8" in [r.encoding for r in both.singles()]


def test_least_sensitive_of_one_node_measures_nothing(fake_model, space):
    model = fake_model()
    least_sensitive(model.measure, space.singles()[0], 1)
    assert model.calls == []
