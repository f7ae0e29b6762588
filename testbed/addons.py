"""What a cluster needs beside Kubernetes: names (CoreDNS), a registry, Prometheus. Processes on the bridge's address."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import build
import settings as s
import yaml
from certs import Authority
from control_plane import SERVER
from processes import running, start, wait

PARTS = ("prometheus", "discovery", "registry", "coredns")
COREDNS, PROMETHEUS = "testbed-coredns", "testbed-prometheus"
#: What each may read, as a kubeadm or a chart would grant.
ROLES = {
    COREDNS: [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ],
    PROMETHEUS: [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
}


def permissions() -> str:
    """Manifests for the users of `ROLES`, and kube-proxy's."""
    group = "rbac.authorization.k8s.io"
    documents: list[dict[str, object]] = [
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
        for name, rules in ROLES.items()
    ]
    bindings = [("system:kube-proxy", "system:node-proxier"), *((name, name) for name in ROLES)]
    documents += [
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"testbed-{user.rpartition(':')[2].removeprefix('testbed-')}"},
            "subjects": [{"kind": "User", "name": user, "apiGroup": group}],
            "roleRef": {"kind": "ClusterRole", "name": role, "apiGroup": group},
        }
        for user, role in bindings
    ]
    return yaml.safe_dump_all(documents)


def start_addons(bed: s.Bed, authority: Authority) -> None:
    """All of them; ready when they answer."""
    authority.kubeconfig(bed.root / "coredns.kubeconfig", server=SERVER, user=COREDNS, organization="")
    certificate, key = authority.issue("prometheus", PROMETHEUS)
    _start(bed, "coredns", [build.program("coredns"), "-conf", _write(bed, "Corefile", _corefile(bed))])
    _start(
        bed, "registry", [build.program("registry"), "serve", _write(bed, "registry.yaml", _registry(bed))],
        environment={"OTEL_TRACES_EXPORTER": "none"},
    )  # fmt: skip
    discovery: list[str | Path] = [s.DISCOVERY, SERVER, authority.ca, certificate, key]
    _start(bed, "discovery", [sys.executable, "-I", s.HERE / "discovery.py", *discovery])
    (bed.root / "rules").mkdir()
    _start(
        bed, "prometheus",
        [
            build.prometheus() / "prometheus", f"--config.file={_write(bed, 'prometheus.yaml', _prometheus(bed))}",
            f"--storage.tsdb.path={bed.root}/prometheus", f"--web.listen-address={s.PROMETHEUS}",
            "--web.enable-lifecycle", "--storage.tsdb.retention.time=1d", "--log.level=warn",
        ],
    )  # fmt: skip
    for name, url in (
        ("coredns", f"http://{s.GATEWAY}:8181/ready"),
        ("registry", f"http://{s.REGISTRY}/v2/"),
        ("prometheus", f"http://{s.PROMETHEUS}/-/ready"),
    ):
        wait(name, partial(_ok, url), log=bed.logs / f"{name}.log")


def alive(bed: s.Bed) -> bool:
    """Whether all of them run."""
    return all(running(bed.pids, part) is not None for part in PARTS)


def _start(bed: s.Bed, name: str, command: Sequence[str | Path], *, environment: dict[str, str] | None = None) -> None:
    start(name, command, pids=bed.pids, logs=bed.logs, environment=environment)


def _write(bed: s.Bed, name: str, text: str) -> Path:
    path = bed.root / name
    path.write_text(text)
    return path


def _ok(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - constant http URLs
        return bool(answer.status == 200)


def _corefile(bed: s.Bed) -> str:
    """The cluster's names; all others from this machine's resolver, if it has one."""
    resolver = Path("/etc/resolv.conf")
    upstream = ""
    if resolver.exists() and any(line.startswith("nameserver") for line in resolver.read_text().splitlines()):
        upstream = f"    forward . {resolver}\n"
    return f""".:53 {{
    bind {s.GATEWAY}
    errors
    ready {s.GATEWAY}:8181
    kubernetes {s.DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {bed.root}/coredns.kubeconfig testbed
        pods insecure
        ttl 5
        fallthrough in-addr.arpa ip6.arpa
    }}
{upstream}    cache 5
    loadbalance
}}
"""


def _registry(bed: s.Bed) -> str:
    return yaml.safe_dump(
        {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": f"{bed.root}/registry"}, "delete": {"enabled": True}},
            "http": {"addr": s.REGISTRY},
        }
    )


def _prometheus(bed: s.Bed) -> str:
    """Pods that ask for it; rules from `rules/*.yaml` (after POST /-/reload)."""
    discovery = {"url": f"http://{s.DISCOVERY}/", "refresh_interval": "5s"}
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": "5s", "scrape_timeout": "4s", "evaluation_interval": "5s"},
            "rule_files": [f"{bed.root}/rules/*.yaml"],
            # A program that says `namespace` itself means something else by it than its pod's.
            "scrape_configs": [{"job_name": "pods", "honor_labels": True, "http_sd_configs": [discovery]}],
        }
    )
