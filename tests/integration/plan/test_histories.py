"""Random histories: the invariants of DESIGN.md hold in every pass, and the fleet comes to rest when the faults stop.

Every pass is checked by `check_pass` (conftest): idempotence, determinism, maxUnavailable, accepted digests only, formats that the
node loads, conditions that say why, bounded status; the status goes through JSON each time, as a restart reads it.
"""

from __future__ import annotations

import dataclasses

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from edgemodel_api import reasons as r
from edgemodel_api.edgemodel_status import RevisionResult
from edgemodel_api.edgenode import Swap
from edgemodel_api.hardware import PLATFORM_OF, HardwareClass
from edgemodel_api.job import JobResult, Outcome
from edgemodel_operator.domain.observed import JobState, JobView

CLASSES = (HardwareClass.AMD64_VNNI, HardwareClass.AMD64_AVX2, HardwareClass.ARM64_DOTPROD, HardwareClass.ARM_V7)
VARIANTS = ("int8", "mixed", "source", "tflite-int8", "tflite-float")
SHARES = st.sampled_from([1, 2, 5, "10%", "25%", "50%", "100%"])
EXAMPLES = 15
SOAKS = st.sampled_from(["0s", "3s", "40s"])


def machine(make):
    class Fleet(RuleBasedStateMachine):
        @initialize(
            count=st.sampled_from([1, 2, 3, 4, 6, 10, 20, 60]),
            waves=st.lists(st.tuples(SHARES, SOAKS), min_size=1, max_size=4),
            unavailable=SHARES,
            failures=st.sampled_from([0, 1, 3, "5%", "30%"]),
            data=st.randoms(use_true_random=False),
        )
        def begin(self, count, waves, unavailable, failures, data):
            builder = make.edge_model().with_waves(*waves, ("100%", "2s"))
            builder = builder.with_rollout(maxUnavailable=unavailable, maxFailures=failures)
            builder = builder.with_field("formats", ["ONNX", "TFLite", "CoreML"])
            self.runtimes = ({}, make.onnx_only, make.both, make.both, make.tflite_only)
            nodes = make.nodes(count)
            for node in nodes:
                node.hardware_class = data.choice(CLASSES)
                node.online = data.random() > 0.2
                node.slow = data.choice([1, 1, 3])
                node.runtimes = data.choice(self.runtimes)
            self.world = make.world(builder, nodes, job_result=make.in_formats)
            self.letters = iter("bcdef0123456789" * 20)
            self.retries = 0

        def some(self, data, limit=3):
            return data.draw(st.lists(st.sampled_from(self.world.nodes), min_size=1, max_size=limit, unique_by=id))

        @rule(turns=st.integers(1, 6), seconds=st.sampled_from([0.5, 3, 30, 130]))
        def time_passes(self, turns, seconds=2):
            for _ in range(turns):
                self.world.turn(seconds)

        @rule(turns=st.integers(4, 15))
        def a_while_passes(self, turns):
            self.time_passes(turns, 4)

        @rule(after=st.integers(0, 6), status_first=st.booleans())
        def the_operator_dies(self, after, status_first):
            self.world.step_nodes()
            self.world.pass_(dies_after=after, status_first=status_first)

        @rule(data=st.data(), turns=st.integers(1, 3))
        def nodes_go_silent_or_come_back(self, data, turns):
            for node in self.some(data):
                node.online = not node.online
            self.time_passes(turns, 30)

        @rule(data=st.data(), which=st.integers(0, 4), turns=st.integers(0, 3))
        def nodes_have_other_runtimes(self, data, which, turns):
            for node in self.some(data):
                node.runtimes = self.runtimes[which]
            self.time_passes(turns)

        @rule(data=st.data(), turns=st.integers(0, 4))
        def a_variant_is_bad_on_nodes(self, data, turns):
            nodes = self.some(data, 8)
            for node in nodes:
                if node.assigned is not None:
                    node.bad.add(node.assigned.target.digest)
            self.time_passes(turns)

        @rule(data=st.data(), turns=st.integers(0, 4))
        def a_variant_crashes_on_a_node(self, data, turns):
            for node in self.some(data, 2):
                if node.assigned is not None:
                    node.crashing.add(node.assigned.target.digest)
            self.time_passes(turns)

        @rule(data=st.data(), reason=st.sampled_from(["", "DiskFull", "GoldenMismatch"]))
        def trials_fail_on_nodes(self, data, reason):
            for node in self.some(data):
                node.no_trial = reason

        @rule(turns=st.integers(0, 8))
        def another_model(self, turns):
            self.world.edit(self.world.builder.with_source(next(self.letters)))
            self.time_passes(turns)

        @rule(turns=st.integers(4, 12), rng=st.randoms(use_true_random=False), share=st.sampled_from([0.1, 0.5, 1]))
        def another_model_that_is_bad(self, turns, rng, share):
            world = self.world
            world.edit(world.builder.with_source(next(self.letters)))
            revision = world.wanted()
            for node in world.nodes:
                digests = {world.digest(v, PLATFORM_OF[node.hardware_class], revision) for v in VARIANTS}
                if rng.random() < share:
                    (node.crashing if rng.random() < 0.2 else node.bad).update(digests)
            self.time_passes(turns)

        @rule(waves=st.lists(st.tuples(SHARES, SOAKS), min_size=1, max_size=3), unavailable=SHARES)
        def another_way_to_roll_out(self, waves, unavailable):
            builder = self.world.builder.with_waves(*waves, "100%").with_rollout(maxUnavailable=unavailable)
            self.world.edit(builder)

        @rule(port=st.sampled_from([8000, 9000]), latency=st.sampled_from(["1s", "2s"]))
        def another_way_to_serve(self, port, latency):
            builder = self.world.builder.with_field("serving", {"port": port})
            self.world.edit(builder.with_field("healthCheck", {"maxLatencyP99": latency}))

        @rule()
        def somebody_asks_again(self):
            self.retries += 1
            self.world.annotate(retry=str(self.retries))

        @rule(outcome=st.sampled_from(list(Outcome)))
        def the_job_ends_otherwise(self, outcome):
            world = self.world
            for revision, view in world.jobs.items():
                if view.state is JobState.RUNNING and outcome is not Outcome.SUCCEEDED:
                    result = JobResult(outcome=outcome, message="12 > 10")
                    world.jobs[revision] = JobView(revision, JobState.FINISHED, result)

        @rule()
        def the_job_is_lost(self):
            for revision, view in self.world.jobs.items():
                if view.state is JobState.RUNNING:
                    self.world.jobs[revision] = JobView(revision, JobState.LOST)

        @rule()
        def old_jobs_are_cleared_away(self):
            jobs = self.world.jobs
            self.world.jobs = {k: v for k, v in jobs.items() if v.state is JobState.RUNNING}

        @precondition(lambda self: len(self.world.nodes) > 1)
        @rule(data=st.data())
        def a_node_leaves(self, data):
            self.world.nodes.remove(data.draw(st.sampled_from(self.world.nodes)))

        @rule(name=st.sampled_from(["a", "n05", "z"]), hardware_class=st.sampled_from(CLASSES))
        def a_node_joins(self, name, hardware_class):
            if all(n.name != name for n in self.world.nodes):
                self.world.nodes.append(make.Node(name, hardware_class))

        def teardown(self):
            """The faults stop: everything is rolled out, and stays so."""
            if not hasattr(self, "world"):
                return
            world = self.world
            for node in world.nodes:
                node.online, node.no_trial, node.bad, node.crashing = True, "", set(), set()
                node.runtimes = make.both
            world.run(turns=3)
            world.annotate(retry="last")
            world.run(turns=400, seconds=20, until=lambda w: w.reason(r.READY) == r.ROLLED_OUT_TO_ALL)
            assert len(world.serving()) == len(world.nodes)
            assert {n.assigned.swap for n in world.nodes} == {Swap.ACTIVATE}
            assert not any(n.spec.trials for n in world.nodes)
            assert world.status.history[0].result is RevisionResult.ROLLED_OUT
            assert len(world.status.history) <= 10
            before = world.status
            world.run(turns=2)
            assert dataclasses.replace(world, status=before).status == world.status

    return Fleet


def test_random_histories(make):
    fleet = machine(make)
    fleet.TestCase.settings = settings(
        max_examples=EXAMPLES,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    case = fleet.TestCase()
    case.runTest()
