"""A node whose cable is pulled in the middle of a rollout: it holds up nobody, goes on serving, and catches up."""

from __future__ import annotations

from .kube import wait
from .model import steps

LOST = "edge-2"


def test_a_node_that_is_cut_off_holds_up_nobody_and_catches_up(rolled_out_natively, digits, bed, native_nodes):
    model = rolled_out_natively
    old = model.status()["revision"]
    model.apply(compression=steps(40), rollout={**model.spec["rollout"], "maxFailures": 1})
    model.until("Compressed")
    wait(lambda: model.status().get("rollout", {}).get("revision") == model.status().get("revision"), model.told, 120)
    with bed.cut(LOST):
        finished = model.until("RolledOut", seconds=240)
        new = model.status()["revision"]
        assert new != old
        others = {node: revision for node, revision in model.running().items() if node != LOST}
        assert others == dict.fromkeys(set(native_nodes) - {LOST}, new), model.told()
        assert finished["reason"] == "RolledOutToQuorum", finished
        assert model.status()["nodes"]["offline"] == 1
    # It comes back: nobody has to tell it twice.
    wait(lambda: model.running().get(LOST) == new, lambda: f"{model.running()}, {model.told()}", 120)
    model.until("RolledOut", reason="RolledOutToAll", seconds=60)
    assert not model.ask(LOST, 0, digits.request(0)).problem
    assert len([j for j in model.jobs() if j["metadata"]["labels"]["edgemodel.dev/revision"] == new]) == 1
