"""The chart, rendered by the real helm."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.programs import tool

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "edgemodel"
NAMESPACE = "edgemodel-system"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.tools)


@pytest.fixture(scope="session")
def helm() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A command of helm; without helm the test is skipped, or fails where tools are required."""
    path = tool("helm")
    environment = {**os.environ, "KUBECONFIG": "/dev/null"}

    def run(*arguments: str | Path, values: dict | None = None) -> subprocess.CompletedProcess[str]:
        words = [path, *map(str, arguments), *(["-f", "-"] if values is not None else [])]
        text = json.dumps(values) if values is not None else None
        return subprocess.run(
            words, capture_output=True, text=True, input=text, check=False, env=environment, timeout=60
        )

    return run


class Objects:
    """What was rendered."""

    def __init__(self, text: str) -> None:
        self.all: list[dict[str, Any]] = [
            body for body in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if body
        ]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [body for body in self.all if body["kind"] == kind]

    def one(self, kind: str, name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
        found = [b for b in self.of(kind) if b["metadata"]["name"] == name
                 and b["metadata"].get("namespace", namespace) == namespace]  # fmt: skip
        assert len(found) == 1, f"{kind} {name}: {[b['metadata']['name'] for b in self.of(kind)]}"
        return found[0]

    def pods(self) -> dict[str, dict[str, Any]]:
        """Kind and name → the pod's spec."""
        return {f"{b['kind']}/{b['metadata']['name']}": b["spec"]["template"]["spec"]
                for b in self.all if b["kind"] in ("Deployment", "DaemonSet", "Job")}  # fmt: skip


def _command(*, name: str = "edgemodel") -> list[str | Path]:
    return ["template", name, CHART, "-n", NAMESPACE, "--kube-version", "1.34.0"]


@pytest.fixture(scope="session")
def render(helm) -> Callable[..., Objects]:
    texts: dict[str, str] = {}

    def run(*, name: str = "edgemodel", **values: Any) -> Objects:
        key = json.dumps([name, values])
        if key not in texts:
            done = helm(*_command(name=name), values=values)
            assert done.returncode == 0, done.stderr
            assert done.stderr == ""
            texts[key] = done.stdout
        return Objects(texts[key])

    return run


@pytest.fixture(scope="session")
def refuse(helm) -> Callable[..., str]:
    """Values that the chart refuses; its message."""

    def run(**values: Any) -> str:
        done = helm(*_command(), values=values)
        assert done.returncode != 0, "these values were taken"
        return done.stderr

    return run
