"""One machine of the test bed: containerd, kubelet and kube-proxy in a network namespace, with a disk and cgroups of its own.

What a real machine would keep over a reboot lies below `disk`; what it would lose, below `memory`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import settings as s
import yaml
from certs import Authority
from control_plane import SERVER
from processes import StartError, run, running, start, stop, wait

CGROUPS = Path("/sys/fs/cgroup")
PAUSE = "localhost/edgemodel/pause:1"
PARTS = ("kube-proxy", "kubelet", "containerd")


class Machine:
    """Start it, stop it, pull its power cord."""

    def __init__(self, bed: s.Bed, node: s.NodeSpec, binaries: Path) -> None:
        self.bed = bed
        self.node = node
        self.binaries = binaries
        self.disk = bed.node(node.name) / "disk"
        self.memory = Path("/run/em") / node.name
        self.socket = self.memory / "containerd.sock"
        self.cgroup = f"em-{node.name}"

    def daemon(self, part: str) -> str:
        """Name of its pid file and log."""
        return f"{self.node.name}-{part}"

    # --- life

    def install(self, authority: Authority) -> None:
        """What is written once: configuration and identity."""
        self.disk.mkdir(parents=True, exist_ok=True)
        user, group = f"system:node:{self.node.name}", "system:nodes"
        authority.kubeconfig(self.disk / "kubelet.kubeconfig", server=SERVER, user=user, organization=group)
        shutil.copy(self.bed.root / "kube-proxy.kubeconfig", self.disk / "kube-proxy.kubeconfig")
        self._write("containerd.toml", self._containerd())
        self._write("kubelet.yaml", yaml.safe_dump(self._kubelet()))
        self._write("kube-proxy.yaml", yaml.safe_dump(self._proxy()))
        self._write("cni/10-bridge.conflist", json.dumps(self._cni()))

    def boot(self) -> None:
        """Start all its daemons."""
        self.memory.mkdir(parents=True, exist_ok=True)
        self._make_cgroups()
        self._daemon("containerd", ["/usr/bin/containerd", "--config", self.disk / "containerd.toml"])
        wait(f"containerd of {self.node.name}", self._answers, log=self._log("containerd"))
        self._daemon(
            "kubelet",
            [
                self.binaries / "kubelet", f"--config={self.disk}/kubelet.yaml",
                f"--kubeconfig={self.disk}/kubelet.kubeconfig", f"--root-dir={self.disk}/kubelet",
                f"--hostname-override={self.node.name}", f"--node-ip={self.node.address}",
                "--node-labels=" + ",".join(f"{k}={v}" for k, v in sorted(self.node.labels.items())),
            ],
        )  # fmt: skip
        self._daemon("kube-proxy", [self.binaries / "kube-proxy", f"--config={self.disk}/kube-proxy.yaml"])

    def power_off(self) -> None:
        """Every process is killed, mounts and sockets are gone, the disk stays as it is."""
        for part in PARTS:
            stop(self.bed.pids, self.daemon(part), kill=True)
        deadline = time.monotonic() + 20
        while (pids := self._processes()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        self._unmount()
        shutil.rmtree(self.memory, ignore_errors=True)
        self._forget_pods()
        self._flush()

    def remove(self) -> None:
        """Power off, and throw the disk away."""
        self.power_off()
        self._remove_cgroups()
        shutil.rmtree(self.bed.node(self.node.name), ignore_errors=True)

    def alive(self) -> bool:
        """Whether all its daemons run."""
        return all(running(self.bed.pids, self.daemon(part)) is not None for part in PARTS)

    def import_image(self, archive: Path, *, platform: str | None = None) -> None:
        """Give containerd an image, as a pull from a registry would."""
        extra = ["--platform", platform] if platform else []
        self.ctr("images", "import", *extra, archive)

    def ctr(self, *arguments: str | Path) -> str:
        """Talk to its containerd."""
        return run("ctr", "--address", self.socket, "--namespace", "k8s.io", *arguments)

    # --- configuration

    def _containerd(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return f"""version = 2
root = "{self.disk}/containerd"
state = "{self.memory}/containerd"
[grpc]
  address = "{self.socket}"
[{cri}]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE a sandbox could not lower its score.
  restrict_oom_score_adj = true
  [{cri}.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [{cri}.cni]
    bin_dir = "{_cni_folder()}"
    conf_dir = "{self.disk}/cni"
  [{cri}.registry]
    config_path = "{self.bed.root}/certs.d"
"""

    def _kubelet(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"x509": {"clientCAFile": f"{self.bed.pki}/ca.crt"}},
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            # Each kubelet clears away what it does not know below its root.
            "cgroupRoot": f"/{self.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "clusterDomain": "cluster.local",
            "clusterDNS": [s.GATEWAY],
            "podLogsDir": f"{self.disk}/pod-logs",
            "volumePluginDir": f"{self.disk}/volume-plugins",
            "nodeStatusUpdateFrequency": "5s",
            "maxPods": 50,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "registerWithTaints": [],
        }

    def _proxy(self) -> dict[str, object]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": f"{self.disk}/kube-proxy.kubeconfig"},
            "mode": "iptables",
            "clusterCIDR": s.ALL_PODS,
            "hostnameOverride": self.node.name,
            # sysctls of conntrack belong to the machine, not to a namespace.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }

    def _cni(self) -> dict[str, object]:
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": self.node.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(self.memory / "ipam"),
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

    # --- inside

    def _write(self, name: str, text: str) -> None:
        path = self.disk / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _log(self, part: str) -> Path:
        return self.bed.logs / f"{self.daemon(part)}.log"

    def _daemon(self, part: str, command: list[str | Path]) -> None:
        start(self.daemon(part), command, pids=self.bed.pids, logs=self.bed.logs, netns=self.node.namespace)

    def _answers(self) -> bool:
        return bool(self.ctr("version"))

    def _hierarchies(self) -> list[Path]:
        if (CGROUPS / "cgroup.controllers").exists():
            return [CGROUPS]
        return [h for h in sorted(CGROUPS.iterdir()) if (h / "cgroup.procs").exists() and not h.is_symlink()]

    def _make_cgroups(self) -> None:
        for hierarchy in self._hierarchies():
            folder = hierarchy / self.cgroup
            folder.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if hierarchy.name == "cpuset" and (hierarchy / name).exists():
                    (folder / name).write_text((hierarchy / name).read_text())

    def _remove_cgroups(self) -> None:
        for hierarchy in self._hierarchies():
            top = hierarchy / self.cgroup
            for folder in sorted((p for p in top.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            with contextlib.suppress(OSError):
                top.rmdir()

    def _processes(self) -> set[int]:
        """Of its containers (by cgroup) and their shims (by the socket's name on their command line)."""
        found: set[int] = set()
        for hierarchy in self._hierarchies():
            for path in (hierarchy / self.cgroup).rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    found |= {int(line) for line in path.read_text().split()}
        for process in psutil.process_iter(["cmdline"]):
            if str(self.socket) in (process.info["cmdline"] or []):
                found.add(process.pid)
        return found

    def _unmount(self) -> None:
        roots = (str(self.memory), str(self.bed.node(self.node.name)))
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((m for m in mounts if m.startswith(roots)), key=len, reverse=True):
            with contextlib.suppress(StartError):
                run("umount", "-l", mount)

    def _forget_pods(self) -> None:
        """Network namespaces of its pods, known by their address."""
        prefix = self.node.pods.rpartition(".")[0] + "."
        for path in Path("/run/netns").glob("cni-*"):
            with contextlib.suppress(StartError):
                if f" {prefix}" in run("ip", "-n", path.name, "-4", "-o", "addr", "show", "dev", "eth0"):
                    run("ip", "netns", "delete", path.name)

    def _flush(self) -> None:
        """A machine that boots has no rules and no bridge."""
        if not Path(f"/run/netns/{self.node.namespace}").exists():
            return
        inside = ("nsenter", f"--net=/run/netns/{self.node.namespace}")
        for command in (("iptables", "-F"), ("iptables", "-t", "nat", "-F"), ("ip", "link", "delete", "cni0")):
            with contextlib.suppress(StartError):
                run(*inside, *command)


def _cni_folder() -> Path:
    """Debian's place, or the usual one."""
    return next((p for p in (Path("/usr/lib/cni"), Path("/opt/cni/bin")) if p.exists()), Path("/opt/cni/bin"))
