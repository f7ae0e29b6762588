"""What a person would look at first when a test on a cluster failed: events, pods, logs, EdgeModels, EdgeNodes."""

from __future__ import annotations

import json
from typing import Any

from .kube import CommandError, Kube

EVENTS, LINES, PODS = 25, 40, 14


def dump(kube: Kube, system: str) -> str:
    """All of it, short enough to be read."""
    parts = [
        ("nodes", ["get", "nodes"]),
        ("pods", ["get", "pods", "-A", "-o", "wide"]),
        ("edgemodels", ["get", "edgemodels", "-A"]),
        ("edgenodes", ["get", "edgenodes"]),
    ]
    found = [f"--- {name}\n{_said(kube, *command)}" for name, command in parts]
    found.append(f"--- events\n{_last(_said(kube, 'get', 'events', '-A', '--sort-by=.lastTimestamp'), EVENTS)}")
    found += [f"--- edgemodel {name}\n{text}" for name, text in _edge_models(kube)]
    found += [f"--- edgenode {name}\n{text}" for name, text in _edge_nodes(kube)]
    found += _logs(kube, system)
    return "\n".join(found)


def _said(kube: Kube, *command: str) -> str:
    try:
        return kube.kubectl(*command, "--request-timeout=10s", timeout=30).rstrip()
    except CommandError as error:
        return str(error).rstrip()


def _last(text: str, lines: int) -> str:
    return "\n".join(text.splitlines()[-lines:])


def _items(kube: Kube, *what: str) -> list[dict[str, Any]]:
    try:
        return list(json.loads(_said(kube, "get", *what, "-o", "json")).get("items", []))
    except ValueError:
        return []


def _edge_models(kube: Kube) -> list[tuple[str, str]]:
    found = []
    for body in _items(kube, "edgemodels", "-A"):
        status = body.get("status", {})
        lines = [f"{c['type']}={c['status']} {c['reason']}: {c['message']}" for c in status.get("conditions", [])]
        lines += [
            f"{key}: {json.dumps(status[key])}" for key in ("revision", "nodes", "rollout", "job") if key in status
        ]
        lines += [f"history: {h['revision']} {h['result']} {h.get('message', '')}" for h in status.get("history", [])]
        found.append((f"{body['metadata']['namespace']}/{body['metadata']['name']}", "\n".join(lines)))
    return found


def _edge_nodes(kube: Kube) -> list[tuple[str, str]]:
    found = []
    for body in _items(kube, "edgenodes"):
        status = body.get("status", {})
        seen = f"observed {status.get('observedGeneration')} of {body['metadata'].get('generation')}"
        lines = [f"last report {status.get('lastReportTime')}, {seen}, {json.dumps(status.get('hardware'))}"]
        lines += [f"spec: {json.dumps(m)}" for m in body.get("spec", {}).get("models", [])]
        lines += [f"status: {json.dumps(m)}" for m in status.get("models", [])]
        found.append((body["metadata"]["name"], "\n".join(lines)))
    return found


def _logs(kube: Kube, system: str) -> list[str]:
    """Of our own pods and of Jobs' pods; of one that began again also how it ended before."""
    found = []
    jobs = _items(kube, "pods", "-A", "-l", "app.kubernetes.io/component=compressor")
    for pod in (_items(kube, "pods", "-n", system) + jobs)[:PODS]:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        command = ["-n", namespace, "logs", name, "--all-containers", f"--tail={LINES}"]
        found.append(f"--- log of {name}\n{_said(kube, *command)}")
        if any(c.get("restartCount") for c in pod.get("status", {}).get("containerStatuses", [])):
            found.append(f"--- log of {name} before\n{_said(kube, *command, '--previous')}")
    return found
