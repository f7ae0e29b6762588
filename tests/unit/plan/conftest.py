"""Builders of what plan() sees, and a small world in which nodes do what agents do. No clock, no files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import pytest

from edgemodel_api.edgemodel import EdgeModel, EdgeModelSpec, Rollout
from edgemodel_api.edgemodel_status import AnalysisOutcome, EdgeModelStatus
from edgemodel_api.edgenode import (
    ArtifactTarget,
    AssignedModel,
    AssignedTrial,
    EdgeNode,
    EdgeNodeSpec,
    EdgeNodeStatus,
    Measured,
    ModelStatus,
    RunningModel,
    Swap,
    TargetState,
    TrialResult,
    TrialStatus,
)
from edgemodel_api.formats import Format, loadable
from edgemodel_api.hardware import PLATFORM_OF, Hardware, HardwareClass
from edgemodel_api.job import JobResult, Outcome, VariantSummary
from edgemodel_api.meta import Condition, ObjectMeta, get_condition
from edgemodel_operator.domain.actions import Action, Assign, AssignTrial, StartJob
from edgemodel_operator.domain.analysis import Measurement, Probe
from edgemodel_operator.domain.apply import apply_to_spec
from edgemodel_operator.domain.observed import JobState, JobView, Observed, Settings
from edgemodel_operator.domain.plan import Plan, plan, wanted_revision

START = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
KEY = "default/m"


def digest_of(name: str) -> str:
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class ModelBuilder:
    """An EdgeModel, changed field by field."""

    spec: dict = dataclasses.field(default_factory=lambda: {"source": {"uri": "file:m.onnx", "sha256": "a" * 64}})
    annotations: dict = dataclasses.field(default_factory=dict)
    generation: int = 1
    status: EdgeModelStatus = dataclasses.field(default_factory=EdgeModelStatus)
    deleted: datetime | None = None

    def _set(self, **spec) -> ModelBuilder:
        return dataclasses.replace(self, spec={**self.spec, **spec})

    def with_rollout(self, **fields) -> ModelBuilder:
        return self._set(rollout={**self.spec.get("rollout", {}), **fields})

    def with_waves(self, *waves) -> ModelBuilder:
        """Each a node count or percentage, or a pair (that, soak)."""
        return self.with_rollout(
            waves=[{"nodes": w[0], "soak": w[1]} if isinstance(w, tuple) else {"nodes": w} for w in waves]
        )

    def with_source(self, letter: str) -> ModelBuilder:
        return self._set(source={"uri": "file:m.onnx", "sha256": letter * 64})

    def with_budget(self, **budget) -> ModelBuilder:
        compression = self.spec.get("compression", {})
        return self._set(compression={**compression, "budget": {**compression.get("budget", {}), **budget}})

    def with_objective(self, objective: str) -> ModelBuilder:
        return self._set(compression={**self.spec.get("compression", {}), "objective": objective})

    def with_field(self, name: str, value) -> ModelBuilder:
        return self._set(**{name: value})

    def annotated(self, **annotations) -> ModelBuilder:
        named = {f"edgemodel.dev/{k}": v for k, v in annotations.items()}
        return dataclasses.replace(self, annotations={**self.annotations, **named})

    def build(self) -> EdgeModel:
        return EdgeModel(
            api_version="edgemodel.dev/v1alpha1",
            kind="EdgeModel",
            metadata=ObjectMeta(
                name="m",
                namespace="default",
                generation=self.generation,
                annotations=self.annotations,
                deletion_timestamp=self.deleted,
            ),
            spec=EdgeModelSpec.model_validate(self.spec),
            status=self.status,
        )


#: What agents report.
ONNX_ONLY = {"onnxruntime": "1.32.0"}
BOTH = {**ONNX_ONLY, "ai-edge-litert": "2.3.0"}
TFLITE_ONLY = {"tflite-runtime": "2.14.0"}


@dataclasses.dataclass
class SimNode:
    """A machine with an agent: fetches, checks, switches, fails, goes silent. One thing a step, as decide.py has it.

    `bad`: digests that fail their checks here. `crashing`: digests that pass, then die, and take the old one along.
    `slow`: steps that a download takes. `no_port`: another program has the fixed port. `no_trial`: reason with which every candidate fails in a trial.
    """

    name: str
    hardware_class: HardwareClass | None = HardwareClass.AMD64_VNNI
    runtimes: dict = dataclasses.field(default_factory=lambda: dict(ONNX_ONLY))
    labels: dict = dataclasses.field(default_factory=dict)
    online: bool = True
    bad: set = dataclasses.field(default_factory=set)
    crashing: set = dataclasses.field(default_factory=set)
    slow: int = 1
    no_port: bool = False
    no_trial: str = ""
    slowdown: dict = dataclasses.field(default_factory=dict)
    spec: EdgeNodeSpec = dataclasses.field(default_factory=EdgeNodeSpec)
    present: set = dataclasses.field(default_factory=set)
    fetching: int = 0
    checking: bool = False
    running: ArtifactTarget | None = None
    serves_with: object = None
    previous: ArtifactTarget | None = None
    failed: tuple = ()
    wanted: str = ""
    results: dict = dataclasses.field(default_factory=dict)
    trial_revision: str = ""
    changed_at: datetime | None = None
    status: EdgeNodeStatus = dataclasses.field(default_factory=EdgeNodeStatus)
    _seen: EdgeNode | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def assigned(self) -> AssignedModel | None:
        return next((m for m in self.spec.models if m.key == KEY), None)

    def step(self, now: datetime) -> None:
        """One pass of the agent, whether anybody can reach it or not."""
        a = self.assigned
        if a is None:
            self.running = self.previous = None
            self.wanted, self.failed, self.fetching, self.checking = "", (), 0, False
        else:
            self._step_model(a, now)
        self._step_trial()

    def _step_model(self, a: AssignedModel, now: datetime) -> None:
        digest = a.target.digest
        if digest != self.wanted:
            self.wanted, self.fetching, self.checking = digest, 0, False
            if self.failed[:1] != (digest,):
                self.failed = ()
        if self._switched(a):
            if digest in self.crashing:
                self.running, self.previous = None, None
                self._fail(digest, a.attempt, "ServerCrashed", now)
            return
        if self.failed[:2] == (digest, a.attempt):
            return
        if digest not in self.present:
            self.fetching += 1
            if self.fetching >= self.slow:
                self.present.add(digest)
            return
        if a.swap is Swap.PREFETCH:
            self.checking = False
            return
        if not self.checking:
            self.checking = True
            return
        self.checking = False
        if digest in self.bad:
            self._fail(digest, a.attempt, "GoldenMismatch", now)
            return
        if self.no_port and a.serving.port is not None:
            self._fail(digest, a.attempt, "PortUnavailable", now)
            return
        self.previous, self.running, self.serves_with, self.failed = self.running, a.target, a.serving, ()

    def _switched(self, a: AssignedModel) -> bool:
        return self.running is not None and self.running.digest == a.target.digest and self.serves_with == a.serving

    def _fail(self, digest: str, attempt: int, reason: str, now: datetime) -> None:
        self.failed = (digest, attempt, reason)
        self.changed_at = now

    def _step_trial(self) -> None:
        trial = next((t for t in self.spec.trials if t.key == KEY), None)
        if trial is None or trial.revision != self.trial_revision:
            self.results, self.trial_revision = {}, trial.revision if trial else ""
            return
        missing = [c for c in trial.candidates if c.digest not in self.results]
        if missing:
            self.results[missing[0].digest] = self._measure(missing[0], trial)

    def _measure(self, c: ArtifactTarget, trial: AssignedTrial) -> TrialResult:
        if self.no_trial:
            return TrialResult(digest=c.digest, variant=c.variant, passed=False, reason=self.no_trial, message="sim")
        slower, first = self.slowdown.get(c.variant, -0.2), c.digest == trial.candidates[0].digest
        measured = Measured(
            latency_median_seconds="0.01" if first else f"{0.01 * (1 + slower):.6f}",
            peak_memory_bytes=1000,
            slowdown=None if first else str(slower),
            slowdown_low=None if first else str(slower - 0.005),
        )
        return TrialResult(digest=c.digest, variant=c.variant, passed=True, reason="Passed", measured=measured)

    def report(self, now: datetime) -> None:
        """Write the status, if anybody hears it."""
        if not self.online:
            return
        a = self.assigned
        trial = next((t for t in self.spec.trials if t.key == KEY), None)
        self.status = EdgeNodeStatus(
            hardware=None if self.hardware_class is None else hardware_of(self.hardware_class),
            runtimes=self.runtimes,
            last_report_time=now,
            models=() if a is None or self.wanted != a.target.digest else (self._model_status(a),),
            trials=()
            if trial is None or trial.revision != self.trial_revision
            else (
                TrialStatus(
                    namespace="default",
                    name="m",
                    revision=trial.revision,
                    done=len(self.results) == len(trial.candidates),
                    results=tuple(self.results.values()),
                ),
            ),
        )

    def _model_status(self, a: AssignedModel) -> ModelStatus:
        digest, running = a.target.digest, self.running
        reason = message = ""
        if self._switched(a):
            state, reason = TargetState.SERVING, "Serving"
        elif self.failed[:2] == (digest, a.attempt):
            state, reason, message = TargetState.FAILED, self.failed[2], "0.5 > 0.1"
        elif self.checking:
            state = TargetState.CHECKING
        elif digest in self.present:
            state = TargetState.DOWNLOADED
        else:
            state = TargetState.DOWNLOADING
        return ModelStatus(
            namespace="default",
            name="m",
            revision=a.target.revision,
            variant=a.target.variant,
            digest=digest,
            attempt=a.attempt,
            state=state,
            reason=reason,
            message=message,
            changed_at=self.changed_at,
            running=None
            if running is None
            else RunningModel(revision=running.revision, variant=running.variant, digest=running.digest, since=START),
        )

    def as_object(self) -> EdgeNode:
        """The very one of the last time while nothing has changed, as in the operator's cache."""
        seen = self._seen
        if (
            seen is None
            or (seen.metadata.name, seen.metadata.labels) != (self.name, self.labels)
            or not (seen.spec is self.spec and seen.status is self.status)
        ):
            self._seen = seen = EdgeNode(
                metadata=ObjectMeta(name=self.name, labels=self.labels), spec=self.spec, status=self.status
            )
        return seen


@functools.cache
def hardware_of(hardware_class: HardwareClass) -> Hardware:
    return Hardware(platform=PLATFORM_OF.get(hardware_class, "linux/riscv64"), hardware_class=hardware_class)


def succeeded(revision: str, platforms: Iterable[str], *, unaccepted: Iterable[str] = ()) -> JobResult:
    """Per platform: the source (4000 bytes), int8 (1000) and mixed (2000)."""
    sizes = {"source": 4000, "int8": 1000, "mixed": 2000}
    return JobResult(
        outcome=Outcome.SUCCEEDED,
        digest=digest_of(f"index/{revision}"),
        reference="oci-layout:///registry",
        variants=tuple(
            VariantSummary(
                platform=p,
                name=n,
                digest=digest_of(f"{revision}/{p}/{n}"),
                size_bytes=s,
                file_bytes=2 * s,
                quality=0.9,
                accepted=n not in unaccepted,
            )
            for p in platforms
            for n, s in sizes.items()
        ),
    )


def in_formats(revision: str, platforms: Iterable[str]) -> JobResult:
    """As `succeeded`, and per platform tflite-float (3000 bytes) and tflite-int8 (800); on arm/v7 these alone. And Core ML."""
    onnx = succeeded(revision, [p for p in platforms if p != "linux/arm/v7"])

    def other(platform: str, name: str, size: int, kind: Format) -> VariantSummary:
        digest = digest_of(f"{revision}/{platform}/{name}")
        return VariantSummary(
            platform=platform, name=name, digest=digest, size_bytes=size, file_bytes=2 * size, quality=0.9, format=kind
        )

    more = [other(p, "tflite-int8", 800, Format.TFLITE) for p in platforms]
    more += [other(p, "tflite-float", 3000, Format.TFLITE) for p in platforms]
    # Where it should be, and where nobody would put it.
    more += [other(p, "coreml", 10, Format.COREML) for p in ("darwin/arm64", *platforms)]
    return onnx.replace(variants=(*onnx.variants, *more))


@dataclasses.dataclass
class World:
    """One EdgeModel, its nodes and its Jobs. `run` is what an operator does; every pass is checked."""

    builder: ModelBuilder
    nodes: list[SimNode]
    now: datetime = START
    status: EdgeModelStatus = dataclasses.field(default_factory=EdgeModelStatus)
    jobs: dict = dataclasses.field(default_factory=dict)
    job_result: Callable[[str, tuple], JobResult] = succeeded
    started: list = dataclasses.field(default_factory=list)
    events: list = dataclasses.field(default_factory=list)
    accepted: set = dataclasses.field(default_factory=set)
    #: Of every variant that a Job ever stored: its format.
    formats: dict = dataclasses.field(default_factory=dict)
    last: Plan | None = None
    check: Callable[[World, Observed, Plan], None] | None = None
    #: What Prometheus says to a probe: an outcome, or one with its value and message. None: there is no Prometheus.
    prometheus: Callable[[Probe], AnalysisOutcome] | None = None
    measurements: list[Measurement] = dataclasses.field(default_factory=list)
    asked: dict[Probe, datetime] = dataclasses.field(default_factory=dict)
    heard_since: datetime | None = None

    def observed(self) -> Observed:
        # Through JSON, as a restart would read it.
        status = EdgeModelStatus.model_validate(json.loads(json.dumps(self.status.to_json())))
        assert status == self.status
        model = dataclasses.replace(self.builder, status=status).build()
        nodes = tuple(n.as_object() for n in self.nodes)
        revision, _ = wanted_revision(model, nodes)
        settings = Settings(output="oci-layout:///registry", can_measure=self.prometheus is not None)
        jobs, measured = self.jobs.get(revision), tuple(self.measurements)
        return Observed(self.now, model, nodes, jobs, settings, measured, self.heard_since)

    def edit(self, builder: ModelBuilder) -> None:
        """A new spec: the next generation."""
        self.builder = dataclasses.replace(builder, generation=self.builder.generation + 1)

    def annotate(self, **annotations) -> None:
        self.builder = self.builder.annotated(**annotations)

    def pass_(self, *, dies_after: int | None = None, status_first: bool = True) -> Plan:
        """One pass. `dies_after`: the operator is killed after so many writes."""
        observed = self.observed()
        planned = plan(observed)
        if self.check is not None:
            self.check(self, observed, planned)
        jobs = [a for a in planned.actions if isinstance(a, StartJob)]
        others = [a for a in planned.actions if not isinstance(a, StartJob)]
        writes = [*jobs, planned.status, *others] if status_first else [*others, *jobs, planned.status]
        for write in writes if dies_after is None else writes[:dies_after]:
            if isinstance(write, EdgeModelStatus):
                self.status = write
            else:
                self._apply(write)
        self.events += planned.events
        self.last = planned
        self.measurements = [m for m in self.measurements if m.probe in planned.probes]
        return planned

    def measure(self) -> None:
        """What the last plan wants measured, as often as it wants that."""
        for probe in self.last.probes if self.last is not None else ():
            if self.prometheus is None or self.now - self.asked.get(probe, START - probe.interval) < probe.interval:
                continue
            self.asked[probe] = self.now
            outcome = self.prometheus(probe)
            why = "no data" if outcome is AnalysisOutcome.INCONCLUSIVE else ""
            self.measurements.append(Measurement(probe, self.now, outcome, "0.5", why))

    def _apply(self, action: Action) -> None:
        if isinstance(action, StartJob):
            self.started.append(action.job)
            self.jobs[action.job.revision] = JobView(action.job.revision, JobState.RUNNING)
            return
        for node in self.nodes:
            if node.name == action.node:
                node.spec = apply_to_spec(node.spec, [action])

    def finish_job(self) -> None:
        for revision, view in self.jobs.items():
            if view.state is JobState.RUNNING:
                platforms = next(j.platforms for j in self.started if j.revision == revision)
                result = self.job_result(revision, platforms)
                self.accepted |= {v.digest for v in result.variants if v.accepted}
                self.formats |= {v.digest: v.format or Format.ONNX for v in result.variants}
                self.jobs[revision] = JobView(revision, JobState.FINISHED, result)

    def step_nodes(self) -> None:
        for node in self.nodes:
            node.step(self.now)
            node.report(self.now)

    def tick(self, seconds: float = 1.0) -> None:
        self.now += timedelta(seconds=seconds)

    def turn(self, seconds: float = 1.0) -> None:
        """Jobs end, nodes work and report, the operator looks."""
        self.finish_job()
        self.step_nodes()
        self.measure()
        self.pass_()
        self.tick(seconds)

    def run(self, turns: int = 60, seconds: float = 1.0, until: Callable[[World], bool] | None = None) -> World:
        for _ in range(turns):
            self.turn(seconds)
            if until is not None and until(self):
                return self
        assert until is None, (
            f"not reached in {turns} turns: {[(c.type, c.status, c.reason, c.message) for c in self.status.conditions]}"
        )
        return self

    def condition(self, type_: str) -> Condition | None:
        return get_condition(self.status.conditions, type_)

    def reason(self, type_: str) -> str:
        found = self.condition(type_)
        return "" if found is None else found.reason

    def message(self, type_: str) -> str:
        found = self.condition(type_)
        return "" if found is None else found.message

    def is_true(self, type_: str) -> bool:
        found = self.condition(type_)
        return found is not None and found.status == "True"

    def node(self, name: str) -> SimNode:
        return next(n for n in self.nodes if n.name == name)

    def active(self) -> list[str]:
        """Nodes told to activate the current revision."""
        return [
            n.name
            for n in self.nodes
            if n.assigned is not None
            and n.assigned.swap is Swap.ACTIVATE
            and n.assigned.target.revision == self.status.revision
        ]

    def serving(self, revision: str | None = None) -> list[str]:
        wanted = self.status.revision if revision is None else revision
        return [n.name for n in self.nodes if n.running is not None and n.running.revision == wanted]

    def wanted(self) -> str:
        """The revision that spec and pool ask for now."""
        model = dataclasses.replace(self.builder, status=self.status).build()
        return wanted_revision(model, [n.as_object() for n in self.nodes])[0]

    def finished(self) -> bool:
        return self.status.rollout is not None and self.status.rollout.finished_at is not None

    def rolled_back(self) -> bool:
        return self.status.rollout is not None and self.status.rollout.rolled_back

    def digest(self, variant: str = "int8", platform: str = "linux/amd64", revision: str | None = None) -> str:
        return digest_of(f"{revision or self.status.revision}/{platform}/{variant}")


def applied(world: World, observed: Observed, planned: Plan) -> Observed:
    """What would be observed at the same time with everything carried out."""
    by_node: dict[str, list] = {}
    job = observed.job
    for action in planned.actions:
        if isinstance(action, StartJob):
            job = JobView(action.job.revision, JobState.RUNNING)
        else:
            by_node.setdefault(action.node, []).append(action)
    nodes = tuple(
        n.replace(spec=apply_to_spec(n.spec, by_node[n.metadata.name])) if n.metadata.name in by_node else n
        for n in observed.nodes
    )
    return dataclasses.replace(observed, model=observed.model.replace(status=planned.status), nodes=nodes, job=job)


def check_pass(world: World, observed: Observed, planned: Plan) -> None:
    """What must hold of every pass, whatever happened before (DESIGN.md, invariants 4 and 8, kstatus)."""
    shuffled = list(observed.nodes)
    random.Random(len(world.events)).shuffle(shuffled)
    assert plan(dataclasses.replace(observed, nodes=tuple(shuffled))) == planned, "the order of nodes matters"
    carried_out = applied(world, observed, planned)
    again = plan(carried_out)
    assert again.actions == (), f"not idempotent: {again.actions} after {planned.actions}"
    assert again.status.to_json() == planned.status.to_json(), "the status is not stable"
    assert again.events == ()
    # Until wake_at, time alone changes nothing.
    asleep = (again.wake_at or observed.now + timedelta(days=1)) - timedelta(microseconds=1)
    later = plan(dataclasses.replace(carried_out, now=asleep))
    assert later.actions == (), f"{later.actions} before {again.wake_at}"
    assert later.status.to_json() == planned.status.to_json(), f"something changes before {again.wake_at}"
    status = planned.status
    assert status.observed_generation == observed.model.metadata.generation
    kinds = {c.type: c for c in status.conditions}
    assert "Ready" in kinds
    assert all(c.status == "True" for t, c in kinds.items() if t in ("Reconciling", "Stalled"))
    if kinds["Ready"].status == "False":
        assert "Reconciling" in kinds or "Stalled" in kinds, "not ready, and it does not say why"
    assert all(c.message and c.reason and len(c.message) <= 1024 for c in status.conditions)
    assert planned.wake_at is None or planned.wake_at > observed.now
    assert len(json.dumps(status.to_json())) < 60_000
    before = {c.type: c for c in observed.model.status.conditions}
    for type_, c in kinds.items():
        if type_ in before and before[type_].status == c.status:
            assert c.last_transition_time == before[type_].last_transition_time
    for action in planned.actions:
        if isinstance(action, Assign):
            assert action.model.target.digest in world.accepted, "a digest that nobody accepted"
    _check_formats(world, observed, planned)
    _check_slots(world, observed, planned)


def _check_formats(world: World, observed: Observed, planned: Plan) -> None:
    """Nobody is told to load or to try what none of its runtimes loads; Core ML nobody at all."""
    loads = {n.metadata.name: loadable(n.status.runtimes) for n in observed.nodes}
    for action in planned.actions:
        if isinstance(action, Assign):
            told = (action.model.target,)
        elif isinstance(action, AssignTrial):
            told = action.trial.candidates
        else:
            continue
        for target in told:
            kind = world.formats.get(target.digest, Format.ONNX)
            assert kind in loads[action.node], f"{action.node} cannot load {target.variant}, which is {kind}"
            assert kind is not Format.COREML


def _check_slots(world: World, observed: Observed, planned: Plan) -> None:
    """When anybody is told to switch, no more than maxUnavailable are switching or without a model because of us."""
    told = [a for a in planned.actions if isinstance(a, Assign) and a.model.swap is Swap.ACTIVATE]
    reported = {n.metadata.name: next((m for m in n.status.models if m.key == KEY), None) for n in observed.nodes}
    before = {n.metadata.name: next((m for m in n.spec.models if m.key == KEY), None) for n in observed.nodes}

    def runs(name: str) -> str:
        r = reported[name]
        return r.running.digest if r is not None and r.running is not None else ""

    def is_new(a: Assign) -> bool:
        old = before[a.node]
        known = old is not None and old.swap is Swap.ACTIVATE and old.attempt == a.model.attempt
        return not (known and old is not None and old.target == a.model.target)

    switches = [a.node for a in told if is_new(a) and runs(a.node) not in ("", a.model.target.digest)]
    if not switches:
        return
    rollout: Rollout = observed.model.spec.rollout
    total = sum(observed.model.spec.node_pool.selector.matches(n.metadata.labels) for n in observed.nodes)
    limit = rollout.max_unavailable
    allowed = limit if isinstance(limit, int) else max(1, int(float(limit[:-1]) * total / 100 + 1e-9))
    after = {n.metadata.name: n for n in applied(world, observed, planned).nodes}
    busy = []
    for name, node in after.items():
        a = next((m for m in node.spec.models if m.key == KEY), None)
        r = reported[name]
        online = node.status.last_report_time is not None and observed.now - node.status.last_report_time <= timedelta(
            seconds=60
        )
        if a is None or a.swap is not Swap.ACTIVATE or not online or runs(name) in ("", a.target.digest):
            continue
        settled = (
            r is not None
            and (r.revision, r.digest) == (a.target.revision, a.target.digest)
            and r.attempt >= a.attempt
            and r.state in (TargetState.SERVING, TargetState.FAILED)
        )
        if not settled:
            busy.append(name)
    assert len(busy) <= allowed, f"{busy} switch at once, and maxUnavailable {limit} allows {allowed}"


class Make:
    """What tests build with."""

    start = START
    digest_of = staticmethod(digest_of)
    succeeded = staticmethod(succeeded)
    in_formats = staticmethod(in_formats)
    onnx_only, both, tflite_only = ONNX_ONLY, BOTH, TFLITE_ONLY
    check_pass = staticmethod(check_pass)
    Node = SimNode
    World = World

    @staticmethod
    def edge_model() -> ModelBuilder:
        return ModelBuilder().with_waves("100%").with_rollout(maxUnavailable="100%", maxFailures=0)

    @staticmethod
    def nodes(count: int, **fields) -> list[SimNode]:
        width = len(str(max(count - 1, 1)))
        return [SimNode(f"n{i:0{width}}", **fields) for i in range(count)]

    @classmethod
    def world(cls, builder: ModelBuilder | None = None, nodes: int | list[SimNode] = 3, **fields) -> World:
        chosen = cls.nodes(nodes) if isinstance(nodes, int) else nodes
        return World(builder or cls.edge_model(), chosen, check=check_pass, **fields)


@pytest.fixture(scope="session")
def make() -> type[Make]:
    return Make


@pytest.fixture(scope="session")
def make_edge_model() -> Callable[[], ModelBuilder]:
    return Make.edge_model
