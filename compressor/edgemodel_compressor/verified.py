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

from . import host
from .bench import Outcome
from .cache import content_key
from .candidates import classes_on, classes_there
from .measure import Lab
from .progress import Report
from .recipe import Quantize, Recipe
from .search import Effort
from .steps.encodings import Encoding
from .verify import Machines, Samples, repair_words, repairs_for, verify
from .workers import workers_for


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
        workers: kinds of CPU at a time; None: as many as there are cores and memory for.
    """

    lab: Lab
    samples: Samples
    machines: Machines
    platforms: Sequence[str]
    work_dir: Path
    report: Report
    workers: int | None = None

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
        kept = {c: row for c in classes if (row := self._kept(outcome, c)) is not None}
        rest = [c for c in dict.fromkeys(classes) if c not in kept]
        if rest:
            self.report(Progress(stage="verify", message=f"{outcome.name} on {', '.join(rest)}"))
            size = outcome.measurement.file_bytes if outcome.measurement is not None else 0
            found = verify(
                outcome.path,
                classes=rest,
                samples=self.samples,
                machines=self.machines,
                work_dir=self.work_dir,
                workers=self.workers or workers_for(host.cores(), host.memory_left(), size),
            )
            for row in found:
                self._keep(outcome, row)
            kept |= {row.hardware_class: row for row in found}
        return tuple(kept[c] for c in dict.fromkeys(classes))

    def _kept(self, outcome: Outcome, hardware_class: str) -> Verification | None:
        key = self._key(outcome, hardware_class)
        return self.lab.cache.verification(key) if key else None

    def _keep(self, outcome: Outcome, row: Verification) -> None:
        """Only what was seen whole: how far a slow machine came in the time is nothing to remember."""
        key = self._key(outcome, row.hardware_class)
        if key and row.holds is not None and row.samples == len(self.samples.feeds) * self.samples.rows:
            self.lab.cache.keep_verification(key, row)

    def _key(self, outcome: Outcome, hardware_class: str) -> str:
        machine = self.machines.of(hardware_class)
        if not self.lab.cache.on or machine is None or not outcome.file_digest:
            return ""
        about = [outcome.file_digest, hardware_class, machine.how.value, machine.cpu, self.samples.limit]
        return content_key(self.lab.cache.context, "verify", about, len(self.samples.feeds))

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
