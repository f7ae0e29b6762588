"""Recipes: the steps of one candidate, with the encoding chosen, its name and its words. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edgemodel_api import reasons
from edgemodel_api.edgemodel import (
    Activations,
    Granularity,
    Precision,
    PruneMethod,
    PruneStep,
    QuantizeStep,
    Scope,
    Step,
)
from edgemodel_api.errors import InputError
from edgemodel_api.hardware import PLATFORM_OF, HardwareClass

from .steps.encodings import Encoding, encodings_for

#: Encodings of several quantize steps multiply; more combinations than this are not tried.
MOST_COMBINATIONS = 16
NAME_LIMIT = 63
FLOAT32 = "float32"


@dataclass(frozen=True)
class Quantize:
    """A quantize step in one encoding.

    Attributes:
        step: as declared.
        encoding: one that the step and the platforms ask for.
        count: how many nodes, the least sensitive first; None: what the step itself says.
    """

    step: QuantizeStep
    encoding: Encoding
    count: int | None = None

    @property
    def by_sensitivity(self) -> bool:
        """Whether measured sensitivity has to choose the nodes (and `count` is searched for)."""
        include = self.step.include
        return self.step.scope is Scope.LOCAL and not (include.ops or include.nodes)

    @property
    def needs_ranges(self) -> bool:
        """Whether activations are calibrated."""
        return self.step.precision is Precision.INT8 and self.step.activations is Activations.STATIC

    @property
    def integer_compute(self) -> bool:
        """Whether integer kernels run: results and speed then depend on the kind of CPU."""
        return self.step.precision is Precision.INT8 and self.step.activations is not Activations.NONE


Action = PruneStep | Quantize


@dataclass(frozen=True)
class Recipe:
    """What is done to the model, in order."""

    actions: tuple[Action, ...]

    @property
    def quantizes(self) -> tuple[Quantize, ...]:
        """The quantize steps."""
        return tuple(a for a in self.actions if isinstance(a, Quantize))

    @property
    def prunes(self) -> tuple[PruneStep, ...]:
        """The prune steps, which come first."""
        return tuple(a for a in self.actions if isinstance(a, PruneStep))

    @property
    def encoding(self) -> str:
        """How the weights are stored: `float32`, or the encodings' names."""
        return "+".join(dict.fromkeys(q.encoding.name for q in self.quantizes)) or FLOAT32

    @property
    def integer_compute(self) -> bool:
        """Whether integer kernels run anywhere."""
        return any(q.integer_compute for q in self.quantizes)

    @property
    def dynamic(self) -> bool:
        """Whether activation ranges are those of the batch: rows then have to be judged alone."""
        return any(q.integer_compute and q.step.activations is Activations.DYNAMIC for q in self.quantizes)

    @property
    def classes(self) -> frozenset[str] | None:
        """Hardware classes that it is meant for; None: all."""
        meant = frozenset(map(str, HardwareClass))
        for q in self.quantizes:
            meant &= frozenset(map(str, q.encoding.hardware_classes))
        return None if len(meant) == len(HardwareClass) else meant

    @property
    def name(self) -> str:
        """A DNS-like name; two equal ones (rare) get a number by the pipeline."""
        parts = [q.encoding.name + (f"-local{q.count}" if q.count is not None else "") for q in self.quantizes]
        for p in self.prunes:
            relative = "r" if p.method is PruneMethod.MAX_RELATIVE else ""
            parts.append(f"prune{relative}{(p.pattern or p.sparsity or '').rstrip('%')}")
        text = re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
        return text[:NAME_LIMIT].rstrip("-") or FLOAT32

    @property
    def words(self) -> tuple[str, ...]:
        """Each step for people."""
        return tuple(_words(a) for a in self.actions)

    def pruned(self, sparsity: int, method: PruneMethod) -> Recipe:
        """The same on a model pruned to `sparsity` percent over all its weights."""
        step = PruneStep(method=method, sparsity=f"{sparsity}%", granularity=Granularity.GLOBAL)
        return Recipe((step, *self.actions))


def classes_on(recipe: Recipe, platform: str) -> tuple[str, ...] | None:
    """Hardware classes of `platform` that the recipe is meant for: `()` all of them, None: it is not for it."""
    meant = recipe.classes
    if meant is None:
        return ()
    there = tuple(str(c) for c, p in PLATFORM_OF.items() if str(p) == platform) or (str(HardwareClass.UNKNOWN),)
    found = tuple(c for c in there if c in meant)
    if not found:
        return None
    return () if found == there else found


def recipes_for(steps: Sequence[Step], platforms: Sequence[str]) -> tuple[Recipe, ...]:
    """Explicit steps: one recipe for each combination of encodings that suits a platform.

    Raises:
        InputError: a prune step after a quantize step.
    """
    choices: list[tuple[Action, ...]] = []
    for index, step in enumerate(steps):
        if step.prune is not None:
            if any(s.quantize is not None for s in steps[:index]):
                raise InputError(
                    f"compression.steps[{index}] prunes weights that an earlier step has quantized: put prune steps"
                    " before quantize steps"
                )
            choices.append((step.prune,))
        elif step.quantize is not None:
            quantize = step.quantize
            choices.append(tuple(Quantize(quantize, e) for e in encodings_for(quantize, platforms)))
    combined = (Recipe(actions) for actions in itertools.islice(itertools.product(*choices), MOST_COMBINATIONS))
    return tuple(r for r in combined if _fits(r, platforms))


def single(precision: Precision, activations: Activations, platforms: Sequence[str]) -> tuple[Recipe, ...]:
    """One technique over the whole model, in each encoding for the platforms."""
    step = QuantizeStep(precision=precision, activations=activations)
    found = (Recipe((Quantize(step, e),)) for e in encodings_for(step, platforms))
    return tuple(r for r in found if _fits(r, platforms))


def local(recipe: Recipe, count: int, *, rest: Recipe | None = None) -> Recipe:
    """A quantize step on its `count` least sensitive nodes, and `rest` on what is left.

    It is the first step that leaves the choice to sensitivity, or else the first.
    """
    chosen = next((q for q in recipe.quantizes if q.by_sensitivity and q.count is None), recipe.quantizes[0])
    partial = replace(chosen, step=chosen.step.replace(scope=Scope.LOCAL), count=count)
    actions = tuple(partial if a is chosen else a for a in recipe.actions)
    return Recipe((*actions, *(rest.quantizes if rest is not None else ())))


def _fits(recipe: Recipe, platforms: Iterable[str]) -> bool:
    return any(classes_on(recipe, p) is not None for p in platforms)


def _words(action: Action) -> str:
    if isinstance(action, PruneStep):
        within = {
            Granularity.TENSOR: "of each tensor",
            Granularity.GLOBAL: "of all weights together",
            Granularity.CHANNEL: "of each channel",
        }[action.granularity]
        return f"prune {action.method} {action.sparsity} {within}{_left_out(action.exclude.ops, action.exclude.nodes)}"
    step = action.step
    where = {Activations.STATIC: "static", Activations.DYNAMIC: "dynamic", Activations.NONE: "weights only"}
    how = where[step.activations] if step.precision is Precision.INT8 else "weights only"
    which = "" if action.count is None else f", the {action.count} least sensitive nodes"
    return (
        f"quantize {step.scope} {step.precision} {how} as {action.encoding.name}{which}"
        f"{_left_out(step.exclude.ops, step.exclude.nodes)}"
    )


def _left_out(ops: tuple[str, ...], nodes: tuple[str, ...]) -> str:
    names = [*ops, *nodes]
    return f", without {', '.join(names[:5])}{' …' if len(names) > 5 else ''}" if names else ""


def unsupported(steps: Sequence[Step] | None) -> InputError | None:
    """What no version of this compressor can do yet."""
    for index, step in enumerate(steps or ()):
        if step.distill is not None:
            return InputError(
                f"compression.steps[{index}].distill is not supported yet: remove it, or use prune and quantize",
                reason=reasons.NOT_SUPPORTED,
            )
    return None
