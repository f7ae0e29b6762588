"""`python -m edgemodel_agent run --node NAME --root DIR --objects DIR …`, or `standby --root DIR`."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    # A standby that waits stays small: what an agent needs is loaded by neither import here.
    if given[:1] == ["standby"]:
        from . import standby

        return standby.main(given[1:])
    from . import command

    return command.main(given)


if __name__ == "__main__":
    sys.exit(main())
