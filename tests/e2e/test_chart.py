"""The chart's life: who may what while it is there, install, upgrade, uninstall, and which rights nobody used.

The last file of a session: it uninstalls the session's release, and its last test judges the rights by everything that
ran before.
"""

from __future__ import annotations

import base64
import json
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from .conftest import Place, a_namespace, spec_of
from .kube import CommandError, Kube, wait
from .model import Model, steps
from .release import CHART, HELM_PATIENCE, NAME, NAMESPACE, Release, image_values, merged

VOLUME = "edgemodel-test-registry"
FINALIZER = "edgemodel.dev/nodes"
#: `(account, resource, verb)` → why it is granted although no test may come to need it.
UNUSED_FOR_A_REASON = {
    ("operator", "edgenodes", "get"): "looks again after a conflict with an agent that wrote at the same moment",
    ("operator", "jobs", "get"): "a Job that an operator made just before it was killed is found when it is made again",
    ("operator", "edgemodels", "get"): "asks before it takes what an unknown EdgeModel has from the nodes",
    ("release", "edgemodels", "patch"): "an operator that was killed left its finalizers; one that ends takes them off",
    ("release", "edgenodes", "patch"): "only where nodes have a standby",
}


# --- an agent's rights


class As:
    """kubectl with a token and nothing else of the administrator's."""

    def __init__(self, kube: Kube, folder: Path, name: str, token: str) -> None:
        config = yaml.safe_load(kube.kubeconfig.read_text())
        config["users"] = [{"name": u["name"], "user": {"token": token}} for u in config["users"]]
        self._kubeconfig = folder / f"{name}.kubeconfig"
        self._kubeconfig.write_text(yaml.safe_dump(config))
        self._kube = Kube(self._kubeconfig, kube._kubectl)

    def __call__(self, *arguments: str, body: dict[str, Any] | None = None) -> str:
        return self._kube.kubectl(*arguments, input_text=json.dumps(body) if body else None)

    def report(self, node: str) -> httpx.Response:
        """What an agent writes. Not by kubectl, which reads a status before it patches it."""
        config = yaml.safe_load(self._kubeconfig.read_text())
        cluster, token = config["clusters"][0]["cluster"], config["users"][0]["user"]["token"]
        if "certificate-authority-data" in cluster:
            authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        else:
            authority = Path(cluster["certificate-authority"]).read_text()
        with httpx.Client(verify=ssl.create_default_context(cadata=authority), trust_env=False) as client:
            return client.patch(
                f"{cluster['server']}/apis/edgemodel.dev/v1alpha1/edgenodes/{node}/status",
                json={"status": {"agentVersion": "0"}},
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"},
            )

    def refused(self, *arguments: str, body: dict[str, Any] | None = None) -> str:
        """The API server's words."""
        with pytest.raises(CommandError) as error:
            self(*arguments, body=body)
        return str(error.value)


def edge_node(name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "edgemodel.dev/v1alpha1", "kind": "EdgeNode", "metadata": {"name": name}, **more}


@pytest.fixture
def tokens(release: Release, nodes: list[str]) -> dict[str, str]:
    """Node → a token of its agent's pod; "" → one of no pod."""
    kube, account = release.kube, "edgemodel-agent"
    found = {"": kube.kubectl("-n", NAMESPACE, "create", "token", account).strip()}
    for pod in release.pods("agent"):
        bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod['metadata']['name']}")
        found[pod["spec"]["nodeName"]] = kube.kubectl("-n", NAMESPACE, "create", "token", account, *bound).strip()
    return found


def test_an_agent_writes_its_own_node_only(
    kube: Kube, nodes: list[str], tokens: dict[str, str], tmp_path: Path
) -> None:
    own, other = nodes[0], nodes[1]
    agent = As(kube, tmp_path, "own", tokens[own])
    assert (answer := agent.report(own)).status_code == 200, answer.text
    agent("get", "edgenode", other)
    for name, token, node in (("own", own, other), ("other", other, own)):
        answer = As(kube, tmp_path, name, tokens[token]).report(node)
        assert answer.status_code == 403
        assert f"the agent on node {token} may write EdgeNode {token} only, not {node}" in answer.json()["message"]
    assert "not ghost" in agent.refused("create", "-f", "-", body=edge_node("ghost"))
    assert kube.find("edgenode", "ghost") is None

    assert "names no node" in As(kube, tmp_path, "unbound", tokens[""]).report(own).json()["message"]


def test_an_agent_does_not_say_what_its_node_runs(
    kube: Kube, nodes: list[str], tokens: dict[str, str], tmp_path: Path
) -> None:
    own = nodes[0]
    agent = As(kube, tmp_path, "own", tokens[own])
    target = {
        "revision": "1" * 12,
        "reference": "oci://evil.example.com/x",
        "digest": "sha256:" + "0" * 64,
        "variant": "x",
    }
    spec = {"models": [{"namespace": "x", "name": "x", "target": target}]}
    create = ("create", "--dry-run=server", "-f", "-")
    assert "spec is the operator's" in agent.refused(*create, body=edge_node(own, spec=spec))
    assert "already exists" in agent.refused(*create, body=edge_node(own))
    for command in (
        ("patch", "edgenode", own, "--type=merge", "-p", json.dumps({"spec": spec})),
        ("label", "edgenode", own, "a=b"),
        ("delete", "edgenode", own),
        ("get", "secrets", "-n", NAMESPACE),
        ("get", "edgemodels", "-A"),
    ):
        assert "(Forbidden)" in agent.refused(*command)


# --- its life


@pytest.fixture
def volume(place: Place, release: Release) -> Iterator[dict[str, Any]]:
    """Values of the registry's persistence: on the bed, which makes no volumes, one by hand."""
    if place.bed is None:
        yield {"size": "1Gi"}
        return
    node = "edge-1"
    folder = place.bed.settings.bed().node(node) / "disk" / "var" / "lib" / VOLUME
    folder.mkdir(parents=True, exist_ok=True)
    place.kube.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": VOLUME},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "claimRef": {"namespace": NAMESPACE, "name": "edgemodel-registry"},
                "local": {"path": f"/var/lib/{VOLUME}"},
                "nodeAffinity": {
                    "required": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
                                ]
                            }
                        ]
                    }
                },
            },
        }
    )
    yield {"size": "1Gi", "storageClass": "-"}
    release.uninstall()  # a claim that a pod uses is not deleted
    place.kube.kubectl("-n", NAMESPACE, "delete", "pvc", "edgemodel-registry", "--ignore-not-found")
    place.kube.kubectl("delete", "pv", VOLUME, "--ignore-not-found")
    shutil.rmtree(folder)


@pytest.fixture
def own_values(place: Place, values: dict[str, Any], images: dict[str, str], volume: dict[str, Any]) -> dict[str, Any]:
    """The session's, but with the chart's own registry."""
    registry: dict[str, Any] = {"enabled": True, "persistence": volume}
    if place.bed is not None:
        registry["image"] = image_values(images["registry"])
    return merged(values, {"registry": registry, "output": "", "release": {"timeout": "40s"}})


@pytest.fixture
def older_chart(tmp_path: Path) -> Path:
    """As an earlier version may have been: its CRD has one column less."""
    chart = tmp_path / "edgemodel"
    shutil.copytree(CHART, chart)
    path = chart / "files" / "crds" / "edgenodes.yaml"
    crd = yaml.safe_load(path.read_text())
    version = crd["spec"]["versions"][0]
    version["additionalPrinterColumns"] = [c for c in version["additionalPrinterColumns"] if c["name"] != "Age"]
    path.write_text(yaml.safe_dump(crd))
    return chart


def upgrade(kube: Kube, chart: Path, values: dict[str, Any]) -> None:
    """As a user does."""
    command = ("upgrade", "--install", NAME, chart, "-n", NAMESPACE, "--create-namespace", "-f", "-",
               "--take-ownership", "--wait", "--timeout", HELM_PATIENCE)  # fmt: skip
    kube.helm(*command, input_text=json.dumps(values))
    for daemons in kube.items("-n", NAMESPACE, "daemonsets"):
        name = daemons["metadata"]["name"]
        kube.kubectl("-n", NAMESPACE, "rollout", "status", f"daemonset/{name}", f"--timeout={HELM_PATIENCE}")


def columns(kube: Kube) -> set[str]:
    crd = kube.get("crd", "edgenodes.edgemodel.dev")
    return {c["name"] for c in crd["spec"]["versions"][0]["additionalPrinterColumns"]}


def of_release(kube: Kube) -> set[str]:
    """Everything that is labelled as the release's, and all pods in its namespace."""
    kinds = kube.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    skipped = {"events", "events.events.k8s.io", "componentstatuses"}
    names = ",".join(sorted(set(kinds) - skipped))
    found = kube.items(names, "-A", "-l", f"app.kubernetes.io/instance={NAME}")
    pods = kube.items("-n", NAMESPACE, "pods")
    return {f"{b['kind']}/{b['metadata']['name']}" for b in [*found, *pods]}


@pytest.mark.timeout(900)
def test_install_upgrade_uninstall(
    kube: Kube,
    release: Release,
    nodes: list[str],
    own_values: dict[str, Any],
    older_chart: Path,
    sources: dict[str, Any],
) -> None:
    release.uninstall()
    wait(lambda: {n for n in of_release(kube) if n.startswith("Pod/")} == set(), "the end of all pods", 240)
    upgrade(kube, older_chart, own_values)
    assert "Age" not in columns(kube)

    with a_namespace(kube, "e2e-chart") as namespace:
        # Superseded while its Job runs: it is ended.
        model = Model(kube, namespace, "m", spec_of(sources, {"matchLabels": {"edgemodel.dev/agent": "true"}}))
        model.apply()
        model.until("Compressed", "False", "Compressing")
        first = model.jobs()
        model.apply(compression=steps(40))
        wait(lambda: not {j["metadata"]["uid"] for j in first} & {j["metadata"]["uid"] for j in model.jobs()},
             "the end of the superseded Job")  # fmt: skip
        model.ready()
        assert sorted(model.running()) == nodes
        revision, jobs = set(model.running().values()), {j["metadata"]["uid"] for j in model.jobs()}

        # What is on the nodes and in the registry is not made anew by an upgrade.
        changed = merged(own_values, {"operator": {"workers": 4}, "agent": {"podAnnotations": {"changed": "yes"}}})
        upgrade(kube, CHART, changed)
        assert "Age" in columns(kube)
        model.ready()
        wait(lambda: sorted(model.running()) == nodes, model.told)
        assert set(model.running().values()) == revision
        assert {j["metadata"]["uid"] for j in model.jobs()} <= jobs

        kept = kube.helm("uninstall", NAME, "-n", NAMESPACE, "--wait", "--timeout", HELM_PATIENCE)
        assert "PersistentVolumeClaim" in kept
        remaining = {
            "CustomResourceDefinition/edgemodels.edgemodel.dev",
            "CustomResourceDefinition/edgenodes.edgemodel.dev",
            "PersistentVolumeClaim/edgemodel-registry",
        }
        wait(lambda: of_release(kube) == remaining, lambda: f"left: {sorted(of_release(kube) - remaining)}", 240)
        assert FINALIZER not in model.object()["metadata"].get("finalizers", [])
        # Deleting its namespace, as the block ends, hangs on nothing.


# --- rights


def granted(kube: Kube, values: dict[str, Any]) -> dict[str, set[tuple[str, str]]]:
    """Account → `(resource, verb)`, as the chart grants them."""
    command = ("template", NAME, str(CHART), "-n", NAMESPACE, "--kube-version", "1.34.0", "-f", "-")
    objects = [b for b in yaml.safe_load_all(kube.helm(*command, input_text=json.dumps(values))) if b]
    roles = {(b["kind"], b["metadata"]["name"]): b["rules"] for b in objects if b["kind"] in ("Role", "ClusterRole")}
    found: dict[str, set[tuple[str, str]]] = {}
    for body in objects:
        if body["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            account = body["subjects"][0]["name"].removeprefix(f"{NAME}-")
            for rule in roles[body["roleRef"]["kind"], body["roleRef"]["name"]]:
                found.setdefault(account, set()).update((r, v) for r in rule["resources"] for v in rule["verbs"])
    return found


def used(log: Path) -> dict[str, set[tuple[str, str]]]:
    """Account → `(resource, verb)` that the API server allowed it."""
    prefix = f"system:serviceaccount:{NAMESPACE}:{NAME}-"
    found: dict[str, set[tuple[str, str]]] = {}
    with log.open() as lines:
        for line in lines:
            if prefix not in line:
                continue
            event = json.loads(line)
            user, target = event["user"]["username"], event.get("objectRef", {})
            if not user.startswith(prefix) or event.get("responseStatus", {}).get("code") == 403:
                continue
            resource = "/".join(filter(None, (target.get("resource"), target.get("subresource"))))
            found.setdefault(user.removeprefix(prefix), set()).add((resource, event["verb"]))
    return found


def test_every_right_is_used(place: Place, bed: Any, values: dict[str, Any]) -> None:
    """By the tests before this one; what the list names may stay unused, and nothing else."""
    logs = sorted(bed.settings.bed().logs.glob("audit*.log"))
    assert logs
    all_used: dict[str, set[tuple[str, str]]] = {}
    for log in logs:
        for account, rights in used(log).items():
            all_used.setdefault(account, set()).update(rights)
    rights = granted(place.kube, values)
    assert set(rights) == {"operator", "agent", "release"}
    unused = {(a, *right) for a, given in rights.items() for right in given - all_used.get(a, set())}
    print("unused:", *sorted(unused), sep="\n")
    assert sorted(unused - set(UNUSED_FOR_A_REASON)) == []
    everything = {(a, *right) for a, given in rights.items() for right in given}
    assert set(UNUSED_FOR_A_REASON) <= everything, "the list names what is not granted"
