"""Images that no registry is needed for: `pause`, and a Debian base for the project's own Dockerfile."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path

import emulation
import settings as s
from build import _go
from node_config import PAUSE
from processes import StartError, run

PAUSE_SOURCE = """package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
}
"""
BASE = "localhost/edgemodel/base"
#: Raised with each change of what `base` does.
BASE_VERSION = 2
#: As the official slim images do: two thirds of the bytes, and each build reads them.
NOT_IN_BASE = ("dev/*", "usr/share/doc/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/man/*", "var/cache/apt/*", "var/lib/apt/lists/*")  # fmt: skip


def pause() -> Path:
    """An image archive whose only file waits for its end. (As the first process of a pod it also reaps nothing of ours.)"""
    path = s.cache_dir() / "pause-1.tar"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "main.go").write_text(PAUSE_SOURCE)
        (folder / "go.mod").write_text("module pause\n\ngo 1.22\n")
        _go(["build", "-ldflags", "-s -w", "-o", "pause", "."], cwd=folder)
        layer = _tar({"pause": ((folder / "pause").read_bytes(), 0o755)})
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer).hexdigest()}"]},
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]).encode()
    files = {"config.json": (config, 0o644), "layer.tar": (layer, 0o644), "manifest.json": (manifest, 0o644)}
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(_tar(files))
    temporary.rename(path)
    return path


def base(architecture: str = "amd64") -> str:
    """A minimal Debian with Python, committed with buildah; its name. For arm64 the second stage runs under emulation.

    Raises:
        StartError: this machine cannot run that architecture's programs, or debootstrap failed.
    """
    name = f"{BASE}:{s.DEBIAN_RELEASE}-{architecture}-{BASE_VERSION}"
    if not identity(name):
        with s.one_at_a_time("base"):
            if not identity(name):
                _make_base(name, architecture)
    return name


def _make_base(name: str, architecture: str) -> None:
    if architecture == "arm64" and not emulation.native() and not emulation.ENTRY.exists():
        raise StartError("arm64 programs do not run on this machine: start the test bed first (make cluster)")
    print(f"making the base image for {architecture} (about a minute, once) …", file=sys.stderr)
    folder = Path(tempfile.mkdtemp(prefix="em-base-", dir="/var/tmp"))
    try:
        run(
            "debootstrap", "--variant=minbase", f"--arch={architecture}", "--include=python3,python3-venv,ca-certificates",
            s.DEBIAN_RELEASE, folder,
        )  # fmt: skip
        for path in (path for pattern in NOT_IN_BASE for path in folder.glob(pattern)):
            run("rm", "-rf", path)
        container = run("buildah", "from", "--arch", architecture, "scratch").strip()
        run("buildah", "add", "-q", container, folder, "/")
        run("buildah", "config", "--arch", architecture, "--cmd", "python3", container)
        run("buildah", "commit", "-q", "--rm", container, name)
    finally:
        run("rm", "-rf", folder)


def identity(image: str) -> str:
    """Of an image in buildah's store; empty if there is none."""
    return run("buildah", "images", "--quiet", "--no-trunc", image, check=False).strip()


def push_image(image: str, *, name: str = "") -> str:
    """Push an image of buildah's (or a manifest list) to the test bed's registry; the name that pods use.

    `name`: repository and tag there; default: the image's own without its registry.

    Raises:
        StartError: buildah does not know the image, or the registry does not answer.
    """
    first, _, rest = image.partition("/")
    own = rest if rest and ("." in first or ":" in first or first == "localhost") else image
    reference = f"{s.REGISTRY}/{name or own}"
    command = ("manifest", "push", "--all") if _is_list(image) else ("push",)
    run("buildah", *command, "-q", "--tls-verify=false", image, f"docker://{reference}")
    return reference


def _is_list(image: str) -> bool:
    found = run("buildah", "manifest", "inspect", image, check=False).strip()
    return bool(found) and "manifests" in json.loads(found)


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, (content, mode) in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()
