"""Ctrl-C and friends: the first one asks for an orderly end, the second one ends everything at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exit_code(number: int) -> int:
    """As shells write the end by a signal."""
    return 128 + number


def stopped_by(number: int) -> str:
    """What every command says of its end by a signal.

    >>> stopped_by(2)
    'edgemodel: stopped by SIGINT'
    """
    return f"edgemodel: stopped by {signal.Signals(number).name}"


@contextmanager
def on_signals(first: Callable[[int], None], second: Callable[[], None]) -> Iterator[None]:
    """Call `first(number)` at the first signal; at the next, `second()`, and end this process."""
    came = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came += 1
        if came == 1:
            first(number)
        else:
            try:
                second()
            finally:
                os._exit(exit_code(number))

    before = {n: signal.signal(n, handle) for n in NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
