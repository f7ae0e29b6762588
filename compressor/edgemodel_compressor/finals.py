"""From all outcomes to what goes into the artifact: judged on all samples, verified on each kind of CPU, and timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from edgemodel_api.job import Progress

from . import choose
from .bench import Outcome
from .measure import Lab
from .progress import Report
from .publish import Finalists

#: Candidates of the front that are timed for the plot, though they are no finalists.
MOST_PLOTTED = 6


@dataclass
class Finals:
    """Picks, confirms and verifies until nothing changes any more.

    Attributes:
        lab: with all outcomes so far; better known ones are put back.
        platforms: of the Job.
        verified: what takes an outcome's place, in the lab afterwards.
        report: where progress goes.
        count: of compressed variants that each platform may have.
        only_size: whether nothing but bytes decides among them (`choose.only_size`).
    """

    lab: Lab
    platforms: tuple[str, ...]
    verified: Callable[[Outcome], Outcome]
    report: Report
    count: int
    only_size: bool = False
    _seen: set[str] = field(default_factory=set)

    def picked(self) -> Finalists:
        """For each platform what goes into the artifact; empty: nothing passes.

        Raises:
            InputError: the disk is full.
        """
        while True:
            pool = distinct(o for o in self.lab.outcomes if o.accepted)
            picked = {
                p: choose.pick(pool, p, self.count, only_size=self.only_size) for p in sorted(set(self.platforms))
            }
            all_picked = {o.name: o for some in picked.values() for o in some}
            unsure = [o for o in all_picked.values() if not o.complete or o.path is None]
            if unsure:
                names = ", ".join(o.name for o in unsure)
                self.report(Progress(stage="confirm", message=f"{names}: quality on all samples"))
                self.lab.confirm(unsure)
                continue
            unverified = [o for o in all_picked.values() if o.recipe.integer_compute and o.name not in self._seen]
            if not unverified:
                return picked if any(picked.values()) else {}
            self._seen.add(unverified[0].name)
            self._seen.add(self.verified(unverified[0]).name)

    def timed(self, finalists: Finalists) -> Finalists:
        """With their latency and memory; one that cannot run in a process of its own is out."""
        names = dict.fromkeys(o.name for some in finalists.values() for o in some)
        found: dict[str, Outcome] = {}
        for outcome in self.lab.outcomes:
            if outcome.name in names:
                self.report(Progress(stage="time", done=len(found), total=len(names), message=outcome.name))
                found[outcome.name] = self.lab.bench.timed(outcome)
                self.lab.put(found[outcome.name])
        for outcome in self._plotted(names):
            self.lab.put(self.lab.bench.timed(outcome, rough=True))
        running = {p: tuple(found[o.name] for o in some if found[o.name].accepted) for p, some in finalists.items()}
        return running if any(running.values()) else {}

    def _plotted(self, names: Iterable[str]) -> list[Outcome]:
        """Accepted candidates that size and quality put on the front: without a clock they would count as the slowest."""
        ran = [o for o in self.lab.outcomes if o.accepted and o.measurement is not None]
        points = [(float(o.size_bytes), o.drop) for o in ran]
        front = [o for o, on in zip(ran, choose.pareto_front(points), strict=True) if on]
        wanted = [o for o in front if o.name not in names and o.path is not None]
        return sorted(wanted, key=lambda o: (o.size_bytes, o.name))[:MOST_PLOTTED]


def distinct(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """Of two with the same bytes, the first."""
    first: dict[str, Outcome] = {}
    for outcome in outcomes:
        first.setdefault(outcome.file_digest or outcome.name, outcome)
    return tuple(first.values())
