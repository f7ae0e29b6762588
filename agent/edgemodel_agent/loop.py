"""The agent: one thread that looks, decides, acts and reports; what takes long runs in workers (`jobs`)."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import IO

import psutil
from pydantic import ValidationError

from edgemodel_api.edgenode import AssignedModel, AssignedTrial, EdgeNodeSpec, EdgeNodeStatus
from edgemodel_api.errors import InputError

from . import claims, hardware, report, server_logs
from .decide import Work
from .endpoint import Endpoint
from .files import read_json, remove_folder, write_json
from .foreign import ForeignServer, find_all
from .health import Health
from .hosting import empty, host
from .metrics import AgentMetrics
from .node import Node, Options
from .objects import Desired, NodeObjects
from .options import remember
from .processes import ServerProcess
from .runner import ModelRunner
from .runtime_dir import runtime_dir, shared_dir
from .scrape import Served
from .standby_watch import StandbyWatch
from .state import ModelState, TrialState
from .store import Store
from .trials import TrialRunner

log = logging.getLogger(__name__)

Runner = ModelRunner | TrialRunner

SWEEP_SECONDS = 10.0
#: Before an agent hands over, servers that are starting may take so long, and jobs that were cancelled so long to end.
STARTING_SECONDS = 20.0
CANCELLING_SECONDS = 5.0
#: A standby that is told to end while it serves (its manifest changed) waits so long for an agent to hand over to.
LAST_CLAIM_SECONDS = 20.0
#: Names become folders.
NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")


def agent_version() -> str:
    """The installed distribution's version."""
    try:
        return version("edgemodel")
    except PackageNotFoundError:
        return "unknown"


class Agent:
    """One node's agent. `take`, `start`, then `tick` again and again, then `stop` or `hand_over`; or `run`, which does it all."""

    def __init__(
        self,
        options: Options,
        objects: NodeObjects,
        labels: Mapping[str, str] | None = None,
        metrics: AgentMetrics | None = None,
    ) -> None:
        self.options = options
        self.objects = objects
        self.labels = dict(labels or {})
        self.metrics = metrics or AgentMetrics()
        self.health = Health(introduced=objects.tried)
        self.endpoint: Endpoint | None = None
        self.hardware = hardware.detect()
        self.runtimes = hardware.Runtimes()
        self.models: dict[str, ModelRunner] = {}
        self.trials: dict[str, TrialRunner] = {}
        self.desired: Desired | None = None
        self.written: EdgeNodeStatus | None = None
        self.stopping = False
        self._next_sweep = 0.0
        self._registered = False
        self._lock: IO[str] | None = None
        self._handed_over = False

    def take(self, lock: IO[str] | None = None) -> bool:
        """Have the root to ourselves, after a wait if that may be. `lock`: it is held already. False: stopped before.

        Raises:
            InputError, RefusedError: the root cannot be used.
        """
        root = self.options.root
        if self.options.ready_file is not None:
            self.options.ready_file.unlink(missing_ok=True)
        if lock is not None or not self.options.claim:
            self._lock = lock or claims.take(root)
            return True

        def waiting() -> None:
            log.info("another agent works in %s: waiting for it to hand over", root)
            self._say_ready()

        found = claims.claim(root, lambda: self.stopping, waiting)
        if found is None:
            return False
        self._lock, self._handed_over = found
        return True

    def start(self) -> None:
        """Remember the past, adopt the servers that still run, drain those that nobody wants.

        Raises:
            InputError: the root cannot be used.
        """
        if self._lock is None:
            self._lock = claims.take(self.options.root)
        self.node = Node(
            options=self.options,
            store=Store(self.options.root),
            runtime=(shared_dir if self.options.claim else runtime_dir)(self.options.root),
            metrics=self.metrics,
        )
        self.metrics.started(
            version=agent_version(),
            node=self.options.node,
            system=self.hardware.platform,
            hardware_class=self.hardware.hardware_class.value,
            disk=self.node.store.size_bytes(),
        )
        self.standby = StandbyWatch(self.options.root, expected=self.options.expects_standby)
        self.node.load_state()
        if self.options.claim and not self.options.standby:
            remember(self.options)
        self._load_desired()
        self._load_states()
        found = list(find_all(self.node.runtime))
        handed = self._handed_over
        adopted = [
            s for r in self.models.values() if (s := r.slot.adopt(r.state, found, handed_over=handed)) is not None
        ]
        self.node.retire_strays(adopted)
        known = {s.control.name for s in (*adopted, *found)}
        for leftover in self.node.runtime.iterdir():
            if leftover.name not in known:
                leftover.unlink(missing_ok=True)
        self._next_sweep = time.monotonic() + SWEEP_SECONDS

    def _load_desired(self) -> None:
        document = read_json(self.options.root / "desired.json")
        try:
            if document is not None:
                spec = EdgeNodeSpec.model_validate(document["spec"])
                self.desired = Desired(int(document["generation"]), spec)
        except (ValidationError, KeyError, ValueError, TypeError) as error:
            log.warning("the remembered spec is of no use: %s", error)

    def _load_states(self) -> None:
        for path in sorted((self.options.root / "models").glob("*/*")):
            try:
                state = ModelState.model_validate(read_json(path / "state.json"))
            except ValidationError:
                # A model that was being removed, or whose first state was never written.
                remove_folder(path)
                continue
            self.models[state.key] = ModelRunner(self.node, state)
        for folder in (self.options.root / "models").glob("*"):
            with contextlib.suppress(OSError):
                folder.rmdir()  # a namespace without models
        for path in sorted((self.options.root / "trials").glob("*/*.json")):
            try:
                trial = TrialState.model_validate(read_json(path))
            except ValidationError:
                path.unlink(missing_ok=True)
                continue
            self.trials[trial.key] = TrialRunner(self.node, trial)

    def tick(self, now: datetime) -> None:
        """One pass over everything."""
        self._look()
        if self.desired is not None:
            self._step(self.desired.spec, now)
        self.node.step_retiring()
        self._housekeeping()
        self._report(now)
        self._say_ready()

    def _say_ready(self) -> None:
        """By a file, as a port that two pods of one node share says nothing of one of them."""
        path = self.options.ready_file
        if path is not None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def _look(self) -> None:
        try:
            if not self._registered:
                self.objects.register(self.labels)
                self._registered = True
            found = self.objects.read_desired()
        except OSError as error:
            log.warning("the node's objects are away, the last wish stays: %s", error)
            return
        if found is not None and found != self.desired:
            write_json(
                self.options.root / "desired.json", {"generation": found.generation, "spec": found.spec.to_json()}
            )
            self.desired = found

    def _step(self, spec: EdgeNodeSpec, now: datetime) -> None:
        models: dict[str, AssignedModel] = {m.key: m for m in spec.models if self._usable(m.namespace, m.name)}
        trials: dict[str, AssignedTrial] = {
            t.key: t for t in spec.trials if t.candidates and self._usable(t.namespace, t.name)
        }
        for key, model in models.items():
            if key not in self.models:
                self.models[key] = ModelRunner(self.node, ModelState(namespace=model.namespace, name=model.name))
        for key, trial in trials.items():
            if key not in self.trials:
                state = TrialState(namespace=trial.namespace, name=trial.name, revision=trial.revision)
                self.trials[key] = TrialRunner(self.node, state)
        for key in sorted(self.models):
            self.models[key].step(models.get(key), now)
        for key in sorted(self.trials):
            runners: tuple[Runner, ...] = (*self.models.values(), *self.trials.values())
            busy = any(r.job is not None for r in runners)
            busy = busy or any(r.upkeep is not None for r in self.models.values())
            self.trials[key].step(trials.get(key), now, quiet=not busy)
        self.models = {k: r for k, r in self.models.items() if not r.removed}
        self.trials = {k: r for k, r in self.trials.items() if not r.removed}
        self._measured()

    def _measured(self) -> None:
        """Of which models there are series, and which servers have some of their own."""
        runners: tuple[Runner, ...] = (*self.models.values(), *self.trials.values())
        self.metrics.only((r.state.namespace, r.state.name) for r in runners)
        self.metrics.serves(
            Served(m.state.namespace, m.state.name, m.state.running.target.revision, m.slot.server.control)
            for m in self.models.values()
            if m.slot.server is not None and m.state.running is not None
        )

    @staticmethod
    def _usable(namespace: str, name: str) -> bool:
        return bool(NAME.match(namespace) and NAME.match(name))

    def _housekeeping(self) -> None:
        runners: tuple[Runner, ...] = (*self.models.values(), *self.trials.values())
        jobs = [j for r in runners for j in (r.job, getattr(r, "upkeep", None)) if j is not None]
        if self.node.collect and not jobs and self.desired is not None:
            self.node.collect = False
            keep = {d for r in runners for d in r.digests()}
            freed = self.node.store.collect(keep)
            if freed:
                log.info("%d bytes of content that nothing needs were removed", freed)
        if time.monotonic() >= self._next_sweep and not jobs:
            self._next_sweep = time.monotonic() + SWEEP_SECONDS
            server_logs.tidy(self.options.root, {r.state.key for r in runners})
            self.node.retire_strays(s for r in runners for s in r.servers())

    def status(self, now: datetime) -> EdgeNodeStatus:
        """What is so on this node."""
        spec = self.desired.spec if self.desired else EdgeNodeSpec()
        models = {m.key: m for m in spec.models}
        trials = {t.key: t for t in spec.trials}
        shown = tuple(self.models[k].status(m, now) for k, m in sorted(models.items()) if k in self.models)
        retire = self.desired is not None and self.desired.retire
        return EdgeNodeStatus(
            observed_generation=self.desired.generation if self.desired else 0,
            hardware=self.hardware,
            runtimes=self.runtimes.found or {},
            agent_version=agent_version(),
            disk_free_bytes=self.node.store.free_bytes(),
            memory_free_bytes=psutil.virtual_memory().available,
            last_report_time=now,
            serving=f"{sum(m.running is not None for m in shown)}/{len(models)}",
            standby=self.standby.look(retire=retire),
            models=shown,
            trials=tuple(
                report.trial_status(t, self.trials[k].state) for k, t in sorted(trials.items()) if k in self.trials
            ),
        )

    def _report(self, now: datetime) -> None:
        if self.runtimes.found is None:
            # Servers need not wait for that; but what a node loads decides what it gets, and "nothing" would be wrong.
            return
        status = self.status(now)
        if not report.worth_writing(self.written, status):
            return
        try:
            self.objects.write_status(status)
        except OSError as error:
            log.warning("the status cannot be written, the next one will be: %s", error)
            return
        self.written = status
        self.metrics.observe(status)

    def run(self, *, metrics_port: int | None = None, lock: IO[str] | None = None) -> bool:
        """Until `stopping` is set (by a signal), or until another agent has taken over: True.

        Raises:
            InputError, RefusedError: as `take` and `start`; or the metrics port is taken.
        """
        if not self.take(lock):
            return False
        self.start()
        if metrics_port is not None:
            self._serve_metrics(metrics_port)
        while not self.stopping and not (self.options.standby and claims.claimed(self.options.root)):
            self._pass()
        if self.options.standby and self.stopping:
            deadline = time.monotonic() + LAST_CLAIM_SECONDS
            while not claims.claimed(self.options.root) and time.monotonic() < deadline and self.models:
                self._pass()
        if self._has_successor():
            self.hand_over()
            return True
        self.stop()
        return False

    def _pass(self) -> None:
        try:
            self.tick(datetime.now(UTC))
            self._turned()
        except OSError as error:
            # A full or sick disk: what runs goes on running, and the next pass tries again.
            log.error("this pass failed: %s", error)  # noqa: TRY400 - the message is enough
            self._turned(str(error))
            time.sleep(1.0)
        except Exception as error:  # the rim of the process: a fault in one pass must not stop what serves
            log.exception("this pass failed")
            self._turned(f"{type(error).__name__}, see the log")
            time.sleep(1.0)
        self.node.wake.wait(self.options.interval)
        self.node.wake.clear()

    def _turned(self, problem: str = "") -> None:
        self.health.turned(problem)
        self.metrics.passed(failed=bool(problem))

    def _serve_metrics(self, port: int) -> None:
        self.endpoint = Endpoint(self.options.bind, port, health=self.health, metrics=self.metrics.text)
        try:
            # The predecessor's port is free a moment after its store.
            self.endpoint.start(patient=self.options.claim)
        except OSError as error:
            raise InputError(f"--metrics-port {port} cannot be used: {error.strerror}; give another") from None

    def _has_successor(self) -> bool:
        """Whether somebody waits to go on where this agent stops: a newcomer, or the node's standby."""
        root, options = self.options.root, self.options
        return options.claim and (claims.claimed(root) or (not options.standby and claims.standby_lives(root)))

    def hand_over(self) -> None:
        """Let go of the root with the servers running, and host them until the successor has replaced them."""
        deadline = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < deadline and any(
            m.upkeep is not None and m.upkeep.work is Work.START for m in self.models.values()
        ):
            self._pass()
        log.info("agent %s (%d) hands over", self.options.node, os.getpid())
        self._cancel()
        served = [m.slot.server for m in self.models.values() if m.slot.server is not None]
        self._kill_others(served)
        for model in self.models.values():
            if model.slot.listener is not None:
                model.slot.listener.close()  # the servers have it too, and give it to the successor
        self._leave()
        host(self.node, served)
        log.info("agent %s (%d) has nothing to host any more", self.options.node, os.getpid())

    def _leave(self) -> None:
        """Write and answer nothing more; from here on the root is somebody else's."""
        if self.endpoint is not None:
            self.endpoint.close()
        with contextlib.suppress(OSError):
            self.objects.close()
        if self._lock is not None:
            self._lock.close()

    def _cancel(self) -> None:
        """End measurements and checks."""
        runners: tuple[Runner, ...] = (*self.models.values(), *self.trials.values())
        for runner in runners:
            runner.stop()
        deadline = time.monotonic() + CANCELLING_SECONDS
        for job in (j for r in runners for j in (r.job, getattr(r, "upkeep", None)) if j is not None):
            job.finished.wait(max(0.0, deadline - time.monotonic()))

    def _kill_others(self, served: list[ServerProcess]) -> None:
        names = {s.control.name for s in (*served, *(r.server for r in self.node.retiring))}
        for server in find_all(self.node.runtime):
            if server.control.name not in names and not isinstance(server, ForeignServer):
                server.kill()

    def stop(self) -> None:
        """Drain all servers, or leave them to the next agent; measurements and checks end at once."""
        self._cancel()
        leave = self.options.leave_servers
        served = [m.slot.server for m in self.models.values() if leave and m.slot.server is not None]
        if not leave:
            for model in self.models.values():
                model.slot.close()
        empty(self.node)
        self._kill_others(served)
        # Nobody shall read for a minute that something answers here.
        with contextlib.suppress(OSError):
            self._report(datetime.now(UTC))
        self._leave()
        log.info("agent %s (%d) stopped", self.options.node, os.getpid())
