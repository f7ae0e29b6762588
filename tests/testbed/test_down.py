"""`down` leaves the machine as `up` found it. (A cluster that is up when this test begins is gone when it ends.)"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from .conftest import NUMBER, ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.slow, pytest.mark.timeout(300)]

# Where a kubelet, a containerd or a CNI plugin would leave something.
FOLDERS = (
    "/run", "/run/netns", "/run/containerd", "/run/containerd/s", "/var/lib", "/var/lib/kubelet", "/var/lib/cni",
    "/var/log", "/var/log/pods", "/var/log/containers", "/sys/class/net", "/proc/sys/fs/binfmt_misc", "/etc/cni", "/opt/cni",
)  # fmt: skip
COMMANDS = ("ip -4 route", "ip -o link show type bridge", "losetup -a", "iptables -S", "iptables -t nat -S")


def ours(bed) -> set[str]:
    """Processes of this test bed: by its folders, its network or its marks on the command line."""
    words = (
        f"{bed.state}/",
        f"/run/{bed.settings.MARK}/",
        f"{bed.settings.GATEWAY}:",
        f"/run/netns/{bed.settings.MARK}-",
    )
    found = set()
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(word in line for word in words):
            found.add(line)
    return found


def snapshot(bed) -> dict[str, object]:
    """All of this machine that this cluster could have left its mark on; buildah's and other beds' marks are not its own."""
    s = bed.settings
    others = [n for n in range(10) if str(n) != NUMBER]
    marks = "|".join(re.escape(f"em{n or ''}") for n in others)
    roots = "|".join(re.escape(str(s.beds_root(n))) for n in others)
    networks = "|".join(rf"10\.177\.{n}\.|em-br{n}" for n in others)
    pods = "|".join(rf"10\.178\.{16 * n + i}\." for n in others for i in range(16))
    foreign = re.compile(
        rf"(^|[/ ])({marks})(-|/|$)|({roots})(/|$)|{networks}|{pods}|^/var/lib/containers|({marks})-v\d|^[0-9a-f]{{64}}$"
    )

    def own(lines) -> list[str]:
        return sorted(line for line in lines if not foreign.search(line))

    mounts = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    names = {name: (p.name for p in Path(name).iterdir()) if Path(name).is_dir() else () for name in FOLDERS}
    return {
        "processes": ours(bed),
        "mounts": own(mounts),
        "cgroups": sorted(str(p) for p in Path("/sys/fs/cgroup").glob(f"*/{s.MARK}-*")),
        "sysctls": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        **{name: own(n if name != "/var/lib" else (f"/var/lib/{x}" for x in n)) for name, n in names.items()},
        **{command: own(bed.run(*command.split()).splitlines()) for command in COMMANDS},
    }


def test_down_leaves_nothing_behind(bed, eventually):
    bed.command("down")
    before = snapshot(bed)
    assert before["processes"] == set()
    assert before["cgroups"] == []
    assert not bed.state.exists()

    # Sixty seconds is a promise for what is built already; a bed without simulated nodes has not built theirs.
    bed.run(sys.executable, "-c", "import build; build.program('kwok')", cwd=ROOT / "testbed")
    begin = time.monotonic()
    assert (
        bed.command("up", "--nodes", "6", "--disk", "1500Mi").splitlines()[-1] == f"KUBECONFIG={bed.state}/kubeconfig"
    )
    assert time.monotonic() - begin < 60
    nodes = {n["metadata"]["name"] for n in bed.get("nodes")["items"]}
    assert nodes == {"edge-1", "edge-2", "edge-3", "sim-1", "sim-2", "sim-3"}

    # Pods with everything that leaves traces: a container, a volume in memory, a port of the node.
    image = bed.command("push", bed.command("base").splitlines()[-1]).splitlines()[-1]
    container = {
        "name": "main",
        "image": image,
        "command": ["python3", "-m", "http.server", "8000"],
        "ports": [{"containerPort": 8000, "hostPort": 8000}],
        "volumeMounts": [{"name": "memory", "mountPath": "/memory"}],
    }
    daemons = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "everywhere"},
        "spec": {
            "selector": {"matchLabels": {"app": "everywhere"}},
            "template": {
                "metadata": {"labels": {"app": "everywhere"}},
                "spec": {
                    "containers": [container],
                    "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
                },
            },
        },
    }
    bed.kubectl("apply", "-f", "-", input_text=json.dumps(daemons))
    bed.kubectl("rollout", "status", "daemonset/everywhere", "--timeout=100s")
    for index in (11, 12, 13):  # a node's port, from outside of the cluster
        with urllib.request.urlopen(f"http://{bed.settings.NODE_NETWORK.format(index)}:8000/", timeout=10) as answer:
            assert answer.status == 200
    assert ours(bed)  # or the comparison below would see nothing

    # A full disk is the node's own affair.
    bed.command("fill", "edge-2")
    eventually(lambda: bed.condition("edge-2", "DiskPressure"), "True", seconds=60)
    assert bed.condition("edge-1", "DiskPressure") == "False"
    bed.command("drain", "edge-2")

    bed.command("down")
    after = snapshot(bed)
    assert {k: v for k, v in after.items() if v != before[k]} == {}
    assert not bed.state.exists()
