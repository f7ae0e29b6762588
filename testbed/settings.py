"""Where things are, and which versions. Addresses are in ranges that no machine's own network is likely to use."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

BRIDGE = "em-br0"
BRIDGE_MAC = "02:65:6d:00:00:01"
GATEWAY = "10.177.0.1"
NODE_NETWORK = "10.177.0.{}"
PREFIX = 24
POD_NETWORK = "10.178.{}.0/24"
ALL_PODS = "10.178.0.0/16"
SERVICE_NETWORK = "10.196.0.0/16"
KUBERNETES_SERVICE = "10.196.0.1"
API_PORT = 6443
DOMAIN = "cluster.local"
REGISTRY = f"{GATEWAY}:5000"
PROMETHEUS = f"{GATEWAY}:9090"
#: Which pods to scrape.
DISCOVERY = f"{GATEWAY}:9099"
DEBIAN_RELEASE = "bookworm"
#: Which pods a node runs: the kubelet itself says `kubernetes.io/arch` by what it was built for.
ARCH_LABEL = "edgemodel.dev/testbed-arch"


def cache_dir() -> Path:
    """Builds and images, outside of the checkout, keyed by version; survives `make clean` and `make cluster-down`."""
    base = os.environ.get("EDGEMODEL_CACHE") or Path.home() / ".cache" / "edgemodel"
    return Path(base)


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
        return POD_NETWORK.format(self.index)

    @property
    def namespace(self) -> str:
        """Of the network."""
        return f"em-{self.name}"

    @property
    def link(self) -> str:
        """The host's end; a link's name has at most 15 characters."""
        return f"em-v{self.index}"


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
    return Bed(Path(os.environ.get("EDGEMODEL_TESTBED", "/var/lib/edgemodel-testbed")))
