"""One pass over one EdgeModel: what is known → plan → what it asks for, in the order that the plan's contract names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from edgemodel_api.edgemodel import DeletionPolicy, EdgeModel
from edgemodel_api.edgenode import EdgeNode
from edgemodel_api.errors import EdgeModelError, InputError
from edgemodel_operator.domain.actions import NodeAction, StartJob, Unassign, UnassignTrial
from edgemodel_operator.domain.apply import apply_to_spec
from edgemodel_operator.domain.failures import failures_of
from edgemodel_operator.domain.observed import Observed, Settings
from edgemodel_operator.domain.plan import Plan, plan, wanted_revision
from edgemodel_operator.domain.pool import members
from edgemodel_operator.metrics import OperatorMetrics
from edgemodel_operator.prometheus.measurer import Measurer
from edgemodel_operator.settings import OperatorSettings

from . import objects
from .artifacts import Artifacts
from .cache import Cache, keys_assigned
from .client import Body, Cluster, ConflictError, ForbiddenError, NotFoundError, RejectedError
from .contact import Contact
from .event_writer import write_events
from .jobs import Jobs

log = logging.getLogger(__name__)
#: Between two looks at whether a deleted EdgeModel's pods have ended.
JOB_ENDS = timedelta(seconds=2)
#: Of more nodes than that, which seem to have fallen silent, all are listed at once.
SILENT_ASKED = 8
#: Nodes that are written at the same time, by all passes together.
NODE_WRITERS = 8


class GoneError(EdgeModelError):
    """There is nothing to run passes over."""

    reason = "Gone"


@dataclass
class Reconciler:
    """Runs passes. Threads may share it, as long as no two run a pass over the same EdgeModel."""

    cluster: Cluster
    cache: Cache
    settings: OperatorSettings
    metrics: OperatorMetrics
    measurer: Measurer
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        self._writers = ThreadPoolExecutor(NODE_WRITERS, thread_name_prefix="node")
        self.artifacts = Artifacts()
        self.contact = Contact(self.clock)
        #: By node: the last report that was found to be the last one indeed.
        self._silent: dict[str, datetime] = {}
        self.jobs = Jobs(self.cluster, self.cache, self.settings.job, self.clock)

    def run(self, key: str) -> datetime | None:
        """One pass; when to run the next one if nothing changes before.

        Raises:
            GoneError: the EdgeModel does not exist, and no node speaks of it any more.
            EdgeModelError: a write failed. Everything up to it is written; the next pass goes on from there.
        """
        model = self.cache.models.get(key) or self._look(key)
        if model is None:
            self._sweep(key)
            raise GoneError(f"EdgeModel {key} is gone")
        observed = self.observe(model)
        planned = plan(observed)
        if model.metadata.deletion_timestamp is not None:
            return self._take_away(model, planned)
        try:
            self.apply(observed, planned)
        finally:
            # Whatever could not be written: a node that takes nothing must not keep the rollout from being measured.
            self.measurer.want(key, planned.probes)
        looks = [self.jobs.look_again(model, planned.status), planned.wake_at]
        return min((at for at in looks if at is not None), default=None)

    def observe(self, model: EdgeModel) -> Observed:
        """Everything that the plan may look at. Only the pod of a Job that ended, or does not start, is asked for."""
        meta = model.metadata
        self._ask_silent(model)
        nodes = tuple(node for _, node in sorted(self.cache.nodes.all().items()))
        revision, _ = wanted_revision(model, nodes)
        settings = Settings(
            output=self.settings.output_of(meta.namespace, meta.name),
            offline_after=self.settings.offline_after,
            can_measure=self.measurer.can_measure,
        )
        return Observed(
            now=self.clock(),
            model=model,
            nodes=nodes,
            job=self.jobs.view(model, revision),
            settings=settings,
            measurements=self.measurer.measurements(model.key),
            heard_since=self.contact.since(),
        )

    def _ask_silent(self, model: EdgeModel) -> None:
        """Ask for nodes that seem to have gone silent: a watch that is late, or dead, makes no node offline."""
        since = self.clock() - self.settings.offline_after
        known = self.cache.nodes.all()
        selector = model.spec.node_pool.selector
        silent = [
            name
            for name, node in known.items()
            if (last := node.status.last_report_time) is not None
            and last < since
            and self._silent.get(name) != last
            and selector.matches(node.metadata.labels)
        ]
        if not silent:
            return
        if len(silent) > SILENT_ASKED:
            for body in self.cluster.listed(objects.EDGE_NODES)[0]:
                self._saw_node(body)
        else:
            for name in silent:
                try:
                    self._saw_node(self.cluster.get(f"{objects.EDGE_NODES}/{name}"))
                except NotFoundError:
                    self.cache.nodes.drop(name)
        found = {name: self.cache.nodes.get(name) for name in silent}
        asked = {n: node.status.last_report_time for n, node in found.items() if node is not None}
        kept = {n: last for n, last in self._silent.items() if n in known}
        self._silent = kept | {n: last for n, last in asked.items() if last is not None}

    def apply(self, observed: Observed, planned: Plan) -> None:
        """Job, status and, once that is written, its events; then the nodes."""
        model = observed.model
        for action in planned.actions:
            if isinstance(action, StartJob):
                self.jobs.start(model, action.job)
        written = self._write_status(model, planned)
        self._measure(observed, planned)
        write_events(self.cluster, written, planned.events, self.clock())
        self._hold(written)
        self._write_nodes([a for a in planned.actions if not isinstance(a, StartJob)])
        self.jobs.end_superseded(model, planned.status.revision)

    def _measure(self, observed: Observed, planned: Plan) -> None:
        """Once for each status that is written, whatever becomes of the rest of the pass."""
        rollout = planned.status.rollout
        failed = rollout is not None and planned.status.nodes.failed > 0
        failures = failures_of(members(observed), rollout) if rollout is not None and failed else ()
        self.metrics.observe_model(
            observed.model, planned.status, now=observed.now, job=observed.job, failures=failures
        )

    # --- the EdgeModel

    def _look(self, key: str) -> EdgeModel | None:
        """Ask the API server: what the cache does not know may be new, and nothing is swept on hearsay."""
        namespace, _, name = key.partition("/")
        try:
            body = self.cluster.get(f"{objects.edge_models(namespace)}/{name}")
        except NotFoundError:
            return None
        return self._seen(body)

    def _seen(self, body: Body) -> EdgeModel:
        model = objects.parse_model(body)
        self.cache.models.put(model.key, objects.version_of(body), model)
        return model

    def _path(self, model: EdgeModel) -> str:
        return f"{objects.edge_models(model.metadata.namespace)}/{model.metadata.name}"

    def _write_status(self, model: EdgeModel, planned: Plan) -> EdgeModel:
        """By one patch, and only onto this very object (not onto its successor of the same name)."""
        # Compared as they are stored: a value that JSON cannot hold exactly must not look new for ever.
        status = planned.status.to_json()
        if status == model.status.to_json() and model.status.observed_generation > 0:
            return model
        same = {"op": "test", "path": "/metadata/uid", "value": model.metadata.uid}
        new = {"op": "add", "path": "/status", "value": status}
        try:
            return self._seen(self.cluster.patch(f"{self._path(model)}/status", [same, new]))
        except (ConflictError, NotFoundError):
            self.cache.models.drop(model.key)
            raise

    def _hold(self, model: EdgeModel) -> None:
        """Put our finalizer on it, before any node has something of it."""
        if objects.FINALIZER not in model.metadata.finalizers:
            self._write_finalizers(model, (*model.metadata.finalizers, objects.FINALIZER))

    def release(self, model: EdgeModel) -> None:
        """Take our finalizer off: what is on the nodes is taken away by `_sweep`, if not before."""
        if objects.FINALIZER in model.metadata.finalizers:
            kept = tuple(f for f in model.metadata.finalizers if f != objects.FINALIZER)
            self._write_finalizers(model, kept)

    def _write_finalizers(self, model: EdgeModel, finalizers: tuple[str, ...]) -> None:
        meta = {"resourceVersion": model.metadata.resource_version, "finalizers": list(finalizers)}
        try:
            body = self.cluster.merge(self._path(model), {"metadata": meta})
            if model.metadata.deletion_timestamp is None or finalizers:
                self._seen(body)
            else:
                # The last one is off, so it is gone: an answer that comes after the watch's must not bring it back.
                self.cache.models.drop(model.key)
        except NotFoundError:
            self.cache.models.drop(model.key)
        except ConflictError:
            self.cache.models.drop(model.key)
            raise

    def _take_away(self, model: EdgeModel, planned: Plan) -> datetime | None:
        """From every node's spec and, if asked for, from the registry; then let it go.

        No node has to answer and the registry has only a little time, so nothing can hold a namespace back.
        """
        try:
            self._write_nodes([a for a in planned.actions if not isinstance(a, StartJob)])
        except (RejectedError, ForbiddenError) as error:
            # For ever, maybe: what stays on that node is swept once the API server takes it.
            log.warning("EdgeModel %s goes, but stays in the spec of a node: %s", model.key, error.message)
        if objects.FINALIZER in model.metadata.finalizers and model.spec.deletion_policy is DeletionPolicy.DELETE:
            if not self.jobs.is_over(model):
                return self.clock() + JOB_ENDS
            output = self.settings.output_of(model.metadata.namespace, model.metadata.name)
            write_events(self.cluster, model, self.artifacts.remove(model, output), self.clock())
        self.release(model)
        self._forget(model.key)
        return None

    def _forget(self, key: str) -> None:
        self.measurer.want(key, ())
        self.metrics.forget_model(key)

    def _sweep(self, key: str) -> None:
        """What was deleted while no operator ran is taken from the nodes."""
        namespace, _, name = key.partition("/")
        actions: list[NodeAction] = []
        for node in self.cache.nodes.all().values():
            if key in keys_assigned(node):
                actions += [
                    Unassign(node.metadata.name, namespace, name),
                    UnassignTrial(node.metadata.name, namespace, name),
                ]
        self._write_nodes(actions)
        self._forget(key)
        self.jobs.forget_model(key)

    def strays(self) -> set[str]:
        """Keys in nodes' specs of which no EdgeModel is known, in namespaces that are served."""
        served = self.settings.namespaces
        known = self.cache.models.all()
        found = {key for node in self.cache.nodes.all().values() for key in keys_assigned(node)} - set(known)
        return {key for key in found if not served or key.partition("/")[0] in served}

    # --- nodes

    def _write_nodes(self, actions: list[NodeAction]) -> None:
        """Each node by one patch, if nobody wrote it since it was seen; one that fails does not keep back the others.

        Raises:
            EdgeModelError: the first failure, after all were tried.
        """
        by_node: dict[str, list[NodeAction]] = {}
        for action in actions:
            by_node.setdefault(action.node, []).append(action)
        # Several at a time: most of a write is waiting, and a wave may be a thousand of them.
        failures = list(self._writers.map(self._try_to_write, sorted(by_node), (by_node[n] for n in sorted(by_node))))
        failure = next((f for f in failures if f is not None), None)
        if failure is not None:
            raise failure

    def _try_to_write(self, name: str, actions: list[NodeAction]) -> EdgeModelError | None:
        node = self.cache.nodes.get(name)
        if node is not None:
            try:
                self._write_node(node, actions)
            except EdgeModelError as error:
                return error
        return None

    def _write_node(self, node: EdgeNode, actions: list[NodeAction]) -> None:
        spec = apply_to_spec(node.spec, actions).to_json()
        if spec == node.spec.to_json():
            return
        name = node.metadata.name
        path = f"{objects.EDGE_NODES}/{name}"
        body = {
            "metadata": {"resourceVersion": node.metadata.resource_version, "uid": node.metadata.uid},
            "spec": {"models": spec.get("models", []), "trials": spec.get("trials", [])},
        }
        try:
            self._saw_node(self.cluster.merge(path, body))
        except NotFoundError:
            self.cache.nodes.drop(name)
        except ConflictError:
            self.cache.nodes.drop(name)
            self._saw_node(self.cluster.get(path))
            raise

    def _saw_node(self, body: Body) -> None:
        name = body["metadata"]["name"]
        try:
            self.cache.nodes.put(name, objects.version_of(body), objects.parse_node(body))
        except InputError as error:
            # As if it were not there: it must not hold up the others.
            log.warning("%s", error.message)
            self.cache.nodes.drop(name)
