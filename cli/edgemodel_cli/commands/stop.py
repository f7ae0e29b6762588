"""`edgemodel stop`: drain and end what `run --keep-serving` left running."""

from __future__ import annotations

from edgemodel_cli.embedded.agents import Agents
from edgemodel_cli.embedded.job_process import JobProcess
from edgemodel_cli.embedded.lock import workdir_lock
from edgemodel_cli.embedded.workdir import Workdir, disk_error


def stop(workdir: Workdir) -> tuple[str, ...]:
    """Names of the nodes that were running.

    Raises:
        InputError: a `run` is at work there, or the folder cannot be written.
    """
    try:
        with workdir_lock(workdir.root, "stop"):
            for folder in workdir.jobs.glob("*/"):
                JobProcess(folder).end_leftover()
            return Agents(workdir).stop()
    except OSError as error:
        raise disk_error(f"--workdir {workdir.root}", error) from error
