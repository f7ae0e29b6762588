"""A revision that is bad on one node only: that node goes back by itself, and the others as `maxFailures` says."""

from __future__ import annotations

import json

import pytest

from .kube import wait
from .model import steps
from .release import merged

#: Of the agent, on a game day: whatever never served here before answers wrongly when it is checked.
REHEARSAL = json.dumps({"fault": "WrongOutput", "at": "Check", "after": 1})
BAD = "edge-2"


@pytest.fixture(scope="module")
def one_bad_node(release, bed, nodes):
    """edge-2's agents get a fault to rehearse, by a pool of that node's own."""
    pool = {"name": "gameday", "nodeSelector": {"kubernetes.io/hostname": BAD}, "extraArgs": ["--rehearse", REHEARSAL]}
    pools = [*release.values["agent"]["pools"], pool]
    with release.changed({"agent": {"pools": pools}}):
        yield BAD


def test_all_go_back_when_more_fail_than_may(rolled_out, one_bad_node, nodes):
    model = rolled_out
    old, served = model.status()["revision"], model.running()
    assert set(served.values()) == {old}
    model.apply(compression=steps(50))
    gone = model.until("Stalled", seconds=180)
    status = model.status()
    bad = status["revision"]
    assert bad != old
    assert status["rollout"]["rolledBack"] is True, model.told()
    assert BAD in gone["message"] and "GoldenMismatch" in gone["message"], gone
    wait(lambda: model.running() == served, lambda: f"{model.running()}, {model.told()}", 60)
    assert any(e.startswith("RolledBack") for e in model.events()), model.events()
    assert [h["result"] for h in status["history"] if h["revision"] == bad] == ["RolledBack"]


def test_only_that_node_goes_back_when_so_many_may_fail(rolled_out, one_bad_node, nodes):
    model = rolled_out
