"""The whole way of a revision, in a small world."""

from edgemodel_api import reasons as r


def test_a_model_is_compressed_tried_and_rolled_out(make):
    world = make.world(make.edge_model().with_waves((1, "10s"), ("50%", "5s"), "100%"), nodes=4)
    world.run(until=lambda w: w.finished())
    assert world.serving() == ["n0", "n1", "n2", "n3"]
    assert (world.reason(r.READY), world.is_true(r.READY)) == (r.ROLLED_OUT_TO_ALL, True)
    assert world.condition(r.RECONCILING) is None
    assert world.condition(r.STALLED) is None
    assert world.message(r.READY) == "4/4 nodes updated"
    assert len(world.started) == 1
    assert {n.running.variant for n in world.nodes} == {"int8"}
