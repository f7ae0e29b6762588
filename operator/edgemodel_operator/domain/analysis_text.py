"""What there is to say of an analysis: the condition `Analyzed`, and why a wave waits for it."""

from __future__ import annotations

from edgemodel_api import reasons
from edgemodel_api.edgemodel import Analysis, EdgeModel
from edgemodel_api.edgemodel_status import AnalysisOutcome, AnalysisStatus, RolloutStatus
from edgemodel_api.quantities import counted, parse_duration

from .analysis import STALLED_AFTER, pending, record_of, too_many
from .outcome import Flag, Say
from .text import clock, shortened

_REASONS = {
    AnalysisOutcome.SUCCESS: reasons.ANALYSIS_SUCCEEDED,
    AnalysisOutcome.INCONCLUSIVE: reasons.ANALYSIS_INCONCLUSIVE,
    AnalysisOutcome.FAILURE: reasons.ANALYSIS_FAILED,
}
#: What matters most is what the whole is called.
_ORDER = (
    reasons.ANALYSIS_FAILED,
    reasons.ANALYSIS_INCONCLUSIVE,
    reasons.ANALYZING,
    reasons.ANALYSIS_SUCCEEDED,
)


def analyzed(model: EdgeModel, rollout: RolloutStatus) -> Flag | None:
    """The condition `Analyzed`; None: nothing is analysed (yet)."""
    wanted = model.spec.rollout.analysis
    if not wanted or rollout.wave_started_at is None:
        return None
    said = [(_reason(r), _sentence(a, r, rollout)) for a in wanted for r in [record_of(a, rollout)]]
    said.sort(key=lambda one: _ORDER.index(one[0]))
    reason = said[0][0]
    text = "; ".join(sentence for _, sentence in said)
    if too_many(model, rollout):
        text = f"{text}; there is no earlier revision to go back to, so this one goes on serving"
    return Flag(reason == reasons.ANALYSIS_SUCCEEDED, Say(reason, shortened(text)))


def waiting(model: EdgeModel, rollout: RolloutStatus) -> Say | None:
    """Why a wave that has soaked is not over; None: it is, as far as the analysis goes."""
    left = pending(model, rollout)
    if not left:
        return None
    said = [(_reason(r), _sentence(a, r, rollout)) for a in left for r in [record_of(a, rollout)]]
    inconclusive = any(reason == reasons.ANALYSIS_INCONCLUSIVE for reason, _ in said)
    reason = reasons.ANALYSIS_INCONCLUSIVE if inconclusive else reasons.ANALYZING
    which = f"wave {rollout.wave + 1}/{rollout.waves}"
    return Say(reason, shortened(f"{which} waits for its analysis: {'; '.join(text for _, text in said)}", 700))


def _reason(r: AnalysisStatus | None) -> str:
    return reasons.ANALYZING if r is None else _REASONS[r.outcome]


def _sentence(a: Analysis, r: AnalysisStatus | None, rollout: RolloutStatus) -> str:
    if r is None:
        return f"{a.name}: not measured yet"
    if r.outcome is AnalysisOutcome.SUCCESS:
        return f"{a.name}: {a.success_condition} holds ({r.value} at {clock(r.measured_at)})"
    if r.outcome is AnalysisOutcome.FAILURE:
        failed = counted(r.failures, "failure")
        return f"{a.name}: {r.value}, and {a.success_condition} must hold ({failed}, failureLimit {a.failure_limit})"
    since = f"since {clock(r.inconclusive_since)}" if r.inconclusive_since is not None else ""
    if rollout.finished_at is not None:
        tries = since
    elif (
        r.inconclusive_since is not None
        and r.measured_at + parse_duration(a.interval) - r.inconclusive_since >= STALLED_AFTER
    ):
        tries = f"{r.inconclusive} tries and more {since}"
    else:
        tries = f"{counted(r.inconclusive, 'try', 'tries')} {since}"
    return f"{a.name} is inconclusive: {shortened(r.message, 240)} ({tries})"
