"""What all parts of one agent share: its folders, options, content store, metrics, and the servers that it drains."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgemodel_api.errors import EdgeModelError

from .faults import Rehearsal
from .files import read_json, write_json
from .foreign import find_all
from .jobs import Job
from .metrics import AgentMetrics
from .processes import ServerProcess
from .state import NodeState
from .store import Store

log = logging.getLogger(__name__)

#: How long requests in flight may take after a drain.
DRAIN_SECONDS = 25.0


@dataclass(frozen=True)
class Options:
    """Command line options of an agent, with their defaults.

    Attributes:
        node: name of the EdgeNode.
        root: folder for content and state; one agent per root.
        address: what clients call the node; stands in endpoints.
        bind: address that model servers listen at.
        interval: seconds between two looks at the desired state.
        recheck: seconds between two golden checks of a variant that serves; 0: never.
        reserve: bytes of disk that a download must leave free.
        server_threads: threads of one inference in each model server; None: one, as compression measured.
        leave_servers: on SIGTERM, leave the servers to the next agent instead of draining them.
        claim: wait for the root if another agent has it, and hand it over to one that waits.
        standby: this is the node's standby: it hands over to any agent, at any time.
        expects_standby: a standby shall be on this node; the status says whether one is.
        ready_file: a file that is there while this agent works, or waits for the root.
        rehearsal: a fault to rehearse.
    """

    node: str
    root: Path
    address: str = "127.0.0.1"
    bind: str = "127.0.0.1"
    interval: float = 0.2
    recheck: float = 30.0
    reserve: int = 32 * 2**20
    server_threads: int | None = None
    leave_servers: bool = False
    claim: bool = False
    standby: bool = False
    expects_standby: bool = False
    ready_file: Path | None = None
    rehearsal: Rehearsal | None = None


@dataclass
class Retiring:
    """A server that was told to drain, and when its patience ends (monotonic seconds)."""

    server: ServerProcess
    deadline: float


@dataclass
class Node:
    """Shared by the runners of one agent.

    `wake` ends the loop's sleep early; `timing` is set while a trial times models, which checks must not disturb;
    `collect` asks the loop for a garbage collection.
    """

    options: Options
    store: Store
    runtime: Path
    metrics: AgentMetrics
    state: NodeState = field(default_factory=NodeState)
    wake: threading.Event = field(default_factory=threading.Event)
    retiring: list[Retiring] = field(default_factory=list)
    collect: bool = True
    timing: bool = False
    _fetching: threading.Lock = field(default_factory=threading.Lock)

    def load_state(self) -> None:
        """Read node.json."""
        document = read_json(self.options.root / "node.json")
        if document is not None:
            self.state = NodeState.model_validate(document)

    def note_served(self, digest: str) -> None:
        """Remember that this variant served here."""
        if digest not in self.state.served:
            self.state = self.state.replace(served=(*self.state.served, digest))
            write_json(self.options.root / "node.json", self.state.to_json())

    def rehearses(self, digest: str) -> Rehearsal | None:
        """The fault that applies to a variant, if any."""
        rehearsal = self.options.rehearsal
        return rehearsal if rehearsal is not None and rehearsal.applies(digest, self.state.served) else None

    @contextmanager
    def one_fetch(self, job: Job) -> Iterator[None]:
        """One download at a time on a node: two of them could write the same blob, and share the link anyway."""
        while not self._fetching.acquire(timeout=0.1):
            job.check_cancelled()
        try:
            yield
        finally:
            self._fetching.release()

    def retire(
        self, server: ServerProcess | None, patience: float = DRAIN_SECONDS, *, hand_over: bool = False
    ) -> list[int]:
        """Let a server finish what it has in flight and exit; the loop kills it when its patience ends.

        With `hand_over`: descriptors of the clients' connections that are idle, for the server that follows.
        """
        if server is None or not server.alive():
            return []
        idle: list[int] = []
        try:
            with server.client(timeout=2.0) as client:
                idle = client.drain(hand_over=hand_over)
        except (OSError, EdgeModelError) as error:
            log.warning("server %s does not answer its drain (%s): terminated", server.control.stem, error)
            server.signal(signal.SIGTERM)
            patience = min(patience, 5.0)
        self.retiring.append(Retiring(server, time.monotonic() + patience))
        return idle

    def step_retiring(self) -> None:
        """Kill those whose patience has ended; forget those that are gone."""
        for entry in list(self.retiring):
            if entry.server.alive() and time.monotonic() < entry.deadline:
                continue
            if entry.server.alive():
                log.warning("server %s did not drain in time: killed", entry.server.control.stem)
            entry.server.kill()
            self.retiring.remove(entry)

    def retire_strays(self, known: Iterable[ServerProcess]) -> None:
        """Drain every server of this root that nobody here knows: what a killed agent left."""
        names = {s.control.name for s in known} | {r.server.control.name for r in self.retiring}
        for server in find_all(self.runtime):
            if server.control.name not in names:
                log.info("server %s was left by an earlier agent: drained", server.control.stem)
                self.retire(server, patience=10.0)
