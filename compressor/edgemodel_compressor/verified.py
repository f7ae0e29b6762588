"""Finalists on every kind of CPU that they are meant for: what does not hold there is repaired, or is not for it.

Files that compute in float are left out: they run the source's own kernels. A repair is a new candidate, measured as all
others are, and verified again; the first that holds takes the broken one's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgemodel_api.errors import InputError
from edgemodel_api.job import Progress
from edgemodel_api.report import Verification

from .bench import Outcome
from .candidates import classes_on, classes_there
from .measure import Lab
from .progress import Report
from .recipe import Quantize, Recipe
from .search import Effort
from .steps.encodings import Encoding
from .verify import Machines, Samples, repair_words, repairs_for, verify


@dataclass(frozen=True)
class Verifier:
    """Verifies and repairs.

    Attributes:
        lab: measures repairs.
        samples: requests and their judge.
        machines: kinds of CPU that this machine can be.
        platforms: of the Job.
        work_dir: for requests and answers.
        report: where progress goes.
    """

    lab: Lab
    samples: Samples
    machines: Machines
    platforms: Sequence[str]
    work_dir: Path
    report: Report

    def verified(self, outcome: Outcome) -> Outcome:
        """What takes its place: itself, with what was seen; or a repaired one. Both are in the lab afterwards.

        Raises:
            InputError: the disk is full.
        """
        rows = self._rows(outcome)
        broken = [v for v in rows if v.holds is False]
        seen = replace(outcome, verified=rows, lost=frozenset(v.hardware_class for v in broken))
        self.lab.put(seen)
        return self._repaired(seen, broken) if broken else seen

    def _rows(self, outcome: Outcome) -> tuple[Verification, ...]:
        classes = [c for p in self.platforms for c in hardware_classes(outcome.recipe, p)]
        if outcome.path is None or not classes:
            return ()
        self.report(Progress(stage="verify", message=f"{outcome.name} on {', '.join(dict.fromkeys(classes))}"))
        return verify(
            outcome.path,
            classes=classes,
            samples=self.samples,
            machines=self.machines,
            work_dir=self.work_dir,
        )

    def _repaired(self, outcome: Outcome, broken: Sequence[Verification]) -> Outcome:
        action = next((q for q in outcome.recipe.quantizes if q.integer_compute), None)
        if action is None or outcome.path is None:
            return outcome
        try:
            ways = repairs_for(action.encoding, outcome.path, feeds=self.samples.feeds, broken=broken)
        except InputError:
            return outcome
        wanted = {v.hardware_class for v in broken}
        for encoding in ways:
            for found in self.lab.measure([with_encoding(outcome.recipe, action, encoding)], Effort.FULL, patient=True):
                if found.accepted:
                    rows = self._rows(found)
                    lost = frozenset(v.hardware_class for v in rows if v.holds is False)
                    repaired = replace(found, verified=rows, repairs=repair_words(encoding), lost=lost)
                    self.lab.put(repaired)
                    if not lost & wanted:
                        return repaired
        return outcome


def hardware_classes(recipe: Recipe, platform: str) -> tuple[str, ...]:
    """The classes of a platform that a recipe is meant for, by name."""
    meant = classes_on(recipe, platform)
    if meant is None:
        return ()
    return meant or classes_there(platform)


def with_encoding(recipe: Recipe, action: Quantize, encoding: Encoding) -> Recipe:
    """The recipe with another encoding in one of its steps."""
    return Recipe(tuple(replace(action, encoding=encoding) if a is action else a for a in recipe.actions))
