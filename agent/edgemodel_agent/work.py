"""The bodies of jobs: what worker threads do. They touch content and processes, never a model's state."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from edgemodel_api.edgemodel import ServingMode
from edgemodel_api.edgenode import ArtifactTarget, AssignedModel, Measured

from .checks import (
    RECHECK_FACTOR,
    RECHECK_FLOOR,
    Checker,
    Limits,
    judge_golden,
    judge_latency,
    limits_of,
    run_checks,
    trial_of,
)
from .faults import Fault, Rehearsal
from .fetch import Fetched, fetch_variant
from .files_mode import lay_down
from .jobs import Job
from .measured import Latency
from .node import Node
from .processes import BACKLOG, ServerProcess, control_name, spawn
from .server_logs import log_path
from .state import Deployed
from .store import Loaded

#: Timing within a recheck is short: it shares the CPU with requests.
RECHECK_TIMING_SECONDS = 0.1


@dataclass(frozen=True)
class Checked:
    """A server that passed, and what was measured."""

    server: ServerProcess
    measured: Measured


def launch(
    node: Node,
    job: Job,
    *,
    key: str,
    target: ArtifactTarget,
    loaded: Loaded,
    listener: socket.socket,
    memory: int | None = None,
    rehearsal: Rehearsal | None = None,
) -> ServerProcess:
    """Start a server of a variant whose files were verified just now; the job owns it. `memory`: its limit, in bytes."""
    job.check_cancelled()
    fault = None
    if rehearsal is not None and rehearsal.fault is not Fault.NO_DISK:
        fault = json.dumps({"fault": rehearsal.fault.value, "at": rehearsal.at.value})
    return job.own(
        spawn(
            model=loaded.model,
            name=key.partition("/")[2],
            version=target.revision,
            digest=target.digest,
            listener=listener,
            control=node.runtime / control_name(key, target.digest),
            log=log_path(node.options.root, key, target.digest),
            threads=node.options.server_threads,
            memory=memory,
            fault=fault,
        )
    )


def fetch(
    node: Node, job: Job, labels: tuple[str, str], target: ArtifactTarget, rehearsal: Rehearsal | None = None
) -> Fetched:
    """Bring a variant here. `labels`: namespace and name of the EdgeModel, for the node's series."""

    def progress(done: int) -> None:
        job.done_bytes = done
        job.check_cancelled()

    with node.one_fetch(job):
        began = time.monotonic()
        try:
            found = fetch_variant(
                node.store,
                target,
                reserve=node.options.reserve,
                progress=progress,
                received=node.metrics.received(labels),
                no_disk=rehearsal is not None and rehearsal.fault is Fault.NO_DISK,
            )
        finally:
            took = time.monotonic() - began
            node.metrics.download_seconds.labels(*labels).inc(took)
        node.metrics.download_retries.labels(*labels).inc(found.retries)
        if found.bytes:
            node.metrics.downloads.labels(*labels).observe(took)
        return found


def check(
    node: Node, job: Job, desired: AssignedModel, listener: socket.socket, rehearsal: Rehearsal | None
) -> Checked:
    """Verify, start beside what runs, run all checks. The server that passed is handed to the loop, not yet accepting."""
    loaded = node.store.load(desired.target.digest)
    limits = limits_of(loaded.golden_spec, desired.health_check, desired.budget)
    server = launch(
        node,
        job,
        key=desired.key,
        target=desired.target,
        loaded=loaded,
        listener=listener,
        memory=limits.memory,
        rehearsal=rehearsal,
    )
    if desired.target.digest not in node.state.served:
        # What served here before has passed: a node that is put back must not be held up by a slow day.
        limits = dataclasses.replace(limits, trial=trial_of(desired.target))
    try:
        measured = run_checks(server, loaded, limits, job.check_cancelled)
    except BaseException:
        server.kill()
        raise
    return Checked(server, measured)


def restart(
    node: Node,
    job: Job,
    *,
    key: str,
    deployed: Deployed,
    listener: socket.socket | None,
    folder: Path,
    timeout: float,
    memory: int | None = None,
) -> ServerProcess | None:
    """Bring the committed variant up again: verify, start, accept (Files mode: lay it down again)."""
    loaded = node.store.load(deployed.target.digest)
    if deployed.mode is ServingMode.FILES or listener is None:
        lay_down(folder, deployed.target, loaded.model, loaded.data, name=loaded.name)
        return None
    rehearsal = node.rehearses(deployed.target.digest)
    server = launch(
        node,
        job,
        key=key,
        target=deployed.target,
        loaded=loaded,
        listener=listener,
        memory=memory,
        rehearsal=rehearsal,
    )
    try:
        Checker(server, timeout, job.check_cancelled).wait_ready()
        listener.listen(BACKLOG)
        with server.client() as client:
            client.accept()
    except BaseException:
        server.kill()
        raise
    server.accepted = True
    server.started = time.monotonic()
    return server


def recheck(node: Node, job: Job, server: ServerProcess, desired: AssignedModel) -> str | None:
    """Ask a serving process for the golden cases again; why it is bad now, or None.

    The p99 is not judged: it belongs to the requests that share the CPU. A median over any limit is.
    """
    loaded = node.store.load(desired.target.digest)
    limits: Limits = dataclasses.replace(
        limits_of(loaded.golden_spec, desired.health_check, desired.budget),
        trial=trial_of(desired.target, factor=RECHECK_FACTOR, floor=RECHECK_FLOOR),
    )
    checker = Checker(server, limits.timeout, job.check_cancelled)
    problem = judge_golden(checker.golden(loaded), limits.golden)
    if problem is not None:
        return problem
    timed = checker.latency(RECHECK_TIMING_SECONDS)
    return judge_latency(Latency(timed.median, timed.median), limits)
