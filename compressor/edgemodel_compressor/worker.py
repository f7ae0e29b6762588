"""The process behind `workers`: a `Court` on standard input, then tasks; what is known on standard output."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from edgemodel_api.errors import InputError

from .workers import read, write


def main() -> None:
    """Until standard input ends."""
    # Ctrl+C ends the Job, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What the runtime prints must not get between the messages.
    os.dup2(2, 1)
    with contextlib.suppress(EOFError, BrokenPipeError):
        court = read(stdin)
        while True:
            task = read(stdin)
            try:
                write(stdout, court.judge(task))
            except InputError as error:
                write(stdout, error)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
