"""Bytes to download and memory at rest: the images, and an agent with one small model, beside what users pick instead.

    python benchmarks/images.py [--no-images | --only-images] [--update]

All in one run, on one Python, with the same model and onnxruntime (magika's network, 3 MB). "Download": gzip, what a node pulls
besides the base image. Memory: every process of it, once it has loaded the model, made one inference and rested. PSS shares what
several processes map between them, so it adds up; RSS does not. Peers are installed with pip into a cache, once. Image sizes
need buildah and root; images that the test bed's registry has are looked up there, as pushing compresses them once more. `--only-images`
measures nothing else, `--update` puts the tables into docs/images.md. Fails if a promise of ours is broken: an agent image over 150 MB, an agent process over 80 MB RSS.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import psutil
from models import ROOT
from tables import put_between

from edgemodel_agent.processes import find_servers
from edgemodel_agent.runtime_dir import runtime_dir
from edgemodel_api.artifact import Golden
from edgemodel_api.edgenode import ArtifactTarget, AssignedModel, EdgeNodeSpec, EdgeNodeStatus
from edgemodel_oci.artifact import ArtifactWriter
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import open_repository

IMAGE_LIMIT_MB, AGENT_LIMIT_MB = 150, 80
MARKS = "<!-- bench-images-{}:begin -->", "<!-- bench-images-{}:end -->"
REST_SECONDS = 5
AGENT = "– the agent's process"
CACHE = Path(os.environ.get("EDGEMODEL_CACHE") or Path.home() / ".cache" / "edgemodel") / "bench-images"
LOAD = """
import numpy, onnxruntime, sys
def load(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {i.name: numpy.zeros([d if isinstance(d, int) else 1 for d in i.shape],
                {"tensor(int32)": "int32"}.get(i.type, "float32")) for i in session.get_inputs()})
    return session
"""
#: name → (what pip installs, the program: model file, port; what answers when it is ready).
PEERS = {
    "FastAPI + uvicorn": (
        ["fastapi", "uvicorn"],
        """
import fastapi, uvicorn
app, session = fastapi.FastAPI(), load(sys.argv[1])
@app.post("/infer")
def infer(inputs: dict[str, list]): return {n.name: v.tolist() for n, v in zip(session.get_outputs(), session.run(None, inputs))}
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
""",
        "/docs",
    ),
    "KServe's Python server": (
        ["kserve"],
        """
import kserve
class Onnx(kserve.Model):
    def load(self):
        self.session = load(sys.argv[1]); self.ready = True; return True
    def predict(self, payload, headers=None): return payload
model = Onnx("m"); model.load()
kserve.ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1).start([model])
""",
        "/v2/health/live",
    ),
    "MLServer": (
        ["mlserver"],
        """
import asyncio, mlserver
class Onnx(mlserver.MLModel):
    async def load(self):
        self.session = load(sys.argv[1]); return True
    async def predict(self, payload): return payload
from mlserver.settings import ModelSettings, Settings
async def main():
    port = int(sys.argv[2])
    server = mlserver.MLServer(Settings(http_port=port, grpc_port=port + 1, metrics_port=port + 2, parallel_workers=0, debug=False))
    await server.start([ModelSettings(name="m", implementation=Onnx)])
asyncio.run(main())
""",
        "/v2/health/ready",
    ),
}


@dataclass(frozen=True)
class Row:
    """Megabytes (10⁶ bytes)."""

    what: str
    download: float
    rss: float
    pss: float


def memory(processes: list[psutil.Process]) -> tuple[float, float]:
    """(RSS, PSS) in megabytes, summed."""
    found = [process.memory_full_info() for process in processes]
    return sum(f.rss for f in found) / 1e6, sum(f.pss for f in found) / 1e6


def family(process: psutil.Process) -> list[psutil.Process]:
    """It and what it started."""
    return [process, *process.children(recursive=True)]


def wait(what: str, ready: Callable[[], object], log: Path) -> None:
    """Until it is ready, then a rest."""
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError, ValueError):
            if ready():
                break
        if time.monotonic() > deadline:
            sys.exit(f"{what} is not ready within 120 s: {log.read_text(errors='replace')[-1500:]}")
        time.sleep(0.2)
    time.sleep(REST_SECONDS)


# --- ours


def publish(folder: Path, model: Path) -> ArtifactTarget:
    """The model as an artifact in an image layout, with one golden case."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    feeds = {
        i.name: np.zeros([d if isinstance(d, int) else 1 for d in i.shape], "int32" if "int32" in i.type else "float32")
        for i in session.get_inputs()
    }
    names = [o.name for o in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feeds), strict=True))
    golden = folder / "golden.npz"
    np.savez(golden, **{f"input:{n}": v for n, v in feeds.items()}, **{f"output:{n}": v for n, v in outputs.items()})
    reference = f"oci-layout://{folder / 'registry'}"
    writer = ArtifactWriter(open_repository(Reference.parse(reference), create=True))
    descriptor = writer.add_variant(
        platform="linux/arm64" if os.uname().machine == "aarch64" else "linux/amd64",
        name="source",
        model_file=model,
        golden_file=golden,
        golden=Golden(cases=1, max_error=1e-3),
        classes=(),
        encoding="float32",
        source_name="model",
    )
    writer.finish(revision="r1", tag="r1")
    size = model.stat().st_size
    return ArtifactTarget(
        revision="r1", reference=reference, digest=descriptor.digest, variant="source", size_bytes=size, file_bytes=size
    )


def ours(folder: Path, model: Path) -> tuple[tuple[float, float], tuple[float, float]]:
    """Memory of the agent's process and of its model server's."""
    target, objects, root = publish(folder, model), folder / "objects" / "edgenodes" / "n1", folder / "n1"
    objects.mkdir(parents=True)
    spec = EdgeNodeSpec(models=(AssignedModel(namespace="default", name="m", target=target),))
    (objects / "spec.json").write_text(json.dumps({"generation": 1, "spec": spec.to_json()}))
    log = folder / "agent.log"
    command = [sys.executable, "-m", "edgemodel_agent", "run", "--node", "n1", "--root", str(root)]
    command += ["--objects", str(folder / "objects"), "--reserve", "0", "--metrics-port", str(free_port())]

    def serves() -> bool:
        status = EdgeNodeStatus.model_validate_json((objects / "status.json").read_text())
        return [m.state for m in status.models] == ["Serving"]

    with started(command, log) as agent:
        wait("the agent", serves, log)
        servers = [psutil.Process(server.pid) for server in find_servers(runtime_dir(root))]
        return memory([agent]), memory(servers)


# --- peers


def peer(name: str, folder: Path, model: Path) -> Row:
    """Install it unless it is there, run it, measure."""
    packages, program, path = PEERS[name]
    environment = CACHE / f"{packages[0]}-{sys.version_info.minor}"
    done = environment / ".done"
    if not done.exists():
        print(f"installing {', '.join(packages)} …", file=sys.stderr)
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip = [str(environment / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages, f"onnxruntime=={version('onnxruntime')}"], check=True)
        done.touch()
    script, log, port = folder / f"{packages[0]}.py", folder / f"{packages[0]}.log", free_port()
    script.with_name(f"serve_{script.name}").write_text(LOAD + program)
    command = [
        str(environment / "bin" / "python"),
        str(script.with_name(f"serve_{script.name}")),
        str(model),
        str(port),
    ]

    def answers() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
            return True

    with started(command, log) as process:
        wait(name, answers, log)
        rss, pss = memory(family(process))
    return Row(name, gzip_size(environment), rss, pss)


def gzip_size(environment: Path) -> float:
    """Megabytes of its packages, pip apart, packed as a layer is."""
    site = next(environment.glob("lib/python3*/site-packages"))
    counter = Counter()
    with (
        gzip.GzipFile(fileobj=counter, mode="wb", compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        for path in sorted(site.iterdir()):
            if not path.name.startswith(("pip", "setuptools", "_distutils_hack", "wheel")):
                archive.add(path, path.name)
    return counter.size / 1e6


class Counter:
    """A file that only counts."""

    size = 0

    def write(self, data: bytes) -> int:
        """Count."""
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is kept."""


@contextlib.contextmanager
def started(command: list[str], log: Path) -> Iterator[psutil.Process]:
    """A process, its family ended afterwards. Nothing tells its maker of it."""
    with open(log, "wb") as out:
        process = psutil.Popen(command, stdout=out, stderr=out, env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"})
    try:
        yield process
    finally:
        everyone = family(process)
        process.terminate()
        psutil.wait_procs(everyone, timeout=15)
        for one in everyone:
            with contextlib.suppress(psutil.Error):
                one.kill()


def free_port() -> int:
    """The first of three that are free, most likely."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# --- images


def image_sizes() -> dict[str, tuple[float, float]]:
    """Image → compressed megabytes of (base, role)."""
    sys.path.insert(0, str(ROOT / "testbed"))
    import project_images  # type: ignore[import-not-found]

    sizes = {}
    for name in (*project_images.ROLES, "agent-arm64"):
        image = project_images.role_image(name)
        base, *role = (layer["size"] / 1e6 for layer in (pushed(image, project_images) or packed(image))["layers"])
        sizes[name] = (base, sum(role))
    return sizes


def pushed(image: str, project_images: ModuleType) -> Any:
    """Its manifest in the test bed's registry; None: it is not there, or no bed is up."""
    try:
        if not project_images._is_pushed(image):
            return None
    except project_images.StartError:
        return None
    repository, _, tag = image.partition("/")[2].rpartition(":")
    url = f"http://{project_images.s.REGISTRY}/v2/{repository}/manifests/{tag}"
    request = urllib.request.Request(url, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def packed(image: str) -> Any:
    """Its manifest in a folder, as it would be pushed."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["buildah", "push", "-q", image, f"oci:{scratch}:it"], check=True)
        index = json.loads((Path(scratch) / "index.json").read_text())
        digest = index["manifests"][0]["digest"].removeprefix("sha256:")
        return json.loads((Path(scratch) / "blobs" / "sha256" / digest).read_text())


def memory_rows(download: float) -> list[Row]:
    """Ours, its two parts first, and the peers."""
    subprocess.run([sys.executable, str(ROOT / "examples/file-type/prepare.py")], check=True, cwd=ROOT)
    model = ROOT / "examples/file-type/data/model.onnx"
    with tempfile.TemporaryDirectory(prefix="edgemodel-bench-") as scratch:
        folder = Path(scratch)
        agent, server = ours(folder, model)
        peers = [peer(name, folder, model) for name in PEERS]
    return [
        Row(AGENT, download, *agent),
        Row("– a model's server, each", 0.0, *server),
        Row("EdgeModel: agent and model server", download, agent[0] + server[0], agent[1] + server[1]),
        *peers,
    ]


def size_table(sizes: dict[str, tuple[float, float]]) -> str:
    """Markdown."""
    lines = ["| image | base MB | role MB | together (compressed) |", "|---|---|---|---|"]
    shown = {name: name.replace("-", ", ") for name in sizes}
    return "\n".join([*lines, *(f"| {shown[n]} | {b:.1f} | {r:.1f} | {b + r:.1f} |" for n, (b, r) in sizes.items())])


def memory_table(rows: list[Row]) -> str:
    """Markdown; the third row is the one that the others are divided by."""
    lines = ["| at rest, one model of 3 MB | download MB | RSS MB | PSS MB | PSS to ours |", "|---|---|---|---|---|"]
    whole = rows[2].pss
    return "\n".join(
        [*lines, *(f"| {r.what} | {r.download:.1f} | {r.rss:.1f} | {r.pss:.1f} | {r.pss / whole:.2f} |" for r in rows)]
    )


def show(kind: str, table: str, *, update: bool) -> None:
    """Print it, and put it where it belongs."""
    print(f"{table}\n")
    if update:
        put_between(ROOT / "docs" / "images.md", *(mark.format(kind) for mark in MARKS), table)


def main() -> int:
    """0, or 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--no-images", action="store_true", help="only memory: needs neither root nor buildah")
    which.add_argument("--only-images", action="store_true", help="only the sizes of images")
    parser.add_argument("--update", action="store_true", help="put the tables into docs/images.md")
    given = parser.parse_args()
    broken = []
    sizes = {} if given.no_images else image_sizes()
    if sizes:
        show("sizes", size_table(sizes), update=given.update)
        together = {name: sum(size) for name, size in sizes.items() if name.startswith("agent")}
        broken += [f"{n}: {mb:.0f} MB > {IMAGE_LIMIT_MB} MB" for n, mb in together.items() if mb > IMAGE_LIMIT_MB]
    if not given.only_images:
        rows = memory_rows(sizes["agent"][1] if sizes else float("nan"))
        show("memory", memory_table(rows), update=given.update)
        agent = next(row.rss for row in rows if row.what == AGENT)
        if agent > AGENT_LIMIT_MB:
            broken.append(f"the agent's process: {agent:.0f} MB > {AGENT_LIMIT_MB} MB")
    print("\n".join(broken) or "all promises kept", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
