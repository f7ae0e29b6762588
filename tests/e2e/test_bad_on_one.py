"""A revision that is bad on one node only: that node goes back by itself, and the others as `maxFailures` says."""

from __future__ import annotations

import json

import pytest

from .conftest import is_out
from .kube import wait
from .model import steps

#: Of the agent, on a game day: whatever never served here before answers wrongly when it is checked.
REHEARSAL = json.dumps({"fault": "WrongOutput", "at": "Check", "after": 1})
BAD = "edge-2"


@pytest.fixture(scope="module")
def one_bad_node(release, bed, native_model, native_nodes):
    """edge-2's agent gets a fault to rehearse, by a pool of that node's own; what it has served by then stays good."""
    is_out(native_model, native_nodes)
    pool = {"name": "gameday", "nodeSelector": {"kubernetes.io/hostname": BAD}, "extraArgs": ["--rehearse", REHEARSAL]}
    pools = [*release.values["agent"]["pools"], pool]
    with release.changed({"agent": {"pools": pools}}):
        yield BAD


def test_all_go_back_when_more_fail_than_may(rolled_out_natively, one_bad_node):
    model = rolled_out_natively
    old, served = model.status()["revision"], model.running()
    assert set(served.values()) == {old}
    model.apply(compression=steps(50))
    stalled = model.until("Stalled", seconds=180)
    status = model.status()
    assert status["revision"] != old
    assert status["rollout"]["rolledBack"] is True, model.told()
    assert BAD in stalled["message"], stalled
    assert "GoldenMismatch" in stalled["message"], stalled
    # Nodes that had switched are back, and the application never noticed which: Ready says how many serve the old one.
    wait(lambda: model.running() == served, lambda: f"{model.running()}, {model.told()}", 60)
    ready = model.says("Ready")
    assert ready["message"].startswith(f"{len(served)}/{len(served)} nodes serve revision {old}"), model.told()
    assert [h["result"] for h in status["history"] if h["revision"] == status["revision"]] == ["RolledBack"]
    assert any(e.startswith(("RolledBack", "RollingBack")) for e in model.events()), model.events()


def test_only_that_node_goes_back_when_so_many_may_fail(rolled_out_natively, one_bad_node, native_nodes):
    model = rolled_out_natively
    old = model.status()["revision"]
    model.apply(compression=steps(45), rollout={**model.spec["rollout"], "maxFailures": 1})
    finished = model.until("RolledOut", seconds=240)
    new = model.status()["revision"]
    assert finished["reason"] == "RolledOutToQuorum", finished
    assert BAD in finished["message"], finished
    assert model.running() == {node: old if node == BAD else new for node in native_nodes}
    assert model.status()["nodes"]["failed"] == 1
    assert model.on_nodes()[BAD]["reason"] == "GoldenMismatch"
