"""Thousands of nodes that exist as objects only: KWOK keeps their status and their leases, and says that their pods run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence

import build
import settings as s
from processes import running, start, stop, wait

PART = "kwok"
LABEL = "edgemodel.dev/testbed-simulated"
ANNOTATION = "kwok.x-k8s.io/node"
#: KWOK renews after a quarter of it, well within the controller's grace of 40 s; ten thousand nodes are 333 writes/s.
LEASE_SECONDS = 120
CHUNK = 500
#: As `run` for kubectl.
Kubectl = Callable[..., str]


def node(number: int) -> dict[str, object]:
    """A small board, opted in to the agent, that no pod is placed on but those that ask for it."""
    name = f"sim-{number}"
    # A third is of each platform that has an artifact of its own.
    arch = ("arm64", "amd64", "arm")[number % 3]
    resources = {"cpu": "4", "memory": "4Gi", "pods": "20", "ephemeral-storage": "32Gi"}
    info = {
        "architecture": arch, "operatingSystem": "linux", "kubeletVersion": build.KUBERNETES,
        **dict.fromkeys(
            ("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion", "kubeProxyVersion"),
            "simulated",
        ),
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {ANNOTATION: "fake"},
            "labels": {
                LABEL: "true", "edgemodel.dev/agent": "true", "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux", "kubernetes.io/arch": arch,
            },
        },
        "spec": {"taints": [{"key": ANNOTATION, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"allocatable": resources, "capacity": resources, "nodeInfo": info},
    }  # fmt: skip


def scale(bed: s.Bed, kubectl: Kubectl, count: int) -> None:
    """As many of them as asked for, all Ready; KWOK runs while there is one.

    Raises:
        StartError: they did not become Ready.
    """
    names = kubectl("get", "nodes", "-l", LABEL, "-o", "name").split()
    have = {int(name.rpartition("-")[2]) for name in names}
    wanted = set(range(1, count + 1))
    if have - wanted:
        # One request for all: to delete them one by one takes minutes, to make them anew seconds.
        kubectl("delete", "--raw", f"/api/v1/nodes?labelSelector={LABEL}")
        have = set()
    if count == 0:
        stop(bed.pids, PART)
        return
    start_kwok(bed)
    missing = sorted(wanted - have)
    for done, chunk in enumerate(_chunks(missing)):
        if len(missing) > CHUNK:
            print(f"  {done * CHUNK} of {len(missing)} simulated nodes …", file=sys.stderr)
        objects = {"apiVersion": "v1", "kind": "List", "items": [node(n) for n in chunk]}
        kubectl("create", "-f", "-", input_text=json.dumps(objects))
    # Not `kubectl wait`: it asks for one after the other.
    wait(
        "simulated nodes Ready",
        lambda: _ready(kubectl) >= count,
        seconds=60 + count / 20,
        interval=1 + count / 1000,
        log=bed.logs / f"{PART}.log",
    )


def _ready(kubectl: Kubectl) -> int:
    path = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    return kubectl("get", "nodes", "-l", LABEL, "-o", f"jsonpath={path}").split().count("True")


def start_kwok(bed: s.Bed) -> None:
    """Unless it runs. As the administrator: it plays both kubelet and node."""
    if running(bed.pids, PART) is None:
        start(
            PART,
            [
                build.program("kwok"), f"--kubeconfig={bed.kubeconfig}", f"--config={s.HERE}/kwok-stages.yaml",
                f"--manage-nodes-with-annotation-selector={ANNOTATION}=fake",
                f"--node-lease-duration-seconds={LEASE_SECONDS}", "--cidr=10.179.0.0/16",
                "--v=WARN",
            ],
            pids=bed.pids, logs=bed.logs,
        )  # fmt: skip


def _chunks(numbers: Sequence[int]) -> list[Sequence[int]]:
    return [numbers[i : i + CHUNK] for i in range(0, len(numbers), CHUNK)]
