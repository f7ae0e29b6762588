"""`python -m edgemodel_operator.release --namespace NS --operator NAME …`: let everything go before an uninstall.

The chart runs it as a hook before it deletes anything. In this order: the operator is stopped, or it would hold on to what
is let go; the EdgeModels lose our finalizer, or they could never be deleted; agents are asked to take away what they laid
on their nodes, as long as there are agents. Every wait has an end, and what was not done is told.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from edgemodel_api.edgenode import RETIRE_ANNOTATION, EdgeNode, StandbyState
from edgemodel_api.errors import EdgeModelError, InputError
from edgemodel_api.quantities import parse_duration

from .k8s import objects
from .k8s.client import Body, Cluster, ConflictError, NotFoundError, connect

log = logging.getLogger("edgemodel-release")

LOOK_SECONDS = 1.0
REQUEST_SECONDS = 15.0
#: Of an object that somebody else writes at the same moment.
TRIES = 5
#: A node whose last report is older is away, and not waited for.
AWAY_AFTER = timedelta(seconds=60)
NAMED = 10
STANDBY_FILE = "edgemodel-standby.yaml from the kubelet's folder of static pods"


@dataclass(frozen=True)
class Operator:
    """The operator's Deployment, and the label selector of its pods."""

    namespace: str
    name: str
    pods: str


@dataclass
class Release:
    """One run. `clock`: monotonic seconds; `now`: wall clock."""

    cluster: Cluster
    operator: Operator
    namespaces: tuple[str, ...]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def run(self, seconds: float) -> list[str]:
        """Everything, waiting `seconds` for the operator and as long for the nodes; what was not done, in words.

        Raises:
            EdgeModelError: the API server refuses or does not answer: nothing more can be done.
        """
        left = self.stop_operator(seconds)
        left += self.let_go()
        return left + self.clear_nodes(seconds)

    def stop_operator(self, seconds: float) -> list[str]:
        """Scale it to zero and wait until its pod has ended."""
        where = f"{self.operator.namespace}/{self.operator.name}"
        path = f"/apis/apps/v1/namespaces/{self.operator.namespace}/deployments/{self.operator.name}/scale"
        try:
            self.cluster.merge(path, {"spec": {"replicas": 0}})
        except NotFoundError:
            log.info("there is no operator %s", where)
            return []
        pods = objects.pods(self.operator.namespace)
        if self._until(lambda: not self.cluster.listed(pods, selector=self.operator.pods)[0], seconds):
            log.info("the operator %s has ended", where)
            return []
        return [f"the operator {where} did not end within {seconds:.0f} s, and may hold on to EdgeModels again"]

    def let_go(self) -> list[str]:
        """Take our finalizer off all EdgeModels."""
        held: list[str] = []
        freed = 0
        for namespace in self.namespaces or ("",):
            for body in self._listed(objects.edge_models(namespace)):
                meta = body["metadata"]
                if objects.FINALIZER not in (meta.get("finalizers") or []):
                    continue
                try:
                    self._take_finalizer(body)
                    freed += 1
                except EdgeModelError as error:
                    held.append(f"EdgeModel {meta['namespace']}/{meta['name']} keeps its finalizer: {error.message}")
        log.info("%d EdgeModels were let go", freed)
        return held

    def _take_finalizer(self, body: Body) -> None:
        path = f"{objects.edge_models(body['metadata']['namespace'])}/{body['metadata']['name']}"
        for _ in range(TRIES):
            # By its place, tested: a list has no other patch that leaves alone what others put into it meanwhile.
            finalizers = body["metadata"].get("finalizers") or []
            if objects.FINALIZER not in finalizers:
                return
            place = f"/metadata/finalizers/{finalizers.index(objects.FINALIZER)}"
            test = {"op": "test", "path": place, "value": objects.FINALIZER}
            try:
                self.cluster.patch(path, [test, {"op": "remove", "path": place}])
            except NotFoundError:
                return
            except ConflictError:
                found = [b for b in self._listed(objects.edge_models(body["metadata"]["namespace"]))
                         if b["metadata"]["uid"] == body["metadata"]["uid"]]  # fmt: skip
                if not found:
                    return
                body = found[0]
            else:
                return
        raise ConflictError(f"somebody else wrote it {TRIES} times in a row")

    def clear_nodes(self, seconds: float) -> list[str]:
        """Ask the agents that keep a standby to remove it, and wait for those that are there."""
        left: list[str] = []
        asked: set[str] = set()
        for node in self._nodes():
            if node.status.standby in (None, StandbyState.RETIRED):
                continue
            name = node.metadata.name
            try:
                self.cluster.merge(
                    f"{objects.EDGE_NODES}/{name}", {"metadata": {"annotations": {RETIRE_ANNOTATION: "true"}}}
                )
                asked.add(name)
            except NotFoundError:
                continue
            except EdgeModelError as error:
                left.append(f"node {name} was not asked to remove its standby: {error.message}")
        if asked:
            self._until(lambda: not self._waited_for(asked), seconds)
        return left + self._stay(asked)

    def _stay(self, asked: set[str]) -> list[str]:
        """Nodes that did not say so in time, many of them in one line."""
        if not asked:
            return []
        nodes = self._nodes()
        stay = sorted(
            n.metadata.name for n in nodes if n.metadata.name in asked and n.status.standby is not StandbyState.RETIRED
        )
        log.info("%d of %d nodes removed their standby", len(asked) - len(stay), len(asked))
        if not stay:
            return []
        named = ", ".join(stay[:NAMED]) + (f" and {len(stay) - NAMED} more" if len(stay) > NAMED else "")
        text = f"{len(stay)} nodes did not say that their standby is gone ({named}): remove {STANDBY_FILE} there"
        return [text]

    def _waited_for(self, asked: set[str]) -> set[str]:
        away = self.now() - AWAY_AFTER
        return {
            n.metadata.name
            for n in self._nodes()
            if n.metadata.name in asked
            and n.status.standby is not StandbyState.RETIRED
            and n.status.last_report_time is not None
            and n.status.last_report_time > away
        }

    def _nodes(self) -> list[EdgeNode]:
        found = []
        for body in self._listed(objects.EDGE_NODES):
            try:
                found.append(objects.parse_node(body))
            except InputError as error:
                log.warning("%s", error.message)
        return found

    def _listed(self, path: str) -> list[Body]:
        try:
            return self.cluster.listed(path)[0]
        except NotFoundError:
            # The CRD is gone, and all its objects with it.
            return []

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = self.clock() + seconds
        while not condition():
            if self.clock() >= deadline:
                return False
            self.sleep(LOOK_SECONDS)
        return True


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="edgemodel-release", description="Let everything go before an uninstall.")
    top.add_argument("--namespace", required=True, help="the operator's namespace")
    top.add_argument("--operator", required=True, help="name of its Deployment")
    top.add_argument("--operator-pods", required=True, help="label selector of its pods")
    top.add_argument(
        "--namespaces", default="", help="those whose EdgeModels are served, commas between them; empty: all"
    )
    top.add_argument("--timeout", default="60s", help="how long to wait for the operator, and for the nodes")
    return top


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 even if something was left, as an uninstall that stops half way helps nobody; it is told."""
    given = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        try:
            seconds = parse_duration(given.timeout).total_seconds()
        except ValueError as error:
            raise InputError(f"--timeout {given.timeout!r}: {error}") from None
        operator = Operator(given.namespace, given.operator, given.operator_pods)
        namespaces = tuple(part.strip() for part in given.namespaces.split(",") if part.strip())
        left = Release(Cluster(connect(pool=2), timeout=REQUEST_SECONDS), operator, namespaces).run(seconds)
    except EdgeModelError as error:
        print(f"edgemodel-release: {error.message}", file=sys.stderr)
        return error.exit_code
    for text in left:
        print(f"edgemodel-release: {text}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
