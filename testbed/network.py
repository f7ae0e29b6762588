"""A bridge, and a network namespace with an address of its own per node; a cut link is `ip link set … down`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import settings as s
from processes import StartError, run


def make_bridge() -> None:
    """The wire between this machine and the nodes."""
    if not Path(f"/sys/class/net/{s.BRIDGE}").exists():
        # With an address of its own: else it takes that of its lowest port, and changes it when a node joins, so that
        # the others lose the API server until they ask again who has its address.
        run("ip", "link", "add", s.BRIDGE, "address", s.BRIDGE_MAC, "type", "bridge")
        run("ip", "addr", "add", f"{s.GATEWAY}/{s.PREFIX}", "dev", s.BRIDGE)
    run("ip", "link", "set", s.BRIDGE, "up")


def add_node(node: s.NodeSpec) -> None:
    """Namespace, veth to the bridge, address, default route, and this machine's route to the node's pods."""
    if not Path(f"/run/netns/{node.namespace}").exists():
        run("ip", "netns", "add", node.namespace)
    if not Path(f"/sys/class/net/{node.link}").exists():
        run("ip", "link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", node.namespace)
        run("ip", "link", "set", node.link, "master", s.BRIDGE)
    inside = ("ip", "-n", node.namespace)
    run("ip", "link", "set", node.link, "up")
    run(*inside, "link", "set", "lo", "up")
    run(*inside, "link", "set", "eth0", "up")
    run(*inside, "addr", "replace", f"{node.address}/{s.PREFIX}", "dev", "eth0")
    run(*inside, "route", "replace", "default", "via", s.GATEWAY)
    run("nsenter", f"--net=/run/netns/{node.namespace}", "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    run("ip", "route", "replace", node.pods, "via", node.address, "dev", s.BRIDGE)


def connect_pods(nodes: list[s.NodeSpec]) -> None:
    """Each node knows the way to every other one's pods."""
    for node in nodes:
        for other in nodes:
            if other != node:
                run("ip", "-n", node.namespace, "route", "replace", other.pods, "via", other.address)


def cut(node: s.NodeSpec) -> None:
    """As if the cable were pulled."""
    run("ip", "link", "set", node.link, "down")


def heal(node: s.NodeSpec) -> None:
    """Plug it in again."""
    run("ip", "link", "set", node.link, "up")


def remove_node(node: s.NodeSpec) -> None:
    """Everything that `add_node` made; the namespace takes its iptables rules along."""
    with contextlib.suppress(StartError):
        run("ip", "netns", "delete", node.namespace)
    with contextlib.suppress(StartError):
        run("ip", "link", "delete", node.link)
    with contextlib.suppress(StartError):
        run("ip", "route", "delete", node.pods)


def remove_bridge() -> None:
    """The last thing to go, and the folder of namespaces, which `ip` mounts upon itself, if nobody else's is in it."""
    with contextlib.suppress(StartError):
        run("ip", "link", "delete", s.BRIDGE)
    folder = Path("/run/netns")
    if folder.is_dir() and not any(folder.iterdir()):
        with contextlib.suppress(StartError):  # is_mount() does not see a folder that is mounted upon itself
            run("umount", folder)
        with contextlib.suppress(OSError):
            folder.rmdir()
