"""What the chart renders, for several values."""

from __future__ import annotations

import copy
import re

import pytest
import yaml

from edgemodel_operator import release
from edgemodel_operator.k8s.job_manifest import CONTAINER
from edgemodel_operator.k8s.objects import MANAGED_BY, MANAGER
from edgemodel_operator.settings import parser, settings_of

from .conftest import CHART, NAMESPACE, ROOT

FULL = {
    "imageRegistry": "mirror.example.com/all",
    "imagePullSecrets": [{"name": "pull"}],
    "commonLabels": {"team": "vision"},
    "operator": {
        "namespaces": ["models", NAMESPACE], "offlineAfter": "2m", "extraArgs": ["--resync=1m"],
        "nodeSelector": {"kind": "server"}, "tolerations": [{"operator": "Exists"}], "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "high", "podAnnotations": {"a": "b"}, "image": {"digest": "sha256:" + "1" * 64},
    },
    "compressor": {"pullSecrets": ["pull"], "registrySecret": "push", "job": {"cpu": 2, "memory": "1073741824"}},
    "agent": {
        "registrySecret": "pull-artifacts", "extraArgs": ["--recheck=1m"], "standby": {"enabled": True},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "pools": [
            {"name": "arm", "nodeSelector": {"arch": "arm64"}, "image": {"tag": "special"}},
            {"name": "big", "nodeSelector": {"size": "big", "gpu": "no"}, "resources": {"limits": {"memory": "8Gi"}}},
        ],
    },
    "monitoring": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}, "prometheusRule": {"enabled": True},
        "prometheusUrl": "http://prometheus.monitoring.svc:9090",
    },
    "networkPolicies": {"apiServer": {"cidrs": ["192.0.2.1/32", "2001:db8::1/128"]}, "nodeCidrs": ["192.0.2.0/24"]},
    "podDisruptionBudget": {"enabled": True},
}  # fmt: skip
EXTERNAL = {"registry": {"enabled": False}, "output": "oci://registry.example.com:5443/models"}
BARE = {
    "agent": {"enabled": False}, "networkPolicies": {"enabled": False}, "crds": {"install": False},
    "release": {"enabled": False}, "monitoring": {"scrapeAnnotations": False},
    "registry": {"persistence": {"enabled": False}},
}  # fmt: skip
CASES = {"default": {}, "full": FULL, "external registry": EXTERNAL, "bare": BARE}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def values(request):
    return copy.deepcopy(request.param)


def operator_args(objects) -> list[str]:
    return objects.one("Deployment", "edgemodel-operator")["spec"]["template"]["spec"]["containers"][0]["args"]


def test_lint_finds_nothing(helm, values):
    done = helm("lint", "--strict", CHART, "--kube-version", "1.34.0", values=values)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout
    assert "[ERROR]" not in done.stdout


def test_every_object_is_labelled_and_named_once(render, values):
    objects = render(**values)
    seen = set()
    for body in objects.all:
        labels = body["metadata"]["labels"]
        assert {f"app.kubernetes.io/{part}" for part in ("name", "instance", "component", "part-of", "version")} <= set(
            labels
        )
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels.items() >= values.get("commonLabels", {}).items()
        key = (body["kind"], body["metadata"].get("namespace"), body["metadata"]["name"])
        assert key not in seen
        seen.add(key)


def test_selectors_find_their_own_pods_only(render, values):
    workloads = [b for b in render(**values).all if b["kind"] in ("Deployment", "DaemonSet")]
    for body in workloads:
        selector = body["spec"]["selector"]["matchLabels"].items()
        found = [b for b in workloads if selector <= b["spec"]["template"]["metadata"]["labels"].items()]
        assert found == [body]


def test_pods_are_restricted(render, values):
    """But for what an agent needs: its node's network and store, and a root init container with three capabilities."""
    for name, pod in render(**values).pods().items():
        agent = name.startswith("DaemonSet/")
        assert bool(pod.get("hostNetwork")) is agent
        assert not {"hostPID", "hostIPC", "shareProcessNamespace"} & set(pod)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert any("hostPath" in v for v in pod.get("volumes", [])) is agent
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"]["drop"] == ["ALL"]
            added = {"store": ["CHOWN", "FOWNER", "DAC_OVERRIDE"], "keep-standby": ["DAC_OVERRIDE"]}
            assert security["capabilities"].get("add", []) == (added.get(container["name"], []) if agent else [])
            if container["name"] not in added:
                user = {**pod["securityContext"], **security}
                assert (user["runAsUser"], user["runAsNonRoot"]) == (65532, True)
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]["memory"]


def test_tokens_are_given_to_those_who_need_them(render, values):
    objects = render(**values)
    for account in objects.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for name, pod in objects.pods().items():
        assert pod["automountServiceAccountToken"] is ("registry" not in name)
        assert pod["enableServiceLinks"] is False
        objects.one("ServiceAccount", pod["serviceAccountName"])


@pytest.mark.parametrize("case", ["default", "full", "external registry"])
def test_the_programs_understand_their_flags(render, case):
    objects = render(**CASES[case])
    settings = settings_of(parser({}).parse_args(operator_args(objects)))
    assert settings.health_port
    assert settings.metrics_port
    if case == "full":
        assert settings.output == f"oci://edgemodel-registry.{NAMESPACE}.svc:5000/edgemodel"
        assert settings.namespaces == ("models", NAMESPACE)
        assert settings.job.registry_secret == "push"
        assert settings.job.memory == "1073741824"
        assert settings.job.plain_http == (f"edgemodel-registry.{NAMESPACE}.svc:5000",)
    if case == "external registry":
        assert settings.output == EXTERNAL["output"]
        assert settings.job.plain_http == ()
    job = objects.pods()["Job/edgemodel-release"]["containers"][0]
    given = release.parser().parse_args(job["args"])
    pods = objects.one("Deployment", given.operator, given.namespace)["spec"]["template"]["metadata"]["labels"]
    assert dict(part.split("=") for part in given.operator_pods.split(",")).items() <= pods.items()


def test_the_agent_understands_its_flags(render):
    command = pytest.importorskip("edgemodel_agent.command")
    for name, pod in render(**FULL).pods().items():
        if not name.startswith("DaemonSet/"):
            continue
        args = next(c for c in pod["containers"] if c["name"] == "agent")["args"]
        known = {"$(NODE_NAME)": "edge-1", "$(HOST_IP)": "192.0.2.7"}
        options = command.options_of(command.parser().parse_args([known.get(a, a) for a in args]))
        assert (options.node, options.address, options.bind) == ("edge-1", "192.0.2.7", "0.0.0.0")
        assert options.recheck == 60
        assert options.expects_standby


def test_crds_are_the_generated_ones_and_kept(render):
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        wanted = yaml.safe_load(path.read_text())
        found = render().one("CustomResourceDefinition", wanted["metadata"]["name"])
        assert found["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        del found["metadata"]["labels"]
        assert found == wanted
    loose = render(crds={"keep": False})
    assert all(
        "annotations" not in c["metadata"] or not c["metadata"]["annotations"]
        for c in loose.of("CustomResourceDefinition")
    )
    assert not render(**BARE).of("CustomResourceDefinition")


def test_images_by_tag_by_digest_and_from_a_mirror(render):
    def images(**values):
        pods = render(**values).pods()
        return {c["image"] for p in pods.values() for c in [*p["containers"], *p.get("initContainers", [])]}

    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert images() == {f"edgemodel/operator:{version}", f"edgemodel/agent:{version}", "registry:3.1.2"}
    found = images(**FULL)
    assert all(name.startswith("mirror.example.com/all/") for name in found)
    assert "mirror.example.com/all/edgemodel/operator@sha256:" + "1" * 64 in found
    assert "mirror.example.com/all/edgemodel/agent:special" in found


def test_the_version_is_the_projects():
    text = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.*)"$', text, re.MULTILINE)[1]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version


def matches(daemons: dict, labels: dict[str, str]) -> bool:
    """Whether its pods may run on a node with these labels, as the scheduler says."""
    pod = daemons["spec"]["template"]["spec"]
    if not pod["nodeSelector"].items() <= labels.items():
        return False
    affinity = pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if affinity is None:
        return True
    return any(
        all(labels.get(e["key"]) not in e["values"] for e in term["matchExpressions"] if e["operator"] == "NotIn")
        for term in affinity["nodeSelectorTerms"]
    )


@pytest.mark.parametrize(
    ("labels", "pool"),
    [
        ({}, "default"),
        ({"arch": "arm64"}, "arm"),
        ({"arch": "amd64"}, "default"),
        ({"size": "big"}, "default"),
        ({"gpu": "no"}, "default"),
        ({"size": "big", "gpu": "no"}, "big"),
        ({"size": "big", "gpu": "no", "arch": "arm64"}, "arm"),
        ({"size": "big", "gpu": "yes", "arch": "arm64"}, "arm"),
    ],
    ids=lambda v: v if isinstance(v, str) else ",".join(v.values()) or "none",
)
def test_each_node_has_one_agent(render, labels, pool):
    daemons = render(**FULL).of("DaemonSet")
    found = [
        d["metadata"]["labels"]["edgemodel.dev/pool"]
        for d in daemons
        if matches(d, {"edgemodel.dev/agent": "true", **labels})
    ]
    assert found == [pool]
    assert not [d for d in daemons if matches(d, labels)]


def test_a_pool_has_what_it_names_and_the_rest_of_all(render):
    objects = render(**FULL)
    big = objects.pods()["DaemonSet/edgemodel-agent-big"]["containers"][0]
    assert big["resources"] == {"limits": {"memory": "8Gi"}, "requests": {"cpu": "100m", "memory": "256Mi"}}
    assert big["image"].endswith("/edgemodel/agent:" + yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"])
    assert "--recheck=1m" in big["args"]


def test_agents_are_replaced_one_beside_the_other(render):
    """So no port may be named: a pod of the node's network claims it, and the next one would not be scheduled."""
    daemons = render().one("DaemonSet", "edgemodel-agent")
    assert daemons["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    assert not any("ports" in c for c in daemons["spec"]["template"]["spec"]["containers"])


def rules(role: dict) -> set[tuple[str, str, str]]:
    return {
        (g, r, v) for rule in role["rules"] for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]
    }


def test_rights(render):
    """All of them. Whether each is used, tests/e2e/test_chart.py asks the audit log."""
    group = "edgemodel.dev"
    objects = render()
    for role in [*objects.of("ClusterRole"), *objects.of("Role")]:
        assert not [r for r in rules(role) if "*" in r or r[1] in ("secrets", "configmaps", "pods/exec")]
    assert rules(objects.one("ClusterRole", "edgemodel-agent")) == {
        (group, "edgenodes", "create"), (group, "edgenodes", "get"), (group, "edgenodes", "watch"),
        (group, "edgenodes/status", "patch"),
    }  # fmt: skip
    cluster = rules(objects.one("ClusterRole", "edgemodel-operator"))
    narrow = render(**FULL)
    assert rules(narrow.one("ClusterRole", "edgemodel-operator")) == {
        r for r in cluster if r[1] in ("edgenodes", "nodes")
    }
    for namespace in FULL["operator"]["namespaces"]:
        role = narrow.one("Role", "edgemodel-operator", namespace)
        assert rules(role) | rules(narrow.one("ClusterRole", "edgemodel-operator")) == cluster


def test_the_policy_is_for_the_agents_account(render):
    policy = render().one("ValidatingAdmissionPolicy", "edgemodel-agents")
    account = render().pods()["DaemonSet/edgemodel-agent"]["serviceAccountName"]
    assert policy["spec"]["matchConditions"][0]["expression"] == (
        f'request.userInfo.username == "system:serviceaccount:{NAMESPACE}:{account}"'
    )
    assert render().one("ValidatingAdmissionPolicyBinding", "edgemodel-agents")["spec"]["validationActions"] == ["Deny"]
    assert not render(admissionPolicy={"enabled": False}).of("ValidatingAdmissionPolicy")


def test_network_policies(render):
    objects = render(**FULL)
    for namespace in FULL["operator"]["namespaces"]:
        job = objects.one("NetworkPolicy", "edgemodel-compressor", namespace)["spec"]
        assert job["podSelector"]["matchLabels"] == {MANAGED_BY: MANAGER, "app.kubernetes.io/component": CONTAINER}
        blocks = {
            t["ipBlock"]["cidr"]: t["ipBlock"]["except"]
            for e in job["egress"]
            for t in e.get("to", [])
            if "ipBlock" in t
        }
        assert blocks == {"0.0.0.0/0": ["192.0.2.1/32"], "::/0": ["2001:db8::1/128"]}
        assert job["ingress"] == []
    operator = objects.one("NetworkPolicy", "edgemodel-operator")["spec"]
    assert {p["port"] for e in operator["egress"] for p in e["ports"]} == {53, 443, 6443, "http", 9090}
    registry = objects.one("NetworkPolicy", "edgemodel-registry")["spec"]
    assert registry["egress"] == []
    assert [f["ipBlock"]["cidr"] for f in registry["ingress"][0]["from"] if "ipBlock" in f] == ["192.0.2.0/24"]
    external = render(**EXTERNAL, networkPolicies={"jobs": {"namespaces": ["models"], "ports": [443]}})
    job = external.one("NetworkPolicy", "edgemodel-compressor", "models")["spec"]
    assert [p["port"] for e in job["egress"] for p in e["ports"]] == [53, 53, 443, 5443]
    assert not render(networkPolicies={"enabled": False}).of("NetworkPolicy")


def test_the_registry_keeps_its_volume_and_may_delete(render):
    objects = render()
    claim = objects.one("PersistentVolumeClaim", "edgemodel-registry")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "storageClassName" not in claim["spec"]
    config = yaml.safe_load(objects.one("ConfigMap", "edgemodel-registry")["data"]["config.yml"])
    assert config["storage"]["delete"] == {"enabled": True}
    volumes = objects.pods()["Deployment/edgemodel-registry"]["volumes"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "edgemodel-registry"}} in volumes

    def persistence(**over):
        found = render(registry={"persistence": over})
        return found.of("PersistentVolumeClaim"), found.pods()["Deployment/edgemodel-registry"]["volumes"]

    claims, volumes = persistence(existingClaim="mine")
    assert claims == []
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}} in volumes
    claims, volumes = persistence(enabled=False)
    assert claims == []
    assert {"name": "data", "emptyDir": {}} in volumes
    assert persistence(storageClass="-")[0][0]["spec"]["storageClassName"] == ""
    assert persistence(storageClass="fast")[0][0]["spec"]["storageClassName"] == "fast"
    assert "annotations" not in persistence(keep=False)[0][0]["metadata"]


def test_monitoring(render):
    objects = render(**FULL)
    rules_file = yaml.safe_load((CHART / "rules" / "edgemodel.rules.yaml").read_text())
    assert objects.one("PrometheusRule", "edgemodel")["spec"]["groups"] == rules_file["groups"]
    agent = objects.one("PodMonitor", "edgemodel-agent")
    assert agent["metadata"]["labels"]["release"] == "prometheus"
    assert objects.one("PodMonitor", "edgemodel-operator")["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"
    assert not [b for b in render().all if b["apiVersion"].startswith("monitoring.coreos.com")]
    annotations = render().one("DaemonSet", "edgemodel-agent")["spec"]["template"]["metadata"]["annotations"]
    assert annotations.items() >= {"prometheus.io/scrape": "true", "prometheus.io/port": "9461"}.items()
    plain = render(**BARE).one("Deployment", "edgemodel-operator")["spec"]["template"]["metadata"]["annotations"]
    assert plain == {}


def test_another_release_name_is_in_every_name(render):
    for body in render(name="blue").all:
        if body["kind"] != "CustomResourceDefinition":
            assert body["metadata"]["name"].startswith("blue-edgemodel")
    assert render(name="blue", fullnameOverride="em").one("Deployment", "em-operator")


def test_hooks_are_all_that_remains_of_the_release(render):
    """Everything with a right that only an uninstall needs exists at an uninstall only."""
    for body in render().all:
        if body["metadata"]["name"] == "edgemodel-release":
            annotations = body["metadata"]["annotations"]
            assert annotations["helm.sh/hook"] == "pre-delete"
            assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    assert not [b for b in render(**BARE).all if "helm.sh/hook" in b["metadata"].get("annotations", {})]
