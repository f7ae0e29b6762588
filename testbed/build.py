"""Programs that are built once and kept in the cache, keyed by version: the Kubernetes binary, CoreDNS, a registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import settings as s
from processes import StartError, run

KUBERNETES = "v1.34.4"
#: Programs that `go install` makes as they are: name → package, version.
PROGRAMS = {
    "coredns": ("github.com/coredns/coredns", "v1.14.7"),
    "kwok": ("sigs.k8s.io/kwok/cmd/kwok", "v0.8.0"),
}
NAMES = (
    "etcd", "kubectl", "kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy",
)  # fmt: skip
#: Debian packages: command that must be there → package.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "debootstrap": "debootstrap",
    "buildah": "buildah",
    "nsenter": "util-linux",
    "socat": "socat",
    "qemu-aarch64-static": "qemu-user-static",
    "mkfs.ext4": "e2fsprogs",
    "fallocate": "util-linux",
}


def go_binary() -> str:
    """The Go compiler.

    Raises:
        StartError: there is none.
    """
    found = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if found is None:
        raise StartError("the test bed builds Kubernetes from source: install Go 1.24 or newer")
    return found


def obstacle() -> str:
    """Why no test bed can be made on this machine, in words; empty: one can. Installs and builds nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "the test bed needs root on Linux"
    if shutil.which("go") is None and not Path("/usr/local/go/bin/go").exists():
        return "the test bed needs Go 1.24 or newer, to build Kubernetes"
    if shutil.which("apt-get") is None and (missing := missing_packages()):
        return f"the test bed needs these Debian packages, or their like: {' '.join(missing)}"
    private = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False
    )
    return "" if private.returncode == 0 else "root may not make namespaces here (a container without privileges?)"


def missing_packages() -> list[str]:
    """Debian packages whose commands are not there."""
    missing = sorted({package for command, package in PACKAGES.items() if shutil.which(command) is None})
    if not Path("/usr/lib/cni/bridge").exists() and not Path("/opt/cni/bin/bridge").exists():
        missing.append("containernetworking-plugins")
    return missing


def install_packages() -> None:
    """What the test bed needs of the system, with apt where it can.

    Raises:
        StartError: something is missing and cannot be installed; says what.
    """
    missing = missing_packages()
    if not missing:
        return
    names = " ".join(missing)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise StartError(f"the test bed needs root and these packages: {names}")
    print(f"installing {names} …", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        done = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StartError(f"apt-get {command[0]} failed: {done.stderr.strip()[-500:]}; install {names} by hand")


def kubernetes() -> Path:
    """Folder with all parts, as links to one static binary. Built in about four minutes, once for each version.

    Raises:
        StartError: the build failed.
    """
    folder = s.cache_dir() / f"kube-{KUBERNETES}-{s.kube_key()}"
    if not (folder / "kubectl").exists():
        print(f"building Kubernetes {KUBERNETES} (about 4 minutes on 2 cores, once) …", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        version = "k8s.io/component-base/version"
        major, minor, _ = KUBERNETES.lstrip("v").split(".")
        flags = (
            f"-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
        )
        temporary = folder / "kube.tmp"
        _go(["build", "-trimpath", "-ldflags", flags, "-o", str(temporary), "."], cwd=s.HERE / "kube")
        temporary.rename(folder / "kube")
        for name in NAMES:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to("kube")
    return folder


def program(name: str) -> Path:
    """CoreDNS or KWOK from their modules; another name is one that tools/install knows (registry, oras).

    Raises:
        StartError: the build failed.
    """
    if name not in PROGRAMS:
        tool = [sys.executable, str(s.ROOT / "tools" / "install")]
        path = Path(run(*tool, "--print-path", name).strip())
        if not path.exists():
            print(f"building {name} (a minute or two, once) …", file=sys.stderr)
            run(*tool, "--require")
        return path
    package, version = PROGRAMS[name]
    path = s.cache_dir() / f"{name}-{version}" / name
    if not path.exists():
        print(f"building {name} {version} (a minute or two, once) …", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Away from the checkout, so that no go.mod of somebody's counts; it appears whole or not at all.
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            arguments = ["install", "-trimpath", "-ldflags", "-s -w", f"{package}@{version}"]
            _go(arguments, cwd=Path(scratch), environment={"GOBIN": scratch, "GOWORK": "off"})
            (Path(scratch) / name).rename(path)
    return path


def prometheus() -> Path:
    """Folder of `prometheus` and `promtool`: the system's, or out of Debian's package, which is unpacked, not installed
    (no service of it ever runs).

    Raises:
        StartError: there is none.
    """
    found = shutil.which("prometheus")
    if found is not None:
        return Path(found).parent
    folder = s.cache_dir() / f"prometheus-{s.DEBIAN_RELEASE}"
    with s.one_at_a_time("prometheus"):  # several processes of the tests ask for it at once
        if not (folder / "usr" / "bin" / "prometheus").exists():
            _unpack_prometheus(folder)
    return folder / "usr" / "bin"


def _unpack_prometheus(folder: Path) -> None:
    if shutil.which("apt-get") is None:
        raise StartError("the test bed needs Prometheus: put `prometheus` and `promtool` on the PATH")
    print("fetching Prometheus from Debian …", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        run("apt-get", "-q", "download", "prometheus", cwd=Path(scratch))
        package = next(Path(scratch).glob("prometheus_*.deb"))
        run("dpkg-deb", "-x", package, Path(scratch) / "out")
        shutil.rmtree(folder, ignore_errors=True)
        (Path(scratch) / "out").rename(folder)


def _go(arguments: list[str], *, cwd: Path | None = None, environment: dict[str, str] | None = None) -> None:
    begin = time.monotonic()
    process = subprocess.Popen(
        [go_binary(), *arguments],
        cwd=cwd,
        env={**os.environ, "CGO_ENABLED": "0", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while True:
        try:
            output, _ = process.communicate(timeout=30)
            break
        except subprocess.TimeoutExpired:
            print(f"  still building, {time.monotonic() - begin:.0f} s", file=sys.stderr)
    if process.returncode != 0:
        raise StartError(f"go {' '.join(arguments[:1])} failed: {output.strip()[-2000:]}")
