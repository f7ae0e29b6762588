"""A recipe: the steps of one candidate, with the encoding chosen, and what follows from them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgemodel_api.edgemodel import (
    Activations,
    DistillStep,
    Granularity,
    Precision,
    PruneMethod,
    PruneStep,
    QuantizeStep,
    Recover,
    Scope,
    Structure,
)
from edgemodel_api.hardware import HardwareClass
from edgemodel_api.quantities import counted

from .steps.encodings import Encoding, computes_integers

NAME_LIMIT = 63
FLOAT32 = "float32"
MIXED = "mixed-weights"


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
        return computes_integers(self.step)


@dataclass(frozen=True)
class Mixture:
    """Weights only, each layer in its own encoding: see `allocate`.

    Attributes:
        ladder: the encodings, the finest first.
        moves: how many moves of the allocation are made; 0: every layer stays float.
    """

    ladder: tuple[Quantize, ...]
    moves: int


@dataclass(frozen=True)
class Distill:
    """A distill step.

    Attributes:
        step: as declared.
        index: its place among the steps; the student's file is known by it.
    """

    step: DistillStep
    index: int


Action = Distill | PruneStep | Quantize | Mixture
#: What makes another float model, before anything is quantized.
Reshape = Distill | PruneStep


@dataclass(frozen=True)
class Recipe:
    """What is done to the model, in order: distill, prune, quantize."""

    actions: tuple[Action, ...]

    @property
    def quantizes(self) -> tuple[Quantize, ...]:
        """The quantize steps; of a mixture, those that it chooses from."""
        found: list[Quantize] = []
        for a in self.actions:
            found += a.ladder if isinstance(a, Mixture) else (a,) if isinstance(a, Quantize) else ()
        return tuple(found)

    @property
    def telling(self) -> tuple[Quantize, ...]:
        """The quantize steps by which the cost of a layer is told; of a mixture, the coarsest."""
        return self.quantizes if self.mixture is None else self.mixture.ladder[-1:]

    @property
    def mixture(self) -> Mixture | None:
        """The mixture, where there is one."""
        return next((a for a in self.actions if isinstance(a, Mixture)), None)

    @property
    def reshapes(self) -> tuple[Reshape, ...]:
        """The steps that make another float model, which come first."""
        return tuple(a for a in self.actions if isinstance(a, Distill | PruneStep))

    @property
    def prunes(self) -> tuple[PruneStep, ...]:
        """The prune steps."""
        return tuple(a for a in self.actions if isinstance(a, PruneStep))

    @property
    def learns(self) -> bool:
        """Whether a network is trained."""
        return any(isinstance(a, Distill) or a.recover is not None for a in self.reshapes)

    @property
    def encoding(self) -> str:
        """How the weights are stored: `float32`, or the encodings' names."""
        names = [
            MIXED if isinstance(a, Mixture) else a.encoding.name
            for a in self.actions
            if not isinstance(a, Distill | PruneStep)
        ]
        return "+".join(dict.fromkeys(names)) or FLOAT32

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
        last = (Quantize, Mixture)
        ordered = [a for a in self.actions if isinstance(a, last)] + [
            a for a in self.actions if not isinstance(a, last)
        ]
        text = re.sub(r"[^a-z0-9]+", "-", "-".join(map(_name, ordered)).lower()).strip("-")
        return text[:NAME_LIMIT].rstrip("-") or FLOAT32

    @property
    def words(self) -> tuple[str, ...]:
        """Each step for people."""
        return tuple(map(_words, self.actions))

    def pruned(self, sparsity: int, method: PruneMethod, *, recover: Recover | None = None) -> Recipe:
        """The same on a model pruned to `sparsity` percent over all its weights, after what it prunes already."""
        step = PruneStep(method=method, sparsity=f"{sparsity}%", granularity=Granularity.GLOBAL, recover=recover)
        first = self.reshapes
        return Recipe((*first, step, *self.actions[len(first) :]))

    def narrowed(self, share: int, recover: Recover) -> Recipe:
        """The same on a model without `share` percent of its channels, which has learned again."""
        step = PruneStep(
            structure=Structure.CHANNELS, sparsity=f"{share}%", granularity=Granularity.GLOBAL, recover=recover
        )
        return Recipe((step, *self.actions))


def _name(action: Action) -> str:
    if isinstance(action, Quantize):
        return action.encoding.name + (f"-local{action.count}" if action.count is not None else "")
    if isinstance(action, Mixture):
        return f"{MIXED}{action.moves}"
    if isinstance(action, Distill):
        student = action.step.student.to_json()
        of = "-".join(f"{k}{student[k]}" for k in ("width", "depth", "rank") if k in student)
        return f"distill-{action.step.method}-{of or 'file'}"
    what = "channels" if action.structure is Structure.CHANNELS else "prune"
    relative = "-relative" if action.method is PruneMethod.MAX_RELATIVE else ""
    share = (action.pattern or action.sparsity or "").rstrip("%")
    return f"{what}{relative}{share}{'-recovered' if action.recover is not None else ''}"


def _words(action: Action) -> str:
    if isinstance(action, Distill):
        return _distill_words(action.step)
    if isinstance(action, PruneStep):
        return _prune_words(action)
    if isinstance(action, Mixture):
        names = [q.encoding.name for q in action.ladder if not q.encoding.limit]
        limits = [q.encoding.limit for q in action.ladder if q.encoding.limit]
        steps = [f"whole numbers up to {min(limits)} to {max(limits)}"] if limits else []
        return (
            f"store each layer's weights as {', '.join(['float32', *names, *steps])}: {counted(action.moves, 'move')}"
            " of least error for each byte saved"
        )
    step = action.step
    where = {Activations.STATIC: "static", Activations.DYNAMIC: "dynamic", Activations.NONE: "weights only"}
    how = where[step.activations] if step.precision is Precision.INT8 else "weights only"
    which = "" if action.count is None else f", the {counted(action.count, 'least sensitive node')}"
    return (
        f"quantize {step.scope} {step.precision} {how} as {action.encoding.name}{which}"
        f"{_left_out(step.exclude.ops, step.exclude.nodes)}"
    )


def _prune_words(step: PruneStep) -> str:
    within = {
        Granularity.TENSOR: "of each tensor",
        Granularity.GLOBAL: "of all weights together",
        Granularity.CHANNEL: "of each channel",
    }[step.granularity]
    if step.structure is Structure.CHANNELS:
        within = (
            "of the channels of each layer" if step.granularity is Granularity.TENSOR else "of all channels together"
        )
    share = f"{step.sparsity} {within}" if step.pattern is None else f"{step.pattern}: of each group this many stay"
    learned = f", then learn {counted(step.recover.epochs, 'epoch')}" if step.recover is not None else ""
    return f"prune {step.method} {share}{_left_out(step.exclude.ops, step.exclude.nodes)}{learned}"


def _distill_words(step: DistillStep) -> str:
    student = step.student
    parts = {"width": student.width, "depth": student.depth, "rank": student.rank}
    of = ", ".join(f"{value} of the {name}" for name, value in parts.items() if value is not None)
    return (
        f"distill {step.method} into a student {f'with {of}' if of else 'given as a file'}, temperature {step.temperature},"
        f" {counted(step.epochs, 'epoch')}"
    )


def _left_out(ops: tuple[str, ...], nodes: tuple[str, ...]) -> str:
    names = [*ops, *nodes]
    return f", without {', '.join(names[:5])}{' …' if len(names) > 5 else ''}" if names else ""
