"""Where things are, and which versions. Addresses are in ranges that no machine's own network is likely to use.

Several beds can stand side by side: `$EDGEMODEL_TESTBED_NUMBER`, 0 to 9, is part of every address, name and port.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def _number() -> int:
    text = os.environ.get("EDGEMODEL_TESTBED_NUMBER", "0")
    if text not in set("0123456789"):
        sys.exit(f"testbed: EDGEMODEL_TESTBED_NUMBER={text} is not one of 0 … 9")
    return int(text)


#: Which of the beds on this machine.
NUMBER = _number()
#: Of links, namespaces, cgroups and folders.
MARK = f"em{NUMBER or ''}"
BRIDGE = f"em-br{NUMBER}"
BRIDGE_MAC = f"02:65:6d:00:{NUMBER:02x}:01"
GATEWAY = f"10.177.{NUMBER}.1"
NODE_NETWORK = f"10.177.{NUMBER}.{{}}"
PREFIX = 24
#: As many pod networks as a bed has, so as many real nodes.
MOST_REAL_NODES = 15
ALL_PODS = f"10.178.{16 * NUMBER}.0/20"
SERVICE_NETWORK = "10.196.0.0/16"
KUBERNETES_SERVICE = "10.196.0.1"
API_PORT = 6443
ETCD_PORT = 23790 + NUMBER
ETCD_PEER_PORT = 23800 + NUMBER
CONTROLLER_MANAGER_PORT = 23810 + NUMBER
SCHEDULER_PORT = 23820 + NUMBER
DOMAIN = "cluster.local"
REGISTRY = f"{GATEWAY}:5000"
PROMETHEUS = f"{GATEWAY}:9090"
#: Which pods to scrape.
DISCOVERY = f"{GATEWAY}:9099"
DEBIAN_RELEASE = "bookworm"
#: Manifests of pods that a kubelet starts without its API server; on the node's own disk (/etc is this machine's).
STATIC_PODS = "/var/lib/static-pods"
#: Which pods a node runs: the kubelet itself says `kubernetes.io/arch` by what it was built for.
ARCH_LABEL = "edgemodel.dev/testbed-arch"


def cache_dir() -> Path:
    """Builds and images, outside of the checkout, keyed by version; survives `make clean` and `make cluster-down`."""
    base = os.environ.get("EDGEMODEL_CACHE") or Path.home() / ".cache" / "edgemodel"
    return Path(base)


@contextlib.contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Whoever else builds that on this machine waits, or is waited for."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with open(cache_dir() / f"{what}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def kube_key() -> str:
    """Changes when the pinned versions or the program change."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        path = HERE / "kube" / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class NodeSpec:
    """One machine of the test bed. `index` ≥ 1 gives its address and pod network."""

    name: str
    index: int
    labels: dict[str, str] = field(default_factory=dict)
    #: Bytes of a disk of its own; 0: a folder on this machine's.
    disk: int = 0

    @property
    def address(self) -> str:
        """On the bridge."""
        return NODE_NETWORK.format(10 + self.index)

    @property
    def pods(self) -> str:
        """Network of its pods."""
        return f"10.178.{16 * NUMBER + self.index}.0/24"

    @property
    def namespace(self) -> str:
        """Of the network."""
        return f"{MARK}-{self.name}"

    @property
    def link(self) -> str:
        """The host's end; a link's name has at most 15 characters."""
        return f"{MARK}-v{self.index}"


@dataclass(frozen=True)
class Bed:
    """One cluster's folder."""

    root: Path

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.root / "pki"

    @property
    def logs(self) -> Path:
        """One file a daemon, and the audit log."""
        return self.root / "logs"

    @property
    def pids(self) -> Path:
        """One file a daemon."""
        return self.root / "pids"

    @property
    def kubeconfig(self) -> Path:
        """Of the cluster's administrator."""
        return self.root / "kubeconfig"

    @property
    def nodes_file(self) -> Path:
        """Which nodes there are."""
        return self.root / "nodes.json"

    def node(self, name: str) -> Path:
        """A node's folder."""
        return self.root / "nodes" / name


def bed() -> Bed:
    """The test bed's state: `$EDGEMODEL_TESTBED` or a folder in /var/lib (sockets need a short path)."""
    return Bed(Path(os.environ.get("EDGEMODEL_TESTBED") or beds_root()))


def beds_root(number: int = NUMBER) -> Path:
    """Where the bed of that number keeps its state, unless it was told otherwise."""
    return Path(f"/var/lib/edgemodel-testbed{f'-{number}' if number else ''}")
