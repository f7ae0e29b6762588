"""What is in the images, and that they run as the chart runs them: no root, no writable files, no privileges."""

from __future__ import annotations

import json
import platform
import re
import tomllib
import urllib.request
from collections.abc import Iterator
from importlib.metadata import requires
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .kube import ROOT, Kube, wait
from .place import Bed

NAMESPACE = "edgemodel-images"
AGENT_LIMIT_BYTES = 150e6
IMAGES = {
    "operator": ("operator", "edgemodel_operator.main"),
    "compressor": ("compressor", "edgemodel_compressor.__main__"),
    "agent": ("agent", "edgemodel_agent.command"),
    "agent-arm64": ("agent", "edgemodel_agent.command"),
}
#: What each loads only when it is needed: a file that was stripped from one of them too much would show in a Job, or on a node.
LIBRARIES = {
    "operator": [],
    "compressor": ["onnxruntime", "jax", "optax", "ai_edge_litert.interpreter", "coremltools"],
    "agent": ["onnxruntime", "ai_edge_litert.interpreter"],
    "agent-arm64": ["onnxruntime", "ai_edge_litert.interpreter"],
}
#: Runs in each image; prints one object as its last line.
PROGRAM = """
import importlib, importlib.metadata, json, os, pathlib, platform, shutil, subprocess, sys

def writable(folder):
    try:
        path = pathlib.Path(folder, "written")
        path.write_text("x")
        path.unlink()
    except OSError:
        return False
    return True

def there(module):
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True

files = [path for top in ("/opt", "/work", "/var/lib/edgemodel") for path in pathlib.Path(top).rglob("*")]
entry = sys.argv[1]
role = entry.removesuffix(".command").removesuffix(".__main__")
help = subprocess.run([sys.executable, "-m", role, "--help"], capture_output=True, text=True)
folders = "/ /opt /opt/edgemodel /etc /usr /tmp /work /var/lib/edgemodel".split()
builders = "pip setuptools wheel ensurepip hatchling".split()
programs = "cc gcc g++ clang ld as make go cargo pip pip3 apt-get perl git curl".split()
print(json.dumps({
    "python": shutil.which("python"),
    "user": [os.getuid(), os.getgid()],
    "machine": platform.machine(),
    "writable": [folder for folder in folders if writable(folder)],
    "distributions": {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()},
    "imported": there(entry),
    "builders": [module for module in builders if there(module)],
    "programs": [program for program in programs if shutil.which(program)],
    # scipy reads its own numbers from an .npz.
    "clutter": [str(p) for p in files if p.name == "tests" or p.suffix in (".onnx", ".npz", ".whl", ".a") and "scipy" not in p.parts],
    "packages": sorted(p.name for p in pathlib.Path("/opt/edgemodel").iterdir() if p.is_dir() and "." not in p.name),
    "slow": [str(p) for p in files if p.suffix == ".py" and not list((p.parent / "__pycache__").glob(p.stem + ".*.pyc"))],
    "help": [help.returncode, help.stdout, help.stderr],
    "onnxruntime": there("onnxruntime"),
    "libraries": [module for module in sys.argv[2:] if there(module)],
    "telemetry": os.environ.get("ORT_DISABLE_TELEMETRY"),
}))
"""


@pytest.fixture(scope="module")
def inside(bed: Bed, kube: Kube, images: dict[str, str]) -> Iterator[dict[str, dict[str, Any]]]:
    """What the program found in each image."""
    assert bed
    kube.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    kube.kubectl("create", "-f", "-", input_text=json.dumps(namespace))
    kube.apply(*(pod(bed, name, images[name]) for name in IMAGES), namespace=NAMESPACE)
    found = {}
    for name in IMAGES:
        wait(lambda name=name: phase(kube, name) in {"Succeeded", "Failed"}, lambda name=name: kube.get("-n", NAMESPACE, "pod", name), 240)  # fmt: skip
        ended = kube.get("-n", NAMESPACE, "pod", name)["status"]["containerStatuses"][0]["state"]["terminated"]
        assert ended["exitCode"] == 0, kube.kubectl("-n", NAMESPACE, "logs", name)
        found[name] = json.loads(kube.kubectl("-n", NAMESPACE, "logs", name).strip().splitlines()[-1])
    yield found
    kube.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def phase(kube: Kube, name: str) -> str:
    return str(kube.get("-n", NAMESPACE, "pod", name)["status"].get("phase"))


def pod(bed: Bed, name: str, image: str) -> dict[str, Any]:
    """The image under the strictest standard, with only /tmp to write to. The image's own user: none is given."""
    container = {
        "name": "main",
        "image": image,
        "command": ["python", "-c", PROGRAM, IMAGES[name][1], *LIBRARIES[name]],
        "securityContext": {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "nodeSelector": {bed.settings.ARCH_LABEL: "arm64" if name.endswith("-arm64") else "amd64"},
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


@pytest.mark.parametrize("image", IMAGES)
def test_runs_as_nobody_with_nothing_to_write(inside: dict[str, dict[str, Any]], image: str) -> None:
    found = inside[image]
    assert found["user"] == [65532, 65532]
    assert found["writable"] == ["/tmp"]
    assert found["python"] == "/opt/venv/bin/python"
    assert found["imported"]
    code, text, complaint = found["help"]
    assert (code, complaint) == (0, "")
    assert "usage:" in text.lower()
    assert found["telemetry"] == "1"


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_imported_late_can_be_imported(inside: dict[str, dict[str, Any]], image: str) -> None:
    wanted = [m for m in LIBRARIES[image] if m != "coremltools" or platform.machine() == "x86_64"]
    assert inside[image]["libraries"] == wanted


@pytest.mark.parametrize("image", IMAGES)
def test_holds_nothing_that_builds_or_tests(inside: dict[str, dict[str, Any]], image: str) -> None:
    nothing = {"builders": [], "programs": [], "clutter": [], "slow": []}
    assert {key: inside[image][key] for key in nothing} == nothing
    assert inside[image]["packages"] == sorted(["edgemodel_api", "edgemodel_oci", f"edgemodel_{IMAGES[image][0]}"])


@pytest.mark.parametrize("image", IMAGES)
def test_holds_the_roles_extra_and_no_other_package(inside: dict[str, dict[str, Any]], image: str) -> None:
    found = {canonicalize_name(name): version for name, version in inside[image]["distributions"].items()}
    locked = re.findall(r"(?m)^([a-z0-9._-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text())
    wanted = closure(IMAGES[image][0]) | {"edgemodel"}
    assert set(found) == wanted
    assert [(name, v) for name, v in found.items() if name != "edgemodel" and (name, v) not in locked] == []


def closure(role: str) -> set[str]:
    """Names that `pip install edgemodel[…]` with the role's extras would bring, by the metadata of what is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras_of = {"compressor": ("compressor", "train", "tflite", "coreml")}.get(role, (role,))
    texts = [text for extra in extras_of for text in project["optional-dependencies"][extra]]
    waiting = [Requirement(text) for text in (*project["dependencies"], *texts)]
    inside: dict[str, set[str]] = {}
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), requirement.extras or {""}
        if name in inside and extras <= inside[name]:
            continue
        inside.setdefault(name, set()).update(extras)
        waiting += [
            needed
            for needed in map(Requirement, requires(name) or [])
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return set(inside)


def test_arm64_is_arm64_and_runs_its_models(inside: dict[str, dict[str, Any]]) -> None:
    assert inside["agent-arm64"]["machine"] == "aarch64"
    assert inside["agent-arm64"]["onnxruntime"]
    assert inside["agent"]["machine"] == platform.machine()


@pytest.mark.parametrize("image", ["agent", "agent-arm64"])
def test_agent_is_small(bed: Bed, images: dict[str, str], image: str) -> None:
    size = compressed(images[image])
    assert size <= AGENT_LIMIT_BYTES, f"{size / 1e6:.0f} MB"


def compressed(image: str) -> int:
    """Bytes that a node without any of its layers downloads."""
    registry, _, rest = image.partition("/")
    repository, _, tag = rest.rpartition(":")
    request = urllib.request.Request(
        f"http://{registry}/v2/{repository}/manifests/{tag}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return sum(layer["size"] for layer in json.load(answer)["layers"])


def test_same_content_is_the_same_image(bed: Bed, images: dict[str, str]) -> None:
    first, second = (bed.command("images", "agent-arm64", timeout=600) for _ in range(2))
    assert first == second
