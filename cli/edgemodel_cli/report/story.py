"""The timeline of one rollout, as bars: what each node was in, from when to when. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from edgemodel_api.edgemodel_status import RolloutStatus
from edgemodel_api.edgenode import TargetState
from edgemodel_cli.timeline import OFFLINE, NodeChange


class Phase(StrEnum):
    """What a bar shows; in the order of a node's way."""

    PREVIOUS = "on another revision"
    PENDING = "pending"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    CHECKING = "checking"
    SERVING = "serving"
    FAILED = "failed"
    OFFLINE = "offline"


PHASES = {
    TargetState.PENDING: Phase.PENDING,
    TargetState.DOWNLOADING: Phase.DOWNLOADING,
    TargetState.DOWNLOADED: Phase.DOWNLOADED,
    TargetState.CHECKING: Phase.CHECKING,
    TargetState.SERVING: Phase.SERVING,
    TargetState.FAILED: Phase.FAILED,
    OFFLINE: Phase.OFFLINE,
}


class Bar(NamedTuple):
    """One phase of one node; seconds since the story began."""

    start: float
    end: float
    phase: Phase
    change: NodeChange


class Row(NamedTuple):
    """One node. `wave` is 0-based, None: it was never let in."""

    node: str
    wave: int | None
    bars: tuple[Bar, ...]


class Border(NamedTuple):
    """When a wave began."""

    wave: int
    at: float


class Story(NamedTuple):
    """A rollout from its first change to its last."""

    began: datetime
    seconds: float
    rows: tuple[Row, ...]
    borders: tuple[Border, ...]
    #: When the first node was sent back, if the rollout was rolled back.
    rolled_back: float | None


def tell(timeline: Sequence[NodeChange], revision: str, rollout: RolloutStatus | None = None) -> Story | None:
    """The last rollout of this revision; None: the timeline knows nothing of it.

    Args:
        timeline: changes of all nodes and revisions; those of one node are in their order.
        revision: the one whose rollout is told.
        rollout: its status, if known: when it began and ended, and whether it was rolled back.
    """
    about = rollout if rollout is not None and rollout.revision == revision else None
    own = [c for c in timeline if c.revision == revision]
    if about is not None and about.started_at is not None:
        # Run again, or after a rollback: an earlier rollout of the same revision is another story.
        own = [c for c in own if c.at >= about.started_at - timedelta(seconds=1)] or own
    if not own:
        return None
    began, last = min(c.at for c in own), max(c.at for c in timeline)
    ended = max(last, about.finished_at) if about is not None and about.finished_at is not None else last
    seconds = max((ended - began).total_seconds(), 1.0)
    seconds += max(seconds * 0.04, 0.5)  # the last state is a state too, and must be seen
    by_node: dict[str, list[NodeChange]] = {}
    for change in timeline:
        by_node.setdefault(change.node, []).append(change)
    rows = [_row(node, changes, revision, began, seconds) for node, changes in by_node.items()]
    rows = [r for r in rows if r.bars]
    rows.sort(key=lambda r: (r.wave is None, r.wave or 0, r.node))
    back = None
    if about is not None and about.rolled_back:
        returns = [at for changes in by_node.values() for at in _returns(changes, revision, began)]
        finished = [about.finished_at] if about.finished_at is not None else []
        back = min((_seconds(at, began) for at in returns or finished), default=None)
    return Story(began, seconds, tuple(rows), _borders(by_node.values(), revision, began), back)


def _seconds(at: datetime, began: datetime) -> float:
    return max((at - began).total_seconds(), 0.0)


def _row(node: str, changes: Sequence[NodeChange], revision: str, began: datetime, seconds: float) -> Row:
    waves = [c.wave for c in changes if c.revision == revision and c.wave >= 0 and c.at >= began]
    ordered = sorted(changes, key=lambda c: c.at)
    before = [c for c in ordered if c.at < began][-1:]
    kept = before + [c for c in ordered if c.at >= began]
    bars: list[Bar] = []
    for i, change in enumerate(kept):
        start = _seconds(change.at, began)
        end = _seconds(kept[i + 1].at, began) if i + 1 < len(kept) else seconds
        phase = phase_of(change, revision)
        if bars and bars[-1].phase is phase and bars[-1].change.revision == change.revision:
            bars[-1] = bars[-1]._replace(end=end, change=change)
        elif end > start or i + 1 == len(kept):
            bars.append(Bar(start, end, phase, change))
    return Row(node, max(waves, default=None), tuple(bars))


def phase_of(change: NodeChange, revision: str) -> Phase:
    """Serving is told apart by revision; a state that is not known waits."""
    phase = next((p for state, p in PHASES.items() if state == change.state), Phase.PENDING)
    return Phase.PREVIOUS if phase is Phase.SERVING and change.revision != revision else phase


def _returns(changes: Sequence[NodeChange], revision: str, began: datetime) -> Iterable[datetime]:
    """When a node that had this revision was given another one."""
    had = False
    for change in changes:
        if change.at >= began and change.revision == revision:
            had = True
        elif had and change.revision and change.revision != revision:
            yield change.at
            return


def _borders(by_node: Iterable[Sequence[NodeChange]], revision: str, began: datetime) -> tuple[Border, ...]:
    starts: dict[int, float] = {}
    for changes in by_node:
        state = ""
        for change in changes:
            if change.at >= began and change.revision == revision and change.wave >= 0 and change.state != state:
                at = _seconds(change.at, began)
                starts[change.wave] = min(at, starts.get(change.wave, at))
            # Let in, but still in the state that the prefetch left it in: its time is the prefetch's, not the wave's.
            state = change.state if change.revision == revision else ""
    return tuple(Border(wave, at) for wave, at in sorted(starts.items()))


def counts(story: Story) -> tuple[list[float], dict[Phase, list[int]]]:
    """For many nodes: (instants, phase → nodes in it from that instant on)."""
    instants = sorted({0.0, *(b.start for r in story.rows for b in r.bars), story.seconds})
    deltas: dict[Phase, dict[float, int]] = {phase: {} for phase in Phase}
    for row in story.rows:
        for bar in row.bars:
            found = deltas[bar.phase]
            found[bar.start] = found.get(bar.start, 0) + 1
            if bar.end < story.seconds:
                found[bar.end] = found.get(bar.end, 0) - 1
    totals: dict[Phase, list[int]] = {}
    for phase, changes in deltas.items():
        running, line = 0, []
        for instant in instants:
            running += changes.get(instant, 0)
            line.append(running)
        totals[phase] = line
    return instants, totals
