"""A Python process that may crash, run out of memory or never end, and says in lines of JSON how far it came."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

#: Of an exception's text: memory ran out.
MEMORY = re.compile(r"bad[ _]?alloc|allocate memory|MemoryError|out of memory|std::length_error", re.IGNORECASE)


def run_child(code: str, arguments: Sequence[str], timeout: float) -> tuple[list[dict[str, Any]], int | None]:
    """Run Python code that limits itself.

    Args:
        code: a program.
        arguments: its `sys.argv[1:]`.
        timeout: seconds; the program's own limit of CPU time counts as the same end.

    Returns:
        The JSON objects that it wrote, one a line (other lines are left out), and its exit code; None: out of time.
    """
    try:
        child = subprocess.run(
            # -P: modules that lie in the current folder are not ours.
            [sys.executable, "-P", "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
        output, ended = child.stdout, child.returncode
    except subprocess.TimeoutExpired as error:
        output, ended = error.stdout or b"", None
    # SIGXCPU: the child's own limit, which it meets first where it computes all the time.
    return list(_objects(output)), None if ended == -signal.SIGXCPU else ended


def ending(code: int) -> str:
    """How a process ended, from its exit code.

    >>> ending(3), ending(-9), ending(-99)
    ('exit code 3', 'SIGKILL', 'signal 99')
    """
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _objects(output: bytes) -> Iterator[dict[str, Any]]:
    for line in output.splitlines():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value
