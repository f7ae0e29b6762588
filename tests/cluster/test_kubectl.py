"""As somebody with kubectl, or a GitOps tool (kstatus' own library), sees an EdgeModel through its life."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from lupa import lua51

from edgemodel_operator.k8s import objects

from .conftest import exists, remove, wait


def manifest_of(model, **spec) -> str:
    head = {"apiVersion": "edgemodel.dev/v1alpha1", "kind": "EdgeModel"}
    body = {
        "source": {"uri": "https://example.com/m.onnx", "sha256": "a" * 64},
        "nodePool": {"selector": {"matchLabels": {"pool": model.pool}}},
        "rollout": {"waves": [{"nodes": 1}, {"nodes": "100%"}]},
        **spec,
    }
    return yaml.safe_dump({**head, "metadata": {"name": model.name, "namespace": model.namespace}, "spec": body})


def rolled_out(model, agents):
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    model.finish_job()
    return wait(lambda: model.says("Ready") and model.says("Reconciling") is None, "Ready", agents=agents)


def columns(table: str) -> list[dict[str, str]]:
    """Rows of a kubectl table, by its headers' places."""
    head, *rows = table.splitlines()
    names = [n for n in head.split("  ") if n.strip()]
    starts = [head.index(n.strip()) for n in names]
    ends = [*starts[1:], None]
    return [{n.strip(): row[a:b].strip() for n, a, b in zip(names, starts, ends, strict=True)} for row in rows]


@pytest.fixture
def story(kubectl, cluster, kstatus, model, tmp_path):
    """Every version of the EdgeModel that the API server ever showed, with kstatus' verdict of each."""
    out = tmp_path / "story"
    with out.open("wb") as f:
        watch = subprocess.Popen(
            [kubectl.program, "get", "em", "-n", model.namespace, "--watch", "-o", "json"], stdout=f
        )  # fmt: skip
    time.sleep(0.5)

    def told() -> list[tuple[str, dict]]:
        decoder, text, found = json.JSONDecoder(), out.read_text(), []
        while text := text.lstrip():
            try:
                body, end = decoder.raw_decode(text)
            except ValueError:
                break
            found.append((kstatus(body), body))
            text = text[end:]
        return found

    yield told
    watch.kill()
    watch.wait()


def test_kstatus_through_a_life(cluster, operator, model, agents, kubectl, story):
    operator.kill()
    kubectl("apply", "--server-side", "-f", "-", given=manifest_of(model))
    wait(story, "the first version", 10)
    assert [verdict for verdict, _ in story()] == ["InProgress"], "before any operator has seen it"
    operator.start()
    rolled_out(model, agents)
    wait(lambda: story()[-1][0] == "Current", "the watch", 10)
    assert {verdict for verdict, body in story()[:-1] if not is_ready(body)} == {"InProgress"}

    first = len(story())
    kubectl("apply", "--server-side", "-f", "-", given=manifest_of(model, source=other_source()))
    wait(lambda: len(story()) > first, "the edit", 10)
    assert story()[first][0] == "InProgress", "right after the edit"
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the second Job", agents=agents)
    model.finish_job()
    wait(lambda: model.read().status.candidates, "candidates", agents=agents)
    for agent in agents:
        agent.bad = {c.digest for c in model.read().status.candidates}
    wait(lambda: model.says("Stalled", reason="RolledBack") and not model.says("Reconciling"), "the end", 60, agents)
    wait(lambda: story()[-1][0] == "Failed", "the watch", 10)
    between = story()[first:]
    for verdict, body in between:
        stalled = any(c["type"] == "Stalled" for c in body["status"].get("conditions", ()))
        assert verdict == "InProgress" or (verdict == "Failed" and stalled), (verdict, body["status"])

    operator.kill()
    kubectl("delete", "em", model.name, "-n", model.namespace, "--wait=false")
    wait(lambda: story()[-1][0] == "Terminating", "Terminating", 10)
    operator.start()
    wait(lambda: not exists(cluster, model.path), "its end", agents=agents)

    # Argo CD's script agrees about every one of these versions.
    script = (Path(__file__).parents[2] / "docs" / "gitops" / "health.lua").read_text()
    argocd = {"InProgress": "Progressing", "Current": "Healthy", "Failed": "Degraded", "Terminating": "Progressing"}
    seen = set()
    for verdict, body in story():
        lua = lua51.LuaRuntime(register_eval=False)
        lua.globals().obj = lua.table_from(body, recursive=True)
        assert lua.execute(script).status == argocd[verdict], body
        seen.add(verdict)
    assert seen == set(argocd)


def is_ready(body: dict) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in body["status"].get("conditions", ()))


def other_source() -> dict:
    return {"uri": "https://example.com/m.onnx", "sha256": "b" * 64}


def test_get_wait_and_explain(operator, model, agents, kubectl):
    kubectl("apply", "-f", "-", given=manifest_of(model))
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    row = columns(kubectl("get", "em", "-n", model.namespace))[0]
    assert (row["NAME"], row["READY"], row["REASON"], row["UPDATED"], row["DESIRED"]) == (
        "m", "False", "Compressing", "0", "3",
    )  # fmt: skip
    rolled_out(model, agents)
    kubectl("wait", "--for=condition=Ready", "em/m", "-n", model.namespace, "--timeout=20s")
    row = columns(kubectl("get", "em", "-n", model.namespace))[0]
    assert row.pop("AGE")
    assert row == {
        "NAME": "m", "READY": "True", "REASON": "RolledOutToAll", "REVISION": model.read().status.revision,
        "VARIANTS": "2", "UPDATED": "3", "DESIRED": "3", "WAVE": "2/2",
    }  # fmt: skip
    wide = columns(kubectl("get", "em", "-n", model.namespace, "-o", "wide"))[0]
    assert (wide["FAILED"], wide["OFFLINE"]) == ("0", "0")
    assert wide["MESSAGE"].startswith("3/3 nodes")
    node = columns(kubectl("get", "en", agents[0].name))[0]
    assert (node["PLATFORM"], node["CLASS"]) == ("linux/amd64", "amd64-vnni")
    assert node["LAST REPORT"]

    explained = kubectl("explain", "edgemodel.spec.rollout")
    assert "How a revision walks across the pool." in explained
    for field in ("waves", "maxUnavailable", "maxFailures", "approval", "windows", "analysis"):
        assert field in explained
    # Without a description, the type ends a field's line and an empty one follows.
    lines = explained.partition("FIELDS:")[2].splitlines()
    named = [i for i, line in enumerate(lines) if line.startswith("  ") and not line.startswith("   ")]
    assert [lines[i] for i in named if not "".join(lines[i + 1 : i + 2]).strip()] == []
    assert "Time for all checks" in kubectl("explain", "em.spec.healthCheck.timeout")


def test_applied_again_nothing_changes(cluster, operator, model, agents, kubectl):
    apply = ("apply", "--server-side", "-f", "-")
    text = manifest_of(model)
    kubectl(*apply, given=text)
    rolled_out(model, agents)
    # The last finalizer and status are written.
    time.sleep(1)
    before = cluster.get(model.path)
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        for agent in agents:
            agent.step()
        time.sleep(0.5)
    assert cluster.get(model.path) == before, "heartbeats write nothing"
    kubectl(*apply, given=text)
    kubectl("diff", "--server-side", "-f", "-", given=text)
    time.sleep(2)
    after = cluster.get(model.path)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert after == before
    assert after["metadata"]["generation"] == 1
    managers = {(m["manager"], m["operation"], m.get("subresource", "")) for m in after["metadata"]["managedFields"]}
    assert managers == {
        ("kubectl", "Apply", ""),
        ("edgemodel-operator", "Update", ""),
        ("edgemodel-operator", "Update", "status"),
    }
    # What GitOps tools compare: everything that was applied is still as it was applied.
    owned = next(m for m in after["metadata"]["managedFields"] if m["manager"] == "kubectl")["fieldsV1"]
    assert set(owned) == {"f:spec"}
    assert yaml.safe_load(text)["spec"].items() <= {**after["spec"], **yaml.safe_load(text)["spec"]}.items()


def test_the_events_of_a_life_are_worth_reading(cluster, operator, model, agents, kubectl):
    kubectl("apply", "-f", "-", given=manifest_of(model))
    rolled_out(model, agents)
    described = kubectl("describe", "em", model.name, "-n", model.namespace)
    events = model.events()
    print(described.partition("Events:")[2])
    reasons = [reason for reason, _ in events]
    assert len(reasons) == len(set(events)), "told once"
    assert len(reasons) <= 9, reasons
    for reason, message in events:
        assert any(c.isdigit() for c in message), f"{reason} without a number: {message}"
        assert reason in described


def test_a_namespace_goes_while_the_operator_works(cluster, operator, model, agents, kubectl):
    kubectl("apply", "-f", "-", given=manifest_of(model))
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    wait(lambda: objects.FINALIZER in model.read().metadata.finalizers, "the finalizer")
    path = f"/api/v1/namespaces/{model.namespace}"
    remove(cluster, path)
    wait(lambda: not exists(cluster, path), "the namespace's end", 60, agents)
    for agent in agents:
        assert not cluster.get(f"{objects.EDGE_NODES}/{agent.name}").get("spec", {}).get("models")


def test_a_namespace_waits_for_a_killed_operator_and_no_longer(cluster, operator, model, agents, kubectl):
    """Killed (not stopped: then it lets go by itself), the finalizer stays, until the next start or the chart's hook."""
    kubectl("apply", "-f", "-", given=manifest_of(model))
    rolled_out(model, agents)
    operator.kill()
    path = f"/api/v1/namespaces/{model.namespace}"
    remove(cluster, path)
    time.sleep(3)
    assert exists(cluster, model.path)
    operator.start()
    wait(lambda: not exists(cluster, model.path), "its end", agents=agents)
    wait(lambda: not exists(cluster, path), "the namespace's end", 60, agents)


def test_the_examples_of_the_documentation_are_taken(kubectl):
    for path in sorted((Path(__file__).parents[2] / "docs" / "gitops").glob("*.yaml")):
        for body in yaml.safe_load_all(path.read_text()):
            if body["kind"] == "EdgeModel":
                kubectl("apply", "--dry-run=server", "-f", "-", given=yaml.safe_dump(body))
