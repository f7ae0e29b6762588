"""A real Kubernetes cluster on this machine, from source and Debian packages alone.

python testbed/cluster.py up [--nodes N] [--real R] [--disk 2Gi]     last line: KUBECONFIG=…
python testbed/cluster.py down                    leaves nothing behind
python testbed/cluster.py cut|heal|reboot NODE    the cable, the power
python testbed/cluster.py fill|drain NODE         its disk, if it has one of its own
python testbed/cluster.py push IMAGE              to the test bed's registry; prints the name that pods use
python testbed/cluster.py base [ARCHITECTURE]     make the base image (amd64, arm64); prints its name
python testbed/cluster.py images [NAME…]          build and push the project's own; prints {"NAME": what pods use}
python testbed/cluster.py check                   whether this machine can have one; if not, prints why and fails
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

import addons
import build
import control_plane
import disks
import emulation
import images
import network
import project_images
import settings as s
import simulated
from certs import Authority
from machine import Machine
from processes import StartError, run, stop, tail

REAL_NODES = 3
#: What `fill` leaves: less than the kubelets' threshold of 1 %.
LEAVE = 4 * 2**20


def node_specs(count: int, disk: int = 0) -> list[s.NodeSpec]:
    """edge-1 … edge-N, which opt in to the agent; the last one is for arm64 pods."""
    specs = []
    for i in range(1, count + 1):
        labels = {"edgemodel.dev/agent": "true", s.ARCH_LABEL: "arm64" if i == count > 1 else "amd64"}
        specs.append(s.NodeSpec(f"edge-{i}", i, labels, disk))
    return specs


def load_nodes(bed: s.Bed) -> list[s.NodeSpec]:
    """Those of the cluster that is up (or was left half up)."""
    if not bed.nodes_file.exists():
        return []
    return [s.NodeSpec(**fields) for fields in json.loads(bed.nodes_file.read_text())]


def kubectl(bed: s.Bed, *arguments: str, input_text: str | None = None) -> str:
    """What kubectl prints, as the administrator."""
    return run(build.kubernetes() / "kubectl", f"--kubeconfig={bed.kubeconfig}", *arguments, input_text=input_text)


def up(bed: s.Bed, count: int, *, real: int = REAL_NODES, disk: int = 0) -> None:
    """Bring it up with `count` nodes, of which at most `real` are real; if it is up, only simulated ones come and go.

    Raises:
        StartError: with the end of the log of what did not come up.
    """
    begin = time.monotonic()
    if count < 1 or real < 1:
        raise StartError("a cluster has at least one node, a real one")
    if min(count, real) > s.MOST_REAL_NODES:
        raise StartError(f"a bed has at most {s.MOST_REAL_NODES} real nodes; --nodes adds simulated ones")
    nodes = node_specs(min(count, real), disk)
    binaries = _build(simulated_nodes=count > len(nodes))
    pause = images.pause()
    if not _whole(bed, nodes, binaries):
        if load_nodes(bed):
            print("the cluster that is there is another one or is broken: starting anew", file=sys.stderr)
        down(bed)
        _start(bed, nodes, binaries, pause)
        print(f"{len(nodes)} nodes are Ready after {time.monotonic() - begin:.0f} s", file=sys.stderr)
    simulated.scale(bed, lambda *a, **k: kubectl(bed, *a, **k), count - len(nodes))
    if count > len(nodes):
        print(f"{count - len(nodes)} simulated ones too, after {time.monotonic() - begin:.0f} s", file=sys.stderr)


def _build(*, simulated_nodes: bool) -> Path:
    """Everything that is slow the first time; the folder of Kubernetes' programs."""
    build.install_packages()
    binaries = build.kubernetes()
    build.program("coredns")
    build.program("registry")
    build.prometheus()
    if simulated_nodes:
        build.program("kwok")
    return binaries


def _whole(bed: s.Bed, nodes: list[s.NodeSpec], binaries: Path) -> bool:
    if not (control_plane.alive(bed) and addons.alive(bed) and load_nodes(bed) == nodes):
        return False
    return all(Machine(bed, n, binaries).alive() for n in nodes)


def _start(bed: s.Bed, nodes: list[s.NodeSpec], binaries: Path, pause: Path) -> None:
    bed.root.mkdir(parents=True)
    bed.nodes_file.write_text(json.dumps([asdict(n) for n in nodes]))
    network.make_bridge()
    emulation.register(bed)
    authority = control_plane.certificates(bed)
    control_plane.start_control_plane(bed, binaries)
    kubectl(bed, "apply", "-f", "-", input_text=addons.permissions())
    for node in nodes:
        _join(bed, node, authority, binaries, pause)
    network.connect_pods(nodes)
    addons.start_addons(bed, authority)
    _wait_ready(bed, nodes)


def _join(bed: s.Bed, node: s.NodeSpec, authority: Authority, binaries: Path, pause: Path) -> None:
    network.add_node(node)
    machine = Machine(bed, node, binaries)
    machine.install(authority)
    machine.boot()
    machine.import_image(pause)


def _wait_ready(bed: s.Bed, nodes: list[s.NodeSpec]) -> None:
    names = [f"node/{n.name}" for n in nodes]
    try:
        for name in names:  # of several that are not there yet it says "not found" at once
            kubectl(bed, "wait", "--for=create", "--timeout=90s", name)
        kubectl(bed, "wait", "--for=condition=Ready", "--timeout=90s", *names)
    except StartError as error:
        logs = (bed.logs / f"{n.name}-kubelet.log" for n in nodes)
        raise StartError("\n".join([str(error), *(tail(log, 600) for log in logs)])) from error


def down(bed: s.Bed) -> None:
    """Processes, mounts, links, rules, cgroups, files: all gone. The build cache and buildah's images stay."""
    for part in (simulated.PART, *addons.PARTS):
        stop(bed.pids, part, kill=True)  # the disk goes too: nothing to tidy up
    for node in load_nodes(bed):
        machine = Machine(bed, node, Path())
        machine.remove()
        network.remove_node(node)
    for part in control_plane.PARTS:
        stop(bed.pids, part, kill=True)
    network.remove_bridge()
    emulation.unregister(bed)
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


def act(machine: Machine, command: str) -> None:
    """What can happen to a machine."""
    if command == "cut":
        network.cut(machine.node)
    elif command == "heal":
        network.heal(machine.node)
    elif command == "fill":
        machine.fill(LEAVE)
    elif command == "drain":
        machine.drain()
        if machine.alive():  # its kubelet removed what no pod used, and no registry has this one
            machine.import_image(images.pause())
    else:
        machine.power_off()
        machine.boot()


def _require_root() -> None:
    if os.geteuid() != 0:
        raise StartError("the test bed makes network namespaces and mounts: run it as root (sudo)")


def main() -> int:
    """0, or 1 with one message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up")
    start.add_argument("--nodes", type=int, default=REAL_NODES, help="of all kinds; default %(default)s")
    start.add_argument("--real", type=int, default=REAL_NODES, help="how many are real at most; default %(default)s")
    start.add_argument("--disk", default="", help="give each real node a disk of that size, like 2Gi")
    commands.add_parser("down")
    commands.add_parser("check")
    for name in ("cut", "heal", "reboot", "fill", "drain"):
        commands.add_parser(name).add_argument("node")
    commands.add_parser("push").add_argument("image")
    commands.add_parser("base").add_argument("architecture", nargs="?", choices=("amd64", "arm64"), default="amd64")
    own = commands.add_parser("images")
    own.add_argument("name", nargs="*", metavar="NAME", help=f"of {', '.join(project_images.names())}; default: all")
    options = parser.parse_args()
    bed = s.bed()
    if options.command == "check":
        print(why := build.obstacle())
        return 1 if why else 0
    try:
        _require_root()
        if options.command == "up":
            disk = disks.size(options.disk) if options.disk else 0
            with s.one_at_a_time("bed"):  # beds share programs that are built once, and the table of interpreters
                up(bed, options.nodes, real=options.real, disk=disk)
            print(f"KUBECONFIG={bed.kubeconfig}")
        elif options.command == "down":
            with s.one_at_a_time("bed"):
                down(bed)
        elif options.command == "push":
            print(images.push_image(options.image))
        elif options.command == "images":
            print(json.dumps(project_images.project_images(bed, tuple(options.name))))
        elif options.command == "base":
            print(images.base(options.architecture))
        else:
            act(one(bed, options.node), options.command)
    except StartError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
