"""The agents of the local nodes: started, adopted, restarted, drained. What a DaemonSet does in a cluster."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import edgemodel_agent
import edgemodel_api
import edgemodel_oci
from edgemodel_agent.processes import find_servers
from edgemodel_agent.runtime_dir import runtime_dir
from edgemodel_api.edgenode import EdgeNode
from edgemodel_api.errors import EdgeModelError, TransientError
from edgemodel_cli.nodes_file import LocalNode

from .children import Child, last_line
from .workdir import Workdir

log = logging.getLogger(__name__)

#: A drain takes at most 25 s on a node (edgemodel_agent.node.DRAIN_SECONDS).
STOP_SECONDS = 30.0
#: An agent imports, detects its hardware and reports.
FIRST_REPORT_SECONDS = 60.0
#: A report so old is still news of an agent that is alive: a few heartbeats.
ADOPTED_REPORT = timedelta(seconds=10)
#: Deaths of one agent during one command; then its node counts as offline.
MAX_RESTARTS = 3


@dataclass
class Running:
    """One node's agent. `since`: when we began to wait for its reports; `restarts`: how often it died meanwhile."""

    node: LocalNode
    child: Child
    since: datetime
    restarts: int = 0


class Agents:
    """All agents of one workdir."""

    def __init__(self, workdir: Workdir) -> None:
        self.workdir = workdir
        self.running: dict[str, Running] = {}

    def record(self, name: str) -> Path:
        """Where a node's process is noted."""
        return self.workdir.agents / f"{name}.json"

    def log(self, name: str) -> Path:
        """What a node's agent says."""
        return self.workdir.agents / f"{name}.log"

    def start(self, nodes: Iterable[LocalNode]) -> None:
        """One agent for each node, none for others. An agent that runs already is kept, unless its options or its
        code are no longer what they were; it is then replaced while its servers go on serving.

        Raises:
            TransientError: a process cannot be started.
        """
        wanted = {n.name: n for n in nodes}
        self.stop([name for name in self.recorded() if name not in wanted])
        for name, node in wanted.items():
            child = Child.find(self.record(name))
            if child is not None and child.record.options != tuple(self._options(node)):
                log.info("the agent of %s is replaced: its options or its code changed", name)
                self._replace(child, node)
                child = None
            now = datetime.now(UTC)
            # An agent that is at work already has reported lately; a new one's first report must be its own.
            since = (
                now if child is None else max(now - ADOPTED_REPORT, datetime.fromtimestamp(child.record.created, UTC))
            )
            self.running[name] = Running(node, child or self._spawn(node), since)

    def recorded(self) -> list[str]:
        """Nodes for which an agent was noted, whether it still runs or not."""
        return sorted(p.stem for p in self.workdir.agents.glob("*.json"))

    def _replace(self, child: Child, node: LocalNode) -> None:
        if str(self.workdir.nodes / node.name) not in child.record.options:
            # The workdir was moved: nobody would find the servers again that belong to the old root.
            child.signal(signal.SIGTERM)
            child.wait(STOP_SECONDS)
        # On SIGTERM an agent drains its servers. After SIGKILL, for which it is made (DESIGN.md, invariant 2), they go
        # on serving, and the next agent of the same root adopts them.
        child.kill()

    def _options(self, node: LocalNode) -> list[str]:
        options = ["--node", node.name, "--root", str(self.workdir.nodes / node.name)]
        options += ["--objects", str(self.workdir.objects), "--address", node.address]
        for key, value in sorted(node.labels.items()):
            options += ["--label", f"{key}={value}"]
        if node.threads is not None:
            options += ["--server-threads", str(node.threads)]
        if node.rehearse is not None:
            options += ["--rehearse", json.dumps(node.rehearse.to_json(), sort_keys=True)]
        return [*options, f"code={code_version()}"]

    def _spawn(self, node: LocalNode) -> Child:
        options = self._options(node)
        command = [sys.executable, "-m", "edgemodel_agent", "run", *options[:-1]]
        try:
            self.log(node.name).write_bytes(b"")
            return Child.start(command, record=self.record(node.name), log=self.log(node.name), options=options)
        except OSError as error:
            raise TransientError(f"the agent of {node.name} cannot be started: {error}") from None

    def supervise(self) -> tuple[str, ...]:
        """Start agents again that died, as a DaemonSet would; names of those that were."""
        again = []
        for name, running in self.running.items():
            if running.child.alive() or running.restarts >= MAX_RESTARTS:
                continue
            log.warning("the agent of %s ended: %s", name, last_line(self.log(name)) or "it said nothing")
            running.restarts += 1
            running.child = self._spawn(running.node)
            again.append(name)
        return tuple(again)

    def waiting_for(self, nodes: Iterable[EdgeNode], now: datetime) -> tuple[str, ...]:
        """Nodes whose agent has not reported since this command began.

        Raises:
            TransientError: one does not come up; says what it said last.
        """
        reports = {n.metadata.name: n.status.last_report_time for n in nodes}
        silent = []
        for name, running in self.running.items():
            reported = reports.get(name)
            if reported is not None and reported >= running.since:
                continue
            silent.append(name)
            gone = running.restarts >= MAX_RESTARTS and not running.child.alive()
            if gone or now - running.since > timedelta(seconds=FIRST_REPORT_SECONDS):
                said = last_line(self.log(name)) or "it said nothing"
                raise TransientError(f"the agent of {name} does not come up: {said} (log: {self.log(name)})")
        return tuple(silent)

    def stop(self, names: Iterable[str] | None = None) -> tuple[str, ...]:
        """Let agents drain their servers and end, all at once; kill what does not. Names of those that ran."""
        wanted = self.recorded() if names is None else list(names)
        found = {}
        for name in wanted:
            mine = self.running.get(name)
            child = mine.child if mine is not None else Child.find(self.record(name))
            if child is not None and child.alive():
                child.signal(signal.SIGTERM)
                found[name] = child
        deadline = time.monotonic() + STOP_SECONDS
        for child in found.values():
            child.wait(max(0.0, deadline - time.monotonic()))
        self.kill(wanted)
        return tuple(found)

    def kill(self, names: Iterable[str] | None = None) -> None:
        """End agents and every model server of theirs at once."""
        for name in self.recorded() if names is None else names:
            mine = self.running.pop(name, None)
            child = mine.child if mine is not None else Child.find(self.record(name))
            if child is not None:
                child.kill()
            self.record(name).unlink(missing_ok=True)
            self._kill_servers(name)

    def _kill_servers(self, name: str) -> None:
        """Servers whose agent is gone: each is in a session of its own, so nothing else would end them. Their sockets go too."""
        root = self.workdir.nodes / name
        try:
            if root.is_dir():
                sockets = runtime_dir(root)
                for server in find_servers(sockets):
                    server.kill()
                shutil.rmtree(sockets, ignore_errors=True)
        except (OSError, EdgeModelError) as error:
            log.warning("servers of %s cannot be looked for: %s", name, error)


@functools.cache
def code_version() -> str:
    """A short hash of the interpreter and of names, sizes and times of the files that an agent runs."""
    material = [sys.executable]
    for package in (edgemodel_agent, edgemodel_api, edgemodel_oci):
        for folder in package.__path__:
            for path in sorted(Path(folder).rglob("*.py")):
                s = path.stat()
                material.append(f"{path}:{s.st_size}:{s.st_mtime_ns}")
    return hashlib.sha256("\n".join(material).encode()).hexdigest()[:16]
