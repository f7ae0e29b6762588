"""etcd, API server, controller manager and scheduler, as processes of this machine."""

from __future__ import annotations

import ssl
import urllib.request
from functools import partial
from pathlib import Path

import settings as s
from certs import Authority
from processes import running, start, wait

SERVER = f"https://{s.GATEWAY}:{s.API_PORT}"
NAMES = (
    "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
    s.GATEWAY, s.KUBERNETES_SERVICE, "127.0.0.1",
)  # fmt: skip
PARTS = ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd")


def certificates(bed: s.Bed) -> Authority:
    """Made anew for each cluster; kubeconfigs of the control plane and of the user."""
    authority = Authority(bed.pki)
    authority.issue("apiserver", "kube-apiserver", names=NAMES)
    authority.issue("apiserver-kubelet", "kube-apiserver-kubelet-client", organization="system:masters")
    authority.kubeconfig(bed.kubeconfig, server=SERVER, user="testbed-admin", organization="system:masters")
    for part in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
        authority.kubeconfig(bed.root / f"{part}.kubeconfig", server=SERVER, user=f"system:{part}", organization="")
    return authority


def start_control_plane(bed: s.Bed, binaries: Path) -> None:
    """All four, until the API server says that it is ready."""
    daemon = partial(start, pids=bed.pids, logs=bed.logs)
    pki = bed.pki
    etcd = f"http://127.0.0.1:{s.ETCD_PORT}"
    daemon(
        "etcd",
        [
            binaries / "etcd", "--data-dir", bed.root / "etcd", "--listen-client-urls", etcd,
            "--advertise-client-urls", etcd, "--listen-peer-urls", f"http://127.0.0.1:{s.ETCD_PEER_PORT}", "--unsafe-no-fsync",
            "--log-level", "warn",
        ],
    )  # fmt: skip
    daemon(
        "kube-apiserver",
        [
            binaries / "kube-apiserver", f"--etcd-servers={etcd}", f"--bind-address={s.GATEWAY}",
            f"--advertise-address={s.GATEWAY}", f"--secure-port={s.API_PORT}",
            f"--service-cluster-ip-range={s.SERVICE_NETWORK}", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
            f"--client-ca-file={pki}/ca.crt", f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt",
            f"--kubelet-client-key={pki}/apiserver-kubelet.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki}/sa.pub", f"--service-account-signing-key-file={pki}/sa.key",
            f"--audit-log-path={bed.logs}/audit.log", f"--audit-policy-file={s.HERE}/audit-policy.yaml",
        ],
    )  # fmt: skip
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "apiserver-kubelet.crt", pki / "apiserver-kubelet.key")

    def ready() -> bool:
        with urllib.request.urlopen(f"{SERVER}/readyz", context=context, timeout=2) as answer:  # noqa: S310 - a constant https URL
            return bool(answer.status == 200)

    wait("the API server", ready, log=bed.logs / "kube-apiserver.log")
    daemon(
        "kube-controller-manager",
        [
            binaries / "kube-controller-manager", f"--kubeconfig={bed.root}/kube-controller-manager.kubeconfig",
            "--use-service-account-credentials=true", f"--service-account-private-key-file={pki}/sa.key",
            f"--root-ca-file={pki}/ca.crt", f"--cluster-cidr={s.ALL_PODS}", "--leader-elect=false",
            "--node-monitor-grace-period=40s", "--bind-address=127.0.0.1", f"--secure-port={s.CONTROLLER_MANAGER_PORT}",
        ],
    )  # fmt: skip
    daemon(
        "kube-scheduler",
        [
            binaries / "kube-scheduler", f"--kubeconfig={bed.root}/kube-scheduler.kubeconfig", "--leader-elect=false",
            "--bind-address=127.0.0.1", f"--secure-port={s.SCHEDULER_PORT}",
        ],
    )  # fmt: skip


def alive(bed: s.Bed) -> bool:
    """Whether all parts run."""
    return all(running(bed.pids, part) is not None for part in PARTS)
