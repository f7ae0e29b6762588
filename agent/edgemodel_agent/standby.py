"""`standby --root DIR`: serves what the store holds while no agent does, as after a boot without the API server.

It runs as a static pod, which a kubelet starts by itself. While an agent works it waits, small: what an agent needs is
imported when it becomes one, and given back by starting anew afterwards.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO

from edgemodel_api.errors import EXIT_BAD_INPUT, EXIT_OK, EdgeModelError

from . import claims

log = logging.getLogger(__name__)

#: A python that waits costs as much CPU as it looks often.
LOOK_SECONDS = 0.25


class Ending:
    """Set by SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self.now = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)

    def _end(self, _number: int, _frame: object) -> None:
        self.now = True


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="edgemodel-agent standby", description=__doc__.partition("\n")[0])
    found.add_argument("--root", required=True, type=Path, help="the agent's --root")
    found.add_argument("--address", help="IP that clients use (default: the agent's own)")
    return found


def wait(root: Path, ending: Ending) -> tuple[IO[str], IO[str]] | None:
    """Until no agent works in `root`, and none waits to: the standby's own lock and the store's. None: it shall end.

    Raises:
        InputError: the folder cannot be written.
    """
    mine = None
    while not ending.now:
        mine = mine or claims.try_lock(root / claims.STANDBY)
        if mine is not None and not claims.claimed(root) and (lock := claims.try_lock(root / claims.LOCK)) is not None:
            return mine, lock
        time.sleep(LOOK_SECONDS)
    return None


def be_agent(root: Path, address: str | None, lock: IO[str], ending: Ending) -> bool:
    """Serve until an agent takes over (True) or until the end."""
    from .loop import Agent
    from .objects import NoObjects
    from .options import remembered

    agent = Agent(remembered(root, address), NoObjects())

    def end(_number: int, _frame: object) -> None:
        ending.now = agent.stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    agent.stopping = ending.now
    return agent.run(lock=lock)


def main(arguments: list[str]) -> int:
    """Wait and serve in turn, until SIGTERM or SIGINT; the exit code."""
    given = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    ending = Ending()
    root = given.root.resolve()
    try:
        log.info("standing by for %s", root)
        found = wait(root, ending)
        if found is None:
            return EXIT_OK
        log.info("no agent works in %s: the standby serves", root)
        handed_over = be_agent(root, given.address, found[1], ending)
    except EdgeModelError as error:
        print(f"edgemodel-agent standby: {error.message}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"edgemodel-agent standby: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if handed_over and not ending.now:
        # The same process, as in a pod the first one must not end; and as small as before.
        os.execv(sys.executable, [sys.executable, "-m", "edgemodel_agent", "standby", *arguments])  # noqa: S606
    return EXIT_OK
