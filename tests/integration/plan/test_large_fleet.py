"""plan() for two thousand nodes; prints the CPU time of its passes."""

import time

from edgemodel_api import reasons as r
from edgemodel_api.edgenode import Swap
from edgemodel_api.hardware import HardwareClass
from edgemodel_operator.domain.actions import StartJob
from edgemodel_operator.domain.apply import apply_to_spec
from edgemodel_operator.domain.plan import plan


def test_two_thousand_nodes(make, capsys):
    classes = (HardwareClass.AMD64_VNNI, HardwareClass.AMD64_AVX2, HardwareClass.ARM64_DOTPROD)
    builder = make.edge_model().with_waves((1, "1s"), ("25%", "1s"), "100%")
    world = make.world(builder.with_rollout(maxUnavailable="10%", maxFailures="5%"), nodes=2000)
    world.check = None
    for i, node in enumerate(world.nodes):
        node.hardware_class, node.online = classes[i % 3], i % 11 != 0
    by_name = {n.name: n for n in world.nodes}
    took, told = [], {}
    for _ in range(55):
        world.finish_job()
        for node in world.nodes:
            before = (node.spec, len(node.present), node.checking, node.running, len(node.results))
            node.step(world.now)
            # The first report holds for a minute; after that, news only.
            if (
                len(took) < 2
                or before
                != (
                    node.spec,
                    len(node.present),
                    node.checking,
                    node.running,
                    len(node.results),
                )
                or node.spec is not told.get(node.name)
            ):
                node.report(world.now)
            told[node.name] = node.spec
        observed = world.observed()
        began = time.process_time()
        planned = plan(observed)
        took.append(time.process_time() - began)
        world.status = planned.status
        for action in planned.actions:
            if isinstance(action, StartJob):
                world._apply(action)
            else:
                by_name[action.node].spec = apply_to_spec(by_name[action.node].spec, [action])
        world.tick()
        if world.finished():
            break
    with capsys.disabled():
        print(
            f"\n2,000 nodes: {len(took)} passes, {max(took):.3f} s of CPU at most, {sum(took) / len(took):.3f} s on average"
        )
    assert world.message(r.READY) == "1818/2000 nodes updated, 182 offline"
    assert {n.assigned.swap for n in world.nodes if n.online} == {Swap.ACTIVATE}
