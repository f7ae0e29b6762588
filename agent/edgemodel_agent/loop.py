"""The agent: one thread that looks, decides, acts and reports; what takes long runs in workers (`jobs`)."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

import psutil
from pydantic import ValidationError

from edgemodel_api.edgenode import AssignedModel, AssignedTrial, EdgeNodeSpec, EdgeNodeStatus
from edgemodel_api.errors import InputError, RefusedError

from . import hardware, report
from .files import read_json, write_json
from .metrics import AgentMetrics
from .node import DRAIN_SECONDS, Node, Options
from .objects import Desired, NodeObjects
from .processes import find_servers
from .runner import ModelRunner
from .runtime_dir import runtime_dir
from .state import ModelState, TrialState
from .store import Store
from .trials import TrialRunner

log = logging.getLogger(__name__)

Runner = ModelRunner | TrialRunner

SWEEP_SECONDS = 10.0
#: Names become folders.
NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")


def agent_version() -> str:
    """The installed distribution's version."""
    try:
        return version("edgemodel")
    except PackageNotFoundError:
        return "unknown"


def lock_root(root: Path) -> IO[str]:
    """Hold `root` for this process.

    Raises:
        InputError: the folder cannot be written.
        RefusedError: another agent holds it.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = open(root / "agent.lock", "a+")  # noqa: SIM115 - held until the process ends
    except OSError as error:
        raise InputError(f"--root {root} cannot be used: {error.strerror}; give a folder that can be written") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise RefusedError(f"another agent works in {root}: stop it, or give this one its own --root") from None
    return handle


class Agent:
    """One node's agent. `start`, then `tick` again and again, then `stop`; or `run`, which does it all."""

    def __init__(self, options: Options, objects: NodeObjects, labels: Mapping[str, str] | None = None) -> None:
        self.options = options
        self.objects = objects
        self.labels = dict(labels or {})
        self.hardware = hardware.detect()
        self.runtimes = hardware.installed_runtimes()
        self.models: dict[str, ModelRunner] = {}
        self.trials: dict[str, TrialRunner] = {}
        self.desired: Desired | None = None
        self.written: EdgeNodeStatus | None = None
        self.stopping = False
        self._next_sweep = 0.0
        self._registered = False

    def start(self) -> None:
        """Take the root, remember the past, adopt the servers that still run, drain those that nobody wants.

        Raises:
            InputError, RefusedError: the root cannot be used.
        """
        self._lock = lock_root(self.options.root)
        self.node = Node(
            options=self.options,
            store=Store(self.options.root),
            runtime=runtime_dir(self.options.root),
            metrics=AgentMetrics(),
        )
        self.node.load_state()
        self._load_desired()
        self._load_states()
        found = list(find_servers(self.node.runtime))
        adopted = [s for r in self.models.values() if (s := r.slot.adopt(r.state, found)) is not None]
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
                shutil.rmtree(path, ignore_errors=True)
                continue
            self.models[state.key] = ModelRunner(self.node, state)
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
            self.node.retire_strays(s for r in runners for s in r.servers())

    def status(self, now: datetime) -> EdgeNodeStatus:
        """What is so on this node."""
        spec = self.desired.spec if self.desired else EdgeNodeSpec()
        models = {m.key: m for m in spec.models}
        trials = {t.key: t for t in spec.trials}
        return EdgeNodeStatus(
            observed_generation=self.desired.generation if self.desired else 0,
            hardware=self.hardware,
            runtimes=self.runtimes,
            agent_version=agent_version(),
            disk_free_bytes=self.node.store.free_bytes(),
            memory_free_bytes=psutil.virtual_memory().available,
            last_report_time=now,
            models=tuple(self.models[k].status(m, now) for k, m in sorted(models.items()) if k in self.models),
            trials=tuple(
                report.trial_status(t, self.trials[k].state) for k, t in sorted(trials.items()) if k in self.trials
            ),
        )

    def _report(self, now: datetime) -> None:
        status = self.status(now)
        if not report.worth_writing(self.written, status):
            return
        try:
            self.objects.write_status(status)
        except OSError as error:
            log.warning("the status cannot be written, the next one will be: %s", error)
            return
        self.written = status
        self.node.metrics.observe(status)

    def run(self, *, metrics_port: int | None = None) -> None:
        """Until `stopping` is set (by a signal).

        Raises:
            InputError, RefusedError: as `start`; or the metrics port is taken.
        """
        self.start()
        if metrics_port is not None:
            try:
                self.node.metrics.serve(metrics_port, self.options.bind)
            except OSError as error:
                raise InputError(
                    f"--metrics-port {metrics_port} cannot be used: {error.strerror}; give another"
                ) from None
        while not self.stopping:
            try:
                self.tick(datetime.now(UTC))
            except OSError as error:
                # A full or sick disk: what runs goes on running, and the next pass tries again.
                log.error("this pass failed: %s", error)  # noqa: TRY400 - the message is enough
                time.sleep(1.0)
            except Exception:  # the rim of the process: a fault in one pass must not stop what serves
                log.exception("this pass failed")
                time.sleep(1.0)
            self.node.wake.wait(self.options.interval)
            self.node.wake.clear()
        self.stop()

    def stop(self) -> None:
        """Drain all servers, or leave them to the next agent; measurements and checks end at once."""
        runners: tuple[Runner, ...] = (*self.models.values(), *self.trials.values())
        for runner in runners:
            runner.stop()
        deadline = time.monotonic() + DRAIN_SECONDS
        for model in self.models.values():
            if not self.options.leave_servers:
                model.slot.close()
        while self.node.retiring and time.monotonic() < deadline:
            self.node.step_retiring()
            time.sleep(0.02)
        for entry in self.node.retiring:
            entry.server.kill()
        served = {m.slot.server.pid for m in self.models.values() if m.slot.server is not None}
        for server in find_servers(self.node.runtime):
            if not (self.options.leave_servers and server.pid in served):
                server.kill()
        # Nobody shall read for a minute that something answers here.
        with contextlib.suppress(OSError):
            self._report(datetime.now(UTC))
        log.info("agent %s (%d) stopped", self.options.node, os.getpid())
