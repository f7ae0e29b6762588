"""A real API server, Job controller and operator; nodes' agents are played by the tests, through the agent's own adapter.

    KUBECONFIG=… python -m pytest tests/cluster

The compression pods ask for more CPU than any node has, so no kubelet takes them: the tests write their status as a
kubelet would, and the real Job controller goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from edgemodel_agent.cluster_objects import Access, ClusterObjects
from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgenode import (
    AssignedModel,
    AssignedTrial,
    EdgeNodeStatus,
    Measured,
    ModelStatus,
    RunningModel,
    Swap,
    TargetState,
    TrialResult,
    TrialStatus,
)
from edgemodel_api.hardware import Hardware, HardwareClass
from edgemodel_api.job import JobResult, Outcome, VariantSummary
from edgemodel_api.meta import get_condition
from edgemodel_operator.k8s import objects
from edgemodel_operator.k8s.client import Cluster, ConflictError, NotFoundError, connect

ROOT = Path(__file__).parents[2]
PYTHONPATH = os.pathsep.join(str(ROOT / part) for part in ("api", "oci", "operator", "agent"))


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


def digest_of(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("these tests need a cluster: set KUBECONFIG (make cluster prints it)")
    found = Cluster(connect(pool=8), timeout=15)
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        body = yaml.safe_load(path.read_text())
        crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        found.apply(f"{crds}/{body['metadata']['name']}", body)
    wait(lambda: listed(found, objects.EDGE_NODES) is not None, "the CRDs")
    return found


@pytest.fixture(scope="session")
def kubectl(cluster) -> Callable[..., str]:
    """Run the real kubectl; its output. `fails`: it must not succeed, and its complaint is given."""
    built = sorted(Path(os.environ.get("EDGEMODEL_CACHE") or Path.home() / ".cache/edgemodel").glob("kube-*/kubectl"))
    program = str(built[-1]) if built else shutil.which("kubectl")
    if program is None:
        pytest.fail("these tests need kubectl: install it, or make cluster")

    def run(*arguments: object, given: str | None = None, fails: bool = False) -> str:
        command = [program, *map(str, arguments)]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode != 0) == fails, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stderr if fails else done.stdout

    run.program = program
    return run


@pytest.fixture(scope="session")
def kstatus() -> Callable[[dict], str]:
    """What kstatus' own library says of an object."""
    tool = [sys.executable, str(ROOT / "tools" / "install"), "--print-path", "kstatus"]
    program = subprocess.run(tool, capture_output=True, text=True, check=True).stdout.strip()
    if not os.access(program, os.X_OK):
        pytest.fail(f"kstatus is not there ({program}): run `make tools`")

    def ask(body: dict) -> str:
        done = subprocess.run([program], input=json.dumps(body), capture_output=True, text=True, timeout=20, check=True)
        return json.loads(done.stdout)["status"]

    return ask


def listed(cluster: Cluster, path: str):
    try:
        return cluster.listed(path)[0]
    except NotFoundError:
        return None


def wait(condition: Callable[[], object], what: str, seconds: float = 30.0, agents: tuple = ()):
    """Until `condition` gives something true, while the agents work."""
    deadline = time.monotonic() + seconds
    while True:
        for agent in agents:
            agent.step()
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


@pytest.fixture
def namespace(cluster) -> Iterator[str]:
    """With the strictest Pod Security: a Job that breaks it never gets a pod."""
    name = f"em-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    # The admission of pods asks for the namespace's default account.
    wait(lambda: exists(cluster, f"/api/v1/namespaces/{name}/serviceaccounts/default"), "the default service account")
    yield name
    remove(cluster, f"/api/v1/namespaces/{name}")


@pytest.fixture
def home(cluster, namespace) -> Iterator[str]:
    """Where the operator and the agents would live: their accounts must outlive the EdgeModels' namespace."""
    name = f"{namespace}-home"
    cluster.create("/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    remove(cluster, f"/api/v1/namespaces/{name}")


def exists(cluster: Cluster, path: str) -> bool:
    try:
        cluster.get(path)
    except NotFoundError:
        return False
    return True


def remove(cluster: Cluster, path: str) -> None:
    try:
        cluster.delete(path, uid=cluster.get(path)["metadata"]["uid"])
    except (NotFoundError, ConflictError):
        return


class Operator:
    """The operator as a process of its own."""

    def __init__(self, namespace: str, kubeconfig: Path, log: Path) -> None:
        self.namespace, self.kubeconfig, self.log = namespace, kubeconfig, log
        self.output = "oci://registry.example.com/models"
        self.more: tuple[str, ...] = ()
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [
            sys.executable, "-m", "edgemodel_operator.main", "--output", self.output,
            "--job-image", "registry.example.com/compressor:1", "--job-cpu", "10000", "--namespaces", self.namespace,
            *self.more,
        ]  # fmt: skip
        with self.log.open("ab") as out:
            environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "KUBECONFIG": str(self.kubeconfig)}
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.process = None
        return code

    def text(self) -> str:
        return self.log.read_text()


@pytest.fixture
def operator(namespace, cluster, kubeconfig, tmp_path) -> Iterator[Operator]:
    found = Operator(namespace, kubeconfig, tmp_path / "operator.log")
    found.start()
    yield found
    found.kill()
    # Nobody else takes the finalizers off.
    for body in cluster.listed(objects.edge_models(namespace))[0]:
        path = f"{objects.edge_models(namespace)}/{body['metadata']['name']}"
        cluster.merge(path, {"metadata": {"finalizers": []}})
    print(found.text())
    lines = [line for line in found.text().splitlines() if "it is being terminated" not in line]
    assert not [line for line in lines if "Traceback" in line or "orbidden" in line]


class Model:
    """One EdgeModel."""

    def __init__(self, cluster: Cluster, namespace: str, name: str = "m") -> None:
        self.cluster, self.namespace, self.name = cluster, namespace, name
        self.pool = f"pool-{namespace}"
        self.path = f"{objects.edge_models(namespace)}/{name}"

    def apply(self, *, sha256: str = "a" * 64, **spec) -> None:
        body = {
            "apiVersion": "edgemodel.dev/v1alpha1",
            "kind": "EdgeModel",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "source": {"uri": "https://example.com/m.onnx", "sha256": sha256},
                "nodePool": {"selector": {"matchLabels": {"pool": self.pool}}},
                "rollout": {"waves": [{"nodes": 1}, {"nodes": "100%"}]},
                **spec,
            },
        }
        self.cluster.apply(self.path, body, manager="kubectl")

    def read(self) -> EdgeModel:
        return objects.parse_model(self.cluster.get(self.path))

    def says(self, type_: str, status: str = "True", reason: str = ""):
        found = get_condition(self.read().status.conditions, type_)
        return found if found is not None and found.status == status and reason in ("", found.reason) else None

    def jobs(self) -> list[dict]:
        return self.cluster.listed(objects.jobs(self.namespace), selector=objects.JOBS_SELECTOR)[0]

    def events(self) -> list[tuple[str, str]]:
        return [(e["reason"], e["message"]) for e in self.cluster.listed(objects.events(self.namespace))[0]
                if e["involvedObject"]["kind"] == "EdgeModel"]  # fmt: skip

    def pod(self) -> dict:
        """That of the newest Job."""

        def pods():
            uid = max(self.jobs(), key=lambda j: j["metadata"]["creationTimestamp"])["metadata"]["uid"]
            selector = f"batch.kubernetes.io/controller-uid={uid}"
            return self.cluster.listed(objects.pods(self.namespace), selector=selector)[0]

        return wait(pods, "the Job's pod (does it break the restricted Pod Security?)")[0]

    def end_pod(self, terminated: dict) -> None:
        """Write the status of the newest Job's pod as a kubelet would."""
        pod = self.pod()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        state = {"terminated": {"startedAt": now, "finishedAt": now, **terminated}}
        container = {
            "name": "compressor", "image": "x", "imageID": "x", "ready": False, "restartCount": 0, "state": state,
        }  # fmt: skip
        status = {
            "phase": "Succeeded" if terminated["exitCode"] == 0 else "Failed",
            "containerStatuses": [container],
        }
        self.cluster.merge(f"{objects.pods(self.namespace)}/{pod['metadata']['name']}/status", {"status": status})

    def finish_job(self) -> None:
        """The Job succeeded: the source and an int8 variant."""
        revision = self.read().status.revision
        variants = tuple(
            VariantSummary(
                platform="linux/amd64", name=name, digest=digest_of(f"{revision} {name}"), size_bytes=size,
                file_bytes=size, quality=0.99, hardware_classes=(),
            )
            for name, size in (("source", 4000), ("int8", 1000))
        )  # fmt: skip
        result = JobResult(outcome=Outcome.SUCCEEDED, digest=digest_of(revision), variants=variants)
        self.end_pod({"exitCode": 0, "reason": "Completed", "message": result.model_dump_json(by_alias=True)})


@pytest.fixture
def model(cluster, namespace) -> Model:
    return Model(cluster, namespace)


class PlayedAgent:
    """A node whose agent always does as it is told; `bad`: digests that fail their check here."""

    def __init__(self, access: Access, name: str, pool: str) -> None:
        self.name = name
        self.objects = ClusterObjects(access, name)
        self.objects.register({"pool": pool})
        self.bad: set[str] = set()
        self.running: dict[str, RunningModel] = {}

    def step(self) -> None:
        desired = self.objects.read_desired()
        now = datetime.now(UTC)
        models = desired.spec.models if desired is not None else ()
        trials = desired.spec.trials if desired is not None else ()
        self.running = {k: r for k, r in self.running.items() if k in {m.key for m in models}}
        self.objects.write_status(
            EdgeNodeStatus(
                observed_generation=desired.generation if desired is not None else 0,
                hardware=Hardware(platform="linux/amd64", hardware_class=HardwareClass.AMD64_VNNI),
                runtimes={"onnxruntime": "1.32.0"},
                last_report_time=now,
                models=tuple(self._model(m, now) for m in models),
                trials=tuple(self._trial(t) for t in trials),
            )
        )

    def _model(self, m: AssignedModel, now: datetime) -> ModelStatus:
        state = TargetState.DOWNLOADED
        if m.target.digest in self.bad:
            state = TargetState.FAILED
        elif m.swap is Swap.ACTIVATE:
            state = TargetState.SERVING
            if self.running.get(m.key) is None or self.running[m.key].digest != m.target.digest:
                t = m.target
                self.running[m.key] = RunningModel(revision=t.revision, variant=t.variant, digest=t.digest, since=now)
        return ModelStatus(
            namespace=m.namespace, name=m.name, revision=m.target.revision, variant=m.target.variant,
            digest=m.target.digest, attempt=m.attempt, state=state, running=self.running.get(m.key),
            reason="GoldenMismatch" if state is TargetState.FAILED else "", message="",
        )  # fmt: skip

    def _trial(self, t: AssignedTrial) -> TrialStatus:
        results = []
        for c in t.candidates:
            measured = Measured(latency_median_seconds="0.01")
            if c.variant != "source":
                measured = measured.replace(slowdown="-0.2", slowdown_low="-0.21")
            results.append(TrialResult(digest=c.digest, variant=c.variant, passed=True, measured=measured))
        return TrialStatus(namespace=t.namespace, name=t.name, revision=t.revision, done=True, results=tuple(results))

    def close(self) -> None:
        self.objects.close(0)
        # The writer may be just registering: it would make its EdgeNode after the test has removed it. (The watch ends
        # with the next event, and makes nothing.)
        for thread in self.objects._threads:
            if thread.name == "edgenode-status":
                thread.join(30)


def rule(resources: str, *verbs: str, group: str = "edgemodel.dev") -> dict:
    return {"apiGroups": [group], "resources": resources.split(), "verbs": list(verbs)}


#: What the two roles need, and no more.
AGENT_RULES = [rule("edgenodes", "create", "get", "watch"), rule("edgenodes/status", "patch")]
OPERATOR_RULES = [
    rule("edgemodels edgenodes", "get", "list", "watch", "patch"),
    rule("edgemodels/status", "patch"),
    rule("jobs", "get", "list", "watch", "create", "delete", group="batch"),
    rule("pods", "list", group=""),
    rule("events", "create", group=""),
    rule("nodes", "list", "watch", group=""),
]


@contextmanager
def account(cluster: Cluster, namespace: str, name: str, rules: list[dict], folder: Path) -> Iterator[Access]:
    """A service account with these rights alone: what its pod would have."""
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    cluster.create(accounts, {"metadata": {"name": name}})
    rbac, full = "/apis/rbac.authorization.k8s.io/v1", f"{namespace}-{name}"
    cluster.create(f"{rbac}/clusterroles", {"metadata": {"name": full}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    role = {"kind": "ClusterRole", "name": full, "apiGroup": "rbac.authorization.k8s.io"}
    binding = {"metadata": {"name": full}, "subjects": [subject], "roleRef": role}
    cluster.create(f"{rbac}/clusterrolebindings", binding)
    token = folder / f"{name}.token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token.write_text(cluster.create(f"{accounts}/{name}/token", request)["status"]["token"])
    settings = cluster._api.configuration
    yield Access(settings.host, token, Path(settings.ssl_ca_cert))
    remove(cluster, f"{rbac}/clusterrolebindings/{full}")
    remove(cluster, f"{rbac}/clusterroles/{full}")


@pytest.fixture
def access(cluster, home, tmp_path) -> Iterator[Access]:
    with account(cluster, home, "agent", AGENT_RULES, tmp_path) as found:
        yield found


@pytest.fixture
def kubeconfig(cluster, home, tmp_path) -> Iterator[Path]:
    """The operator's."""
    with account(cluster, home, "operator", OPERATOR_RULES, tmp_path) as found:
        path = tmp_path / "kubeconfig"
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": found.server, "certificate-authority": str(found.ca_file)}}],
            "users": [{"name": "u", "user": {"token": found.token_file.read_text()}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(content))
        yield path


@pytest.fixture
def agents(cluster, access, model) -> Iterator[tuple[PlayedAgent, ...]]:
    """Three nodes of the model's pool."""
    found = tuple(PlayedAgent(access, f"{model.namespace}-n{i}", model.pool) for i in range(3))
    yield found
    for agent in found:
        agent.close()
        remove(cluster, f"{objects.EDGE_NODES}/{agent.name}")
