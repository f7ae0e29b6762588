"""The report's table of candidates, with the Pareto front. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgemodel_api.hardware import HardwareClass
from edgemodel_api.quantities import counted
from edgemodel_api.report import Candidate, Measurement

from .bench import Outcome
from .choose import pareto_front


def table(
    outcomes: Sequence[Outcome], platforms: Sequence[str], chosen: Outcome | None, source: Measurement
) -> tuple[Candidate, ...]:
    """One row for each candidate, in the order in which they were tried.

    The front is over size, quality drop and slowdown, among the source and the candidates that ran, refused ones too:
    they show what another budget would buy. One that was not timed counts as the slowest.
    """
    ran = [o for o in outcomes if o.measurement is not None]
    points = [_point(source), *(_point(o.measurement) for o in ran if o.measurement is not None)]
    front = {o.name for o, on in zip(ran, pareto_front(points)[1:], strict=True) if on}
    return tuple(
        _row(o, platforms, on_front=o.name in front, chosen=chosen is not None and o.name == chosen.name)
        for o in outcomes
    )


def _row(o: Outcome, platforms: Sequence[str], *, on_front: bool, chosen: bool) -> Candidate:
    notes = list(o.notes)
    if not o.complete and o.measurement is not None:
        notes.append(f"a first look at {counted(o.measurement.samples or 0, 'sample')} only: not followed up")
    return Candidate(
        name=o.name,
        encoding=o.recipe.encoding,
        recipe=o.recipe.words,
        platforms=tuple(p for p in platforms if o.classes_on(p) is not None),
        hardware_classes=_classes(o),
        measurement=o.measurement,
        accepted=o.accepted,
        refusals=o.refusals,
        on_front=on_front,
        chosen=chosen,
        quantized_nodes=len(o.quantized),
        verified=o.verified,
        repairs=o.repairs,
        notes=tuple(notes),
    )


def _classes(o: Outcome) -> tuple[str, ...]:
    """Those that it is for, by name; empty: all."""
    meant = frozenset(map(str, HardwareClass)) if o.recipe.classes is None else o.recipe.classes
    left = meant - o.lost
    return () if len(left) == len(HardwareClass) else tuple(sorted(left))


def _point(m: Measurement) -> tuple[float, float, float]:
    drop = math.inf if m.quality_drop is None else m.quality_drop
    return float(m.size_bytes), drop, math.inf if m.slowdown is None else m.slowdown
