"""One machine of the test bed: containerd, kubelet and kube-proxy below a first process of its own (`init.py`).

What a real machine would keep over a reboot lies below `disk`; what it would lose, below `memory`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import disks
import node_config
import settings as s
from certs import Authority
from control_plane import SERVER
from processes import StartError, run, running, start, stop, wait

CGROUPS = Path("/sys/fs/cgroup")
PARTS = ("kube-proxy", "kubelet", "containerd", "init")
BALLAST = "ballast"


class Machine:
    """Start it, stop it, pull its power cord."""

    def __init__(self, bed: s.Bed, node: s.NodeSpec, binaries: Path) -> None:
        self.bed = bed
        self.node = node
        self.binaries = binaries
        self.disk = bed.node(node.name) / "disk"
        self.memory = Path("/run") / s.MARK / node.name
        self.socket = self.memory / "containerd.sock"
        self.cgroup = f"{s.MARK}-{node.name}"

    def daemon(self, part: str) -> str:
        """Name of its pid file and log."""
        return f"{self.node.name}-{part}"

    # --- life

    def install(self, authority: Authority) -> None:
        """What is written once: a disk, configuration and identity."""
        self.disk.mkdir(parents=True, exist_ok=True)
        if self.node.disk:
            disks.make(self._image, self.node.disk)
            disks.attach(self._image, self.disk)
        user, group = f"system:node:{self.node.name}", "system:nodes"
        authority.kubeconfig(self.disk / "kubelet.kubeconfig", server=SERVER, user=user, organization=group)
        shutil.copy(self.bed.root / "kube-proxy.kubeconfig", self.disk / "kube-proxy.kubeconfig")
        for name, text in node_config.files(
            self.bed, self.node, disk=self.disk, memory=self.memory, cgroup=self.cgroup
        ).items():
            path = self.disk / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def boot(self) -> None:
        """Start its first process, then all its daemons."""
        self.memory.mkdir(parents=True, exist_ok=True)
        self._make_cgroups()
        name = self.daemon("init")
        start(
            name,
            [
                "nsenter", f"--net=/run/netns/{self.node.namespace}",
                "unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc", "--propagation=slave",
                sys.executable, "-I", s.HERE / "init.py", self.node.name, self.disk, self.memory,
                self.bed.root, s.cache_dir(),
            ],
            pids=self.bed.pids, logs=self.bed.logs,
        )  # fmt: skip
        wait(f"first process of {self.node.name}", (self.memory / "up").exists, seconds=20, log=self._log("init"))
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
        # The kernel ends whatever began below the first process, pods included, before that one's parent returns.
        stop(self.bed.pids, self.daemon("init"), kill=True)
        for part in PARTS:
            stop(self.bed.pids, self.daemon(part), kill=True)
        shutil.rmtree(self.memory, ignore_errors=True)
        self._flush()

    def remove(self) -> None:
        """Power off, and throw the disk away."""
        self.power_off()
        self._remove_cgroups()
        disks.detach(self.disk)
        shutil.rmtree(self.bed.node(self.node.name), ignore_errors=True)
        with contextlib.suppress(OSError):
            self.memory.parent.rmdir()

    def alive(self) -> bool:
        """Whether all its daemons run."""
        return all(running(self.bed.pids, self.daemon(part)) is not None for part in PARTS)

    # --- disk

    def fill(self, leave: int) -> None:
        """Take all of its disk but `leave` bytes (it must have one of its own).

        Raises:
            StartError: its disk is this machine's.
        """
        if not self.node.disk:
            raise StartError(f"{self.node.name} has no disk of its own to fill: start the test bed with --disk 2Gi")
        disks.fill(self.disk / BALLAST, leave=leave)

    def drain(self) -> None:
        """Give it back."""
        (self.disk / BALLAST).unlink(missing_ok=True)

    @property
    def _image(self) -> Path:
        return self.bed.node(self.node.name) / "disk.ext4"

    # --- images

    def import_image(self, archive: Path, *, platform: str | None = None) -> None:
        """Give containerd an image, as a pull from a registry would."""
        extra = ["--platform", platform] if platform else []
        self.ctr("images", "import", *extra, archive)

    def ctr(self, *arguments: str | Path) -> str:
        """Talk to its containerd."""
        return run("ctr", "--address", self.socket, "--namespace", "k8s.io", *arguments)

    # --- inside

    def inside(self, *command: str | Path) -> list[str]:
        """The command line that runs a command as one of this node's processes.

        Raises:
            StartError: it is off.
        """
        parent = running(self.bed.pids, self.daemon("init"))
        if parent is None or not (children := parent.children()):
            raise StartError(f"{self.node.name} is off")
        enter = ("nsenter", f"--target={children[0].pid}", "--mount", "--net", "--pid", "--uts", "--wd=/")
        return [*enter, *map(str, command)]

    def _log(self, part: str) -> Path:
        return self.bed.logs / f"{self.daemon(part)}.log"

    def _daemon(self, part: str, command: Sequence[str | Path]) -> None:
        start(self.daemon(part), self.inside(*command), pids=self.bed.pids, logs=self.bed.logs)

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
            for folder, _, _ in os.walk(hierarchy / self.cgroup, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def _flush(self) -> None:
        """A machine that boots has no rules and no bridge; its network namespace stays, as a cut cable stays cut."""
        if not Path(f"/run/netns/{self.node.namespace}").exists():
            return
        net = ("nsenter", f"--net=/run/netns/{self.node.namespace}")
        for command in (("iptables", "-F"), ("iptables", "-t", "nat", "-F"), ("ip", "link", "delete", "cni0")):
            with contextlib.suppress(StartError):
                run(*net, *command)
