"""Why no candidate keeps the budget: what stops them, which comes nearest, which layers cost most, what would do. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal

from edgemodel_api.edgemodel import Budget
from edgemodel_api.quantities import counted, format_bytes
from edgemodel_api.report import Candidate, Diagnosis, Refusal

from . import gates
from .choose import pareto_front

MOST_LAYERS = 5
MOST_OFFERS = 3
#: A kibibyte more than is needed is nothing; less would not do.
_KIB = 1024


def excess(refusal: Refusal) -> float:
    """By how much a limit is missed, as a fraction of it; of a limit of 0, the value itself; infinite: it cannot run."""
    if refusal.gate == gates.LOAD or refusal.value is None:
        return math.inf
    return refusal.value / refusal.limit - 1 if refusal.limit else refusal.value


def missed(candidate: Candidate, which: frozenset[str] = gates.DETERMINISTIC) -> dict[str, float]:
    """For each gate of a kind that says no, by how much it is missed."""
    found: dict[str, float] = {}
    for refusal in candidate.refusals:
        if refusal.gate in which:
            found[refusal.gate] = max(found.get(refusal.gate, -math.inf), excess(refusal))
    return found


def nearest(candidates: Sequence[Candidate], which: frozenset[str] = gates.DETERMINISTIC) -> Candidate | None:
    """The one whose worst miss is the smallest; of equal ones the smaller file, then the earlier."""
    ranked = [
        (max(misses.values()), c.measurement.size_bytes if c.measurement else 0, index, c)
        for index, c in enumerate(candidates)
        if (misses := missed(c, which))
    ]
    return min(ranked, key=lambda r: r[:3])[3] if ranked else None


def diagnose(
    candidates: Sequence[Candidate],
    budget: Budget,
    *,
    source_bytes: int,
    drops: Mapping[str, float] | None = None,
    sensitivity: Mapping[str, float] | None = None,
    samples_needed: int | None = None,
    samples: int = 0,
    training: bool = False,
    which: frozenset[str] = gates.DETERMINISTIC,
) -> Diagnosis:
    """For a report without an accepted candidate.

    Args:
        candidates: all that were tried.
        budget: that none of them keeps.
        source_bytes: stored bytes of the source.
        drops: node to quality drop when it alone is stored as in the nearest candidate, where that was measured.
        sensitivity: node to output error, the same.
        samples_needed: how many would settle the quality, where those that there are do not.
        samples: how many there are.
        training: whether there is data to learn from.
        which: the gates that stop them.
    """
    near = nearest(candidates, which)
    misses = missed(near, which) if near is not None else {}
    # Of a limit of 0 there is no fraction.
    zero = {r.gate for r in near.refusals if not r.limit} if near is not None else set()
    finite = {gate: round(by, 4) for gate, by in misses.items() if math.isfinite(by) and gate not in zero}
    return Diagnosis(
        gates=tuple(misses),
        nearest=near.name if near is not None else None,
        missing=finite,
        costly_layers=costly(drops or {}, sensitivity or {}),
        suggestions=(
            *_offers([c for c in candidates if missed(c, which)], budget, source_bytes),
            *_worst(misses, drops or {}),
            *_hints(misses, samples=samples, needed=samples_needed, training=training),
        ),
    )


def costly(drops: Mapping[str, float], sensitivity: Mapping[str, float]) -> tuple[str, ...]:
    """Nodes that cost most quality, the worst first: by measured drop where there is one, else by error at the outputs."""
    known = {k: v for k, v in drops.items() if v > 0} or {k: v for k, v in sensitivity.items() if v > 0}
    return tuple(sorted(known, key=lambda node: (-known[node], node))[:MOST_LAYERS])


def summary(diagnosis: Diagnosis) -> str:
    """For a message: the first two things that would do."""
    return "; ".join(diagnosis.suggestions[:2])


def _offers(candidates: Sequence[Candidate], budget: Budget, source_bytes: int) -> list[str]:
    """What a wider budget would buy: candidates on the front of size and drop, the least drop first."""
    ran = [c for c in candidates if c.measurement is not None and c.measurement.quality_drop is not None]
    points = [(float(c.measurement.size_bytes) if c.measurement else math.inf, _drop(c)) for c in ran]
    front = [c for c, on in zip(ran, pareto_front(points), strict=True) if on]
    smaller = [
        c
        for c in front
        if c.measurement is not None
        and c.measurement.size_bytes < source_bytes
        and any(r.gate in _SHOWN for r in c.refusals)
    ]
    ordered = sorted(smaller, key=lambda c: (_drop(c), c.name))
    return [_offer(c, budget, source_bytes) for c in ordered[:MOST_OFFERS]]


def _offer(c: Candidate, budget: Budget, source_bytes: int) -> str:
    size = c.measurement.size_bytes if c.measurement is not None else 0
    wanted = []
    for refusal in c.refusals:
        name, value = refusal.gate, refusal.value
        if name in _SHOWN and value is not None:
            now = budget.to_json().get(name)
            text = f"{name} {_SHOWN[name](value)} (now {now})"
            wanted += [text] if text not in wanted else []
    ratio = source_bytes / max(1, size)
    return f"{' and '.join(wanted)} would let {c.name} through: {format_bytes(size)}, {ratio:.1f}x smaller"


def _worst(misses: Mapping[str, float], drops: Mapping[str, float]) -> list[str]:
    """Which layers to leave alone, with what each of them costs by itself."""
    worst = sorted((node for node in drops if drops[node] > 0), key=lambda node: (-drops[node], node))[:MOST_OFFERS]
    if gates.QUALITY not in misses or not worst:
        return []
    each = ", ".join(f"{node} {drops[node]:.2%}" for node in worst)
    return [f"leave layers as they are (exclude.nodes): by itself each costs {each}"]


def _hints(misses: Mapping[str, float], *, samples: int, needed: int | None, training: bool) -> list[str]:
    found = []
    if gates.QUALITY in misses:
        if needed is not None and needed > samples:
            found.append(
                f"{counted(samples, 'sample tells', 'samples tell')} the drop less exactly than the budget asks for:"
                f" about {needed} would settle it"
            )
        if not training:
            found.append(
                "with data.training, a prune step with recover or a distill step learns back quality that is lost by"
                " compression alone"
            )
    if gates.SIZE in misses and gates.QUALITY not in misses:
        found.append("a smaller network fits into less: distill into a student, or prune with structure: Channels")
    if gates.SHRINK in misses:
        found.append("the source has few float weights that could be stored smaller: serve it as it is")
    if gates.LOAD in misses:
        found.append(
            "what failed is in the candidates' messages: exclude the nodes that they name, or use weights only"
        )
    return found


def percent_above(fraction: float) -> str:
    """The next percentage with two digits behind the point that is not below.

    >>> percent_above(0.01234), percent_above(0.05)
    ('1.24%', '5%')
    """
    percent = (Decimal(repr(fraction)) * 100).quantize(Decimal("0.01"), rounding=ROUND_CEILING)
    return f"{percent.normalize():f}%"


#: How a budget would be written that a value just keeps.
_SHOWN: Mapping[str, Callable[[float], str]] = {
    gates.QUALITY: percent_above,
    gates.SLOWDOWN: percent_above,
    gates.SIZE: lambda value: f"{math.ceil(value / _KIB)}Ki",
    gates.MEMORY: lambda value: f"{math.ceil(value / _KIB)}Ki",
    gates.LATENCY: lambda value: f"{math.ceil(value * 1e6) / 1e3:g}ms",
}


def _drop(c: Candidate) -> float:
    found = c.measurement.quality_drop if c.measurement is not None else None
    return math.inf if found is None else found
