"""The operator with a large fleet, on a real API server: how long, how much CPU, how many requests.

    KUBECONFIG=… python benchmarks/fleet.py [--nodes 100,1000,3000] [--rest 60]

The operator is the real process, with an account of its own by which its requests are found in the API server's audit
log. The nodes are `fleet_nodes.py`: 5 % have a slow link, 1 % fail their checks, 3 % are offline and come back during
the second rollout. Measured: installing a first revision, rolling a second one over it, and a time of rest in which
nodes only report.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import yaml
from fleet_nodes import Fleet

from edgemodel_api.job import JobResult, Outcome, VariantSummary
from edgemodel_operator.k8s import objects
from edgemodel_operator.k8s.client import Cluster, NotFoundError, connect

ROOT = Path(__file__).resolve().parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
MAX_UNAVAILABLE = "10%"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", default="100,1000", help="how many, commas between them (default: %(default)s)")
    parser.add_argument(
        "--rest", type=float, default=60, help="seconds of rest that are measured (default: %(default)s)"
    )
    parser.add_argument("--audit-log", type=Path, help="the API server's; default: the test bed's")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind
    if not os.environ.get("KUBECONFIG"):
        print("fleet: set KUBECONFIG (make cluster prints it)", file=sys.stderr)
        return 2
    audit = Audit(given.audit_log or Path(os.environ["KUBECONFIG"]).parent / "logs" / "audit.log")
    cluster = Cluster(connect(pool=8), timeout=60)
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        body = yaml.safe_load(path.read_text())
        crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        cluster.apply(f"{crds}/{body['metadata']['name']}", body)
    print(
        "| nodes | phase | time | nodes/s | operator CPU | RSS (peak) | passes: count, mean, CPU a pass | requests | writes to nodes |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for count in (int(n) for n in given.nodes.split(",")):
        with Bench(cluster, audit, count) as bench:
            asyncio.run(bench.run(given.rest))
    return 0


class Audit:
    """The API server's audit log, read on from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.skip()

    def skip(self) -> None:
        self.offset = self.path.stat().st_size if self.path.exists() else 0

    def requests(self, user: str) -> Counter[str]:
        """Since the last reading, of users whose name has `user` in it: `patch edgenodes` → how many."""
        found: Counter[str] = Counter()
        if not self.path.exists():
            return found
        if self.path.stat().st_size < self.offset:
            self.offset = 0  # it was rotated
        with self.path.open() as f:
            f.seek(self.offset)
            for line in f:
                if '"ResponseComplete"' not in line or not re.search(user, line) or not line.endswith("\n"):
                    continue
                event = json.loads(line)
                if re.search(user, event["user"]["username"]):
                    ref = event.get("objectRef", {})
                    found[
                        "/".join(filter(None, (f"{event['verb']} {ref.get('resource', '')}", ref.get("subresource"))))
                    ] += 1
            self.offset = f.tell()
        return found


@dataclass
class Usage:
    """Of a process, so far."""

    at: float
    cpu: float
    rss: int
    passes: float = 0
    pass_seconds: float = 0


@dataclass
class Bench:
    """One size of fleet: namespace, account, operator, nodes."""

    cluster: Cluster
    audit: Audit
    count: int
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        self.namespace = f"fleet-{uuid.uuid4().hex[:6]}"
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.cluster.create("/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        self.stack.callback(self._remove, f"/api/v1/namespaces/{self.namespace}")
        wait(lambda: self._exists(f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default"), "the namespace")
        self.token = {name: self._account(name) for name in ("operator", "agents")}
        self.path = f"{objects.edge_models(self.namespace)}/m"
        self.stack.enter_context(self._operator(folder))
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(NotFoundError):
            self.cluster.merge(self.path, {"metadata": {"finalizers": []}})
        self.stack.close()

    def _exists(self, path: str) -> bool:
        try:
            self.cluster.get(path)
        except NotFoundError:
            return False
        return True

    def _remove(self, path: str) -> None:
        with contextlib.suppress(NotFoundError):
            self.cluster.delete(path, uid=self.cluster.get(path)["metadata"]["uid"])

    def _account(self, name: str) -> str:
        accounts = f"/api/v1/namespaces/{self.namespace}/serviceaccounts"
        self.cluster.create(accounts, {"metadata": {"name": name}})
        bindings, full = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", f"{self.namespace}-{name}"
        subject = {"kind": "ServiceAccount", "name": name, "namespace": self.namespace}
        role = {"kind": "ClusterRole", "name": "cluster-admin", "apiGroup": "rbac.authorization.k8s.io"}
        self.cluster.create(bindings, {"metadata": {"name": full}, "subjects": [subject], "roleRef": role})
        self.stack.callback(self._remove, f"{bindings}/{full}")
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 7200},
        }
        return str(self.cluster.create(f"{accounts}/{name}/token", request)["status"]["token"])

    @contextlib.contextmanager
    def _operator(self, folder: Path) -> Iterator[None]:
        kubeconfig = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
        kubeconfig["users"] = [
            {"name": u["name"], "user": {"token": self.token["operator"]}} for u in kubeconfig["users"]
        ]
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(kubeconfig))
        self.port = 20000 + os.getpid() % 20000
        self.log = folder / "operator.log"
        start = ["-m", "edgemodel_operator.main"]
        command = [
            sys.executable, *start, "--output", "oci://registry.example.com/models", "--namespaces", self.namespace,
            "--job-image", "registry.example.com/compressor:1", "--job-cpu", "10000", "--metrics-port", str(self.port),
        ]  # fmt: skip
        parts = os.pathsep.join(str(ROOT / part) for part in ("api", "oci", "operator"))
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, env={**os.environ, "PYTHONPATH": parts, "KUBECONFIG": str(path)}
            )
        try:
            yield
        finally:
            self.process.kill()
            self.process.wait()
            if os.environ.get("FLEET_LOG"):
                Path(os.environ["FLEET_LOG"]).write_bytes(self.log.read_bytes())

    # --- what is measured

    def usage(self) -> Usage:
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+)", status)
        found = Usage(time.monotonic(), (int(stat[11]) + int(stat[12])) / TICKS, int(peak[1]) * 1024 if peak else 0)
        with contextlib.suppress(OSError):
            text = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10).read().decode()
            for name, attribute in (("count", "passes"), ("sum", "pass_seconds")):
                match = re.search(
                    rf'^edgemodel_operator_pass_duration_seconds_{name}{{kind="EdgeModel"}} (\S+)$', text, re.MULTILINE
                )
                setattr(found, attribute, float(match[1]) if match else 0.0)
        return found

    def row(self, phase: str, before: Usage, nodes: int) -> None:
        after = self.usage()
        time.sleep(0.5)  # the audit log is buffered
        requests = self.audit.requests(f"serviceaccount:{self.namespace}:operator")
        seconds, cpu, passes = after.at - before.at, after.cpu - before.cpu, after.passes - before.passes
        mean = (after.pass_seconds - before.pass_seconds) / passes if passes else 0
        total, writes = sum(requests.values()), requests["patch edgenodes"]
        rate = f"{nodes / seconds:.1f}" if nodes else ""
        told = ", ".join(f"{k} {n}" for k, n in requests.most_common(4))
        asked = f"{total / seconds * 60:.0f}/min" if not nodes else f"{total}"
        used = f"{cpu / seconds * 60:.2f} s/min" if not nodes else f"{cpu:.2f} s"
        print(
            f"| {self.count} | {phase} | {seconds:.1f} s | {rate} | {used} | {after.rss >> 20} MiB | {passes:.0f}, "
            f"{mean * 1000:.0f} ms, {cpu / passes * 1000 if passes else 0:.0f} ms | {asked} ({told}) | "
            f"{writes / nodes if nodes else 0:.2f} a node |",
            flush=True,
        )

    # --- what happens

    async def run(self, rest: float) -> None:
        host, context = _server()
        fleet = Fleet(host, context, self.token["agents"], self.namespace, self.count)
        made = asyncio.Event()
        playing = asyncio.create_task(fleet.run(made))
        waiting = asyncio.create_task(made.wait())
        try:
            await asyncio.wait({playing, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                playing.result()
            playing.add_done_callback(_died)
            await self._roll("install", "a")
            back = asyncio.get_running_loop().call_later(5, fleet.come_back)
            await self._roll("update", "b")
            back.cancel()
            # What failed is tried again for seven minutes; rest is when nothing is.
            await asyncio.sleep(3)
            self.audit.skip()
            before = self.usage()
            await asyncio.sleep(rest)
            await asyncio.to_thread(self.row, "rest", before, 0)
        finally:
            waiting.cancel()
            playing.cancel()
            await asyncio.gather(playing, waiting, return_exceptions=True)
            await asyncio.to_thread(self._delete_nodes)
        print(f"  (agents wrote {fleet.writes} statuses, {fleet.failed_writes} of them in vain)", file=sys.stderr)

    def _delete_nodes(self) -> None:
        names = [
            b["metadata"]["name"] for b in self.cluster.listed(objects.EDGE_NODES, selector=f"pool={self.namespace}")[0]
        ]
        for name in names:
            self._remove(f"{objects.EDGE_NODES}/{name}")

    async def _roll(self, phase: str, letter: str) -> None:
        await asyncio.to_thread(self._apply, letter)
        await until(lambda: self._says("Compressed", "False", "Compressing"), "the Job")
        await asyncio.to_thread(self._finish_job)
        self.audit.skip()
        before = self.usage()
        await until(lambda: self._says("RolledOut", "True"), "the rollout", 1800)
        await asyncio.to_thread(self.row, phase, before, self.count)

    def _apply(self, letter: str) -> None:
        spec = {
            "source": {"uri": "https://example.com/m.onnx", "sha256": letter * 64},
            "nodePool": {"selector": {"matchLabels": {"pool": self.namespace}}},
            "rollout": {
                "waves": [{"nodes": 1}, {"nodes": "25%"}, {"nodes": "100%"}],
                "maxUnavailable": MAX_UNAVAILABLE, "maxFailures": "5%",
            },
        }  # fmt: skip
        body = {"apiVersion": "edgemodel.dev/v1alpha1", "kind": "EdgeModel",
                "metadata": {"name": "m", "namespace": self.namespace}, "spec": spec}  # fmt: skip
        self.cluster.apply(self.path, body, manager="kubectl")
        self.generation = self.cluster.get(self.path)["metadata"]["generation"]

    def _says(self, type_: str, status: str, reason: str = "") -> bool:
        body = self.cluster.get(self.path)
        found = body.get("status") or {}
        if found.get("observedGeneration") != body["metadata"]["generation"]:
            return False
        return any(
            c["type"] == type_ and c["status"] == status and reason in ("", c["reason"])
            for c in found.get("conditions", [])
        )

    def _finish_job(self) -> None:
        """Write the status of its pod as a kubelet would; the real Job controller goes on from there."""

        def pod() -> dict[str, Any] | None:
            jobs = self.cluster.listed(objects.jobs(self.namespace), selector=objects.JOBS_SELECTOR)[0]
            newest = max(jobs, key=lambda j: j["metadata"]["creationTimestamp"])["metadata"]["uid"]
            found = self.cluster.listed(
                objects.pods(self.namespace), selector=f"batch.kubernetes.io/controller-uid={newest}"
            )
            return found[0][0] if found[0] else None

        name = wait(pod, "the Job's pod")["metadata"]["name"]
        revision = self.cluster.get(self.path)["status"]["revision"]
        variants = tuple(
            VariantSummary(
                platform=p, name=n, digest=_digest(f"{revision} {p} {n}"), size_bytes=s, file_bytes=s, quality=0.99
            )
            for p in ("linux/amd64", "linux/arm64")
            for n, s in (("source", 4000), ("int8", 1000))
        )
        result = JobResult(outcome=Outcome.SUCCEEDED, digest=_digest(revision), variants=variants)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ended = {"startedAt": now, "finishedAt": now, "exitCode": 0, "message": result.model_dump_json(by_alias=True)}
        container = {"name": "compressor", "image": "x", "imageID": "x", "ready": False, "restartCount": 0,
                     "state": {"terminated": ended}}  # fmt: skip
        status = {"phase": "Succeeded", "containerStatuses": [container]}
        self.cluster.merge(f"{objects.pods(self.namespace)}/{name}/status", {"status": status})


def _died(playing: asyncio.Task[None]) -> None:
    """Without its nodes, nothing that is measured means anything."""
    if not playing.cancelled() and playing.exception() is not None:
        print(f"fleet: the simulated nodes are dead: {playing.exception()!r}", file=sys.stderr, flush=True)


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _server() -> tuple[str, ssl.SSLContext]:
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())["clusters"][0]["cluster"]
    if "certificate-authority-data" in config:
        context = ssl.create_default_context(cadata=base64.b64decode(config["certificate-authority-data"]).decode())
    else:
        context = ssl.create_default_context(cafile=config["certificate-authority"])
    return str(config["server"]), context


def wait(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"fleet: not within {seconds:.0f} s: {what}")
        time.sleep(0.2)
    return found


async def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            raise SystemExit(f"fleet: not within {seconds:.0f} s: {what}")
        await asyncio.sleep(0.3)


if __name__ == "__main__":
    sys.exit(main())
