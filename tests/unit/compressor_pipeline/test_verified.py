"""Finalists on other CPUs: what holds stays, what does not is repaired, or loses those CPUs."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgemodel_api.edgemodel import Activations, Precision
from edgemodel_api.hardware import HardwareClass
from edgemodel_api.report import Measurement, Refusal, Verification, VerifiedHow
from edgemodel_compressor import verified
from edgemodel_compressor.bench import Outcome
from edgemodel_compressor.cache import Cache
from edgemodel_compressor.candidates import single
from edgemodel_compressor.verified import Verifier, hardware_classes
from edgemodel_compressor.verify import Machine, Machines, Samples

AMD64, ARM64 = "linux/amd64", "linux/arm64"
U8U8 = {r.encoding: r for r in single(Precision.INT8, Activations.STATIC, [AMD64])}["int8-static-u8u8"]


def outcome(recipe, path="model.onnx", refusals=()):
    measured = Measurement(size_bytes=10, file_bytes=10, quality=1.0, quality_drop=0.0)
    return Outcome(name=recipe.name, recipe=recipe, path=Path(path), measurement=measured, refusals=refusals)


class Lab:
    """Remembers what it was given; measures repairs as it is told to."""

    def __init__(self, refusals=None, cache=None):
        self.outcomes, self.refusals, self.cache = {}, refusals or {}, cache or Cache(None)

    def measure(self, recipes, effort, *, patient):
        (recipe,) = recipes
        return (outcome(recipe, path=f"{recipe.encoding}.onnx", refusals=self.refusals.get(recipe.encoding, ())),)

    def put(self, found):
        self.outcomes[found.name] = found


@pytest.fixture
def make(monkeypatch, tmp_path):
    """A verifier under which some files break on some classes, with the repairs that are proposed."""

    def build(broken, repairs=(), refusals=None, cache=None, samples=0):
        def verify(path, *, classes, samples, machines, work_dir, workers):
            assert workers >= 1
            asked.append((path.name, tuple(classes)))
            bad = broken.get(path.name, ())
            return tuple(
                Verification(hardware_class=c, holds=c not in bad, samples=len(samples.feeds) - (c in late))
                for c in dict.fromkeys(classes)
            )

        asked, late = [], {"amd64-vnni"}
        encodings = tuple(replace(U8U8.quantizes[0].encoding, name=name, of="int8-static-u8u8") for name in repairs)
        monkeypatch.setattr(verified, "verify", verify)
        monkeypatch.setattr(verified, "repairs_for", lambda *_a, **_k: encodings)
        monkeypatch.setattr(verified, "repair_words", lambda encoding: (f"repaired: {encoding.name}",))
        lab = Lab(refusals, cache)
        verifier = Verifier(
            lab=lab,
            samples=Samples(({},) * samples, lambda _: None),
            machines=Machines(tuple(Machine(c, VerifiedHow.EMULATED, "qemu", ()) for c in HardwareClass), {}),
            platforms=(AMD64,),
            work_dir=tmp_path,
            report=lambda _: None,
        )
        return verifier, lab, asked

    return build


def test_what_holds_everywhere_stays(make):
    verifier, lab, asked = make({})
    found = verifier.verified(outcome(U8U8))
    assert asked == [("model.onnx", hardware_classes(U8U8, AMD64))]
    assert (found.lost, found.repairs) == (frozenset(), ())
    assert all(v.holds for v in found.verified)
    assert lab.outcomes == {found.name: found}


def test_what_was_seen_whole_is_not_run_again(make, tmp_path):
    cache = Cache.at(str(tmp_path / "cache"), "context", tmp_path)
    known = replace(outcome(U8U8), file_digest="ab" * 32)
    first = make({"model.onnx": ("amd64-avx2",)}, cache=cache, samples=3)
    before = first[0].verified(known)
    again, _, asked = make({}, cache=cache, samples=3)
    after = again.verified(known)
    assert asked == [("model.onnx", ("amd64-vnni",))]
    assert after.lost == before.lost == {"amd64-avx2"}
    other, _, asked = make({}, cache=cache, samples=4)
    assert not other.verified(known).lost
    assert asked == [("model.onnx", hardware_classes(U8U8, AMD64))]


def test_the_first_repair_that_holds_takes_its_place(make):
    broken = {"model.onnx": ("amd64-avx2",), "u8u8-s7.onnx": ("amd64-avx2",)}
    verifier, lab, _ = make(broken, repairs=("u8u8-s7", "u8u8-u8", "u8u8-float"))
    found = verifier.verified(outcome(U8U8))
    assert found.recipe.encoding == "u8u8-u8"
    assert (found.lost, found.repairs) == (frozenset(), ("repaired: u8u8-u8",))
    lost = {name: o.lost for name, o in lab.outcomes.items()}
    assert lost["int8-static-u8u8"] == lost["u8u8-s7"] == {"amd64-avx2"}
    assert "u8u8-float" not in lost


def test_without_a_repair_it_loses_that_class(make):
    verifier, lab, _ = make({"model.onnx": ("amd64-avx2",)})
    found = verifier.verified(outcome(U8U8))
    assert found.lost == {"amd64-avx2"}
    assert "amd64-avx2" not in found.classes_on(AMD64)
    assert lab.outcomes[found.name] == found


def test_a_repair_that_breaks_the_budget_is_none(make):
    refused = {"u8u8-s7": (Refusal(gate="maxQualityDrop", value=1, limit=0, message="bad"),)}
    verifier, _, _ = make({"model.onnx": ("amd64-avx2",)}, repairs=("u8u8-s7",), refusals=refused)
    assert verifier.verified(outcome(U8U8)).recipe == U8U8


def test_weights_only_is_for_every_class_of_a_platform():
    (int8,) = single(Precision.INT8, Activations.NONE, [AMD64, ARM64])
    assert hardware_classes(int8, ARM64) == ("arm64-dotprod", "arm64-base")
    u8s8 = {r.encoding: r for r in single(Precision.INT8, Activations.STATIC, [AMD64])}["int8-static-u8s8"]
    assert hardware_classes(u8s8, AMD64) == ("amd64-vnni",)
    assert hardware_classes(u8s8, ARM64) == ()
