"""One model on this node: gathers the facts, asks `decide`, does what it says, remembers what came of it."""

from __future__ import annotations

import errno
import logging
import socket
import time
from datetime import datetime
from functools import partial
from typing import Any

from edgemodel_api import reasons
from edgemodel_api.edgemodel import ServingMode
from edgemodel_api.edgenode import AssignedModel, ModelStatus, Swap
from edgemodel_api.errors import EdgeModelError, RefusedError
from edgemodel_api.quantities import parse_duration

from . import decide, jobs, report, work
from .checks import CheckFailedError, memory_of
from .decide import Action, Facts, Work
from .faults import Fault
from .fetch import failure_of, next_retry
from .files import remove_folder, write_json
from .files_mode import current_file, laid_down, lay_down, tidy
from .jobs import CancelledError, Job
from .node import Node
from .processes import ServerProcess, port_error, port_of
from .state import Deployed, Download, Failure, ModelState
from .store import DamagedError
from .supervise import ServingSlot, died

log = logging.getLogger(__name__)

#: The first recheck follows the switch so soon, that a soak sees what goes bad only where it serves.
FIRST_RECHECK_SECONDS = 2.0
#: After a failed recheck the next ones follow quickly, to be sure soon.
SUSPICIOUS_RECHECK_SECONDS = 1.0
#: Rechecks never take more than this share of the time.
RECHECK_SHARE = 0.01


class ModelRunner:
    """State machine of one model. Only the loop's thread calls it."""

    def __init__(self, node: Node, state: ModelState) -> None:
        self.node = node
        self.state = state
        self.slot = ServingSlot(node, state.key)
        self.folder = node.options.root / "models" / state.namespace / state.name
        self.job: Job | None = None
        self.upkeep: Job | None = None
        self.removed = False
        self.desired: AssignedModel | None = None
        self._next_recheck = time.monotonic() + node.options.recheck
        self._labels = (state.namespace, state.name)

    def save(self, state: ModelState) -> None:
        """Remember, durably, before anything is done that relies on it."""
        if state != self.state:
            write_json(self.folder / "state.json", state.to_json())
            self.state = state

    def digests(self) -> set[str]:
        """Manifest digests whose content this model needs."""
        held = [d.target.digest for d in (self.state.running, self.state.previous) if d is not None]
        wanted = [self.desired.target.digest] if self.desired is not None else []
        return {*held, *wanted, *(j.digest for j in (self.job, self.upkeep) if j is not None)}

    def servers(self) -> list[ServerProcess]:
        """Every process that this model knows of."""
        mine = [self.slot.server] if self.slot.server else []
        return mine + [s for j in (self.job, self.upkeep) if j is not None for s in j.servers]

    def facts(self) -> Facts:
        """What is so at the moment."""
        running = self.state.running
        alive = self.slot.alive()
        if running is not None and running.mode is ServingMode.FILES:
            alive = laid_down(self.folder, running.target)
        due = self.node.options.recheck > 0 and time.monotonic() >= self._next_recheck
        return Facts(
            present=frozenset(d for d in self.digests() if self.node.store.complete(d) and not self._no_disk(d)),
            work=self.job.work if self.job else None,
            digest=self.job.digest if self.job else "",
            upkeep=self.upkeep.work if self.upkeep else None,
            alive=alive,
            quiet=not self.node.timing,
            recheck_due=due and self.slot.server is not None,
            borrowed=self.slot.borrowed(),
        )

    def _no_disk(self, digest: str) -> bool:
        """Whether a variant counts as not here: a rehearsed NoDisk must fail where a trial fetched it before, too."""
        rehearsal, running = self.node.rehearses(digest), self.state.running
        runs = running is not None and running.target.digest == digest
        return rehearsal is not None and rehearsal.fault is Fault.NO_DISK and not runs

    def step(self, desired: AssignedModel | None, now: datetime) -> None:
        """One pass: what ended, what died, what next."""
        self.desired = desired
        if desired is not None and desired.target.digest != self.state.wanted:
            keep = (
                self.state.failure
                if self.state.failure and self.state.failure.digest == desired.target.digest
                else None
            )
            self.save(self.state.replace(wanted=desired.target.digest, failure=keep, retry=None))
            self.node.collect = True
        self._collect_jobs(now)
        self._rename(desired)
        self.save(self.slot.watch(self.state, now))
        for action in decide.decide(desired, self.state, self.facts(), now):
            self._do(action, now)
        if desired is not None and not self.removed:
            self.save(self.state.replace(shown=report.shown(desired, self.state, self.facts(), now)[0]))

    def _rename(self, desired: AssignedModel | None) -> None:
        """The same bytes under another revision: nothing to fetch or to switch, but what runs is called by its new name."""
        running = self.state.running
        if desired is None or running is None or desired.swap is not Swap.ACTIVATE:
            return
        if running.target.digest == desired.target.digest and running.target != desired.target:
            self.save(self.state.replace(running=running.replace(target=desired.target)))

    def status(self, desired: AssignedModel, now: datetime) -> ModelStatus:
        """For the report."""
        fetching = self.job.done_bytes if self.job and self.job.work is Work.FETCH else 0
        endpoint = report.endpoint_of(self.state, self.node.options.address, str(current_file(self.folder)))
        return report.model_status(desired, self.state, self.facts(), now, endpoint=endpoint, fetching=fetching)

    def stop(self) -> None:
        """Cancel the jobs; their servers end at once, as they never answered anybody."""
        for job in (self.job, self.upkeep):
            if job is not None:
                job.cancelled.set()
                for server in job.servers:
                    if server is not self.slot.server and not server.accepted:
                        server.kill()

    # --- doing

    def _do(self, action: Action, now: datetime) -> None:
        node, desired = self.node, self.desired
        match action:
            case decide.Cancel():
                self.stop()
            case decide.Fetch(target):
                rehearsal = node.rehearses(target.digest)
                body = partial(work.fetch, node, labels=self._labels, target=target, rehearsal=rehearsal)
                self.job = jobs.start(Job(Work.FETCH, target.digest, target), body, node.wake)
            case decide.Check() if desired is not None:
                self._begin_check(desired, now)
            case decide.Restart(deployed):
                self._begin_restart(deployed, now)
            case decide.Replace(deployed):
                self._begin_start(deployed, self.slot.listener)
            case decide.Recheck() if desired is not None and self.slot.server is not None:
                recheck = partial(work.recheck, node, server=self.slot.server, desired=desired)
                context = (self.slot.server, time.monotonic())
                self.upkeep = jobs.start(Job(Work.RECHECK, desired.target.digest, context), recheck, node.wake)
            case decide.RollBack(failure):
                self._roll_back(failure, now)
            case decide.Remove():
                self._remove()
            case _:
                raise AssertionError(f"{action} without a wish")

    def _begin_check(self, desired: AssignedModel, now: datetime) -> None:
        fixed = desired.serving.port
        try:
            if desired.serving.mode is ServingMode.SERVER:
                listener = self.slot.listener_for(fixed, self.state.port)
            else:
                listener = self.slot.listener_for(None, None) if self.slot.listener is None else self.slot.listener
        except RefusedError as error:
            self._fail(desired, error.reason, error.message, now)
            return
        rehearsal = self.node.rehearses(desired.target.digest)
        body = partial(work.check, self.node, desired=desired, listener=listener, rehearsal=rehearsal)
        self.job = jobs.start(Job(Work.CHECK, desired.target.digest, (desired, listener)), body, self.node.wake)

    def _begin_restart(self, deployed: Deployed, now: datetime) -> None:
        listener = None
        if deployed.mode is ServingMode.SERVER:
            fixed = self.desired.serving.port if self.desired else None
            try:
                listener = self.slot.listener_for(None if fixed is None else deployed.port, deployed.port)
            except RefusedError as error:
                self.save(died(self.state, error.message, now))
                return
            self.slot.install(None, listener)
            if port_of(listener) != deployed.port:
                moved = deployed.replace(port=port_of(listener))
                self.save(self.state.replace(running=moved, port=port_of(listener)))
                deployed = moved
        self._begin_start(deployed, listener)
        if self.state.crashes:
            self.save(self.state.replace(restarts=self.state.restarts + 1))
            self.node.metrics.restarts.labels(*self._labels).inc()

    def _begin_start(self, deployed: Deployed, listener: socket.socket | None) -> None:
        timeout, memory = 60.0, None
        if self.desired is not None:
            timeout = parse_duration(self.desired.health_check.timeout).total_seconds()
            memory = memory_of(self.desired.health_check, self.desired.budget)
        body = partial(
            work.restart,
            self.node,
            key=self.state.key,
            deployed=deployed,
            listener=listener,
            folder=self.folder,
            timeout=timeout,
            memory=memory,
        )
        self.upkeep = jobs.start(Job(Work.START, deployed.target.digest, listener), body, self.node.wake)

    def _roll_back(self, failure: Failure, now: datetime) -> None:
        state = self.state
        if state.previous is None:
            return
        log.error("%s: back to revision %s: %s", state.key, state.previous.target.revision, failure.message)
        previous = state.previous.replace(since=now, port=state.running.port if state.running else state.previous.port)
        self.save(
            state.replace(
                running=previous, previous=None, failure=failure, crashes=0, last_crash=None, bad_rechecks=0, trouble=""
            )
        )
        self.node.metrics.rolled_back(self._labels, failure.reason)
        # Requests wait in the socket's queue until the good one answers: a moment late is better than wrong.
        self.slot.install(None, self.slot.listener)
        self.node.collect = True
        self.node.wake.set()

    def _remove(self) -> None:
        if self.job is not None or self.upkeep is not None:
            return  # the next pass, when they ended
        (self.folder / "state.json").unlink(missing_ok=True)
        self.slot.close()
        remove_folder(self.folder)
        self.removed = True
        self.node.collect = True

    def _fail(self, desired: AssignedModel, reason: str, message: str, now: datetime, measured: Any = None) -> None:
        log.error("%s: revision %s failed, %s: %s", self.state.key, desired.target.revision, reason, message)
        failure = Failure(
            digest=desired.target.digest,
            attempt=desired.attempt,
            reason=reason,
            message=message,
            at=now,
            measured=measured,
        )
        self.save(self.state.replace(failure=failure, retry=None))

    # --- what came of it

    def _collect_jobs(self, now: datetime) -> None:
        if self.job is not None and self.job.finished.is_set():
            job, self.job = self.job, None
            (self._fetched if job.work is Work.FETCH else self._checked)(job, now)
        if self.upkeep is not None and self.upkeep.finished.is_set():
            job, self.upkeep = self.upkeep, None
            (self._started if job.work is Work.START else self._rechecked)(job, now)

    def _fetched(self, job: Job, now: datetime) -> None:
        if isinstance(job.error, CancelledError):
            return
        state, metrics = self.state, self.node.metrics
        old = state.download if state.download and state.download.digest == job.digest else Download(digest=job.digest)
        if job.error is None:
            cost = job.result
            total = old.replace(
                bytes=old.bytes + cost.bytes, seconds=old.seconds + cost.seconds, retries=old.retries + cost.retries
            )
            self.save(state.replace(download=total, retry=None))
            return
        count = state.retry.count + 1 if state.retry else 1
        given_up, reason, message = failure_of(job.error, count)
        metrics.download_retries.labels(*self._labels).inc()
        retry = next_retry(job.digest, count, now, reason, message, seed=self.node.options.node)
        if reason == reasons.DISK_FULL and not self.node.rehearses(job.digest):
            if state.previous is not None:
                log.warning("%s: the disk is full, the previous variant makes room", state.key)
                self.node.collect = True
            if self.node.collect:
                # The loop collects when nothing is fetched, so the next try must be a little later.
                self.save(state.replace(previous=None, retry=retry))
                return
        desired = self.desired
        if given_up and desired is not None and desired.target.digest == job.digest:
            self._fail(desired, reason, message, now)
            return
        log.warning("%s: download failed for the %d. time: %s", state.key, count, message)
        self.save(state.replace(retry=retry, download=old.replace(retries=old.retries + 1)))

    def _checked(self, job: Job, now: datetime) -> None:
        desired, listener = job.context
        error = job.error
        wish = self.desired
        vain = wish is None or wish.target.digest != desired.target.digest or wish.swap is Swap.PREFETCH
        if error is None and (vain or job.cancelled.is_set()):
            job.result.server.kill()
            error = CancelledError()
        if error is None:
            try:
                self._switch(desired, job.result, listener, now)
                self.node.metrics.checked(self._labels, reasons.PASSED)
                return
            except (OSError, EdgeModelError) as trouble:
                error = self._not_answering(job.result, listener, trouble)
        self.slot.release(listener)
        if job.cancelled.is_set() or isinstance(error, CancelledError):
            return
        if isinstance(error, DamagedError):
            log.warning("%s: %s", self.state.key, error)
            return
        reason, message, measured = reasons.LOAD_FAILED, f"{type(error).__name__}: {error}", None
        if isinstance(error, EdgeModelError):
            reason, message = error.reason, error.message
        if isinstance(error, CheckFailedError):
            measured = error.measured
        if reason == reasons.INVALID_INPUT:
            reason = reasons.LOAD_FAILED
        self.node.metrics.checked(self._labels, reason)
        self._fail(desired, reason, message, now, measured)

    def _not_answering(self, passed: work.Checked, listener: socket.socket, trouble: Exception) -> CheckFailedError:
        if isinstance(trouble, OSError) and trouble.errno == errno.EADDRINUSE:
            # Two sockets may be bound to one port (SO_REUSEADDR), but only one may listen.
            refused = port_error(self.node.options.bind, port_of(listener), trouble)
            message, reason = refused.message, refused.reason
        else:
            message = f"the server did not begin to answer: {trouble}; {passed.server.last_words()}"
            reason = reasons.SERVER_CRASHED
        passed.server.kill()
        return CheckFailedError(message, reason=reason, measured=passed.measured)

    def _switch(self, desired: AssignedModel, passed: work.Checked, listener: socket.socket, now: datetime) -> None:
        """Commit, then let the new server answer, then drain the old one: killed at any point, one of them serves.

        Raises:
            OSError, EdgeModelError: the new server does not answer; the old state is back.
        """
        before = self.state
        files = desired.serving.mode is ServingMode.FILES
        port = None if files else port_of(listener)
        deployed = Deployed(
            target=desired.target, mode=desired.serving.mode, port=port, since=now, measured=passed.measured
        )
        old = before.running
        previous = old if old is not None and old.target.digest != desired.target.digest else before.previous
        after = before.replace(
            running=deployed,
            previous=previous,
            port=port if port is not None and desired.serving.port is None else before.port,
            failure=None,
            crashes=0,
            last_crash=None,
            bad_rechecks=0,
            trouble="",
        )
        if files:
            loaded = self.node.store.load(desired.target.digest)
            lay_down(self.folder, desired.target, loaded.model, loaded.data, name=loaded.name)
            self.save(after)
            passed.server.kill()
            self.slot.close()
            self.slot.release(listener)
        else:
            self.save(after)
            try:
                self.slot.open(passed.server, listener)
            except (OSError, EdgeModelError):
                self.save(before)
                raise
            passed.server.started = time.monotonic()
            self.slot.install(passed.server, listener)
        if not self.node.rehearses(desired.target.digest):
            self.node.note_served(desired.target.digest)
        tidy(self.folder, [d.target for d in (after.running, after.previous) if d and d.mode is ServingMode.FILES])
        self.node.metrics.switches.labels(*self._labels).inc()
        self._next_recheck = time.monotonic() + min(FIRST_RECHECK_SECONDS, self.node.options.recheck)
        self.node.collect = True
        log.info("%s: revision %s (%s) serves", self.state.key, desired.target.revision, desired.target.variant)

    def _started(self, job: Job, now: datetime) -> None:
        if job.error is None:
            server = job.result
            running = self.state.running
            if job.cancelled.is_set() or running is None or running.target.digest != job.digest:
                self.node.retire(server)
            elif server is not None:
                self.slot.install(server, job.context)
                # Another agent's checks may have been made with another version of the runtime.
                self._next_recheck = time.monotonic() + min(FIRST_RECHECK_SECONDS, self.node.options.recheck)
            return
        if isinstance(job.error, CancelledError) or job.cancelled.is_set():
            return
        if isinstance(job.error, DamagedError):
            log.warning("%s: %s", self.state.key, job.error)
            return
        message = job.error.message if isinstance(job.error, EdgeModelError) else str(job.error)
        log.warning("%s: the server did not come up: %s", self.state.key, message)
        self.save(died(self.state, message, now))

    def _rechecked(self, job: Job, now: datetime) -> None:
        server: ServerProcess
        server, began = job.context
        took = time.monotonic() - began
        self._next_recheck = time.monotonic() + max(self.node.options.recheck, took / RECHECK_SHARE)
        if (
            server is not self.slot.server
            or not server.alive()
            or isinstance(job.error, (CancelledError, DamagedError))
        ):
            return
        problem, reason = job.result, reasons.GOLDEN_MISMATCH
        if isinstance(job.error, EdgeModelError):
            problem, reason = job.error.message, job.error.reason
        elif job.error is not None:
            problem, reason = str(job.error), reasons.LOAD_FAILED
        elif problem is not None and "latency" in problem:
            reason = reasons.TOO_SLOW
        self.node.metrics.rechecked(self._labels, reasons.PASSED if problem is None else reason)
        if problem is None:
            self.save(self.state.replace(bad_rechecks=0))
            return
        self._next_recheck = time.monotonic() + SUSPICIOUS_RECHECK_SECONDS
        bad = self.state.bad_rechecks + 1
        log.warning("%s: recheck failed for the %d. time: %s", self.state.key, bad, problem)
        self.save(self.state.replace(bad_rechecks=bad, trouble=problem, trouble_reason=reason))
        if reason == reasons.CHECK_TIMED_OUT and bad >= decide.RECHECK_LIMIT:
            server.kill()  # it hangs: the supervisor starts it again
