"""Building candidates: a recipe applied to the prepared model. Pruned models, ranges and sensitivities are kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemodel_api.edgemodel import PruneStep
from edgemodel_api.errors import InputError

from .candidates import Quantize, Recipe
from .evaluate.runner import Batches
from .formats.onnx_model import save_model
from .progress import Report, counter
from .steps.calibrate import Ranges, calibrate
from .steps.prune import prune
from .steps.quantize import quantizable, quantize
from .steps.sensitivity import sensitivity
from .steps.weights import sparsity_of, weights

CALIBRATION_SAMPLES = 256


@dataclass(frozen=True)
class Built:
    """A candidate's file.

    Attributes:
        path: the file.
        digest: its sha256, hex.
        quantized: names of the quantized nodes.
        notes: of the steps, for the report.
        sparsity: share of exact zeros among all weights once pruned; None: nothing was. (Small numbers round more to zero.)
    """

    path: Path
    digest: str
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
    """A pruned model, and what was calibrated on it."""

    model: Any
    sparsity: float | None
    notes: tuple[str, ...] = ()
    pruned: bool = False
    ranges: Ranges | None = None


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
    """

    prepared: Any
    calibration: Batches
    rows: int
    work_dir: Path
    seed: int
    report: Report
    _bases: dict[tuple[PruneStep, ...], _Base] = field(default_factory=dict)
    _sensitivities: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)

    def apply(self, recipe: Recipe) -> Applied:
        """The recipe's model.

        Raises:
            InputError: a step cannot be applied, or there is nothing to quantize.
        """
        base = self._base(recipe.prunes)
        model, quantized, notes = base.model, list[str](), [*base.notes]
        for action in recipe.quantizes:
            result = quantize(
                model,
                action.step,
                action.encoding,
                ranges=self._ranges(recipe, base) if action.needs_ranges else None,
                nodes=self._least_sensitive(action),
            )
            model = result.model
            quantized += result.quantized_nodes
            notes += result.notes
        if recipe.quantizes and not quantized:
            reason = f": {notes[0]}" if notes else ""
            raise InputError(f"no node of this model can be quantized as {recipe.encoding}{reason}")
        if not recipe.quantizes and not base.pruned:
            raise InputError("nothing to prune: the model has no float weights, or exclude names them all")
        return Applied(model, tuple(quantized), tuple(dict.fromkeys(notes)), base.sparsity)

    def nodes(self, action: Quantize) -> int:
        """How many nodes a quantize step can work on."""
        return len(quantizable(self.prepared, action.step))

    def _base(self, prunes: tuple[PruneStep, ...]) -> _Base:
        if prunes not in self._bases:
            # Models may be large: the unpruned one and the last pruned one are enough.
            for key in [k for k in self._bases if k]:
                del self._bases[key]
            model, sparsity, notes, tensors = self.prepared, None, list[str](), 0
            for step in prunes:
                pruned = prune(model, step)
                model = pruned.model
                tensors += len(pruned.tensors)
                notes += pruned.notes
            if prunes:
                # Of all weights: what a step left alone is part of the file, too.
                sparsity = sparsity_of(weights(model))
            self._bases[prunes] = _Base(model, sparsity, tuple(notes), pruned=tensors > 0)
        return self._bases[prunes]

    def _ranges(self, recipe: Recipe, base: _Base) -> Ranges:
        if base.ranges is None:
            path = self.work_dir / "calibrated.onnx"
            save_model(base.model, path)
            base.ranges = calibrate(
                path,
                self.calibration,
                rows=self.rows,
                samples=CALIBRATION_SAMPLES,
                seed=self.seed,
                progress=counter(self.report, "calibrate", recipe.name),
            )
            path.unlink(missing_ok=True)
        return base.ranges

    def sensitivity_of(self, action: Quantize) -> dict[str, float]:
        """Output error when only that node is quantized, for each node that the step can work on; measured once."""
        key = (action.encoding.name, action.step.model_dump_json(include={"include", "exclude", "precision"}))
        if key not in self._sensitivities:
            base = self._base(())
            self._sensitivities[key] = sensitivity(
                self.prepared,
                quantizable(self.prepared, action.step),
                data=self.calibration,
                rows=self.rows,
                ranges=self._ranges(Recipe((action,)), base) if action.needs_ranges else None,
                encoding=action.encoding,
                progress=counter(self.report, "sensitivity", action.encoding.name),
            )
        return self._sensitivities[key]

    def _least_sensitive(self, action: Quantize) -> frozenset[str] | None:
        if action.count is None:
            return None
        found = self.sensitivity_of(action)
        return frozenset(sorted(found, key=lambda name: (found[name], name))[: action.count])

    def save(self, applied: Applied) -> Built:
        """The file, named by its content's digest.

        Raises:
            InputError: the disk refuses.
        """
        draft = self.work_dir / "candidate.onnx"
        save_model(applied.model, draft)
        with draft.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path = self.work_dir / f"{digest}.onnx"
        draft.replace(path)
        return Built(path, digest, applied.quantized, applied.notes, applied.sparsity)
