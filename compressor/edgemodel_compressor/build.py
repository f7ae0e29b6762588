"""Building candidates: a recipe applied to the prepared model. Pruned models, ranges and sensitivities are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemodel_api.edgemodel import Schedule
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_oci.companion import remove_model

from . import allocate, mixture
from .allocate import Option
from .evaluate.quality import Evaluator
from .evaluate.runner import Batches
from .formats.kept import kept_tensors, release
from .formats.onnx_model import save_model
from .learn import Learner
from .progress import Report, counter
from .recipe import Distill, Mixture, Quantize, Recipe, Reshape
from .steps.calibrate import Ranges, calibrate
from .steps.channels import channel_groups
from .steps.compensate import Encoder
from .steps.encodings import stores_integers
from .steps.gram import grams
from .steps.prune import prune
from .steps.quantize import quantizable, quantize
from .steps.sensitivity import quality_drops, sensitivity
from .steps.weight_only import Encode, alike, plainly
from .steps.weights import sparsity_of, weights

CALIBRATION_SAMPLES = 256
#: For what weights are multiplied with: each gives many positions.
INPUT_SAMPLES = 64


@dataclass(frozen=True)
class Built:
    """A candidate's file.

    Attributes:
        path: the file; of a large model its external data lie beside it.
        digest: its sha256, hex.
        file_bytes: of it, and its external data.
        quantized: names of the quantized nodes.
        notes: of the steps, for the report.
        sparsity: share of exact zeros among all weights once pruned; None: nothing was. (Small numbers round more to zero.)
    """

    path: Path
    digest: str
    file_bytes: int
    quantized: tuple[str, ...]
    notes: tuple[str, ...]
    sparsity: float | None


@dataclass(frozen=True)
class Applied:
    """A candidate's model, not yet a file; the other attributes are those of `Built`."""

    model: Any
    quantized: tuple[str, ...]
    notes: tuple[str, ...]
    sparsity: float | None


@dataclass
class _Base:
    """A float model that candidates are quantized from, and what was measured on it."""

    model: Any
    sparsity: float | None = None
    notes: tuple[str, ...] = ()
    changed: bool = False
    ranges: Ranges | None = None
    sensitivities: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    options: dict[str, tuple[Option, ...]] | None = None
    encoder: Encode | None = None


@dataclass
class Builder:
    """Applies recipes.

    Attributes:
        prepared: the model that all candidates start from; never changed.
        calibration: data for ranges and sensitivity.
        rows: how many of them one run takes.
        work_dir: where files go.
        seed: of the choice of samples.
        report: where progress goes.
        learner: distills and recovers.
        threads: of work on one node each.
        compensates: whether mixtures are rounded by the calibration data: real, and none that quality is judged on.
        given: whether the steps are the user's: those that store weights alone are rounded so, too. (A search has its mixtures for it.)
        batch: rows of the smallest run: more tensors fit into the outputs of one.
    """

    prepared: Any
    calibration: Batches
    rows: int
    work_dir: Path
    seed: int
    report: Report
    learner: Learner
    threads: int = 1
    compensates: bool = False
    given: bool = False
    batch: int = 1
    _bases: dict[tuple[Reshape, ...], _Base] = field(default_factory=dict)

    def apply(self, recipe: Recipe) -> Applied:
        """The recipe's model.

        Raises:
            InputError: a step cannot be applied, or there is nothing to quantize.
            TimeUpError: the time was up while a network learned.
        """
        base = self._base(recipe.reshapes)
        if recipe.mixture is not None:
            return self._mixed(base, recipe.mixture)
        model, quantized, notes = base.model, list[str](), [*base.notes]
        by_data: frozenset[str] = frozenset()
        for action in recipe.quantizes:
            by_inputs = self.given and stores_integers(action.step)
            how = self._encoder(base, recipe.name) if by_inputs else plainly
            how = how.anew() if isinstance(how, Encoder) else how
            result = quantize(
                model,
                action.step,
                action.encoding,
                ranges=self._ranges(recipe.name, base) if action.needs_ranges else None,
                nodes=self._least_sensitive(action),
                how=how,
            )
            model = result.model
            by_data |= how.compensated if isinstance(how, Encoder) else set()
            quantized += result.quantized_nodes
            notes += result.notes
        if by_data:
            how_many = counted(len(by_data), "weight is", "weights are")
            notes.append(f"{how_many} rounded so that the calibration data gives nearly the same answers (GPTQ)")
        if recipe.quantizes and not quantized:
            reason = f": {notes[0]}" if notes else ""
            raise InputError(f"no node of this model can be quantized as {recipe.encoding}{reason}")
        if not recipe.quantizes and not base.changed:
            raise InputError("nothing to prune: the model has no float weights, or exclude names them all")
        return Applied(model, tuple(quantized), tuple(dict.fromkeys(notes)), base.sparsity)

    def float_model(self, reshapes: tuple[Reshape, ...]) -> Applied:
        """What distilling and pruning alone make; of no steps, the prepared source.

        Raises:
            InputError: a step cannot be applied.
            TimeUpError: the time was up while a network learned once more.
        """
        base = self._base(reshapes)
        return Applied(base.model, (), base.notes, base.sparsity)

    def nodes(self, action: Quantize) -> int:
        """How many nodes a quantize step can work on."""
        return len(quantizable(self.prepared, action.step))

    @property
    def channels(self) -> bool:
        """Whether there are channels that can be taken out."""
        return bool(channel_groups(self.prepared))

    def moves(self, ladder: tuple[Quantize, ...]) -> int:
        """How many moves a mixture of these encodings has; 0: there is nothing to choose, or its cost is not known."""
        try:
            return allocate.moves(self._options(self._base(()), ladder))
        except InputError:
            return 0

    def moves_like(self, ladder: tuple[Quantize, ...], whole: Quantize) -> int:
        """After how many moves a mixture is predicted to err as much as all weights stored as `whole`.

        0: it is not known, as the ladder has nothing with the same numbers.
        """
        try:
            layers = self._options(self._base(()), ladder)
        except InputError:
            return 0
        place = next((i for i, q in enumerate(ladder) if alike(q.encoding, whole.encoding)), None)
        if place is None:
            return 0
        error = sum(next((o.error for o in some if o.key == place), 0.0) for some in layers.values())
        return allocate.moves_within(layers, error)

    def sensitivity_of(self, action: Quantize) -> dict[str, float]:
        """Output error when only that node is quantized, for each node that the step can work on; measured once."""
        return self._sensitivity(self._base(()), action)

    def quality_drops(self, recipe: Recipe, errors: Mapping[str, float], evaluator: Evaluator) -> dict[str, float]:
        """Quality drop when one node alone is quantized as the recipe's first step does, the most sensitive first.

        Raises:
            InputError: the model cannot be judged node by node.
        """
        action = next(iter(recipe.telling), None)
        if action is None:
            return {}
        base = self._base(())
        nodes = sorted((n for n in errors if n in quantizable(base.model, action.step)), key=lambda n: (-errors[n], n))
        return quality_drops(
            base.model,
            nodes,
            evaluator=evaluator,
            ranges=self._ranges(action.encoding.name, base) if action.needs_ranges else None,
            encoding=action.encoding,
            threads=self.threads,
            progress=counter(self.report, "layers", action.encoding.name),
        )

    def save(self, applied: Applied) -> Built:
        """The file, named by its content's digest.

        Raises:
            InputError: the disk refuses.
        """
        draft = self.work_dir / "candidate.onnx"
        digest, size = save_model(applied.model, draft)
        self._forget(applied.model)
        path = self.work_dir / f"{digest}.onnx"
        draft.replace(path)
        return Built(path, digest, size, applied.quantized, applied.notes, applied.sparsity)

    def _forget(self, model: Any) -> None:
        """What the steps wrote for a large model is no longer needed, unless a model that stays refers to it."""
        release(model, keep=[self.prepared, *(b.model for b in self._bases.values())])

    def _base(self, reshapes: tuple[Reshape, ...]) -> _Base:
        if not reshapes and reshapes not in self._bases:
            self._bases[reshapes] = _Base(self.prepared)
        if reshapes not in self._bases:
            # Models may be large: the unpruned one and those on the way to the last pruned one are enough.
            for key in [k for k in self._bases if k != reshapes[: len(k)]]:
                self._forget(self._bases.pop(key).model)
            self._bases[reshapes] = self._reshaped(self._base(reshapes[:-1]), reshapes[-1])
        return self._bases[reshapes]

    def _reshaped(self, parent: _Base, action: Reshape) -> _Base:
        if isinstance(action, Distill):
            model, notes = self.learner.distill(self.prepared, parent.model, action)
            return _Base(model, parent.sparsity, (*parent.notes, *notes), changed=True)
        gradual = action.recover is not None and action.recover.schedule is Schedule.GRADUAL
        pruned = prune(parent.model, action)
        model, said = pruned.model, list(pruned.notes)
        if action.recover is not None:
            model, learned = self.learner.recover(self.prepared, parent.model if gradual else pruned.model, action)
            said += learned
        changed = parent.changed or bool(pruned.tensors)
        # Of all weights: what a step left alone is part of the file, too.
        return _Base(model, sparsity_of(weights(model)), (*parent.notes, *said), changed)

    def _mixed(self, base: _Base, action: Mixture) -> Applied:
        chosen = allocate.allocation(self._options(base, action.ladder), action.moves)
        mixed = mixture.mix(base.model, action.ladder, chosen, self._encoder(base, "mixed"))
        if not mixed.nodes:
            raise InputError(f"no weight of this model can be stored smaller by {counted(action.moves, 'move')}")
        notes = (*base.notes, *mixture.words(action.ladder, chosen))
        return Applied(mixed.model, mixed.nodes, notes, base.sparsity)

    def _options(self, base: _Base, ladder: tuple[Quantize, ...]) -> Mapping[str, tuple[Option, ...]]:
        if base.options is None:
            by = ladder[-1]
            found = self._sensitivity(base, by)
            base.options = mixture.options(base.model, ladder, found, by.encoding)
        return base.options

    def _encoder(self, base: _Base, name: str) -> Encode:
        """Rounds by what the weights are multiplied with, where real data tells it and the model is not a large one."""
        if base.encoder is None:
            base.encoder = plainly
            if self.compensates and not any(True for _ in kept_tensors(base.model)):
                found = grams(
                    base.model,
                    self.calibration,
                    rows=self.batch,
                    samples=INPUT_SAMPLES,
                    seed=self.seed,
                    threads=self.threads,
                    progress=counter(self.report, "inputs", name),
                )
                base.encoder = Encoder(found)
        return base.encoder

    def _ranges(self, name: str, base: _Base) -> Ranges:
        if base.ranges is None:
            path = self.work_dir / "calibrated.onnx"
            save_model(base.model, path)
            base.ranges = calibrate(
                path,
                self.calibration,
                rows=self.rows,
                samples=CALIBRATION_SAMPLES,
                seed=self.seed,
                progress=counter(self.report, "calibrate", name),
            )
            discard(path)
        return base.ranges

    def _sensitivity(self, base: _Base, action: Quantize) -> dict[str, float]:
        key = (action.encoding.family, action.step.model_dump_json(include={"include", "exclude", "precision"}))
        if key not in base.sensitivities:
            base.sensitivities[key] = sensitivity(
                base.model,
                quantizable(base.model, action.step),
                data=self.calibration,
                rows=self.rows,
                ranges=self._ranges(action.encoding.name, base) if action.needs_ranges else None,
                encoding=action.encoding,
                threads=self.threads,
                progress=counter(self.report, "sensitivity", action.encoding.name),
            )
        return base.sensitivities[key]

    def _least_sensitive(self, action: Quantize) -> frozenset[str] | None:
        if action.count is None:
            return None
        found = self.sensitivity_of(action)
        return frozenset(sorted(found, key=lambda name: (found[name], name))[: action.count])


def discard(path: Path) -> None:
    """Remove a model file, and the external data of a large one unless another candidate has the same."""
    remove_model(path)
