"""`spec.deletionPolicy`: what a deleted EdgeModel leaves in a real registry."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest

from edgemodel_api.artifact import Golden
from edgemodel_oci.artifact import ArtifactWriter
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import open_repository

from .conftest import ROOT, exists, remove, wait


@contextlib.contextmanager
def registry(folder, *, deletes: bool):
    """`host:port` of one."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{s.getsockname()[1]}"
    storage = {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": deletes}}
    config = {"version": 0.1, "log": {"level": "error"}, "storage": storage, "http": {"addr": host}}
    (folder / "registry.yaml").write_text(json.dumps(config))
    tool = [sys.executable, str(ROOT / "tools" / "install"), "--print-path", "registry"]
    program = subprocess.run(tool, capture_output=True, text=True, check=True).stdout.strip()
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(folder / "registry.yaml")], stdout=log, stderr=log, env=environment
        )
    try:
        wait(lambda: answers(host), "the registry")
        yield host
    finally:
        process.kill()
        process.wait()


def answers(host: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://{host}/v2/").status_code == 200
    return False


def push(reference: str, revision: str, folder) -> None:
    """What the compression Job would have pushed."""
    (folder / "m.onnx").write_bytes(np.random.default_rng(1).bytes(100_000))
    (folder / "golden.npz").write_bytes(b"golden")
    with open_repository(Reference.parse(reference)) as repo:
        writer = ArtifactWriter(repo)
        for name in ("source", "int8"):
            writer.add_variant(
                platform="linux/amd64", name=name, model_file=folder / "m.onnx", golden_file=folder / "golden.npz",
                golden=Golden(cases=1, max_error=1e-3), classes=(), encoding="float32", source_name="m",
            )  # fmt: skip
        writer.finish(revision=revision, tag=revision)


def tags(host: str, repository: str) -> list[str]:
    answer = httpx.get(f"http://{host}/v2/{repository}/tags/list")
    return (answer.json().get("tags") or []) if answer.status_code == 200 else []


def ready(operator, model, agents, output: str, **spec) -> None:
    operator.kill()
    operator.output = output
    operator.start()
    model.apply(**spec)
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    model.finish_job()
    wait(lambda: model.says("Ready"), "Ready", agents=agents)


@pytest.mark.parametrize(
    ("policy", "deletes", "reason", "left"),
    [
        ("Delete", True, "ArtifactsDeleted", []),
        ("Delete", False, "ArtifactsLeft", ["r1", "r2"]),
        ("Retain", True, "", ["r1", "r2"]),
    ],
    ids=["deleted", "a registry that deletes nothing", "retained"],
)
def test_what_stays_in_the_registry(cluster, operator, model, agents, tmp_path, policy, deletes, reason, left):
    with registry(tmp_path, deletes=deletes) as host:
        repository = f"models/{model.namespace}/{model.name}"
        for revision in ("r1", "r2"):
            push(f"oci://{host}/{repository}", revision, tmp_path)
        ready(operator, model, agents, f"oci://{host}/models", deletionPolicy=policy)
        remove(cluster, model.path)
        wait(lambda: not exists(cluster, model.path), "its end", 15, agents)
        assert tags(host, repository) == left
        told = {r: m for r, m in model.events() if r.startswith("Artifacts")}
        assert list(told) == ([reason] if reason else [])
        if reason == "ArtifactsDeleted":
            assert told[reason].startswith("2 revisions deleted from oci://")
        if reason == "ArtifactsLeft":
            assert "405" in told[reason]
            assert "REGISTRY_STORAGE_DELETE_ENABLED=true" in told[reason]


def test_a_registry_that_is_away_holds_nothing_back(cluster, operator, model, agents):
    """It is tried for half a minute; the rest of the operator's work goes on meanwhile."""
    ready(operator, model, agents, "oci://127.0.0.1:9/models", deletionPolicy="Delete")
    begin = time.monotonic()
    remove(cluster, model.path)
    wait(lambda: not exists(cluster, model.path), "its end", 50, agents)
    assert time.monotonic() - begin < 45
    assert [r for r, _ in model.events() if r.startswith("Artifacts")] == ["ArtifactsLeft"]


def test_the_policy_is_no_part_of_the_revision(operator, model, agents):
    model.apply()
    revision = wait(lambda: model.read().status.revision, "the revision", agents=agents)
    job = wait(model.jobs, "the Job")[0]["metadata"]["uid"]
    model.apply(deletionPolicy="Delete")
    wait(lambda: model.read().status.observed_generation == 2, "the second pass", agents=agents)
    assert model.read().status.revision == revision
    assert [j["metadata"]["uid"] for j in model.jobs()] == [job]
