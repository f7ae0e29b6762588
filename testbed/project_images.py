"""The project's own images on the test bed: built by the Dockerfile on the local Debian base, pushed to the bed's registry.

Their tags are a digest of what went in, so a change of the code is another image, and no change costs nothing.
"""

from __future__ import annotations

import ast
import contextlib
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import build
import emulation
import images
import settings as s
from processes import StartError, run

ROLES = ("operator", "compressor", "agent")
SHARED = ("Dockerfile", ".dockerignore", "LICENSE", "pyproject.toml", "requirements.lock", "tools/image_parts.py")
PACKAGES = {role: ("api/edgemodel_api", "oci/edgemodel_oci", f"{role}/edgemodel_{role}") for role in ROLES}
REGISTRY_DOCKERFILE = """FROM scratch
COPY --chown=65532:65532 folder /var/lib/registry
COPY registry /bin/registry
ENV PATH=/bin
USER 65532:65532
EXPOSE 5000
ENTRYPOINT ["registry"]
CMD ["serve", "/etc/distribution/config.yml"]
"""
#: Of pip's settings on this machine, those that say where packages come from.
PIP_SETTINGS = ("extra-index-url", "index-url", "proxy", "retries", "timeout", "default-timeout", "trusted-host")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
#: Of each image, so many are kept with their names in buildah's store.
KEEP = 4


def names() -> tuple[str, ...]:
    """Of all images: the roles for this machine's architecture, the agent for arm64, and a registry."""
    return (*ROLES, "agent-arm64", "registry")


def project_images(bed: s.Bed | None = None, only: tuple[str, ...] = ()) -> dict[str, str]:
    """Name → the image that pods of that bed use. Built and pushed if its content changed; one build at a time.

    Raises:
        StartError: the bed is not up, or something could not be built.
    """
    if bed is not None and not bed.kubeconfig.exists():
        raise StartError("images go to the test bed's registry: start the bed first (testbed/cluster.py up)")
    if unknown := set(only) - set(names()):
        raise StartError(f"no image {', '.join(sorted(unknown))}: there are {', '.join(names())}")
    return {name: _push(_registry() if name == "registry" else role_image(name)) for name in only or names()}


def role_image(name: str) -> str:
    """The image of a role, or `agent-arm64`, in buildah's store; built if it is not there. Waits for nobody if it is."""
    role, _, suffix = name.partition("-")
    native = "arm64" if emulation.native() else "amd64"
    architecture = suffix or native
    build_base, base = images.base(native), images.base(architecture)
    with tempfile.TemporaryDirectory(prefix="em-context-") as scratch:
        # A copy, so that the digest is of what is built, whoever edits meanwhile.
        context = Path(scratch)
        digest = sha256("\n".join([architecture, images.identity(base), images.identity(build_base)]).encode())
        for path in _copy(role, context):
            content = path.read_bytes()
            digest.update(f"\n{path.relative_to(context)} {len(content)}\n".encode() + content)
        local = f"localhost/edgemodel/{name}:{digest.hexdigest()[:16]}"
        if images.identity(local):
            return local
        with s.one_at_a_time("images"):
            if not images.identity(local):
                _build(local, role, context, bases=(build_base, base), platforms=(native, architecture))
                _forget_older(local)
    return local


def _build(local: str, role: str, context: Path, *, bases: tuple[str, str], platforms: tuple[str, str]) -> None:
    """`bases` and `platforms`: the one that builds, and the one that it is for."""
    begin = time.monotonic()
    with _pip_secrets() as secrets:
        run(
            "nice", "-n", "10", "buildah", "build", "--quiet", "--layers", "--network=host",
            f"--platform=linux/{platforms[1]}", f"--build-arg=BUILDPLATFORM=linux/{platforms[0]}",
            f"--build-arg=BASE={bases[1]}", f"--build-arg=BUILD_BASE={bases[0]}", *secrets,
            f"--target={role}", f"--tag={local}", context,
        )  # fmt: skip
    name = local.rpartition(":")[0].rpartition("/")[2]
    print(f"built {name} in {time.monotonic() - begin:.0f} s", file=sys.stderr)


def _copy(role: str, context: Path) -> list[Path]:
    for name in (*SHARED, *PACKAGES[role]):
        source, target = s.ROOT / name, context / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    return sorted(path for path in context.rglob("*") if path.is_file())


def _registry() -> str:
    program = build.program("registry")
    digest = sha256(f"{program.parent.name} {program.stat().st_size} {REGISTRY_DOCKERFILE}".encode())
    local = f"localhost/edgemodel/registry:{digest.hexdigest()[:16]}"
    if images.identity(local):
        return local
    with tempfile.TemporaryDirectory(prefix="em-context-") as scratch:
        context = Path(scratch)
        (context / "Dockerfile").write_text(REGISTRY_DOCKERFILE)
        (context / "folder").mkdir()
        shutil.copy2(program, context / "registry")
        run("buildah", "build", "--quiet", f"--tag={local}", context)
    return local


@contextlib.contextmanager
def _pip_secrets() -> Iterator[list[str]]:
    """Options that give the build the machine's own pip settings and certificate authorities."""
    with tempfile.TemporaryDirectory(prefix="em-pip-") as scratch:
        lines = ["[global]"]
        for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
            scoped, _, value = line.partition("=")
            key = scoped.strip(":").rpartition(".")[2]
            if key in PIP_SETTINGS:
                lines.append(f"{key} = {ast.literal_eval(value)}")
        secrets = []
        if AUTHORITIES.exists():
            lines.append("cert = /run/secrets/ca")
            secrets = [f"--secret=id=ca,src={AUTHORITIES}"]
        path = Path(scratch) / "pip.conf"
        path.write_text("\n".join(lines) + "\n")
        yield [*secrets, f"--secret=id=pip,src={path}"]


def _push(local: str) -> str:
    reference = f"{s.REGISTRY}/{local.partition('/')[2]}"
    return reference if _is_pushed(local) else images.push_image(local)


def _is_pushed(local: str) -> bool:
    repository, _, tag = local.partition("/")[2].rpartition(":")
    accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    request = urllib.request.Request(
        f"http://{s.REGISTRY}/v2/{repository}/manifests/{tag}", method="HEAD", headers={"Accept": accept}
    )
    try:
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310
            return True
    except urllib.error.HTTPError:
        return False
    except OSError as error:
        raise StartError(
            f"the test bed's registry at {s.REGISTRY} does not answer ({error}): is the bed up?"
        ) from error


def _forget_older(image: str) -> None:
    """Old names of the same repository. Layers that the next build needs stay."""
    repository = image.rpartition(":")[0]
    listed = run("buildah", "images", "--format", "{{.Name}}:{{.Tag}}")  # newest first
    same = [name for name in listed.split() if name.startswith(f"{repository}:") and name != image]
    for old in same[KEEP:]:
        run("buildah", "rmi", old, check=False)
