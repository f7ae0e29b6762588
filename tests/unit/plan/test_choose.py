"""Trials: which variant a hardware class gets, on the numbers that were measured there."""

import pytest

from edgemodel_api.edgemodel import Budget, Objective
from edgemodel_api.edgemodel_status import CandidateStatus
from edgemodel_api.edgenode import Measured, TrialResult
from edgemodel_api.formats import Format
from edgemodel_api.hardware import HardwareClass
from edgemodel_api.slowdown import too_slow
from edgemodel_operator.domain.choose import candidates_for, choose, judge, measurable, number

VNNI = HardwareClass.AMD64_VNNI
P = "linux/amd64"


def candidate(name, size, **fields):
    return CandidateStatus(platform=P, name=name, digest=f"sha256:{name}", size_bytes=size, **fields)


SOURCE, INT8, MIXED = candidate("source", 4000), candidate("int8", 1000), candidate("mixed", 2000)


def result(c, latency="0.010", *, passed=True, reason="Passed", message="", peak=1000, **measured):
    return TrialResult(
        digest=c.digest,
        variant=c.name,
        passed=passed,
        reason=reason,
        message=message,
        measured=Measured(latency_median_seconds=latency, peak_memory_bytes=peak, **measured),
    )


def chosen(results, *, objective=Objective.SMALLEST, candidates=(SOURCE, INT8, MIXED), **budget):
    by_digest = {r.digest: r for r in results}
    verdicts = judge(candidates, by_digest, Budget(**budget))
    return choose(VNNI, P, "n0", verdicts, objective)


CASES = {
    "the smallest that fits": ([result(SOURCE), result(INT8, "0.009"), result(MIXED, "0.005")], {}, "int8"),
    "the fastest that fits": (
        [result(SOURCE), result(INT8, "0.009"), result(MIXED, "0.005")], {"objective": Objective.FASTEST}, "mixed"),
    "the source may be the fastest": (
        [result(SOURCE, "0.004"), result(INT8, "0.004"), result(MIXED, "0.0041")],
        {"objective": Objective.FASTEST, "candidates": (SOURCE, candidate("int8", 5000), MIXED)}, "source"),
    "too slow by its own interval": (
        [result(SOURCE), result(INT8, slowdown="0.05", slowdown_low="0.03"), result(MIXED)], {}, "mixed"),
    "slower, perhaps by chance": (
        [result(SOURCE), result(INT8, slowdown="0.05", slowdown_low="0.01"), result(MIXED)], {}, "int8"),
    "slower within the budget": (
        [result(SOURCE), result(INT8, slowdown="0.4", slowdown_low="0.4"), result(MIXED)], {"max_slowdown": "50%"}, "int8"),
    "without an interval, by the medians": (
        [result(SOURCE, "0.010"), result(INT8, "0.0103"), result(MIXED, "0.0101")], {}, "mixed"),
    "failed its golden cases": (
        [result(SOURCE), result(INT8, passed=False, reason="GoldenMismatch"), result(MIXED)], {}, "mixed"),
    "nothing but the source": (
        [result(SOURCE), result(INT8, passed=False), result(MIXED, slowdown="0.5")], {}, "source"),
    "too slow in seconds": ([result(SOURCE), result(INT8, "0.009"), result(MIXED, "0.002")], {"max_latency": "5ms"}, "mixed"),
    "too much memory": ([result(SOURCE), result(INT8, peak=9999), result(MIXED)], {"max_memory": "2k"}, "mixed"),
    "memory not measured": ([result(SOURCE), result(INT8, peak=None), result(MIXED)], {"max_memory": "2k"}, "mixed"),
    "latency not a number": (
        [result(SOURCE), result(INT8, "nan"), result(MIXED, "0.002")], {"max_latency": "5ms"}, "mixed"),
    "infinitely slow": ([result(SOURCE), result(INT8, "inf"), result(MIXED)], {}, "mixed"),
    "refused by the Job": (
        [result(SOURCE), result(INT8)], {"candidates": (SOURCE, candidate("int8", 1, accepted=False))}, "source"),
    "without a yardstick": (
        [result(SOURCE, None, passed=False, reason="LoadFailed"), result(INT8), result(MIXED)], {}, "int8"),
    "a yardstick that is itself over its limit": (
        [result(SOURCE, passed=False, reason="TooSlow"), result(INT8, "0.02"), result(MIXED, "0.01")], {}, "mixed"),
    "a tie goes to the faster": (
        [result(SOURCE), result(INT8, "0.009"), result(MIXED, "0.005")],
        {"candidates": (SOURCE, INT8, candidate("mixed", 1000))}, "mixed"),
}  # fmt: skip


@pytest.mark.parametrize(("results", "fields", "expected"), CASES.values(), ids=CASES)
def test_choice(results, fields, expected):
    found = chosen(results, **fields)
    assert (found.name, found.accepted, found.measured_on) == (expected, True, "n0")


def test_the_choice_tells_its_numbers():
    found = chosen([result(SOURCE), result(INT8, "0.0000241234567", slowdown="-0.2"), result(MIXED, slowdown="0.5")])
    assert found.latency_median_seconds == "0.0000241235"
    assert found.message == (
        "int8 is the smallest of 2 that fit amd64-vnni (measured on n0): 1000 B, 24 µs, -20.0% beside the source;"
        " refused: mixed (+50.0% latency beside the source, maxSlowdown is 0%)"
    )


def test_nothing_fits_and_every_number_is_told():
    over = candidate("source", 4000, accepted=False, reason="3.9 KiB, more than maxSize 3k")
    found = chosen([result(SOURCE), result(INT8, "0.5"), result(MIXED, passed=False, reason="GoldenMismatch", message="0.2 > 0.1")],
                   candidates=(over, INT8, MIXED), max_latency="50ms")  # fmt: skip
    assert (found.name, found.digest, found.accepted, found.reason) == ("", "", False, "TrialFailed")
    assert found.message == (
        "none of 3 candidates fits amd64-vnni (measured on n0): source (3.9 KiB, more than maxSize 3k), int8 (median"
        " latency 500.00 ms, maxLatency is 50ms), mixed (GoldenMismatch: 0.2 > 0.1); raise the budget, or add a candidate"
    )


def test_candidates_are_those_of_platform_and_class_with_the_source_first():
    there = (
        INT8,
        candidate("vnni-only", 1, hardware_classes=(VNNI,)),
        candidate("avx2-only", 1, hardware_classes=(HardwareClass.AMD64_AVX2,)),
        candidate("refused", 1, accepted=False),
        SOURCE.replace(accepted=False),
        INT8.replace(platform="linux/arm64", name="arm"),
        INT8.replace(name="same-bytes"),
    )
    found = candidates_for(there, P, VNNI, {Format.ONNX})
    assert [c.name for c in found][:2] == ["source", "same-bytes"]
    assert {c.name for c in found} == {"source", "same-bytes", "vnni-only"}


def test_where_the_source_cannot_be_loaded_the_largest_file_is_the_yardstick():
    small = candidate("tflite-int8", 900, file_bytes=1000, format=Format.TFLITE)
    large = candidate("tflite-float", 3000, file_bytes=4000, format=Format.TFLITE)
    there = (SOURCE, INT8, small, large)
    assert [c.name for c in candidates_for(there, P, VNNI, {Format.TFLITE})] == ["tflite-float", "tflite-int8"]
    assert candidates_for(there, P, VNNI, set(Format))[0].name == "source"
    assert candidates_for(there, P, VNNI, ()) == ()
    found = chosen([result(large), result(small, slowdown="-0.2")], candidates=(large, small))
    assert (found.name, found.format) == ("tflite-int8", Format.TFLITE)
    assert "-20.0% beside tflite-float" in found.message
    found = chosen([result(large), result(small, slowdown="0.5", slowdown_low="0.4")], candidates=(large, small))
    assert found.name == "tflite-float"
    assert found.refused[0].message == "+50.0% latency beside tflite-float, maxSlowdown is 0%"


@pytest.mark.parametrize(("text", "value"), [(None, None), ("", None), ("x", None), ("NaN", None), ("1e3", 1000.0)])
def test_numbers_of_nodes_are_not_trusted(text, value):
    assert number(text) == value


def test_link_and_disk_are_no_verdict_on_a_candidate():
    no_disk = [result(c, passed=False, reason="DiskFull") for c in (SOURCE, INT8)]
    assert not measurable((SOURCE, INT8), {r.digest: r for r in no_disk})
    assert measurable((SOURCE, INT8), {r.digest: r for r in [no_disk[0], result(INT8, passed=False, reason="TooSlow")]})


@pytest.mark.parametrize(
    ("slowdown", "low", "limit", "expected"),
    [
        (0.0, None, 0.0, False),
        (0.02, 0.02, 0.0, False),
        (0.0201, 0.0201, 0.0, True),
        (0.09, 0.0, 0.0, False),
        (0.1001, -0.5, 0.0, True),
        (0.12, 0.115, 0.1, False),
        (float("nan"), None, 1.0, True),
    ],
)
def test_too_slow(slowdown, low, limit, expected):
    assert too_slow(slowdown, low, limit) is expected
