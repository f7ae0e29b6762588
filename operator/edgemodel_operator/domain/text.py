"""Sentences for conditions and events: bounded, and the same for the same state (no time that passes)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

MESSAGE_LIMIT = 1024


def shortened(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """At most `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def listed(items: Sequence[str], limit: int = 5) -> str:
    """The first few, and how many more.

    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def clock(at: datetime) -> str:
    """`2026-01-02 12:00:05Z`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
