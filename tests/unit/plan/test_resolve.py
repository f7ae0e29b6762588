"""The pool, its platforms, and the revision that follows from them."""

from edgemodel_api import reasons as r
from edgemodel_api.hardware import HardwareClass


def test_no_nodes(make):
    world = make.world(nodes=0)
    world.pass_()
    assert world.reason(r.READY) == world.reason(r.RECONCILING) == r.NO_NODES
    assert world.condition(r.STALLED) is None
    assert world.started == []
    assert "no EdgeNodes yet" in world.message(r.READY)


def test_a_selector_that_fits_no_node_says_so(make):
    world = make.world(make.edge_model().with_field("nodePool", {"selector": {"matchLabels": {"site": "b"}}}))
    world.pass_()
    assert world.reason(r.READY) == r.NO_NODES
    assert "selects none of the EdgeNodes" in world.message(r.READY)


def test_a_selector_chooses_the_pool(make):
    builder = make.edge_model().with_field("nodePool", {"selector": {"matchLabels": {"site": "a"}}})
    nodes = make.nodes(4)
    nodes[1].labels = nodes[2].labels = {"site": "a"}
    world = make.world(builder, nodes)
    world.run(until=lambda w: w.finished())
    assert world.serving() == ["n1", "n2"]
    # A node that leaves the pool gives the model back.
    nodes[1].labels = {}
    world.run(turns=3)
    assert world.serving() == ["n2"]
    assert nodes[1].spec.models == ()


def test_no_platform_that_can_be_built_for(make):
    nodes = make.nodes(3)
    nodes[0].hardware_class, nodes[1].hardware_class, nodes[2].online = None, HardwareClass.UNKNOWN, False
    world = make.world(make.edge_model(), nodes)
    world.run(turns=2)
    assert world.reason(r.RECONCILING) == r.NO_PLATFORM
    assert world.message(r.RECONCILING) == (
        "none of 3 nodes has a platform for ONNX (linux/amd64, linux/arm64): 2 never reported (n0, n2),"
        " 1 with another one (n1 (linux/riscv64))"
    )


def test_nodes_that_never_reported_block_nobody(make):
    nodes = make.nodes(3)
    nodes[1].online = False
    nodes[2].hardware_class = HardwareClass.UNKNOWN
    world = make.world(make.edge_model(), nodes)
    world.run(until=lambda w: w.finished())
    assert world.serving() == ["n0"]
    assert world.reason(r.READY) == r.ROLLED_OUT_TO_QUORUM
    assert world.message(r.READY) == "1/3 nodes updated, 1 offline, 1 without a fitting variant"
    nodes[1].online = True
    world.run(turns=10)
    assert world.serving() == ["n0", "n1"]


def test_platforms_stay_when_a_node_leaves_and_grow_when_one_joins(make):
    nodes = make.nodes(2)
    nodes[1].hardware_class = HardwareClass.ARM64_BASE
    world = make.world(make.edge_model(), nodes)
    world.run(until=lambda w: w.finished())
    first = world.status.revision
    assert world.status.platforms == ("linux/amd64", "linux/arm64")
    gone = world.nodes.pop()
    world.run(turns=5)
    assert world.status.revision == first
    assert world.started[0].platforms == world.status.platforms
    # Other bytes are wanted: built for what is there now.
    world.edit(world.builder.with_source("b"))
    world.run(until=lambda w: w.finished() and w.status.revision != first)
    assert world.status.platforms == ("linux/amd64",)
    world.nodes.append(gone)
    world.run(until=lambda w: w.finished() and w.status.platforms == ("linux/amd64", "linux/arm64"))
    assert len(world.started) == 3


def test_arm_v7_has_no_runtime_for_onnx_and_does_not_spoil_the_build(make):
    nodes = make.nodes(2)
    nodes[0].hardware_class = HardwareClass.ARM_V7
    world = make.world(make.edge_model(), nodes)
    world.run(until=lambda w: w.finished())
    assert world.started[0].platforms == ("linux/amd64",)
    assert world.message(r.READY) == (
        "1/2 nodes updated, 1 without a fitting variant (ONNX cannot run on linux/arm/v7: add TFLite to spec.formats)"
    )


def test_only_arm_v7_nodes_are_told_which_format_they_need(make):
    nodes = make.nodes(1)
    nodes[0].hardware_class = HardwareClass.ARM_V7
    world = make.world(make.edge_model(), nodes)
    world.run(turns=2)
    assert world.reason(r.RECONCILING) == r.NO_PLATFORM
    assert world.message(r.RECONCILING).endswith(
        "1 with another one (n0 (linux/arm/v7)); ONNX cannot run on linux/arm/v7: add TFLite to spec.formats"
    )


def test_analysis_is_refused_by_name(make):
    analysis = [{"name": "errors", "query": "x", "successCondition": "value < 1"}]
    world = make.world(make.edge_model().with_rollout(analysis=analysis))
    world.run(turns=3)
    assert world.reason(r.STALLED) == r.NOT_SUPPORTED
    assert "spec.rollout.analysis (errors)" in world.message(r.STALLED)
    assert world.started == []
    world.edit(world.builder.with_rollout(analysis=[]))
    world.run(until=lambda w: w.finished())
    assert world.condition(r.STALLED) is None
