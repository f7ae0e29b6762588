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


def paired_latency(measurement: Measurement, source: Measurement) -> float | None:
    """Seconds: the source's median times the ratio of paired runs, by which candidates are judged; None: not measured.

    A median alone was taken at another time than the source's, and a busy machine makes it say something else.
    """
    if source.latency_median_seconds is None or measurement.slowdown is None:
        return measurement.latency_median_seconds
    return source.latency_median_seconds * max(1 + measurement.slowdown, 0.0)


def front(pairs: Iterable[tuple[float, float]], *, higher_is_better: bool) -> list[tuple[float, float]]:
    """The pairs (size, value) that no other is better than in both, by size."""
    best: list[tuple[float, float]] = []
    sign = -1 if higher_is_better else 1
    for size, value in sorted(pairs, key=lambda p: (p[0], sign * p[1])):
        if not best or sign * value < sign * best[-1][1]:
            best.append((size, value))
    return best


def focus(values: Sequence[float], *, around: Sequence[float], reach: float, higher_is_better: bool) -> Range:
    """The part of an axis where verdicts are decided; a value that is far too bad is drawn at the edge.

    Args:
        values: of all points.
        around: what must be seen: the source's value and the limits.
        reach: how far beyond `around` the axis may go on the side where it gets worse.
        higher_is_better: which side that is.
    """
    worst = min(around) - reach if higher_is_better else max(around) + reach
    beyond = [v for v in values if (v < worst if higher_is_better else v > worst)]
    seen = [*around, *(v for v in values if v not in beyond), *([worst] if beyond else [])]
    least, most = min(seen), max(seen)
    margin = max((most - least) * 0.07, max(abs(most), abs(least)) * 1e-4, 1e-9)
    # The edge that stands for what lies beyond it gets no margin: the mark lies on it.
    return Range(
        least if beyond and higher_is_better else least - margin,
        most if beyond and not higher_is_better else most + margin,
    )
