"""The chart, installed as a user does; and what a test wants otherwise for a while."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

from .kube import PATIENCE, ROOT, CommandError, Kube

CHART = ROOT / "charts" / "edgemodel"
NAME, NAMESPACE = "edgemodel", "edgemodel-system"
#: Of helm, and of pods; on an emulated CPU a Python program with its libraries takes its time.
HELM_PATIENCE = f"{240 * PATIENCE:.0f}s"

Values = dict[str, Any]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Values:
    """As helm merges two files of values: mappings are merged, everything else is replaced."""
    out = copy.deepcopy(dict(base))
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else copy.deepcopy(value)
    return out


def image_values(name: str) -> Values:
    """`host:5000/a/b:tag` → the chart's `image`."""
    name, _, digest = name.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, ""
    return {"repository": repository, **({"tag": tag} if tag else {}), **({"digest": digest} if digest else {})}


class Release:
    """`values`: those of the session, which each test finds."""

    name, namespace = NAME, NAMESPACE

    def __init__(self, kube: Kube, values: Values) -> None:
        self.kube, self.values = kube, values

    def install(self) -> None:
        """Install it, or bring what is there to the session's values."""
        self._clear_broken()
        self._upgrade(self.values)

    def uninstall(self) -> None:
        """`helm uninstall`, if it is there."""
        if self.status():
            self.kube.helm("uninstall", NAME, "-n", NAMESPACE, "--wait", "--timeout", HELM_PATIENCE)

    def status(self) -> str:
        """deployed, failed, pending-install, …; empty: not there."""
        found = json.loads(self.kube.helm("list", "-n", NAMESPACE, "-a", "-o", "json", "--filter", f"^{NAME}$"))
        return str(found[0]["status"]) if found else ""

    @contextlib.contextmanager
    def changed(self, over: Mapping[str, Any]) -> Iterator[None]:
        """`helm upgrade` with other values; back to the session's at the end."""
        self._upgrade(merged(self.values, over))
        try:
            yield
        finally:
            self._upgrade(self.values)

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Those that are not on their way out."""
        selector = f"app.kubernetes.io/component={component}"
        found = self.kube.items("-n", NAMESPACE, "pods", "-l", selector)
        return [p for p in found if "deletionTimestamp" not in p["metadata"]]

    def _upgrade(self, values: Values) -> None:
        command = [
            "upgrade", "--install", NAME, CHART, "-n", NAMESPACE, "--create-namespace", "-f", "-",
            # CRDs that somebody applied by hand (tests/cluster does) become the release's.
            "--take-ownership", "--wait", "--timeout", HELM_PATIENCE,
        ]  # fmt: skip
        self.kube.helm(*command, input_text=json.dumps(values), timeout=300)
        # Helm counts a DaemonSet as there when most of its pods are.
        for daemons in self.kube.items("-n", NAMESPACE, "daemonsets"):
            name = daemons["metadata"]["name"]
            self.kube.kubectl("-n", NAMESPACE, "rollout", "status", f"daemonset/{name}", f"--timeout={HELM_PATIENCE}")

    def _clear_broken(self) -> None:
        """What a killed run left half done is in helm's way."""
        if (status := self.status()) and status not in ("deployed", "failed"):
            with contextlib.suppress(CommandError):
                self.kube.helm("uninstall", NAME, "-n", NAMESPACE, "--no-hooks", "--wait", "--timeout", HELM_PATIENCE)
