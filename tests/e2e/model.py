"""One EdgeModel: applied, looked at and asked as a user does."""

from __future__ import annotations

import json
from typing import Any

from .kube import Kube, wait
from .load import Answer, ask

COMPRESSION = {
    # What is tried here is the way of a model, not its speed: on two busy cores, one of them emulated, that means nothing.
    "budget": {"maxQualityDrop": "3%", "maxSlowdown": "9999%"},
    "steps": [{"prune": {"sparsity": "60%"}}, {"quantize": {"precision": "Int8", "activations": "None"}}],
}


def steps(sparsity: int) -> dict[str, Any]:
    """Another sparsity is another revision."""
    quantize = {"quantize": {"precision": "Int8", "activations": "None"}}
    return {**COMPRESSION, "steps": [{"prune": {"sparsity": f"{sparsity}%"}}, quantize]}


class Model:
    """`spec` is what `apply` sends; it remembers what was given before."""

    def __init__(self, kube: Kube, namespace: str, name: str, spec: dict[str, Any]) -> None:
        self.kube, self.namespace, self.name = kube, namespace, name
        self.spec = spec
        #: The last spec that was seen Ready on all nodes.
        self.good = spec

    def apply(self, **changed: Any) -> str:
        """`kubectl apply --server-side`; top-level fields of the spec that change. What kubectl said."""
        self.spec = {**self.spec, **changed}
        body = {
            "apiVersion": "edgemodel.dev/v1alpha1",
            "kind": "EdgeModel",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": self.spec,
        }
        return self.kube.kubectl("apply", "--server-side", "-f", "-", input_text=json.dumps(body))

    def is_there(self) -> bool:
        """Whether it was applied and not deleted."""
        return self.kube.find("-n", self.namespace, "edgemodel", self.name) is not None

    def object(self) -> dict[str, Any]:
        """As it is now."""
        return dict(self.kube.get("-n", self.namespace, "edgemodel", self.name))

    def status(self) -> dict[str, Any]:
        """Its status, if that speaks of the spec that is there."""
        body = self.object()
        status = body.get("status", {})
        return status if status.get("observedGeneration") == body["metadata"]["generation"] else {}

    def says(self, kind: str, status: str = "True", reason: str = "") -> dict[str, Any] | None:
        """The condition, if it says that."""
        for found in self.status().get("conditions", []):
            if found["type"] == kind and found["status"] == status and reason in ("", found["reason"]):
                return dict(found)
        return None

    def told(self) -> str:
        """All conditions, for a message."""
        found = self.object().get("status", {})
        lines = [f"{c['type']}={c['status']} {c['reason']}: {c['message']}" for c in found.get("conditions", [])]
        return f"{self.namespace}/{self.name}: " + ("; ".join(lines) or "no conditions")

    def until(
        self, kind: str, status: str = "True", reason: str = "", seconds: float = 120, but: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Wait for a condition (with a reason that is not in `but`); fail at once if the model stalls meanwhile."""

        def look() -> dict[str, Any] | None:
            found = self.says(kind, status, reason)
            if found is not None and found["reason"] in but:
                return None
            if found is None and kind != "Stalled" and status == "True" and (stalled := self.says("Stalled")):
                raise AssertionError(f"stalled while {kind} was awaited: {stalled['reason']}: {stalled['message']}")
            return found

        return wait(look, lambda: f"{kind}={status} {reason}, but {self.told()}", seconds)

    def ready(self, seconds: float = 300) -> dict[str, Any]:
        """Wait until it is; the condition."""
        return self.until("Ready", seconds=seconds)

    def delete(self, *, wait: bool = True) -> None:
        """`kubectl delete`."""
        self.kube.kubectl(
            "-n", self.namespace, "delete", "edgemodel", self.name, "--ignore-not-found", f"--wait={wait}".lower()
        )

    # --- what belongs to it

    def jobs(self) -> list[dict[str, Any]]:
        """Its compression Jobs that are still there."""
        found = self.kube.items("-n", self.namespace, "jobs")
        uid = self.object()["metadata"]["uid"]
        return [j for j in found if any(o["uid"] == uid for o in j["metadata"].get("ownerReferences", []))]

    def events(self) -> list[str]:
        """`Reason: message`, oldest first."""
        found = self.kube.items("-n", self.namespace, "events", "--sort-by=.metadata.creationTimestamp")
        ours = [
            e for e in found if e["involvedObject"]["kind"] == "EdgeModel" and e["involvedObject"]["name"] == self.name
        ]
        return [f"{e['reason']}: {e['message']}" for e in ours]

    def on_nodes(self) -> dict[str, dict[str, Any]]:
        """Node → what its agent reports of this model."""
        found = {}
        for node in self.kube.items("edgenodes"):
            for model in node.get("status", {}).get("models", []):
                if (model["namespace"], model["name"]) == (self.namespace, self.name):
                    found[node["metadata"]["name"]] = model
        return found

    def running(self) -> dict[str, str]:
        """Node → revision that answers requests there."""
        return {n: m["running"]["revision"] for n, m in self.on_nodes().items() if m.get("running")}

    def endpoints(self) -> dict[str, str]:
        """Node → URL of its inference."""
        return {n: m["running"]["endpoint"] + "/infer" for n, m in self.on_nodes().items() if m.get("running")}

    def ask(self, node: str, row: int, body: dict[str, Any]) -> Answer:
        """One request to a node's own address."""
        return ask(None, node, self.endpoints()[node], row, body)
