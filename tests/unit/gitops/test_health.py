"""Argo CD's health script, run by a real Lua 5.1 (Argo CD's dialect), beside what kstatus' own library says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lupa import lua51

ROOT = Path(__file__).resolve().parents[3]
GITOPS = ROOT / "docs" / "gitops"


def condition(type_, reason="Why", status="True"):
    return {"type": type_, "status": status, "reason": reason, "message": "3/3 nodes"}


def body(*conditions, generation=2, observed=2, **meta):
    status = {"observedGeneration": observed, "conditions": list(conditions)}
    return {
        "apiVersion": "edgemodel.dev/v1alpha1",
        "kind": "EdgeModel",
        "metadata": {"name": "m", "namespace": "n", "generation": generation, **meta},
        "status": status,
    }


NOT_READY = condition("Ready", "Compressing", "False")
#: The object → Argo CD's health, kstatus' verdict.
PHASES = {
    "created": (body(generation=1, observed=-1), "Progressing", "InProgress"),
    "edited": (body(condition("Ready"), observed=1), "Progressing", "InProgress"),
    "compressing": (body(NOT_READY, condition("Reconciling", "Compressing")), "Progressing", "InProgress"),
    "soaking": (body(condition("Ready"), condition("Reconciling", "Soaking")), "Progressing", "InProgress"),
    "waits for a person": (body(NOT_READY, condition("Reconciling", "WaitingForApproval")), "Suspended", "InProgress"),
    "rolled out": (body(condition("Ready", "RolledOutToAll")), "Healthy", "Current"),
    "refused": (body(NOT_READY, condition("Stalled", "BudgetExceeded")), "Degraded", "Failed"),
    "being put back": (
        body(NOT_READY, condition("Reconciling", "RollingBack"), condition("Stalled", "RolledBack")),
        "Progressing",
        "InProgress",
    ),
    "put back": (body(condition("Ready", "RolledBack"), condition("Stalled", "RolledBack")), "Degraded", "Failed"),
    "quorum lost": (body(condition("Ready", "WaitingForNodes", "False")), "Progressing", "InProgress"),
    "deleted": (
        body(condition("Ready"), deletionTimestamp="2026-01-01T12:00:00Z", finalizers=["edgemodel.dev/nodes"]),
        "Progressing",
        "Terminating",
    ),
}


def health(text, value):
    """As Argo CD does: the object is the global `obj`, the script returns a table."""
    lua = lua51.LuaRuntime(register_eval=False)
    lua.globals().obj = lua.table_from(value, recursive=True)
    found = dict(lua.execute(text))
    assert set(found) == {"status", "message"}
    assert found["message"]
    return found


@pytest.mark.parametrize(("value", "argocd", "kstatus"), PHASES.values(), ids=PHASES.keys())
def test_argo_cd(value, argocd, kstatus):
    found = health((GITOPS / "health.lua").read_text(), value)
    assert found["status"] == argocd
    if argocd in ("Healthy", "Degraded", "Suspended"):
        assert found["message"].endswith(": 3/3 nodes")


@pytest.mark.tools
@pytest.mark.parametrize(("value", "argocd", "kstatus"), PHASES.values(), ids=PHASES.keys())
def test_kstatus(value, argocd, kstatus):
    tool = [sys.executable, str(ROOT / "tools" / "install"), "--print-path", "kstatus"]
    program = subprocess.run(tool, capture_output=True, text=True, check=True).stdout.strip()
    if not os.access(program, os.X_OK):
        if os.environ.get("EDGEMODEL_REQUIRE_TOOLS") == "1":
            pytest.fail(f"{program} is not there: run `make tools`")
        pytest.skip(f"{program} is not there: run `make tools`")
    done = subprocess.run([program], input=json.dumps(value), capture_output=True, text=True, timeout=20, check=True)
    assert json.loads(done.stdout)["status"] == kstatus


def test_an_object_without_a_status():
    value = body()
    del value["status"]
    assert health((GITOPS / "health.lua").read_text(), value)["status"] == "Progressing"


def test_the_config_map_holds_the_script():
    data = yaml.safe_load((GITOPS / "argocd-cm.yaml").read_text())["data"]
    assert data == {"resource.customizations.health.edgemodel.dev_EdgeModel": (GITOPS / "health.lua").read_text()}


def test_the_flux_example_waits_for_what_it_names():
    chart, models = yaml.safe_load_all((GITOPS / "flux.yaml").read_text())
    assert models["spec"]["dependsOn"] == [{"name": chart["metadata"]["name"]}]
    assert [c["kind"] for c in models["spec"]["healthChecks"]] == ["EdgeModel"]
