"""The operator of the embedded mode: observe → plan → apply, until the revision has ended. The plan is the cluster's own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from edgemodel_api import reasons
from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgemodel_status import ANNOTATION_APPROVED, ANNOTATION_RETRY, RolloutStatus
from edgemodel_api.edgenode import EdgeNode, TargetState
from edgemodel_api.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_REFUSED
from edgemodel_api.job import Outcome
from edgemodel_api.meta import get_condition
from edgemodel_api.quantities import format_seconds
from edgemodel_cli import ending, results
from edgemodel_cli.ending import End
from edgemodel_cli.manifest_file import ManifestFile
from edgemodel_cli.nodes_file import LocalNode
from edgemodel_cli.progress import Reporter
from edgemodel_operator.domain.actions import StartJob
from edgemodel_operator.domain.apply import apply_to_spec
from edgemodel_operator.domain.observed import Observed, Settings
from edgemodel_operator.domain.plan import Plan, plan, wanted_revision

from .agents import Agents
from .history import TimelineWriter
from .jobs import Jobs
from .moved import follow
from .objects import ObjectStore, Stamp, check_single
from .workdir import Workdir

log = logging.getLogger(__name__)

#: Between two looks at the files and processes.
POLL_SECONDS = 0.1
#: A plan is made at least so often, whatever was or was not seen to change.
LONGEST_SLEEP_SECONDS = 5.0
#: What nodes may take to come to rest once the rollout has ended (a server that starts again).
SETTLE_SECONDS = 30.0


class InterruptedRunError(Exception):
    """A signal asked for the end; `serving`: whether nodes go on nevertheless."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.serving = False


@dataclass
class Run:
    """One `edgemodel run`: `prepare`, then `until_ended`; whatever happens, `close`.

    Attributes:
        rollout_before: how the rollout was when this command began.
        interrupted: number of a signal that came; the loop ends at its next look.
    """

    workdir: Workdir
    manifest: ManifestFile
    nodes: tuple[LocalNode, ...]
    reporter: Reporter
    approve: bool = False
    retry: bool = False
    interrupted: int = 0
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    wake: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.store = ObjectStore(self.workdir.objects)
        self.agents = Agents(self.workdir)
        self.jobs = Jobs(self.workdir, self.reporter)
        self.revision = ""
        self.settings = Settings(output=self.workdir.output, base_dir=str(self.manifest.base_dir))
        self.history = TimelineWriter(self.workdir.timeline)
        self.rollout_before: RolloutStatus | None = None
        self._said: tuple[str, str] = ("", "")
        self._stamps: frozenset[Stamp] = frozenset()
        self._job_ran = False

    def prepare(self) -> None:
        """Write the objects and start the agents.

        Raises:
            InputError: the workdir belongs to another model.
            TransientError: a process cannot be started.
        """
        wanted = self.manifest.model
        check_single(self.store.models(), wanted, self.workdir.root)
        if follow(self.workdir):
            log.info("the workdir was moved: its registry is now %s", self.workdir.registry)
        model = self.store.apply_model(wanted, self.clock())
        self.rollout_before = model.status.rollout
        names = [n.name for n in self.nodes]
        gone = set(self.store.node_names()) - set(names)
        self.agents.stop(gone)
        self.store.forget_nodes(names)
        for node in self.nodes:
            self.store.register_node(node.name, node.labels)
        self.agents.start(self.nodes)
        if self.jobs.forget_failures(self.store, model, retry=self.retry):
            self.store.annotate_model(model, {ANNOTATION_RETRY: self.clock().isoformat()})

    def model(self) -> EdgeModel:
        """The stored object."""
        meta = self.manifest.model.metadata
        found = self.store.read_model(meta.namespace, meta.name)
        return found if found is not None else self.manifest.model

    def until_ended(self, timeout: timedelta) -> End:
        """Plan and apply until the revision has ended, or the time is over.

        Raises:
            TransientError: an agent does not come up; or the Job cannot be started.
            InterruptedRunError: a signal came.
        """
        deadline = time.monotonic() + timeout.total_seconds()
        self._wait_for_agents(deadline)
        end: End | None = None
        settle_until = 0.0
        while True:
            plan_, changed = self.step()
            model, nodes = self.model(), self.store.nodes()
            found = self.stuck(model) or ending.ending(model, self.jobs.result(self.revision))
            if found is None:
                end = None
            else:
                settle_until = settle_until if end == found else time.monotonic() + SETTLE_SECONDS
                end = found
                pool = results.pool(model, nodes)
                if ending.settled(pool, self.clock()) or time.monotonic() >= settle_until:
                    return end
            if time.monotonic() >= deadline:
                if end is not None:
                    return end
                within = f"not rolled out within --timeout {format_seconds(timeout.total_seconds())}"
                return End(EXIT_REFUSED, "TimedOut", f"{within}; {ending.waiting_for(model)}")
            if not changed:
                self._sleep(plan_.wake_at, deadline)

    def stuck(self, model: EdgeModel) -> End | None:
        """What a cluster would wait for, and a person at a terminal should rather be told."""
        found = get_condition(model.status.conditions, reasons.RECONCILING)
        if found is None or model.status.observed_generation != model.metadata.generation:
            return None
        if found.reason == reasons.WAITING_FOR_APPROVAL and not self.approve:
            return End(EXIT_REFUSED, found.reason, f"{found.message}; run again with --approve to let all waves begin")
        if found.reason in (reasons.NO_NODES, reasons.NO_PLATFORM):
            return End(EXIT_BAD_INPUT, found.reason, f"{found.message}; change it, or give other nodes by --nodes-file")
        if found.reason == reasons.WAITING_FOR_NODES and self._all_rest_with_failures():
            return End(EXIT_REFUSED, found.reason, found.message)
        job = self.jobs.result(self.revision)
        if found.reason == reasons.WAITING_FOR_RETRY and job is not None and job.outcome is Outcome.FAILED:
            where = self.jobs.folder(self.revision).log
            said = job.message if str(where) in job.message else f"{job.message} (log: {where})"
            return End(EXIT_FAILED, job.reason, f"{said}; run again to try again")
        return None

    def _all_rest_with_failures(self) -> bool:
        """Whether nothing goes on by itself: the waves are over, each node serves or has failed, and one has."""
        rollout, pool = self.model().status.rollout, self.pool()
        over = rollout is not None and rollout.finished_at is not None
        failed = any(m.state is TargetState.FAILED for n in pool for m in n.status.models)
        return over and failed and ending.settled(pool, self.clock())

    def _wait_for_agents(self, deadline: float) -> None:
        """What a node said before this command began must not be planned with: its agent may be gone."""
        said = False
        while silent := self.agents.waiting_for(self.store.nodes(), self.clock()):
            if not said:
                self.reporter.say(f"waiting for the agents of {', '.join(silent[:5])}{' …' if len(silent) > 5 else ''}")
                said = True
            self._pause()
            if time.monotonic() >= deadline:
                return

    def step(self) -> tuple[Plan, bool]:
        """One pass; whether it changed anything."""
        self._check_interrupted()
        observed = self.observe()
        planned = plan(observed)
        changed = self.apply(observed, planned)
        self.show(planned)
        return planned, changed

    def observe(self) -> Observed:
        """Everything that the plan may look at."""
        # Before anything is read: what changes while we look is seen as a change afterwards.
        self._stamps, self._job_ran = self.store.stamps(), self.jobs.running()
        model, nodes = self.model(), self.store.nodes()
        revision, _ = wanted_revision(model, nodes)
        if revision != self.revision:
            self.jobs.stop()
            self.revision = revision
        if self.approve and revision:
            everything = f"{revision}/{len(model.spec.rollout.waves)}"
            model = self.store.annotate_model(model, {ANNOTATION_APPROVED: everything})
        return Observed(
            now=self.clock(), model=model, nodes=nodes, job=self.jobs.view(revision), settings=self.settings
        )

    def apply(self, observed: Observed, planned: Plan) -> bool:
        """Write what the plan says, the status first, as it asks; whether anything is new."""
        # Compared as they are stored: a value that a file cannot hold exactly must not look new for ever.
        changed = planned.status.to_json() != observed.model.status.to_json()
        if changed:
            self.store.write_model_status(observed.model, planned.status)
        for node in observed.nodes:
            mine = [a for a in planned.actions if not isinstance(a, StartJob) and a.node == node.metadata.name]
            spec = apply_to_spec(node.spec, mine)
            if spec.to_json() != node.spec.to_json():
                self.store.write_node_spec(node, spec)
                changed = True
        for action in planned.actions:
            if isinstance(action, StartJob):
                self.jobs.start(action.job)
                changed = True
        for event in planned.events:
            if self._said != (event.reason, event.message):
                self._said = (event.reason, event.message)
                self.reporter.say(f"{event.reason}: {event.message}", warning=event.type == "Warning")
        return changed

    def show(self, planned: Plan) -> None:
        """Tell the timeline and the person."""
        model, nodes, now = self.model(), self.store.nodes(), self.clock()
        pool = results.pool(model, nodes)
        self.history.observe(model, pool, now)
        if self.jobs.running():
            return
        rows = [results.node_row(n, model.key, now) for n in pool]
        self.reporter.nodes(rows, ending.waiting_for(model) if model.status.conditions else "")

    def _sleep(self, wake_at: datetime | None, deadline: float) -> None:
        """Until something changes, the plan wants to be asked again, or a while has passed."""
        until = time.monotonic() + LONGEST_SLEEP_SECONDS
        if wake_at is not None:
            until = min(until, time.monotonic() + max(0.0, (wake_at - self.clock()).total_seconds()))
        until = min(until, deadline)
        while time.monotonic() < until:
            self._pause()
            if self.store.stamps() != self._stamps or self._job_ran != self.jobs.running():
                return

    def _pause(self) -> None:
        self.wake.wait(POLL_SECONDS)
        self._check_interrupted()
        self.agents.supervise()

    def _check_interrupted(self) -> None:
        if self.interrupted:
            raise InterruptedRunError(self.interrupted)

    def pool(self) -> tuple[EdgeNode, ...]:
        """The nodes that the model selects."""
        return results.pool(self.model(), self.store.nodes())

    def serves(self) -> bool:
        """Whether any node answers requests."""
        return any(m.running is not None for n in self.pool() for m in n.status.models)

    def close(self, *, keep_serving: bool) -> bool:
        """End the Job and, unless they shall go on, agents and servers; whether something goes on serving."""
        self.jobs.stop()
        if keep_serving and self.serves():
            return True
        self.agents.stop()
        return False

    def kill(self) -> None:
        """End everything at once."""
        self.jobs.stop(patience=0.0)
        self.agents.kill()
