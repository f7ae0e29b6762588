"""Maintenance windows: when nodes may switch. Cron by cronsim, time zones by zoneinfo."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from edgemodel_api.edgemodel import Window
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import parse_duration

#: So many adjoining windows are followed to find when they close (a schedule may well never do).
FOLLOWED = 50


@dataclass(frozen=True)
class WindowState:
    """`open`: nodes may switch now. `changes_at`: when to ask again, as that may change then; None: it never does."""

    open: bool
    changes_at: datetime | None


def window_state(windows: Iterable[Window], now: datetime) -> WindowState:
    """Whether any window is open at `now`; without windows it always is.

    A window is open from each time that its schedule names, for its duration: [start, start + duration). Windows may
    overlap and adjoin, and one may last longer than the time to its next start. Schedules are in local time: across a
    change of the clocks, they behave as Debian's cron does.

    Raises:
        InputError: a schedule or time zone that does not exist; the message names the field.

    >>> w = Window(schedule="0 2 * * *", duration="3h", time_zone="Europe/Berlin")
    >>> state = window_state([w], datetime(2026, 11, 24, 0, 30, tzinfo=UTC))
    >>> state.open, state.changes_at.isoformat()
    (False, '2026-11-24T01:00:00+00:00')
    """
    parsed = [(_zone(w, i), w, parse_duration(w.duration)) for i, w in enumerate(windows)]
    if not parsed:
        return WindowState(open=True, changes_at=None)
    closes = now
    for _ in range(FOLLOWED):
        # Windows that adjoin or overlap are one, until one leaves a gap.
        later = max((e for i, p in enumerate(parsed) if (e := _end(p, i, closes)) is not None), default=closes)
        if later <= closes:
            break
        closes = later
    if closes > now:
        return WindowState(open=True, changes_at=closes)
    starts = [s for i, p in enumerate(parsed) if p[2] > timedelta(0) and (s := _next(p, i, now)) is not None]
    return WindowState(open=False, changes_at=min(starts, default=None))


_Parsed = tuple[ZoneInfo, Window, timedelta]


def _zone(window: Window, index: int) -> ZoneInfo:
    try:
        return ZoneInfo(window.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(
            f"spec.rollout.windows[{index}].timeZone: {window.time_zone!r} is not a time zone: use a name such as"
            " Europe/Berlin or UTC"
        ) from None


def _cron(parsed: _Parsed, index: int, at: datetime, *, reverse: bool) -> CronSim:
    zone, window, _ = parsed
    try:
        return CronSim(window.schedule, at.astimezone(zone), reverse=reverse)
    except CronSimError as error:
        raise InputError(
            f"spec.rollout.windows[{index}].schedule: {window.schedule!r} is not a cron schedule ({error}): write minute,"
            ' hour, day of month, month and day of week, such as "0 2 * * *"'
        ) from None


def _end(parsed: _Parsed, index: int, at: datetime) -> datetime | None:
    """When the window that is open at `at` closes; None: it is closed then."""
    # The iterator leaves out its own start, so begin a second later to find one that starts at this very second.
    start = next(_cron(parsed, index, at.replace(microsecond=0) + timedelta(seconds=1), reverse=True), None)
    if start is None:
        return None
    end = start.astimezone(UTC) + parsed[2]
    return end if start <= at < end else None


def _next(parsed: _Parsed, index: int, at: datetime) -> datetime | None:
    start = next(_cron(parsed, index, at, reverse=False), None)
    return None if start is None else start.astimezone(UTC)
