"""Formats and runtimes: what a node cannot load it neither tries nor gets, and whoever has nothing is told why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api import reasons as r
from edgemodel_api.formats import RUNTIMES_OF, Format, loadable
from edgemodel_api.hardware import HardwareClass
from edgemodel_operator.domain.runnable import formats_for

FORMATS = {"formats": ["ONNX", "TFLite"]}


@pytest.fixture
def world(make):
    """Runtimes of nodes → a world of TFLite and ONNX variants."""

    def build(*runtimes, formats=("ONNX", "TFLite"), **fields):
        nodes = make.nodes(len(runtimes), **fields)
        for node, found in zip(nodes, runtimes, strict=True):
            node.runtimes = found
        return make.world(make.edge_model().with_field("formats", list(formats)), nodes, job_result=make.in_formats)

    return build


def tried(world):
    return {n.name: [c.variant for c in n.spec.trials[0].candidates] for n in world.nodes if n.spec.trials}


def test_with_both_runtimes_all_formats_compete_beside_the_source(make, world):
    w = world(make.both, make.both)
    w.run(until=tried)
    assert tried(w) == {"n0": ["source", "int8", "mixed", "tflite-int8", "tflite-float"]}
    w.run(until=lambda w: w.finished())
    assert [(v.name, v.format) for v in w.status.variants] == [("tflite-int8", Format.TFLITE)]
    assert [n.running.variant for n in w.nodes] == ["tflite-int8"] * 2
    assert w.is_true(r.TRIALED)


def test_the_format_of_onnx_is_not_said(make):
    w = make.world()
    w.run(until=lambda w: w.finished())
    assert "format" not in str(w.status.to_json())


def test_one_node_without_litert_keeps_its_class_on_what_all_of_it_load(make, world):
    w = world(make.both, make.onnx_only, make.both)
    w.run(until=tried)
    assert tried(w) == {"n0": ["source", "int8", "mixed"]}
    w.run(until=lambda w: len(w.serving()) == 3)
    assert w.status.variants[0].name == "int8"


def test_who_is_outvoted_gets_nothing_and_is_named_with_its_runtimes(make, world):
    w = world(make.onnx_only, make.tflite_only, make.onnx_only)
    w.run(until=lambda w: w.finished())
    assert w.serving() == ["n0", "n2"]
    assert w.node("n1").assigned is None
    assert w.message(r.READY) == (
        "2/3 nodes updated, 1 node without a runtime for it (ONNX needs onnxruntime; n1 has tflite-runtime 2.14.0)"
    )
    w.node("n1").runtimes = make.both
    w.run(until=lambda w: len(w.serving()) == 3)


def test_a_tie_goes_to_onnx(make, world):
    w = world(make.tflite_only, make.onnx_only)
    w.run(until=lambda w: w.finished())
    assert (w.serving(), w.status.variants[0].measured_on) == (["n1"], "n1")


def test_a_class_without_any_runtime_is_told_so_and_goes_on_by_itself_once_it_has_one(make, world):
    w = world(make.onnx_only, make.onnx_only, {}, {}, formats=["TFLite"])
    w.job_result = lambda revision, platforms: tflite_only(make, revision, platforms)
    for node in w.nodes[2:]:
        node.hardware_class = HardwareClass.ARM64_BASE
    w.run(turns=6)
    assert (w.reason(r.STALLED), w.active()) == (r.TRIAL_FAILED, [])
    assert w.message(r.TRIALED) == (
        "no node of amd64-vnni has a runtime for the artifact's variants for linux/amd64: TFLite needs ai-edge-litert or"
        " tflite-runtime; n0 has onnxruntime 1.32.0, n1 has onnxruntime 1.32.0: install one of them, or add ONNX to"
        " spec.formats; no node of arm64-base has a runtime for the artifact's variants for linux/arm64: TFLite needs"
        " ai-edge-litert or tflite-runtime; n2 has none, n3 has none: install one of them, or add ONNX to spec.formats"
    )
    assert any(e.type == "Warning" and e.reason == r.TRIAL_FAILED for e in w.events)
    for node in w.nodes[:2]:
        node.runtimes = make.both
    w.run(until=lambda w: w.finished())
    assert w.serving() == ["n0", "n1"]
    assert (w.condition(r.TRIALED).status, w.reason(r.TRIALED)) == ("False", r.TRIAL_FAILED)
    for node in w.nodes[2:]:
        node.runtimes = make.tflite_only
    w.run(until=lambda w: len(w.serving()) == 4)
    assert w.is_true(r.TRIALED)


def tflite_only(make, revision, platforms):
    found = make.in_formats(revision, platforms)
    return found.replace(variants=tuple(v for v in found.variants if v.format is Format.TFLITE))


def test_arm_v7_gets_tflite_and_the_others_what_is_best_for_them(make, world):
    w = world(make.tflite_only, make.onnx_only)
    w.nodes[0].hardware_class = HardwareClass.ARM_V7
    w.run(until=tried)
    assert tried(w)["n0"] == ["tflite-float", "tflite-int8"], "the least compressed one is the yardstick"
    w.run(until=lambda w: len(w.serving()) == 2)
    assert [n.running.variant for n in w.nodes] == ["tflite-int8", "int8"]


def test_what_is_for_no_node_is_counted_apart(make, world):
    w = world(make.both, make.both)
    w.run(until=tried)
    assert w.message(r.COMPRESSED).startswith(
        "5 accepted variants for linux/amd64; the smallest, tflite-int8, has 800 "
    )
    assert w.message(r.COMPRESSED).endswith(
        "; and 2 of CoreML for darwin/arm64, CoreML for linux/amd64, which no node gets, as none has a runtime for it"
    )


def test_core_ml_alone_is_refused_in_words(make, world):
    w = world(make.both, formats=["CoreML"])
    w.run(turns=3)
    assert w.reason(r.STALLED) == r.NOT_SUPPORTED
    assert "no node has a runtime for CoreML" in w.message(r.STALLED)
    assert w.started == []


def test_a_node_that_loses_its_runtime_in_a_trial_hands_it_over(make, world):
    w = world(make.both, make.both, make.both)
    w.run(until=tried)
    w.node("n0").runtimes = {}
    w.step_nodes()
    w.pass_()
    assert list(tried(w)) == ["n1"]
    w.run(until=lambda w: len(w.serving()) == 2)
    assert "n0 has none" in w.message(r.READY)


def test_a_class_whose_nodes_all_lose_the_runtime_of_its_variant_gets_another_one(make, world):
    w = world(make.both, make.both)
    w.run(until=lambda w: w.finished())
    revision = w.status.revision
    w.node("n0").runtimes = make.onnx_only
    w.run(turns=3)
    assert (w.status.variants[0].name, tried(w)) == ("tflite-int8", {}), "n1 still loads it"
    assert "1 node without a runtime for it (TFLite needs ai-edge-litert or tflite-runtime; n0 has" in w.message(
        r.READY
    )
    w.node("n1").runtimes = make.onnx_only
    w.run(until=tried)
    w.run(until=lambda w: [n.running.variant for n in w.nodes] == ["int8"] * 2)
    assert (w.status.revision, len(w.started)) == (revision, 1), "nothing is built anew"


def test_a_node_that_loses_its_runtime_is_not_put_back_to_what_it_cannot_load(make, world):
    w = world(make.both, make.both)
    w.run(until=lambda w: w.finished())
    good = w.status.revision
    w.edit(w.builder.with_source("b"))
    w.run(until=lambda w: w.status.revision != good and tried(w))
    w.node("n1").runtimes = make.onnx_only
    w.node("n0").bad = w.node("n1").bad = {w.digest(v) for v in ("int8", "tflite-int8", "source", "mixed")}
    w.run(turns=60, until=lambda w: w.rolled_back())
    w.run(turns=5)
    assert w.serving(good) == ["n0"] or w.node("n0").running.revision == good
    assert w.node("n1").assigned is None, "the good revision's variant is TFLite, which it cannot load any more"


@given(
    there=st.frozensets(st.sampled_from(Format)),
    nodes=st.lists(st.sets(st.sampled_from(["onnxruntime", "ai-edge-litert", "tflite-runtime", "numpy"])), max_size=6),
)
def test_what_a_class_tries_is_loaded_by_somebody_whole_and_by_as_many_as_can_be(there, nodes):
    class Node:
        def __init__(self, runtimes):
            self.formats = loadable(runtimes)

    members = [Node(n) for n in nodes]
    found = formats_for(there, members)
    assert found <= there - {Format.COREML}
    assert bool(found) == any(m.formats & there for m in members)
    count = {f: sum(f in m.formats for m in members) for f in there}
    assert all(count[f] == max(count.values()) for f in found)
    assert not found or any(found <= m.formats for m in members)
    assert found == formats_for(there, members[::-1]), "the order of nodes matters"


def test_every_format_has_its_runtimes():
    assert set(RUNTIMES_OF) == set(Format)
    assert loadable({"onnxruntime"}) == {Format.ONNX}
    assert loadable({"ai-edge-litert"}) == loadable({"tflite-runtime"}) == {Format.TFLITE}
    assert loadable(()) == frozenset()
