"""Why nothing keeps the budget, and what would."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.edgemodel import Budget
from edgemodel_api.report import Candidate, Measurement, Refusal
from edgemodel_compressor import gates
from edgemodel_compressor.diagnosis import diagnose, percent_above, summary


def candidate(name, size, drop, *refused, slowdown=None):
    measurement = Measurement(size_bytes=size, file_bytes=size, quality=1 - drop, quality_drop=drop, slowdown=slowdown)
    return Candidate(name=name, measurement=measurement, refusals=refused)


def quality(drop, limit=0.01):
    return Refusal(gate=gates.QUALITY, value=drop, limit=limit, message="drops")


def size(value, limit):
    return Refusal(gate=gates.SIZE, value=value, limit=limit, message="large")


BUDGET = Budget(max_quality_drop="1%", max_size="100Ki")


def test_the_nearest_by_how_much_and_what_a_wider_budget_buys():
    tried = (
        candidate("rough", 50_000, 0.2, quality(0.2)),
        candidate("near", 90_000, 0.0123, quality(0.0123)),
        candidate("exact", 200_000, 0.0, size(200_000, 102_400)),
        candidate("worse", 95_000, 0.3, quality(0.3)),
    )
    found = diagnose(tried, BUDGET, source_bytes=400_000, sensitivity={"a": 0.1, "b": 0.5, "c": 0.0}, samples=600)
    assert found.nearest == "near"
    assert found.missing == {gates.QUALITY: 0.23}
    assert found.gates == (gates.QUALITY,)
    assert found.costly_layers == ("b", "a")
    assert found.suggestions[:3] == (
        "maxSize 196Ki (now 100Ki) would let exact through: 195.3 KiB, 2.0x smaller",
        "maxQualityDrop 1.23% (now 1%) would let near through: 87.9 KiB, 4.4x smaller",
        "maxQualityDrop 20% (now 1%) would let rough through: 48.8 KiB, 8.0x smaller",
    )
    assert "data.training" in found.suggestions[3]
    assert summary(found) == "; ".join(found.suggestions[:2])


def test_measured_drops_of_layers_count_before_errors():
    tried, drops = (candidate("c", 1, 0.1, quality(0.1)),), {"x": 0.2, "y": 0.3, "v": 0.0, "w": -0.1}
    found = diagnose(tried, BUDGET, source_bytes=2, drops=drops, sensitivity={"z": 9.0})
    assert found.costly_layers == ("y", "x")
    assert "leave layers as they are (exclude.nodes): by itself each costs y 30.00%, x 20.00%" in found.suggestions


def test_samples_that_cannot_tell_are_said():
    tried = (candidate("c", 1, 0.02, quality(0.02)),)
    texts = diagnose(tried, BUDGET, source_bytes=9, samples=100, samples_needed=700, training=True).suggestions
    assert any("100 samples" in t and "about 700" in t for t in texts)
    assert not any("data.training" in t for t in texts)


def test_of_a_limit_of_nothing_there_is_no_fraction():
    budget = Budget(max_quality_drop="0%")
    found = diagnose((candidate("c", 1, 0.02, quality(0.02, 0.0)),), budget, source_bytes=9)
    assert (found.gates, found.missing, found.nearest) == ((gates.QUALITY,), {}, "c")
    assert found.suggestions[0].startswith("maxQualityDrop 2% (now 0%)")


def test_nothing_runs():
    broken = Candidate(name="b", refusals=(Refusal(gate=gates.LOAD, message="no"),))
    found = diagnose((broken,), BUDGET, source_bytes=9)
    assert (found.nearest, found.gates, found.missing) == ("b", (gates.LOAD,), {})
    assert any("weights only" in t for t in found.suggestions)
    assert diagnose((), BUDGET, source_bytes=9).nearest is None


def test_on_this_machine_other_gates_stop_them():
    slow = Refusal(gate=gates.SLOWDOWN, value=0.3, limit=0.1, message="slow")
    found = diagnose((candidate("c", 1, 0.0, slow, slowdown=0.3),), BUDGET, source_bytes=9, which=gates.HOST)
    assert found.gates == (gates.SLOWDOWN,)
    assert found.missing == {gates.SLOWDOWN: 2.0}
    assert found.suggestions[0].startswith("maxSlowdown 30%")


@given(st.floats(1e-6, 0.9))
def test_the_percentage_that_is_named_lets_it_through(drop):
    named = Decimal(percent_above(drop).rstrip("%")) / 100
    assert float(named) >= drop * (1 - 1e-12)
    assert float(named) <= drop + 1e-4
