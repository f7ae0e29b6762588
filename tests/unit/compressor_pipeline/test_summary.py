"""The termination message: what it says, and that it always fits."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.edgemodel import Budget
from edgemodel_api.job import RESULT_LIMIT_BYTES, JobResult, Outcome
from edgemodel_api.report import Candidate, CompressionReport, Measurement, QualityBasis, QualityKind, Refusal
from edgemodel_compressor import choose, summary
from edgemodel_compressor.diagnosis import nearest
from edgemodel_compressor.summary import Stored

DIGEST = "sha256:" + "a" * 64


def measurement(size=1000, quality=0.9, latency=0.002):
    return Measurement(
        size_bytes=size, file_bytes=4 * size, quality=quality, quality_drop=0.01, latency_median_seconds=latency
    )


def refusal(
    gate="maxQualityDrop", value=0.03, limit=0.01, message="quality drops by 3.00%, more than maxQualityDrop 1%"
):
    return Refusal(gate=gate, value=value, limit=limit, message=message)


def candidate(name, *, refusals=(), size=1000, chosen=False, latency=0.002):
    return Candidate(
        name=name,
        platforms=("linux/amd64",),
        measurement=measurement(size, latency=latency),
        accepted=not any(r.gate in ("maxQualityDrop", "maxSize", "Load", "Size") for r in refusals),
        refusals=tuple(refusals),
        chosen=chosen,
    )


def report(*candidates, budget=None, objective="Smallest", source=None):
    return CompressionReport(
        revision="0123456789ab",
        quality=QualityBasis(kind=QualityKind.LABELS, metric="Top1", samples=100),
        budget=budget or Budget(),
        objective=objective,
        source=source or measurement(4000, 0.91),
        candidates=candidates,
    )


def stored(name, platform="linux/amd64", classes=()):
    return Stored(platform, name, DIGEST, classes)


def succeeded(found, *names, **more):
    return summary.succeeded(
        found, tuple(stored(n) for n in names), reference="oci-layout:///x", digest=DIGEST, report_digest=DIGEST, **more
    )


def test_source_first_then_by_objective_then_the_refused():
    found = [
        candidate("b", size=900, latency=0.001, chosen=True),
        candidate("a", size=800, latency=0.004),
        candidate("no", refusals=[refusal()], size=100),
    ]
    result = succeeded(report(*found), "source", "b", "a")
    assert [v.name for v in result.variants] == ["source", "a", "b", "no"]
    fastest = succeeded(report(*found, objective="Fastest"), "source", "b", "a")
    assert [v.name for v in fastest.variants] == ["source", "b", "a", "no"]
    assert result.outcome is Outcome.SUCCEEDED
    assert result.variants[0].size_bytes == result.source.size_bytes == 4000
    assert [v.digest is None for v in result.variants] == [False, False, False, True]
    assert "0.91 to 0.9" in result.message
    assert "3.9 KiB to 900 B" in result.message


def test_host_gates_leave_a_variant_accepted_and_say_why():
    slow = refusal("maxSlowdown", 0.5, 0.0, "+50.0% median latency beside the source")
    result = succeeded(report(candidate("a", refusals=[slow])), "source", "a")
    (variant,) = [v for v in result.variants if v.name == "a"]
    assert variant.accepted
    assert "+50.0%" in variant.reason
    assert "the trial on each node decides" in result.message


def test_a_source_over_max_size_stays_as_yardstick():
    result = succeeded(report(candidate("a", chosen=True), budget=Budget(max_size="2000")), "source", "a")
    assert not result.variants[0].accepted
    assert "maxSize 2000" in result.variants[0].reason
    assert result.variants[0].digest == DIGEST


def test_refused_names_the_nearest_its_number_and_limit():
    near = refusal(value=0.011, message="quality drops by 1.10%, more than maxQualityDrop 1%: raise it")
    result = summary.refused(
        report(
            candidate("far", refusals=[refusal(value=0.5)]),
            candidate("near", refusals=[near]),
            candidate("broken", refusals=[refusal("Load", None, None, "cannot be loaded")]),
        )
    )
    assert result.outcome is Outcome.REFUSED
    assert result.reason == "BudgetExceeded"
    assert "the nearest is near: quality drops by 1.10%, more than maxQualityDrop 1%: raise it" in result.message
    assert all(v.digest is None and not v.accepted for v in result.variants)


def test_of_several_refusals_the_worst_counts():
    both = candidate("both", refusals=[refusal(value=0.011), refusal("maxSize", 9.0, 1.0, "9 bytes, more than 1")])
    assert "9 bytes, more than 1" in summary.refused(report(both)).message


def test_a_budget_of_zero_has_a_nearest_too():
    found = (
        candidate("a", refusals=[refusal(value=0.5, limit=0.0)]),
        candidate("b", refusals=[refusal(value=0.1, limit=0.0)]),
    )
    assert nearest(found).name == "b"


def test_nothing_could_be_built():
    assert "nothing could be built" in summary.refused(report()).message


@pytest.mark.parametrize("count", [0, 1, 5, 40, 400])
def test_the_result_fits_and_keeps_the_index(count):
    accepted = [candidate(f"int4-weights-local12-int8-weights-prune{i}", size=900 + i) for i in range(5)]
    refused = [candidate(f"refused-{i}", refusals=[refusal(message="x" * 900)]) for i in range(count)]
    names = ["source", *(c.name for c in accepted)]
    result = succeeded(report(*accepted, *refused), *names)
    assert len(summary.to_bytes(result)) <= RESULT_LIMIT_BYTES
    assert [v.name for v in result.variants if v.digest] == names


def test_as_many_variants_as_an_artifact_may_have_fit_with_their_digests():
    platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7"]
    accepted = [candidate(f"int4-weights-local12-int8-weights-pruner{i}", size=900 + i) for i in range(5)]
    variants = tuple(
        stored(name, platform, ("amd64-vnni", "amd64-avx2"))
        for platform in platforms
        for name in ["source", *(c.name for c in accepted)][: choose.slots(3) + 1]
    )
    result = summary.succeeded(
        report(*accepted),
        variants,
        reference="oci://registry.example.com/" + "a" * 80,
        digest=DIGEST,
        report_digest=DIGEST,
    )
    assert len([v for v in result.variants if v.digest]) == len(variants)
    assert len(summary.to_bytes(result)) <= RESULT_LIMIT_BYTES


@given(
    message=st.text(max_size=3000),
    reasons=st.lists(st.text(max_size=600), max_size=40),
    indexed=st.integers(0, 40),
)
def test_any_result_fits_and_reads_back(message, reasons, indexed):
    found = [candidate(f"c{i}", refusals=[refusal(message=text)]) for i, text in enumerate(reasons)]
    result = summary.refused(report(*found)).replace(
        message=message,
        variants=tuple(
            v.replace(digest=DIGEST if i < indexed else None)
            for i, v in enumerate(summary.refused(report(*found)).variants)
        ),
    )
    content = summary.to_bytes(summary.fitted(result))
    assert len(content) <= RESULT_LIMIT_BYTES
    assert JobResult.model_validate_json(content).outcome is Outcome.REFUSED
    assert json.loads(content)


def test_failures_are_short():
    result = summary.failed(Outcome.INVALID, "InvalidInput", "x" * 10_000)
    assert len(result.message) <= summary.MESSAGE_LIMIT
    assert result.message.endswith("…")
