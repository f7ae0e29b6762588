"""When the next wave begins: the soak is over, the analysis says yes, a window is open, a person approved."""

from __future__ import annotations

from edgemodel_api import reasons
from edgemodel_api.edgemodel import Approval
from edgemodel_api.edgemodel_status import ANNOTATION_APPROVED, RolloutStatus
from edgemodel_api.quantities import counted

from . import analysis, analysis_text
from .assign import Goal
from .observed import Observed
from .outcome import Say
from .pool import Pool, Stage
from .stand import Line, Stand
from .text import clock
from .windows import WindowState


def next_waves(stand: Stand, pool: Pool, rollout: RolloutStatus) -> tuple[RolloutStatus, Say | None]:
    """Begin the waves that may begin; and why the next one may not, if only that holds it back.

    A wave in which there is nobody left to let in is over as soon as it began.
    """
    if rollout.finished_at is not None:
        return rollout, None
    line = Line.of(pool, stand.goal, rollout)
    while True:
        if rollout.wave_started_at is None:
            upcoming = 0
            if not line.inside and not line.line:
                return rollout, _nobody(pool, stand.goal)
        else:
            rollout = _soaking(stand, rollout, line)
            upcoming = rollout.wave + 1
            soaked = stand.soaked_at(rollout)
            if soaked is None or stand.now < soaked:
                return rollout, None
            if not line.settled(stand.quota(rollout)):
                return rollout, None
            if unproven := analysis_text.waiting(stand.observed.model, rollout):
                return rollout, unproven
            if upcoming == len(stand.counts):
                return analysis.held(rollout, stand.now), None
        gate = _gate(stand, rollout.revision, upcoming)
        if gate is not None:
            return rollout, gate
        rollout = rollout.replace(wave=upcoming, wave_started_at=stand.now, wave_complete_at=None, analysis=())


def _soaking(stand: Stand, rollout: RolloutStatus, line: Line) -> RolloutStatus:
    if rollout.wave_complete_at is None and line.settled(stand.quota(rollout)) and _anybody_serves(line, rollout):
        return rollout.replace(wave_complete_at=stand.now)
    return rollout


def _anybody_serves(line: Line, rollout: RolloutStatus) -> bool:
    """A first wave in which nobody serves has shown nothing; a later one may have had nobody left to let in."""
    return rollout.wave > 0 or any(m.stage is Stage.SERVING for m in line.inside)


def approved_wave(observed: Observed, revision: str) -> int:
    """Up to which wave, counted from 1, the annotation approves this revision; 0: none.

    `edgemodel.dev/approved: "3f0c…/2"` lets the first two waves of revision 3f0c… begin.
    """
    text = observed.model.metadata.annotations.get(ANNOTATION_APPROVED, "")
    name, _, wave = text.partition("/")
    return int(wave) if name == revision and wave.isascii() and wave.isdigit() and len(wave) < 6 else 0


def _gate(stand: Stand, revision: str, wave: int) -> Say | None:
    """Why this wave (0-based) may not begin now."""
    which = f"wave {wave + 1}/{len(stand.counts)}"
    if stand.rollout.approval is Approval.MANUAL and approved_wave(stand.observed, revision) < wave + 1:
        return Say(
            reasons.WAITING_FOR_APPROVAL,
            f"{which} waits for a person: set the annotation {ANNOTATION_APPROVED}={revision}/{wave + 1}",
        )
    return None if stand.window.open else Say(reasons.WAITING_FOR_WINDOW, f"{which} waits: {window_text(stand.window)}")


def window_text(window: WindowState) -> str:
    """When the next window opens."""
    if window.changes_at is None:
        return "none of spec.rollout.windows ever opens"
    return f"the next window opens at {clock(window.changes_at)}"


def _nobody(pool: Pool, goal: Goal) -> Say:
    offline = sum(not m.online for m in pool)
    unfit = sum(m.online and goal.target(m) is None for m in pool)
    return Say(
        reasons.WAITING_FOR_NODES,
        f"none of {counted(len(pool), 'node')} can be let in: {offline} offline, {unfit} without a fitting variant",
    )
