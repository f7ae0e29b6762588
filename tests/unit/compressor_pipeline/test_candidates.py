"""Recipes: names, words, classes, combinations."""

import re

import pytest

from edgemodel_api.edgemodel import Activations, Precision, PruneMethod, PruneStep, QuantizeStep, Recover, Step
from edgemodel_api.errors import InputError
from edgemodel_compressor.candidates import (
    MOST_COMBINATIONS,
    Recipe,
    classes_on,
    local,
    mixed,
    recipes_for,
    single,
)

AMD64, ARM64, ARM_V7 = "linux/amd64", "linux/arm64", "linux/arm/v7"


def step(**fields):
    return Step.model_validate(fields)


STATIC = step(quantize={"precision": "Int8", "activations": "Static"})
WEIGHTS = step(quantize={"precision": "Int8", "activations": "None"})


def test_a_prune_only_recipe_is_one_candidate():
    (recipe,) = recipes_for([step(prune={"sparsity": "62.5%"})], [AMD64, ARM64])
    assert (recipe.name, recipe.encoding, recipe.classes) == ("prune62-5", "float32", None)
    assert recipe.words == ("prune MinAbsolute 62.5% of each tensor",)


def test_prune_steps_compose():
    (recipe,) = recipes_for([step(prune={"sparsity": "50%"}), step(prune={"sparsity": "20%"}), WEIGHTS], [AMD64])
    assert len(recipe.prunes) == 2
    assert recipe.name == "int8-weights-prune50-prune20"


def test_a_static_step_gives_one_candidate_for_each_encoding_of_the_platforms():
    for platform, there in ((AMD64, {"u8s8", "s8s8", "u8u8", "u8s7"}), (ARM64, {"s8s8"})):
        recipes = recipes_for([STATIC], [platform])
        assert {r.encoding.removeprefix("int8-static-") for r in recipes} == there
        assert all(classes_on(r, platform) is not None for r in recipes)


def test_weights_only_suits_every_class_everywhere():
    (recipe,) = recipes_for([WEIGHTS], [AMD64, ARM64, ARM_V7, "linux/riscv64"])
    assert recipe.classes is None
    assert [classes_on(recipe, p) for p in (AMD64, ARM64, ARM_V7, "linux/riscv64")] == [(), (), (), ()]


def test_classes_on_a_platform():
    static = {r.encoding: r for r in single(Precision.INT8, Activations.STATIC, [AMD64, ARM64])}
    assert classes_on(static["int8-static-u8s8"], AMD64) == ("amd64-vnni",)
    assert classes_on(static["int8-static-u8s8"], ARM64) is None
    assert classes_on(static["int8-static-u8u8"], AMD64) == ()
    assert classes_on(static["int8-static-s8s8"], ARM64) == ()
    assert classes_on(static["int8-static-u8s8"], ARM_V7) is None


def test_combinations_are_bounded():
    local_static = step(
        quantize={"scope": "Local", "precision": "Int8", "activations": "Static", "include": {"ops": ["Conv"]}}
    )
    assert len(recipes_for([local_static] * 3, [AMD64, ARM64])) <= MOST_COMBINATIONS


def test_prune_after_quantize_is_refused_with_advice():
    with pytest.raises(InputError, match=r"steps\[1\] prunes weights .* put prune steps before"):
        recipes_for([WEIGHTS, step(prune={"sparsity": "50%"})], [AMD64])


DISTILL = step(distill={"student": {"width": "50%", "rank": "25%"}, "epochs": 1})


def test_a_recipe_may_begin_with_a_distill_step():
    (recipe,) = recipes_for([DISTILL, step(prune={"sparsity": "50%", "recover": {"epochs": 2}}), WEIGHTS], [AMD64])
    assert recipe.name == "int8-weights-distill-knowledge-width50-rank25-prune50-recovered"[:63].rstrip("-")
    assert recipe.words[:2] == (
        "distill Knowledge into a student with 50% of the width, 25% of the rank, temperature 4, 1 epoch",
        "prune MinAbsolute 50% of each tensor, then learn 2 epochs",
    )
    assert [type(a).__name__ for a in recipe.reshapes] == ["Distill", "PruneStep"]
    assert recipe.learns


WRONG = {
    "distill after prune": ([step(prune={"sparsity": "5%"}), DISTILL], r"steps\[1\] distills: .* prune step .* first"),
    "distill after quantize": ([WEIGHTS, DISTILL], r"steps\[1\] distills: .* quantize step .* first"),
    "two distill steps": ([DISTILL, DISTILL], r"steps\[1\] distills a second time"),
}


@pytest.mark.parametrize(("steps", "message"), WRONG.values(), ids=WRONG)
def test_distill_comes_first_and_once(steps, message):
    with pytest.raises(InputError, match=message):
        recipes_for(steps, [AMD64])


NAMES = {
    "relative": (
        {"sparsity": "50%", "method": "MaxRelative"},
        "prune-relative50",
        "prune MaxRelative 50% of each tensor",
    ),
    "channels": (
        {"sparsity": "30%", "structure": "Channels", "recover": {}},
        "channels30-recovered",
        "prune MinAbsolute 30% of the channels of each layer, then learn 3 epochs",
    ),
    "N:M": ({"pattern": "2:4"}, "prune2-4", "prune MinAbsolute 2:4: of each group this many stay"),
}


@pytest.mark.parametrize(("prune", "name", "words"), NAMES.values(), ids=NAMES)
def test_names_and_words_of_prune_steps(prune, name, words):
    (recipe,) = recipes_for([step(prune=prune)], [AMD64])
    assert (recipe.name, recipe.words) == (name, (words,))


def test_a_mixture_is_for_every_class_and_says_how_far_it_goes():
    recipe = mixed(12)
    assert (recipe.name, recipe.encoding, recipe.classes) == ("mixed-weights12", "mixed-weights", None)
    assert "12 moves" in recipe.words[0]
    assert not recipe.integer_compute


def test_what_is_pruned_in_a_search_comes_after_what_is_pruned_already():
    (int8,) = single(Precision.INT8, Activations.NONE, [AMD64])
    narrow = int8.narrowed(30, Recover())
    recipe = narrow.pruned(50, PruneMethod.MIN_ABSOLUTE)
    assert [p.sparsity for p in recipe.prunes] == ["30%", "50%"]
    assert recipe.name == "int8-weights-channels30-recovered-prune50"


def test_local_keeps_what_comes_before_and_adds_the_rest():
    (int4,) = single(Precision.INT4, Activations.NONE, [AMD64])
    (int8,) = single(Precision.INT8, Activations.NONE, [AMD64])
    mixed = local(int4, 3, rest=int8)
    assert mixed.name == "int4-weights-local3-int8-weights"
    assert mixed.encoding == "int4-weights+int8-weights"
    assert mixed.quantizes[0].by_sensitivity
    assert "the 3 least sensitive nodes" in mixed.words[0]


def test_local_narrows_the_step_that_sensitivity_chooses_for_in_its_place():
    named = step(quantize={"scope": "Local", "precision": "Int4", "activations": "None", "include": {"nodes": ["a"]}})
    free = step(quantize={"scope": "Local", "precision": "Int8", "activations": "None"})
    (recipe,) = recipes_for([step(prune={"sparsity": "5%"}), named, free], [AMD64])
    assert [q.count for q in local(recipe, 2).quantizes] == [None, 2]
    assert local(recipe, 2).prunes == recipe.prunes


@pytest.mark.parametrize("count", [1, 12])
def test_names_are_dns_like(count):
    prunes = tuple(PruneStep(sparsity=f"{i}.5%") for i in range(count))
    name = Recipe(prunes).name
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)


def test_sensitivity_chooses_only_without_include():
    free = recipes_for([step(quantize={"scope": "Local", "activations": "None"})], [AMD64])[0].quantizes[0]
    named = recipes_for(
        [step(quantize={"scope": "Local", "activations": "None", "include": {"nodes": ["a"]}})], [AMD64]
    )[0].quantizes[0]
    assert (free.by_sensitivity, named.by_sensitivity) == (True, False)
    assert QuantizeStep(precision=Precision.INT8).activations is Activations.STATIC
