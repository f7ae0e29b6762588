"""Operator and agents are killed at random, twenty times, in a rollout that must still end right."""

from __future__ import annotations

import random
import time

import pytest

from .kube import wait
from .model import steps

KILLS = 20
#: Seconds between two of them: time for something to have begun.
BETWEEN = (1.0, 4.0)
SEED = 20261125
#: What agents keep on a node, in the pod of whom it belongs to now.
STORE = "/var/lib/edgemodel"
LISTING = (
    "import json, os; from pathlib import Path; root = Path('/var/lib/edgemodel');"
    "print(json.dumps(sorted(str(p.relative_to(root)) for p in root.rglob('*') if p.is_file())))"
)


@pytest.mark.timeout(600)
def test_whoever_is_killed_the_rollout_ends_right(rolled_out, release, digits, nodes, kube):
    model, chance = rolled_out, random.Random(SEED)
    old = model.status()["revision"]
    model.apply(compression=steps(35))
    killed: list[str] = []
    while len(killed) < KILLS:
        time.sleep(chance.uniform(*BETWEEN))
        kind = chance.choice(["operator", "agent", "agent"])
        pods = sorted(p["metadata"]["name"] for p in release.pods(kind))
        if pods:
            # Not `--grace-period=0` alone: with `--force` nobody waits for the kubelet, and the next one may start beside it.
            name = chance.choice(pods)
            kube.kubectl(
                "-n", release.namespace, "delete", "pod", name, "--force", "--grace-period=0", "--ignore-not-found"
            )
            killed.append(name)
    model.until("RolledOut", reason="RolledOutToAll", seconds=240)
    model.ready(60)
    status = model.status()
    new = status["revision"]
    assert new != old

    # One Job, whoever asked for it; the right bytes on every node; and they answer.
    assert [j["metadata"]["labels"]["edgemodel.dev/revision"] for j in model.jobs()].count(new) == 1
    wait(lambda: model.running() == dict.fromkeys(nodes, new), lambda: f"{model.running()}, {model.told()}", 90)
    chosen = {v["hardwareClass"]: v["digest"] for v in status["variants"]}
    for node in nodes:
        hardware = kube.get("edgenode", node)["status"]["hardware"]
        assert model.on_nodes()[node]["running"]["digest"] == chosen[hardware["hardwareClass"]]
        answer = model.ask(node, 3, digits.request(3))
        assert (answer.problem, answer.revision) == ("", new)
