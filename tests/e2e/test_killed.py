"""Operator and agents are killed at random, twenty times, in a rollout that must still end right."""

from __future__ import annotations

import json
import random
import time

import pytest

from .kube import wait
from .model import steps

KILLS = 20
#: Seconds between two of them: time for something to have begun.
BETWEEN = (1.0, 4.0)
SEED = 20261125
#: In an agent's pod: content that no variant there needs, and downloads that nobody goes on with.
LEFTOVERS = """
import json, pathlib
root = pathlib.Path('/var/lib/edgemodel')
needed = set()
for path in (root / 'variants').iterdir():
    record = json.loads(path.read_text())
    needed |= {record['weight']['digest'][7:], record['golden']['digest'][7:], record['fileDigest'][7:]}
print(json.dumps(sorted(p.name for kind in ('blobs', 'files') for p in (root / kind / 'sha256').iterdir() if p.name not in needed)))
"""


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

    for pod in release.pods("agent"):
        name = pod["metadata"]["name"]
        command = ("-n", release.namespace, "exec", name, "-c", "agent", "--", "python", "-c", LEFTOVERS)
        wait(lambda: json.loads(kube.kubectl(*command)) == [], lambda: f"{name}: {kube.kubectl(*command)}", 60)  # noqa: B023
