"""Candidates: recipes for the steps that were declared, and the building blocks of the search. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from edgemodel_api.edgemodel import Activations, Precision, QuantizeStep, Scope, Step
from edgemodel_api.errors import InputError
from edgemodel_api.hardware import PLATFORM_OF, HardwareClass

from .recipe import FLOAT32, MIXED, NAME_LIMIT, Action, Distill, Mixture, Quantize, Recipe, Reshape
from .steps.encodings import FLOAT16_WEIGHTS, INT4_COARSE, STEPPED, Encoding, Number, encodings_for

__all__ = [
    "FLOAT32",
    "MIXED",
    "MOST_COMBINATIONS",
    "NAME_LIMIT",
    "Action",
    "Distill",
    "Mixture",
    "Quantize",
    "Recipe",
    "Reshape",
    "classes_on",
    "classes_there",
    "local",
    "mixed",
    "recipes_for",
    "single",
    "weights_only",
]

#: Encodings of several quantize steps multiply; more combinations than this are not tried.
MOST_COMBINATIONS = 16
#: What a mixture chooses from. The last is the one in which the layers' costs are measured.
LADDER = (FLOAT16_WEIGHTS, *STEPPED, INT4_COARSE)
_PRECISION = {
    Number.FLOAT16: Precision.FLOAT16,
    Number.INT8: Precision.INT8,
    Number.INT12: Precision.INT8,
    Number.INT4: Precision.INT4,
}
_ORDER = ("distill", "prune", "quantize")


def classes_on(recipe: Recipe, platform: str) -> tuple[str, ...] | None:
    """Hardware classes of `platform` that the recipe is meant for: `()` all of them, None: it is not for it."""
    meant = recipe.classes
    if meant is None:
        return ()
    there = classes_there(platform)
    found = tuple(c for c in there if c in meant)
    if not found:
        return None
    return () if found == there else found


def classes_there(platform: str) -> tuple[str, ...]:
    """Hardware classes of machines of a platform."""
    return tuple(str(c) for c, p in PLATFORM_OF.items() if str(p) == platform) or (str(HardwareClass.UNKNOWN),)


def recipes_for(steps: Sequence[Step], platforms: Sequence[str]) -> tuple[Recipe, ...]:
    """Explicit steps: one recipe for each combination of encodings that suits a platform.

    Raises:
        InputError: the steps are not in the order distill, prune, quantize; or there are two distill steps.
    """
    choices: list[tuple[Action, ...]] = []
    for index, step in enumerate(steps):
        _check_order(steps, index)
        if step.distill is not None:
            choices.append((Distill(step.distill, index),))
        elif step.prune is not None:
            choices.append((step.prune,))
        elif step.quantize is not None:
            quantize = step.quantize
            choices.append(tuple(Quantize(quantize, e) for e in encodings_for(quantize, platforms)))
    combined = (Recipe(actions) for actions in itertools.islice(itertools.product(*choices), MOST_COMBINATIONS))
    return tuple(r for r in combined if _fits(r, platforms))


def _check_order(steps: Sequence[Step], index: int) -> None:
    kind = _kind(steps[index])
    before = {_kind(s) for s in steps[:index]}
    if kind == "distill" and kind in before:
        raise InputError(
            f"compression.steps[{index}] distills a second time: one distill step is enough; give its student the size that"
            " you want"
        )
    wrong = [k for k in _ORDER[_ORDER.index(kind) + 1 :] if k in before]
    if wrong and kind == "prune":
        raise InputError(
            f"compression.steps[{index}] prunes weights that an earlier step has quantized: put prune steps before quantize"
            " steps"
        )
    if wrong:
        raise InputError(
            f"compression.steps[{index}] distills: the student would lose what an earlier {wrong[0]} step has done: put the"
            " distill step first"
        )


def _kind(step: Step) -> str:
    return next(k for k in _ORDER if getattr(step, k) is not None)


def single(precision: Precision, activations: Activations, platforms: Sequence[str]) -> tuple[Recipe, ...]:
    """One technique over the whole model, in each encoding for the platforms."""
    step = QuantizeStep(precision=precision, activations=activations)
    found = (Recipe((Quantize(step, e),)) for e in encodings_for(step, platforms))
    return tuple(r for r in found if _fits(r, platforms))


def weights_only(encoding: Encoding) -> Recipe:
    """All weights in one of the encodings of `LADDER`."""
    return Recipe((_stored(encoding),))


def mixed(moves: int) -> Recipe:
    """Each layer's weights in an encoding of `LADDER`, by `moves` moves of the allocation."""
    return Recipe((Mixture(tuple(map(_stored, LADDER)), moves),))


def local(recipe: Recipe, count: int, *, rest: Recipe | None = None) -> Recipe:
    """A quantize step on its `count` least sensitive nodes, and `rest` on what is left.

    It is the first step that leaves the choice to sensitivity, or else the first.
    """
    chosen = next((q for q in recipe.quantizes if q.by_sensitivity and q.count is None), recipe.quantizes[0])
    partial = replace(chosen, step=chosen.step.replace(scope=Scope.LOCAL), count=count)
    actions = tuple(partial if a is chosen else a for a in recipe.actions)
    return Recipe((*actions, *(rest.quantizes if rest is not None else ())))


def _stored(encoding: Encoding) -> Quantize:
    return Quantize(QuantizeStep(precision=_PRECISION[encoding.weight], activations=Activations.NONE), encoding)


def _fits(recipe: Recipe, platforms: Iterable[str]) -> bool:
    return any(classes_on(recipe, p) is not None for p in platforms)
