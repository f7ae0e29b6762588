"""What the candidates' figure shows, as numbers: points, their front, and the part of the axis worth drawing. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from edgemodel_api.report import CompressionReport, Measurement


class Kind(StrEnum):
    """What became of a candidate; drawn in this order, so that the chosen one is never covered."""

    REFUSED = "refused"
    ACCEPTED = "accepted"
    SOURCE = "source"
    CHOSEN = "chosen"


class Point(NamedTuple):
    """A measured candidate."""

    name: str
    kind: Kind
    on_front: bool
    measurement: Measurement


class Range(NamedTuple):
    """The drawn part of an axis."""

    low: float
    high: float

    def clip(self, value: float) -> float:
        """The value, or the end of the axis that it lies beyond."""
        return max(self.low, min(self.high, value))


def points(report: CompressionReport, chosen: frozenset[str]) -> tuple[Point, ...]:
    """The source, and every candidate that was measured, the most telling ones last.

    Args:
        report: of the compressor.
        chosen: names of the candidates that nodes run (or would).
    """
    found = [Point("source", Kind.CHOSEN if "source" in chosen else Kind.SOURCE, True, report.source)]
    for candidate in report.candidates:
        if candidate.measurement is not None and candidate.name != "source":
            kind = Kind.CHOSEN if candidate.name in chosen else Kind.ACCEPTED if candidate.accepted else Kind.REFUSED
            found.append(Point(candidate.name, kind, candidate.on_front, candidate.measurement))
    order = list(Kind)
    return tuple(sorted(found, key=lambda p: (order.index(p.kind), p.on_front, -p.measurement.size_bytes, p.name)))


def front(pairs: Iterable[tuple[float, float]], *, higher_is_better: bool) -> list[tuple[float, float]]:
    """The pairs (size, value) that no other is better than in both, by size."""
    best: list[tuple[float, float]] = []
    sign = -1 if higher_is_better else 1
    for size, value in sorted(pairs, key=lambda p: (p[0], sign * p[1])):
        if not best or sign * value < sign * best[-1][1]:
            best.append((size, value))
    return best


def focus(values: Sequence[float], *, around: Sequence[float], reach: float) -> Range:
    """The part of an axis where verdicts are decided; a value far beyond it is drawn at the edge.

    Args:
        values: of all points.
        around: what must be seen: the source's value and the limits.
        reach: how far beyond `around` the axis may go.
    """
    low, high = min(around) - reach, max(around) + reach
    inside = [v for v in values if low <= v <= high]
    seen = [*around, *inside]
    beyond_low, beyond_high = any(v < low for v in values), any(v > high for v in values)
    least, most = min(seen), max(seen)
    least, most = low if beyond_low else least, high if beyond_high else most
    margin = max((most - least) * 0.07, abs(most) * 1e-4, 1e-12)
    return Range(least if beyond_low else least - margin, most if beyond_high else most + margin)
