"""Measuring recipes: known from before, or built here and judged by workers; then clocks, when nothing else runs.

Recipes of one call are built one after the other and judged at the same time. Outcomes come in the order in which they
were asked for, and are the same with and without workers, and with and without the cache.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from edgemodel_api import reasons
from edgemodel_api.errors import InputError
from edgemodel_api.job import Progress
from edgemodel_api.quantities import format_bytes

from . import entries, gates
from .bench import Bench, Clocks, Outcome
from .build import Builder, Built, discard
from .cache import Cache, Entry, content_key
from .deadline import Deadline, TimeUpError
from .judge import Known, Task
from .keys import recipe_key
from .progress import Report
from .recipe import NAME_LIMIT, Recipe
from .search import Effort
from .workers import in_order

log = logging.getLogger(__name__)


class Judges(Protocol):
    """`workers.Here` or `workers.Workers`."""

    @property
    def count(self) -> int:
        """Tasks at a time."""

    def submit(self, task: Task) -> Future[Known]:
        """What is known of a file afterwards."""

    def drop(self) -> None:
        """Give up what is under way."""

    def close(self) -> None:
        """End them."""


@dataclass
class _Item:
    """One recipe on its way: `built` without a file where it is known from before, `failure` where it cannot be built."""

    name: str
    recipe: Recipe
    key: str
    entry: Entry | None = None
    built: Built | None = None
    path: Path | None = None
    future: Future[Known] | None = None
    failure: str = ""
    lasting: bool = True


class Lab:
    """Builds and measures, and remembers every outcome by its name, in the order in which they were measured."""

    def __init__(
        self,
        *,
        builder: Builder,
        bench: Bench,
        judges: Judges,
        cache: Cache,
        deadline: Deadline,
        report: Report,
    ) -> None:
        """With what there is.

        Args:
            builder: applies recipes.
            bench: verdicts and clocks.
            judges: here or in workers.
            cache: of earlier measurements.
            deadline: of the search.
            report: where progress goes.
        """
        self.builder, self.bench = builder, bench
        self._judges, self.cache, self._deadline, self._report = judges, cache, deadline, report
        self._outcomes: dict[str, Outcome] = {}
        self._known: dict[str, Known] = {}
        self._probed: set[str] = set()
        #: Whether the time was up before everything that was asked for was measured.
        self.stopped = False
        #: How many outcomes were known from before.
        self.reused = 0
        #: Of candidates that could not be built: name → reason.
        self.reasons: dict[str, str] = {}

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """All so far."""
        return tuple(self._outcomes.values())

    def measure(self, recipes: Sequence[Recipe], effort: Effort, *, patient: bool = False) -> tuple[Outcome, ...]:
        """Outcomes in the order of the recipes; fewer, where the time was up. A bad candidate is an outcome, no error.

        Args:
            recipes: those of one call may be judged at the same time.
            effort: how exactly.
            patient: whatever the time is.

        Raises:
            InputError: the disk is full.
        """
        items: list[_Item] = []
        lanes = self._lanes(len(recipes))
        for recipe in recipes:
            if not patient and self._late(len(items)):
                break
            item = self._begun(recipe, effort, items, lanes)
            if item is None:
                break
            items.append(item)
        outcomes = self._gathered(items, patient=patient)
        if len(outcomes) < len(recipes):
            self.stopped = True
            self._judges.drop()
        return tuple(self._settled(item, o, effort) for item, o in zip(items, outcomes, strict=False))

    def confirm(self, outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
        """The same, judged on all samples, with their files; whatever the time is."""
        items = []
        for o in outcomes:
            item = _Item(o.name, o.recipe, self._key(o.recipe), path=o.path)
            try:
                item.built = self._again(o, item)
            except (InputError, TimeUpError) as error:
                if isinstance(error, InputError) and error.reason == reasons.DISK_FULL:
                    raise
                why = f"it was measured in an earlier run and cannot be built again now: {error}"
                self._outcomes[o.name] = replace(o, refusals=(*o.refusals, gates.load_refusal(why)))
                continue
            known = self._known.get(item.built.digest, Known())
            if not known.complete and self.cache.on and (entry := self.cache.entry(item.key)) is not None:
                remembered = entries.known_of(entry, self.bench.court, full=True)
                if entry.file_digest == item.built.digest and remembered.rows is not None:
                    known = remembered
            self._submit(item, known, full=True, lanes=self._lanes(len(outcomes)))
            items.append(item)
        found = self._gathered(items, patient=True)
        for item, o in zip(items, found, strict=True):
            self._outcomes[item.name] = o
            self._remember(item, None)
        return found

    def put(self, outcome: Outcome) -> None:
        """A better known outcome of the same name."""
        self._outcomes[outcome.name] = outcome

    def close(self) -> None:
        """End the workers, and keep the cache within its bound."""
        self._judges.close()
        self.cache.trim()

    def _lanes(self, files: int) -> int:
        """Runs at a time on each of so many files: together as many as there are workers."""
        return max(1, self._judges.count // max(1, files))

    def _late(self, begun: int) -> bool:
        # One candidate there has to be: without any there is nothing to tell.
        return bool(self._outcomes or begun) and self._deadline.passed

    def _begun(self, recipe: Recipe, effort: Effort, others: Iterable[_Item], lanes: int) -> _Item | None:
        """The recipe on its way; None: the time was up."""
        name = self._name(recipe, {i.name: i.recipe for i in others})
        item = _Item(name, recipe, self._key(recipe))
        self._report(Progress(stage="candidates", done=len(self._outcomes), message=name))
        item.entry = self.cache.entry(item.key) if self.cache.on else None
        full, court = effort is Effort.FULL, self.bench.court
        if item.entry is not None and (item.entry.failure or item.entry.file_digest):
            known = self._known.get(item.entry.file_digest) or entries.known_of(item.entry, court, full=full)
            if item.entry.failure and not item.entry.file_digest:
                item.failure = item.entry.failure
            if item.failure or court.enough(known, full=full):
                self.reused += 1
                log.info("%s was measured in an earlier run", name)
                item.built = entries.built_of(item.entry)
                item.future = _done(known)
                return item
        try:
            item.built = self.builder.save(self.builder.apply(recipe))
        except TimeUpError:
            return None
        except InputError as error:
            if error.reason == reasons.DISK_FULL:
                raise
            # Memory may be there next time; a model that has no weights to prune will have none.
            item.failure, item.lasting = error.message, error.reason != reasons.INSUFFICIENT_MEMORY
            self.reasons[name] = error.reason
            return item
        item.path = item.built.path
        same = next(
            (o for o in others if o.built is not None and o.built.digest == item.built.digest and o.future), None
        )
        if same is not None:
            item.future = same.future
            return item
        known = self._known.get(item.built.digest, Known())
        if known.rows is None and item.entry is not None and item.entry.file_digest == item.built.digest:
            known = entries.known_of(item.entry, court, full=full)
        self._submit(item, known, full=full, lanes=lanes)
        return item

    def _submit(self, item: _Item, known: Known, *, full: bool, lanes: int) -> None:
        if item.path is None or self.bench.court.enough(known, full=full):
            item.future = _done(known)
            return
        recipe = item.recipe
        # Integer kernels have crashed processes; whether they do depends on the encoding.
        probed = recipe.integer_compute and recipe.encoding not in self._probed
        if probed:
            self._probed.add(recipe.encoding)
        task = Task(item.path, known, one_by_one=recipe.dynamic, full=full, probed=probed, lanes=lanes)
        item.future = self._judges.submit(task)

    def _gathered(self, items: Sequence[_Item], *, patient: bool = False) -> tuple[Outcome, ...]:
        found: list[Outcome] = []
        waiting = [i.future or _done(Known(failure=i.failure)) for i in items]

        def left() -> float:
            return float("inf") if patient or not (self._outcomes or found) else self._deadline.left

        for item, known in zip(items, in_order(waiting, left), strict=False):
            if item.built is None or not item.built.digest:
                refusal = gates.load_refusal(item.failure or known.failure)
                found.append(Outcome(name=item.name, recipe=item.recipe, refusals=(refusal,)))
                continue
            if known.failure:
                self._probed.discard(item.recipe.encoding)
            self._known[item.built.digest] = known
            found.append(self.bench.outcome(item.name, item.recipe, item.built, known, path=item.path))
        return tuple(found)

    def _settled(self, item: _Item, outcome: Outcome, effort: Effort) -> Outcome:
        """Kept, told, and cached. One that is out gets a rough clock for the plot, and its file has served."""
        clocks: Clocks | None = None
        if not outcome.accepted and outcome.loads and (not item.recipe.prunes or effort is Effort.FULL):
            clocks = self._rough(item, outcome)
            outcome = self.bench.with_clocks(outcome, clocks) if clocks is not None else outcome
        self._remember(item, clocks)
        if not outcome.accepted and outcome.path is not None:
            shared = any(o.path == outcome.path for o in self._outcomes.values())
            if not shared:
                discard(outcome.path)
            outcome = replace(outcome, path=None)
        self._outcomes[item.name] = outcome
        self._report(Progress(stage="candidates", done=len(self._outcomes), message=self._said(outcome)))
        return outcome

    def _rough(self, item: _Item, outcome: Outcome) -> Clocks | None:
        if outcome.path is None:
            return entries.clocks_of(item.entry)
        try:
            return self.bench.clocks(outcome, rough=True)
        except InputError:
            return None

    def _again(self, outcome: Outcome, item: _Item) -> Built:
        """The file of an outcome, built once more where only its numbers were kept."""
        if outcome.path is None:
            built = self.builder.save(self.builder.apply(outcome.recipe))
            if built.digest != outcome.file_digest:
                # It was another file that was measured (other threads, another build of a library): begin anew.
                self._known.pop(outcome.file_digest, None)
            item.path = built.path
            return built
        size = outcome.measurement.file_bytes if outcome.measurement is not None else 0
        sparsity = outcome.measurement.sparsity if outcome.measurement is not None else None
        return Built(outcome.path, outcome.file_digest, size, outcome.quantized, outcome.notes, sparsity)

    def _remember(self, item: _Item, clocks: Clocks | None) -> None:
        if not self.cache.on:
            return
        known = self._known.get(item.built.digest, Known()) if item.built is not None else Known(failure=item.failure)
        entry = entries.entry_of(item.built, known, clocks)
        # What cannot be built, never can (but for memory); why a run failed may lie in this machine.
        if not entry.rows and (item.built is not None or not item.lasting):
            return
        before = item.entry or self.cache.entry(item.key)
        if before is not None and before.complete and not entry.complete and before.file_digest == entry.file_digest:
            return  # all samples say more than some
        if entry != before:
            self.cache.keep(item.key, entry)

    def _key(self, recipe: Recipe) -> str:
        return content_key(self.cache.context, recipe_key(recipe)) if self.cache.on else ""

    def _name(self, recipe: Recipe, others: dict[str, Recipe]) -> str:
        taken = {name: o.recipe for name, o in self._outcomes.items()} | others
        name = recipe.name
        while name in taken and taken[name] != recipe:
            stem = recipe.name[: NAME_LIMIT - 5]
            name = f"{stem}-{sum(n.startswith(stem) for n in taken) + 1}"
        return name

    def _said(self, outcome: Outcome) -> str:
        measurement = outcome.measurement
        if measurement is None:
            return f"{outcome.name}: {outcome.refusals[0].message if outcome.refusals else 'not measured'}"
        ratio = self.bench.source.size_bytes / max(1, measurement.size_bytes)
        metric = self.bench.court.evaluator.basis.metric
        quality = "" if measurement.quality is None else f", {metric} {measurement.quality:.4g}"
        drop = "" if measurement.quality_drop is None else f" (drop {measurement.quality_drop:.2%})"
        verdict = "" if outcome.accepted else ", refused"
        return f"{outcome.name}: {format_bytes(measurement.size_bytes)} ({ratio:.1f}x smaller){quality}{drop}{verdict}"


def _done(known: Known) -> Future[Known]:
    future: Future[Known] = Future()
    future.set_result(known)
    return future
