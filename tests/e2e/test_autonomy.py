"""A node on its own: its agent's pod is replaced or killed, its machine boots without the API server."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import psutil
import pytest

from .kube import Kube, wait
from .load import Load
from .model import Model
from .place import Bed
from .release import NAMESPACE

ALONE = "edge-2"
ASK = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], data=sys.stdin.buffer.read(), headers={"Content-Type": "application/json"})
sys.stdout.write(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20).read().decode())
"""


def edge_node(kube: Kube, name: str) -> dict[str, Any]:
    return dict(kube.get("edgenode", name))


def said(kube: Kube, name: str, field: str) -> Any:
    return edge_node(kube, name).get("status", {}).get(field)


def agent_pod(kube: Kube, node: str) -> dict[str, Any] | None:
    """The one that is not on its way out."""
    found = kube.items("-n", NAMESPACE, "pods", "-l", "app.kubernetes.io/component=agent")
    ours = [p for p in found if p["spec"].get("nodeName") == node and "deletionTimestamp" not in p["metadata"]]
    return ours[-1] if ours else None


def inside(bed: Bed, node: str, url: str, body: dict[str, Any]) -> dict[str, Any]:
    """As an application on the node asks: over the node's own network, which may lead nowhere else."""
    network = f"/run/netns/{bed.settings.MARK}-{node}"
    command = ["nsenter", f"--net={network}", sys.executable, "-I", "-c", ASK, url]
    done = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True, check=False, timeout=60)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def on_node(bed: Bed, node: str, *command: str) -> str:
    """What a command says that runs among the node's processes; empty where it fails."""
    pid_file = bed.settings.bed().pids / f"{node}-init"
    (first,) = psutil.Process(int(pid_file.read_text().split()[0])).children()
    enter = ["nsenter", f"--target={first.pid}", "--mount", "--net", "--pid", "--uts", "--wd=/"]
    return subprocess.run([*enter, *command], capture_output=True, text=True, check=False, timeout=60).stdout


def containers(bed: Bed, node: str, name: str) -> list[str]:
    """Process ids, among the node's, of the first processes of a container's instances."""
    ctr = ("ctr", "--address", f"/run/{bed.settings.MARK}/{node}/containerd.sock", "--namespace", "k8s.io")
    found = []
    for line in on_node(bed, node, *ctr, "tasks", "list").splitlines()[1:]:
        identity, pid, state = line.split()[:3]
        labels = json.loads(on_node(bed, node, *ctr, "containers", "info", identity) or "{}").get("Labels", {})
        if labels.get("io.kubernetes.container.name") == name and state == "RUNNING":
            found.append(pid)
    return found


def kill(bed: Bed, node: str, *pids: str) -> None:
    on_node(bed, node, "kill", "-9", *pids)


def children(bed: Bed, node: str, pid: str) -> list[str]:
    return on_node(bed, node, "pgrep", "-P", pid).split()


def test_every_node_says_what_it_is_and_that_a_standby_waits(rolled_out: Model, kube: Kube, bed: Bed, nodes: list[str]):
    for node in nodes:
        wait(lambda n=node: said(kube, n, "standby") == "Waiting", lambda n=node: edge_node(kube, n), 120)
        status = edge_node(kube, node)["status"]
        assert status["serving"].split("/")[0] == status["serving"].split("/")[1] != "0", status
        assert status["hardware"]["features"]
        assert status["runtimes"]["onnxruntime"]
        assert status["agentVersion"]
        assert status["diskFreeBytes"] > 0
        assert status["memoryFreeBytes"] > 0
    columns = kube.kubectl("get", "edgenodes")
    assert {"NAME", "PLATFORM", "CLASS", "SERVING"} <= set(columns.splitlines()[0].split()), columns


def test_agents_are_replaced_under_load_and_no_request_fails(
    rolled_out: Model, kube: Kube, digits: Any, nodes: list[str]
):
    before = {node: agent_pod(kube, node)["metadata"]["name"] for node in nodes}
    daemons = [d["metadata"]["name"] for d in kube.items("-n", NAMESPACE, "daemonsets")]
    with Load(rolled_out.endpoints(), digits.request) as load:
        for name in daemons:
            kube.kubectl("-n", NAMESPACE, "rollout", "restart", f"daemonset/{name}")
        for name in daemons:
            kube.kubectl("-n", NAMESPACE, "rollout", "status", f"daemonset/{name}", "--timeout=280s", timeout=300)
        wait(lambda: set(terminating(kube)) == set(), lambda: terminating(kube), 240)
    assert {node: agent_pod(kube, node)["metadata"]["name"] for node in nodes}.items().isdisjoint(before.items())
    assert load.failed() == []
    assert {a.node for a in load.answers} == set(nodes)
    assert {m["restarts"] for m in rolled_out.on_nodes().values()} == {0}


def terminating(kube: Kube) -> list[str]:
    found = kube.items("-n", NAMESPACE, "pods", "-l", "app.kubernetes.io/component=agent")
    return [p["metadata"]["name"] for p in found if "deletionTimestamp" in p["metadata"]]


def test_a_deleted_agent_pod_is_stood_in_for(rolled_out: Model, kube: Kube, digits: Any, nodes: list[str]):
    node = nodes[0]
    wait(lambda: said(kube, node, "standby") == "Waiting", "the standby", 120)
    endpoint = {node: rolled_out.endpoints()[node]}
    with Load(endpoint, digits.request) as load:
        kube.kubectl("-n", NAMESPACE, "delete", "pod", agent_pod(kube, node)["metadata"]["name"], timeout=240)
        kube.kubectl("-n", NAMESPACE, "rollout", "status", "daemonset/edgemodel-agent", "--timeout=120s")
    assert load.failed() == []
    wait(lambda: node in rolled_out.running(), rolled_out.told, 60)


def test_a_killed_agent_comes_back(rolled_out: Model, kube: Kube, bed: Bed, digits: Any, nodes: list[str]):
    node = nodes[0]
    old = containers(bed, node, "agent")
    assert old
    kill(bed, node, *old)
    reported = said(kube, node, "lastReportTime")
    wait(lambda: (new := containers(bed, node, "agent")) and new != old, "another container", 120)
    wait(lambda: said(kube, node, "lastReportTime") > reported, "its report", 120)
    wait(lambda: node in rolled_out.running(), rolled_out.told, 60)
    assert not rolled_out.ask(node, 1, digits.request(1)).problem


@pytest.mark.timeout(400)
def test_a_node_that_boots_without_the_api_server_serves(
    rolled_out: Model, kube: Kube, bed: Bed, digits: Any, nodes: list[str]
):
    model, revision = rolled_out, rolled_out.running()[ALONE]
    wait(lambda: said(kube, ALONE, "standby") == "Waiting", "the standby", 120)
    url = model.endpoints()[ALONE]
    with bed.cut(ALONE):
        bed.command("reboot", ALONE)
        answer = wait(lambda: inside(bed, ALONE, url, digits.request(0)), "an answer on the node itself", 120)
        assert answer["model_version"] == revision
        reported = said(kube, ALONE, "lastReportTime")
        assert containers(bed, ALONE, "agent") == []
        standby = containers(bed, ALONE, "standby")
        # It looks after its servers too.
        kill(bed, ALONE, *children(bed, ALONE, standby[0]))
        wait(lambda: inside(bed, ALONE, url, digits.request(0)), "another server", 60)
    with Load({ALONE: url}, digits.request) as load:
        wait(lambda: len(load.answers) > 4 and not load.answers[-1].problem, "the link", 60)
        load.answers.clear()
        wait(lambda: said(kube, ALONE, "lastReportTime") > reported, "the agent's report", 180)
        wait(lambda: containers(bed, ALONE, "agent"), "the agent", 60)
        wait(lambda: not children(bed, ALONE, standby[0]), "the standby has handed over", 120)
    assert load.failed() == []
    assert model.on_nodes()[ALONE]["restarts"] == 1
    assert said(kube, ALONE, "standby") == "Waiting"


def test_the_annotation_retires_a_standby(rolled_out: Model, kube: Kube, bed: Bed, nodes: list[str]):
    node = nodes[0]
    wait(lambda: said(kube, node, "standby") == "Waiting", "the standby", 120)
    kube.kubectl("annotate", "edgenode", node, "edgemodel.dev/retire=true")
    try:
        wait(lambda: said(kube, node, "standby") == "Retired", lambda: edge_node(kube, node), 90)
        assert containers(bed, node, "standby") == []
    finally:
        kube.kubectl("annotate", "edgenode", node, "edgemodel.dev/retire-")
    wait(lambda: said(kube, node, "standby") == "Waiting", lambda: edge_node(kube, node), 90)
