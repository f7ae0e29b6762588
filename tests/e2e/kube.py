"""kubectl and helm as a person uses them, with what is asked for again and again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[2]
Found = TypeVar("Found")
#: How much longer than on a machine with two cores for itself everything may take; 4 on one that also works for others.
PATIENCE = float(os.environ.get("EDGEMODEL_E2E_PATIENCE", "1"))


class CommandError(AssertionError):
    """A command failed; its output is the message."""


def run(*command: str | Path, input_text: str | None = None, timeout: float = 300) -> str:
    """A command to its end; its standard output.

    Raises:
        CommandError: it failed.
    """
    words, timeout = list(map(str, command)), timeout * PATIENCE
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, input=input_text, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace")
        raise CommandError(f"{' '.join(words)}: not within {timeout:.0f} s: {said}") from None
    if done.returncode != 0:
        raise CommandError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def program(name: str) -> Path:
    """One that tools/install builds."""
    path = Path(run(sys.executable, ROOT / "tools" / "install", "--print-path", name).strip())
    if not path.exists():
        raise CommandError(f"{name} is not there: make tools")
    return path


def wait(
    look: Callable[[], Found], what: str | Callable[[], object], seconds: float = 60, interval: float = 0.5
) -> Found:
    """Until `look` gives something true; what it gives.

    `seconds`: times $EDGEMODEL_E2E_PATIENCE. `what` is told when the time is over: words, or a function that looks once more.
    """
    deadline = time.monotonic() + seconds * PATIENCE
    while not (found := look()):
        if time.monotonic() > deadline:
            told = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {seconds * PATIENCE:.0f} s: {told}")
        time.sleep(interval)
    return found


class Kube:
    """A cluster, by its kubeconfig."""

    def __init__(self, kubeconfig: Path, kubectl: Path) -> None:
        self.kubeconfig = kubeconfig
        self._kubectl = kubectl

    def kubectl(self, *arguments: str | Path, input_text: str | None = None, timeout: float = 300) -> str:
        """What kubectl prints."""
        return run(self._kubectl, f"--kubeconfig={self.kubeconfig}", *arguments, input_text=input_text, timeout=timeout)

    def helm(self, *arguments: str | Path, input_text: str | None = None, timeout: float = 300) -> str:
        """What helm prints."""
        return run(
            program("helm"), f"--kubeconfig={self.kubeconfig}", *arguments, input_text=input_text, timeout=timeout
        )

    def get(self, *arguments: str) -> Any:
        """`kubectl get … -o json`."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects of a list; of a kind that the cluster does not know: none."""
        try:
            return list(self.get(*arguments)["items"])
        except CommandError as error:
            if "the server doesn't have a resource type" in str(error):
                return []
            raise

    def find(self, *arguments: str) -> dict[str, Any] | None:
        """One object, or None."""
        found = self.kubectl("get", *arguments, "-o", "json", "--ignore-not-found")
        return json.loads(found) if found.strip() else None

    def apply(self, *objects: dict[str, Any], namespace: str = "") -> str:
        """Server-side, as `kubectl apply` by GitOps does."""
        where = ("-n", namespace) if namespace else ()
        content = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        return self.kubectl(*where, "apply", "--server-side", "-f", "-", input_text=content)

    @contextlib.contextmanager
    def port_forward(self, namespace: str, target: str, port: int) -> Iterator[str]:
        """`127.0.0.1:N`, which leads to that port of a Service or pod."""
        command = [
            self._kubectl,
            f"--kubeconfig={self.kubeconfig}",
            "-n",
            namespace,
            "port-forward",
            target,
            f":{port}",
        ]
        with subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                line = process.stdout.readline() if process.stdout else ""
                if not (match := re.search(r"127\.0\.0\.1:(\d+)", line)):
                    raise CommandError(f"port-forward to {target}: {line}")
                yield f"127.0.0.1:{match[1]}"
            finally:
                process.kill()


def host_kubectl() -> Path:
    """The user's own kubectl, or the one that the test bed built."""
    found = shutil.which("kubectl")
    if found is None:
        raise CommandError("kubectl is not on the PATH")
    return Path(found)
