"""A real Kubernetes cluster on this machine, from source and Debian packages alone.

python testbed/cluster.py up [--nodes N]     last line: KUBECONFIG=…
python testbed/cluster.py down               leaves nothing behind
python testbed/cluster.py cut|heal|reboot NODE
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import build
import control_plane
import images
import network
import settings as s
from certs import Authority
from machine import Machine
from processes import StartError, run, stop, wait

DEFAULT_NODES = 3


def node_specs(count: int) -> list[s.NodeSpec]:
    """edge-1 … edge-N, which opt in to the agent."""
    return [s.NodeSpec(f"edge-{i}", i, {"edgemodel.dev/agent": "true"}) for i in range(1, count + 1)]


def load_nodes(bed: s.Bed) -> list[s.NodeSpec]:
    """Those of the cluster that is up (or was left half up)."""
    if not bed.nodes_file.exists():
        return []
    return [s.NodeSpec(**fields) for fields in json.loads(bed.nodes_file.read_text())]


def kubectl(bed: s.Bed, *arguments: str, input_text: str | None = None) -> str:
    """What kubectl prints, as the administrator."""
    return run(build.kubernetes() / "kubectl", f"--kubeconfig={bed.kubeconfig}", *arguments, input_text=input_text)


def up(bed: s.Bed, count: int) -> None:
    """Bring it up, or do nothing if it is up with that many nodes.

    Raises:
        StartError: with the end of the log of what did not come up.
    """
    begin = time.monotonic()
    if os.geteuid() != 0:
        raise StartError("the test bed makes network namespaces and mounts: run it as root (sudo)")
    build.install_packages()
    binaries = build.kubernetes()
    pause = images.pause()
    nodes = node_specs(count)
    if control_plane.alive(bed) and load_nodes(bed) == nodes and all(Machine(bed, n, binaries).alive() for n in nodes):
        return
    down(bed)
    bed.root.mkdir(parents=True)
    bed.nodes_file.write_text(json.dumps([asdict(n) for n in nodes]))
    network.make_bridge()
    authority = control_plane.certificates(bed)
    control_plane.start_control_plane(bed, binaries)
    _permissions(bed)
    for node in nodes:
        _join(bed, node, authority, binaries, pause)
    network.connect_pods(nodes)
    wait(
        "all nodes Ready",
        lambda: _ready(bed) == {n.name for n in nodes},
        seconds=90,
        log=bed.logs / "edge-1-kubelet.log",
    )
    print(f"{count} nodes are Ready after {time.monotonic() - begin:.0f} s", file=sys.stderr)


def _join(bed: s.Bed, node: s.NodeSpec, authority: Authority, binaries: Path, pause: Path) -> None:
    network.add_node(node)
    machine = Machine(bed, node, binaries)
    machine.install(authority)
    machine.boot()
    machine.import_image(pause)


def _permissions(bed: s.Bed) -> None:
    """What a kubeadm would grant: kube-proxy its reads; the API server's own client, the kubelets' logs and exec."""
    kubectl(
        bed, "apply", "-f", "-",
        input_text="""apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: testbed-kube-proxy}
subjects: [{kind: User, name: "system:kube-proxy", apiGroup: rbac.authorization.k8s.io}]
roleRef: {kind: ClusterRole, name: "system:node-proxier", apiGroup: rbac.authorization.k8s.io}
""",
    )  # fmt: skip


def _ready(bed: s.Bed) -> set[str]:
    nodes = json.loads(kubectl(bed, "get", "nodes", "-o", "json"))["items"]
    return {
        n["metadata"]["name"]
        for n in nodes
        if any(c["type"] == "Ready" and c["status"] == "True" for c in n["status"].get("conditions", ()))
    }


def down(bed: s.Bed) -> None:
    """Processes, mounts, links, rules, cgroups, files: all gone. The build cache stays."""
    nodes = load_nodes(bed)
    for node in nodes:
        machine = Machine(bed, node, Path())
        machine.remove()
        network.remove_node(node)
    for part in control_plane.PARTS:
        stop(bed.pids, part, kill=True)  # the disk goes too: nothing to tidy up
    network.remove_bridge()
    shutil.rmtree(bed.root, ignore_errors=True)


def one(bed: s.Bed, name: str) -> Machine:
    """The machine of that name.

    Raises:
        StartError: there is none.
    """
    for node in load_nodes(bed):
        if node.name == name:
            return Machine(bed, node, build.kubernetes())
    raise StartError(f"no node {name!r}: there are {', '.join(n.name for n in load_nodes(bed)) or 'none'}")


def main() -> int:
    """0, or 1 with one message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up").add_argument("--nodes", type=int, default=DEFAULT_NODES)
    commands.add_parser("down")
    for name in ("cut", "heal", "reboot"):
        commands.add_parser(name).add_argument("node")
    options = parser.parse_args()
    bed = s.bed()
    try:
        if options.command == "up":
            up(bed, options.nodes)
            print(f"KUBECONFIG={bed.kubeconfig}")
        elif options.command == "down":
            down(bed)
        else:
            machine = one(bed, options.node)
            if options.command == "cut":
                network.cut(machine.node)
            elif options.command == "heal":
                network.heal(machine.node)
            else:
                machine.power_off()
                machine.boot()
    except StartError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
