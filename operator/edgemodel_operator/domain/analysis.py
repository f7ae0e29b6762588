"""`spec.rollout.analysis`: what shall be measured, what measurements come to, and what a wave and a revision owe to them.

What was measured comes in by `Observed.measurements`; what counts of it is in `RolloutStatus.analysis`, so that a
restart forgets nothing and the same measurement, seen again, counts once.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from edgemodel_api.edgemodel import Analysis, EdgeModel
from edgemodel_api.edgemodel_status import AnalysisOutcome, AnalysisStatus, RolloutStatus
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import parse_duration

from .analysis_condition import ConditionError, parse

#: Without an answer for so long, somebody has to look (`Stalled`); it is asked on, and the wave waits on.
STALLED_AFTER = timedelta(minutes=10)
#: A placeholder of a query. `{{` means nothing in PromQL outside of a quoted text.
_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
PLACEHOLDERS = ("namespace", "name", "revision")


@dataclass(frozen=True)
class Probe:
    """A query to be asked, at once and every `interval`, for one wave (or the hold, both from `since` on) of one revision."""

    name: str
    query: str
    condition: str
    interval: timedelta
    revision: str
    since: datetime


@dataclass(frozen=True)
class Measurement:
    """What came of asking it once. `value`: the number or numbers, for people; `message`: why it is inconclusive."""

    probe: Probe
    at: datetime
    outcome: AnalysisOutcome
    value: str = ""
    message: str = ""


def check(model: EdgeModel) -> None:
    """What a schema cannot say of conditions and queries.

    Raises:
        InputError: one of them is wrong; the message names the field, the column and what would do.
    """
    for index, a in enumerate(model.spec.rollout.analysis):
        field = f"spec.rollout.analysis[{index}]"
        try:
            parse(a.success_condition)
        except ConditionError as error:
            raise InputError(f"{field}.successCondition: {a.success_condition!r}: {error}") from None
        for name in _PLACEHOLDER.findall(a.query):
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{{{p}}}}}" for p in PLACEHOLDERS)
                raise InputError(f"{field}.query: {{{{{name}}}}} is not known; there are {known}")


def filled_in(query: str, model: EdgeModel, revision: str) -> str:
    """A query with the EdgeModel's own names in it."""
    given = {"namespace": model.metadata.namespace, "name": model.metadata.name, "revision": revision}
    return _PLACEHOLDER.sub(lambda m: given.get(m[1], m[0]), query)


def probes_of(model: EdgeModel, rollout: RolloutStatus | None) -> tuple[Probe, ...]:
    """What shall be measured now: nothing before the first wave, and nothing of a revision that was rolled back."""
    since = _since(rollout)
    if rollout is None or since is None or rollout.rolled_back:
        return ()
    return tuple(_probe(model, a, rollout.revision, since) for a in model.spec.rollout.analysis)


def _probe(model: EdgeModel, a: Analysis, revision: str, since: datetime) -> Probe:
    query = filled_in(a.query, model, revision)
    return Probe(a.name, query, a.success_condition, parse_duration(a.interval), revision, since)


def _since(rollout: RolloutStatus | None) -> datetime | None:
    """When the wave that is under way, or the hold, began."""
    if rollout is None:
        return None
    return rollout.finished_at or rollout.wave_started_at


def _digest(a: Analysis) -> str:
    return hashlib.sha256(f"{a.query}\0{a.success_condition}".encode()).hexdigest()[:12]


def record_of(a: Analysis, rollout: RolloutStatus) -> AnalysisStatus | None:
    """What is known of it in this wave or hold; None: nothing yet."""
    found = next((r for r in rollout.analysis if r.name == a.name), None)
    return found if found is not None and (found.query_digest, found.since) == (_digest(a), _since(rollout)) else None


def counted(
    model: EdgeModel, measurements: tuple[Measurement, ...], rollout: RolloutStatus, now: datetime, *, final: bool
) -> RolloutStatus:
    """With what was measured in this wave or hold, and not counted yet.

    Args:
        model: with the queries.
        measurements: of any wave.
        rollout: so far.
        now: of the pass.
        final: whether the first failure too many decides, whatever else was measured until somebody looked; else, where there is
            nothing to go back to, later answers count.
    """
    known = []
    for a, probe in zip(model.spec.rollout.analysis, probes_of(model, rollout), strict=False):
        record = record_of(a, rollout)
        # Later than the wave's own beginning, so that what begins in a pass counts nothing of the same pass.
        mine = sorted((m for m in measurements if m.probe == probe and probe.since < m.at <= now), key=lambda m: m.at)
        for m in mine:
            if final and record is not None and record.failures > a.failure_limit:
                break
            if record is None:
                record = AnalysisStatus(
                    name=a.name, query_digest=_digest(a), since=probe.since, outcome=m.outcome, measured_at=probe.since
                )
                record = _noted(record, m, a.failure_limit, rollout, anew=True)
            elif m.at > record.measured_at:
                record = _noted(record, m, a.failure_limit, rollout)
        if record is not None:
            known.append(record)
    return rollout if tuple(known) == rollout.analysis else rollout.replace(analysis=tuple(known))


def _noted(
    r: AnalysisStatus, m: Measurement, limit: int, rollout: RolloutStatus, *, anew: bool = False
) -> AnalysisStatus:
    """One measurement, counted; the same record, if it changes nothing (no status is written for the sake of a time)."""
    held = rollout.finished_at is not None
    same = r.outcome is m.outcome and not anew
    fresh = {"outcome": m.outcome, "value": m.value, "measured_at": m.at}
    if m.outcome is AnalysisOutcome.INCONCLUSIVE:
        since = r.inconclusive_since or m.at
        if same and (held or m.at - since >= STALLED_AFTER):
            return r
        count = r.inconclusive + 1
        return r.replace(**fresh, message=m.message, inconclusive=count, inconclusive_since=since)
    fresh |= {"message": "", "inconclusive": 0, "inconclusive_since": None}
    if m.outcome is AnalysisOutcome.FAILURE:
        return r if same and r.failures > limit else r.replace(**fresh, failures=r.failures + 1)
    confirms = _shows_wave(m.at, rollout) and not _shows_wave(r.measured_at, rollout)
    if same and not confirms and not (held and r.failures):
        return r
    return r.replace(**fresh, failures=0 if held else r.failures)


def _shows_wave(at: datetime, rollout: RolloutStatus) -> bool:
    """Whether every reachable node of the wave served by then: what was measured before says little of the wave."""
    return rollout.wave_complete_at is not None and at > rollout.wave_complete_at


def held(rollout: RolloutStatus, now: datetime) -> RolloutStatus:
    """The rollout, finished: what its last wave has shown is where the hold begins."""
    kept = tuple(r.replace(since=now, failures=0) for r in rollout.analysis)
    return rollout.replace(finished_at=now, analysis=kept)


def too_many(model: EdgeModel, rollout: RolloutStatus) -> str:
    """Why the revision has to go; empty: it may stay."""
    for a in model.spec.rollout.analysis:
        r = record_of(a, rollout)
        if r is not None and r.failures > a.failure_limit:
            where = "in a row after the last wave" if rollout.finished_at is not None else _wave(rollout)
            times = "once" if r.failures == 1 else f"{r.failures} times"
            return (
                f"query {a.name} failed {times} {where}, more than the failureLimit {a.failure_limit}:"
                f" {r.value}, and {a.success_condition} must hold"
            )
    return ""


def _wave(rollout: RolloutStatus) -> str:
    return f"in wave {rollout.wave + 1}/{rollout.waves}"


def pending(model: EdgeModel, rollout: RolloutStatus) -> tuple[Analysis, ...]:
    """Queries that hold the wave back: those that have not succeeded since it was full, or not at the last time."""
    return tuple(a for a in model.spec.rollout.analysis if not _has_shown(record_of(a, rollout), rollout))


def _has_shown(r: AnalysisStatus | None, rollout: RolloutStatus) -> bool:
    return r is not None and r.outcome is AnalysisOutcome.SUCCESS and _shows_wave(r.measured_at, rollout)


def stalls_at(r: AnalysisStatus | None) -> datetime | None:
    """From when on somebody has to look; None: it has an answer, or was not asked yet."""
    return r.inconclusive_since + STALLED_AFTER if r is not None and r.inconclusive_since is not None else None
