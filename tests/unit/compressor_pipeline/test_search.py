"""The search over a model of formulas."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgemodel_api.edgemodel import PruneMethod
from edgemodel_compressor.candidates import weights_only
from edgemodel_compressor.search import NEAR, SPARSITIES, follow, least_sensitive, most, search, together
from edgemodel_compressor.steps.encodings import FLOAT16_WEIGHTS, INT4_COARSE, INT8_WEIGHTS

ANY = 1000


def smallest(found):
    return min((f for f in found if f.good), key=lambda f: f.size_bytes)


def run(steps):
    """A plan that asks for nothing: its conclusion."""
    with pytest.raises(StopIteration) as end:
        next(steps)
    return end.value.value


def known(good):
    """A question that is answered without measuring."""

    def ask(n):
        return good(n)
        yield

    return ask


@given(limit=st.integers(-1, 40), low=st.integers(0, 5), high=st.integers(0, 40))
def test_most_is_the_largest_good_number(limit, low, high):
    best = max([n for n in range(low, high + 1) if n <= limit], default=low - 1)
    assert run(most(low, high, known(lambda n: n <= limit))) == best


@given(good=st.sets(st.integers(1, 20)))
def test_most_is_good_even_if_not_monotone(good):
    best = run(most(1, 20, known(lambda n: n in good)))
    assert best == 0 or best in good


CASES = {
    "int4 holds: pruned int4": ({"moves": 1.0}, {}, "int4-weights-b128-prune50"),
    "int4 breaks, a mixture is smaller than int8": ({"Int4": 1.0, "moves": 0.01}, {}, "mixed-weights40"),
    "no mixture holds: int8, pruned": ({"Int4": 1.0, "moves": 1e9}, {}, "int8-weights-prune50"),
    "int8 breaks too: float16, pruned": (
        {"Int4": 1.0, "Int8": 1.0, "static": 1.0, "moves": 1e9},
        {},
        "float16-weights-prune50",
    ),
    "pruned to the last level": ({"moves": 1.0}, {PruneMethod.MIN_ABSOLUTE: 95}, "int4-weights-b128-prune95"),
    "no pruning at all": ({"moves": 1.0}, {PruneMethod.MIN_ABSOLUTE: 0}, "int4-weights-b128"),
}


@pytest.mark.parametrize(("costs", "sparsity", "name"), CASES.values(), ids=CASES)
def test_finds_the_smallest(fake_model, space, costs, sparsity, name):
    model = fake_model(costs=costs)
    model.sparsity_limit |= sparsity
    assert smallest(search(model.measure, space, limit=ANY)).recipe.name == name


def test_static_in_part_where_the_whole_breaks_quality(fake_model, space):
    found = search(fake_model(costs={"static": 0.04}).measure, replace(space, only_size=False), limit=ANY)
    partial = [f for f in found if f.good and f.recipe.integer_compute and "local" in f.recipe.name]
    assert {f.recipe.quantizes[0].count for f in partial} & {8}
    # What is left out of the integers need not stay float in the file.
    assert all("int8-weights" in f.recipe.encoding for f in partial)


def test_when_nothing_else_is_good_plain_pruning_is_tried(fake_model, space):
    model = fake_model(costs={"Int4": 1, "Int8": 1, "static": 1, "Float16": 1, "moves": 1e9})
    found = search(model.measure, space, limit=ANY)
    assert smallest([f for f in found if f.recipe.classes is None]).recipe.name == "prune50"


def test_crashing_encodings_are_left_behind(fake_model, space):
    model = fake_model(broken=frozenset({"int8-static-s8s8", "int4-weights-b128"}), costs={"moves": 1e9})
    found = search(model.measure, space, limit=ANY)
    assert smallest([f for f in found if f.recipe.classes is None]).recipe.name == "int8-weights-prune50"
    assert not any(f.good for f in found if "s8s8" in f.recipe.name)


def test_without_calibration_nothing_static(fake_model, space):
    found = search(fake_model().measure, replace(space, static=False), limit=ANY)
    assert not any(q.needs_ranges for f in found for q in f.recipe.quantizes)


def test_without_training_data_nothing_learns(fake_model, space):
    assert not any(f.recipe.learns for f in search(fake_model().measure, space, limit=ANY))


def test_with_training_data_sparsity_goes_further_and_channels_go(fake_model, space):
    model = fake_model(costs={"moves": 1e9})
    found = search(model.measure, replace(space, training=True, channels=True), limit=ANY)
    good = {f.recipe.name for f in found if f.good}
    assert "int4-weights-b128-prune70-recovered" in good
    assert "int4-weights-b128-channels30-recovered" in good
    assert "int4-weights-b128-channels30-recovered-prune50" in good
    assert not any("channels45" in name for name in good)
    none = search(fake_model().measure, replace(space, training=True), limit=ANY)
    assert not any("channels" in f.recipe.name for f in none)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])  # both are without state
@given(
    limit=st.integers(1, 60), cost=st.floats(0, 0.1), moves=st.floats(0, 0.1), training=st.booleans(), data=st.data()
)
def test_a_smaller_limit_measures_the_beginning_of_the_same(fake_model, space, limit, cost, moves, training, data):
    costs = {"Int4": cost, "static": cost, "moves": moves}
    wide = replace(space, training=training, channels=training)
    whole, part = fake_model(costs=costs), fake_model(costs=costs)
    search(whole.measure, wide, limit=ANY)
    search(part.measure, wide, limit=limit)
    assert len(part.calls) == min(limit, len(whole.calls))
    assert part.calls == whole.calls[: len(part.calls)]
    assert len(set(whole.calls)) == len(whole.calls)
    # The time being up after some candidates is the same.
    late, allowed = fake_model(costs=costs), data.draw(st.integers(0, len(whole.calls)))
    found = search(lambda rs: late.measure(rs[: allowed - len(late.calls)]), wide, limit=ANY)
    assert [f.recipe for f in found] == whole.calls[:allowed] == late.calls


def test_same_inputs_same_order(fake_model, space):
    one, two = fake_model(costs={"Int4": 0.03}), fake_model(costs={"Int4": 0.03})
    search(one.measure, space, limit=ANY)
    search(two.measure, space, limit=ANY)
    assert one.calls == two.calls


def test_what_does_not_depend_on_each_other_is_asked_for_together(fake_model, space):
    model = fake_model(costs={"Int4": 0.04, "static": 0.04, "moves": 0.04})
    found = search(model.measure, replace(space, only_size=False), limit=ANY)
    assert len(model.rounds) < 0.6 * len(found)
    assert model.rounds[0] >= 4


def test_one_encoding_for_each_set_of_classes(space):
    names = [r.encoding for r in space.singles() if r.integer_compute]
    assert "int8-static-u8s8" in names
    assert "int8-static-s8s8" not in names  # for the same CPUs here
    both = replace(space, platforms=("linux/amd64", "linux/arm64"))
    assert "int8-static-s8s8" in [r.encoding for r in both.singles()]


def test_dynamic_is_not_pursued_where_it_leaves_most_weights_float(fake_model, space):
    model = fake_model()

    def measure(recipes):
        found = model.measure(recipes)
        return tuple(replace(f, size_bytes=f.size_bytes * 4) if "dynamic" in f.recipe.name else f for f in found)

    found = search(measure, replace(space, only_size=False), limit=ANY)
    assert sum("dynamic" in f.recipe.name for f in found if not f.recipe.prunes) == 1


def test_least_sensitive_of_one_node_measures_nothing(fake_model, space):
    model = fake_model()
    follow(least_sensitive(space.singles()[0], 1), model.measure, limit=ANY)
    assert model.calls == []


def test_plans_side_by_side_keep_their_own_answers():
    def asking(*recipes):
        names = []
        for recipe in recipes:
            (found,) = yield (recipe,)
            names.append(found)
        return names

    a, b, c = (weights_only(e) for e in (INT8_WEIGHTS, INT4_COARSE, FLOAT16_WEIGHTS))
    steps = together(asking(a, b), asking(c), asking())
    assert next(steps) == (a, c)
    assert steps.send(("A", "C")) == (b,)
    with pytest.raises(StopIteration) as end:
        steps.send(("B",))
    assert end.value.value == (["A", "B"], ["C"], [])


def integers(found):
    return [f.recipe for f in found if f.recipe.integer_compute]


PREDICTED = {
    # How many of 40 moves keep the quality; Int8 is good, as 20 moves are predicted to be, Int4 is not, as 36.
    "between both": (28, 5),
    "better than it was predicted": (40, 8),
    "worse than it was predicted": (10, 10),
    "nothing holds": (0, 10),
}


@pytest.mark.parametrize(("held", "most_looks"), PREDICTED.values(), ids=PREDICTED)
def test_a_mixture_is_looked_for_where_its_error_is_predicted(fake_model, space, held, most_looks):
    predicted = {"int8-weights": 20, "int4-weights-b128": 36, "float16-weights": 3}
    model = fake_model(costs={"Int4": 1.0, "moves": 0.0101 * (40 / (held + 0.5)) ** 2})
    found = search(model.measure, replace(space, like=lambda r: predicted[r.encoding]), limit=ANY)
    assert max([f.recipe.mixture.moves for f in found if f.good and f.recipe.mixture], default=0) == held
    assert sum(r.mixture is not None for r in model.calls) <= most_looks


def test_between_mixtures_of_nearly_one_size_nothing_is_measured(fake_model, space):
    def looks(scale):
        model = fake_model(costs={"Int4": 1.0, "moves": 0.03})

        def measure(recipes):
            # All that 40 moves save is `scale` of a file.
            return tuple(
                replace(f, size_bytes=round(10**6 * (1 - scale * f.recipe.mixture.moves / 40)))
                if f.recipe.mixture
                else f
                for f in model.measure(recipes)
            )

        found = search(measure, space, limit=ANY)
        best = max(f.recipe.mixture.moves for f in found if f.good and f.recipe.mixture)
        return best, sum(r.mixture is not None for r in model.calls)

    fine, coarse = looks(0.9), looks(0.1)
    assert coarse[1] < fine[1]
    assert 0.1 * (fine[0] - coarse[0]) / 40 <= NEAR


def test_what_bears_no_8_bits_is_not_pruned_beside_a_mixture(fake_model, space):
    model = fake_model(costs={"Int4": 1, "Int8": 1, "static": 1, "moves": 0.5})
    found = search(model.measure, space, limit=ANY)
    assert any(f.good and f.recipe.mixture for f in found)
    assert not any(f.recipe.prunes for f in found)
    whole = search(fake_model(costs=model.costs).measure, replace(space, only_size=False), limit=ANY)
    assert any(f.recipe.prunes for f in whole)


def test_where_only_size_counts_no_integers_are_tried(fake_model, space):
    asked = []
    model = fake_model(costs={"static": 0.04})
    lazy = replace(space, nodes=lambda q: asked.append(q) or 16)
    found = search(model.measure, lazy, limit=ANY)
    assert not integers(found)
    assert not asked  # nor is any node's sensitivity
    wide = fake_model(costs={"static": 0.04})
    all_found = search(wide.measure, replace(space, only_size=False), limit=ANY)
    assert len(integers(all_found)) > 6
    # What there is without integers is the same.
    assert {f.recipe for f in found} - set(integers(found)) == {f.recipe for f in all_found} - set(integers(all_found))
    assert smallest(found) == smallest(all_found)


def test_integers_are_tried_where_no_weights_keep_the_quality(fake_model, space):
    costs = {"Int4": 1, "Int8": 0.04, "Float16": 1, "static": 0.04, "moves": 1e9}
    small = search(fake_model(costs=costs).measure, space, limit=ANY)
    assert small == search(fake_model(costs=costs).measure, replace(space, only_size=False), limit=ANY)
    assert any("local" in r.name for r in integers(small))


def test_an_integer_file_that_is_smaller_is_pruned_too(fake_model, space):
    model = fake_model(costs={"Int4": 1, "moves": 1e9})

    def measure(recipes):
        found = model.measure(recipes)
        return tuple(replace(f, size_bytes=f.size_bytes // 2) if "dynamic" in f.recipe.name else f for f in found)

    found = search(measure, replace(space, only_size=False), limit=ANY)
    assert smallest(found).recipe.name == "int8-dynamic-u8-prune50"


def test_levels_rise():
    assert list(SPARSITIES) == sorted(set(SPARSITIES))
