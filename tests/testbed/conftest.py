"""The test bed, driven as a person would: by its command and kubectl. Needs root and Go; run with `pytest tests/testbed`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: A bed of its own, as its end is tested too. It must not be up by somebody else's wish.
NUMBER = os.environ.get("EDGEMODEL_TESTBED_TESTS_NUMBER", "9")


def load_settings() -> ModuleType:
    """testbed/settings.py, for that bed."""
    spec = importlib.util.spec_from_file_location("testbed_settings_of_tests", ROOT / "testbed" / "settings.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEMODEL_TESTBED_NUMBER", NUMBER)
        spec.loader.exec_module(module)
    return module


class Bed:
    """The cluster of this machine."""

    def __init__(self) -> None:
        self.settings = load_settings()
        self.state = self.settings.beds_root()

    def command(self, *arguments: str) -> str:
        """testbed/cluster.py; its standard output."""
        return self.run(sys.executable, str(ROOT / "testbed" / "cluster.py"), *arguments)

    def kubectl(self, *arguments: str, input_text: str | None = None) -> str:
        kubectl = next(self.settings.cache_dir().glob(f"kube-*-{self.settings.kube_key()}/kubectl"))
        return self.run(str(kubectl), f"--kubeconfig={self.state}/kubeconfig", *arguments, input_text=input_text)

    @staticmethod
    def run(*command: str, input_text: str | None = None, cwd: Path = ROOT) -> str:
        environment = {**os.environ, "EDGEMODEL_TESTBED_NUMBER": NUMBER}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, input=input_text, env=environment, cwd=cwd
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def condition(self, node: str, kind: str) -> str:
        """Of a node: True, False or Unknown."""
        return next(c["status"] for c in self.get("node", node)["status"]["conditions"] if c["type"] == kind)


class Namespace:
    """One test module's, with short ways to run Python in pods."""

    def __init__(self, bed: Bed, name: str, images: dict[str, str]) -> None:
        self.bed, self.name, self.images = bed, name, images

    def kubectl(self, *arguments: str, input_text: str | None = None) -> str:
        return self.bed.kubectl("-n", self.name, *arguments, input_text=input_text)

    def pod(
        self,
        name: str,
        node: str,
        program: str,
        *,
        arch: str = "amd64",
        annotations: dict[str, str] | None = None,
        host_path: str = "",
        restart: str = "Always",
    ) -> None:
        """A pod whose only container runs a Python program (image from the test bed's registry)."""
        container: dict[str, Any] = {
            "name": "main",
            "image": self.images[arch],
            "command": ["python3", "-u", "-c", program],
        }
        spec: dict[str, Any] = {
            "nodeSelector": {"kubernetes.io/hostname": node, "edgemodel.dev/testbed-arch": arch},
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        }
        if host_path:
            container["volumeMounts"] = [{"name": "store", "mountPath": "/store"}]
            spec["volumes"] = [{"name": "store", "hostPath": {"path": host_path, "type": "DirectoryOrCreate"}}]
        meta = {"name": name, "labels": {"app": name}, "annotations": annotations or {}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        self.kubectl("apply", "-f", "-", input_text=json.dumps(pod))

    def ready(self, *names: str) -> None:
        self.kubectl("wait", "--for=condition=Ready", "--timeout=100s", *(f"pod/{n}" for n in names))

    def address(self, name: str) -> str:
        return self.kubectl("get", "pod", name, "-o", "jsonpath={.status.podIP}")

    def python(self, pod: str, program: str) -> str:
        """What a program prints inside a pod (kubectl exec)."""
        return self.kubectl("exec", pod, "--", "python3", "-c", program).strip()


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    """Wait until something holds, and fail with what it is instead."""

    def wait(look: Callable[[], object], expected: object, *, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while (found := look()) != expected and time.monotonic() < deadline:
            time.sleep(1)
        assert found == expected

    return wait


@pytest.fixture(scope="session")
def bed() -> Bed:
    return Bed()


@pytest.fixture(scope="module")
def namespace(bed: Bed, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """On the cluster of three nodes, which is started if it is not up."""
    bed.command("up")
    images = {
        arch: bed.command("push", bed.command("base", arch).splitlines()[-1]).splitlines()[-1]
        for arch in ("amd64", "arm64")
    }
    name = request.module.__name__.rpartition(".")[2].replace("_", "-")
    bed.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait")
    bed.kubectl("create", "namespace", name)
    yield Namespace(bed, name, images)
    bed.kubectl("delete", "namespace", name, "--wait=false")
