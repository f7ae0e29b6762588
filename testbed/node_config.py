"""What is written on a node's disk: configuration of containerd, kubelet, kube-proxy and the pods' network."""

from __future__ import annotations

import json
from pathlib import Path

import emulation
import settings as s
import yaml
from processes import run

PAUSE = "localhost/edgemodel/pause:1"


def files(bed: s.Bed, node: s.NodeSpec, *, disk: Path, memory: Path, cgroup: str) -> dict[str, str]:
    """Name below the disk → content."""
    registry = s.REGISTRY
    emulated = node.labels.get(s.ARCH_LABEL) == "arm64" and not emulation.native()
    foreign = {"cpuinfo": emulation.CPUINFO, "container.json": _container(disk)} if emulated else {}
    return foreign | {
        "containerd.toml": _containerd(disk, memory, emulated=emulated),
        f"certs.d/{registry}/hosts.toml": f"""server = "http://{registry}"
[host."http://{registry}"]
  capabilities = ["pull", "resolve"]
""",
        "resolv.conf": f"nameserver {s.GATEWAY}\n",
        "kubelet.yaml": yaml.safe_dump(_kubelet(bed, disk, memory, cgroup)),
        "kube-proxy.yaml": yaml.safe_dump(_proxy(node, disk)),
        "cni/10-bridge.conflist": json.dumps(_cni(node, memory)),
    }


def _container(disk: Path) -> str:
    """What each container on a node of another CPU begins with: that CPU's name, and its /proc/cpuinfo."""
    spec = json.loads(run("ctr", "oci", "spec"))
    source = {"type": "bind", "source": f"{disk}/cpuinfo", "options": ["bind", "ro"]}
    spec["mounts"].append({"destination": "/proc/cpuinfo", **source})
    spec["process"].setdefault("env", []).append(f"QEMU_CPU={emulation.CPU}")
    return json.dumps(spec)


def _containerd(disk: Path, memory: Path, *, emulated: bool) -> str:
    base = f'base_runtime_spec = "{disk}/container.json"' if emulated else ""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{disk}/containerd"
state = "{memory}/containerd"
[grpc]
  address = "{memory}/containerd.sock"
[{cri}]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE a sandbox could not lower its score.
  restrict_oom_score_adj = true
  [{cri}.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    {base}
  [{cri}.cni]
    bin_dir = "{_cni_folder()}"
    conf_dir = "{disk}/cni"
  [{cri}.registry]
    config_path = "{disk}/certs.d"
"""


def _kubelet(bed: s.Bed, disk: Path, memory: Path, cgroup: str) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": f"{bed.pki}/ca.crt"}},
        "containerRuntimeEndpoint": f"unix://{memory}/containerd.sock",
        "cgroupDriver": "cgroupfs",
        # Each kubelet clears away what it does not know below its root.
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "clusterDomain": s.DOMAIN,
        "clusterDNS": [s.GATEWAY],
        "resolvConf": f"{disk}/resolv.conf",
        "podLogsDir": f"{disk}/pod-logs",
        "staticPodPath": s.STATIC_PODS,
        "fileCheckFrequency": "5s",
        "volumePluginDir": f"{disk}/volume-plugins",
        "nodeStatusUpdateFrequency": "5s",
        "maxPods": 50,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "registerWithTaints": [],
    }


def _proxy(node: s.NodeSpec, disk: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{disk}/kube-proxy.kubeconfig"},
        "mode": "iptables",
        "clusterCIDR": s.ALL_PODS,
        "hostnameOverride": node.name,
        # sysctls of conntrack belong to the machine, not to a namespace.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def _cni(node: s.NodeSpec, memory: Path) -> dict[str, object]:
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": node.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(memory / "ipam"),
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": ipam,
    }
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def _cni_folder() -> Path:
    """Debian's place, or the usual one."""
    return next((p for p in (Path("/usr/lib/cni"), Path("/opt/cni/bin")) if p.exists()), Path("/opt/cni/bin"))
