"""The termination message: what it says, and that it always fits."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.edgemodel import Budget, Format
from edgemodel_api.job import RESULT_LIMIT_BYTES, JobResult, Outcome
from edgemodel_api.report import (
    Candidate,
    CompressionReport,
    Conversion,
    Measurement,
    QualityBasis,
    QualityKind,
    Refusal,
)
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


def conversion(name, size=1200, *, kind=Format.TFLITE, accepted=True, platform="linux/amd64", **more):
    return Conversion(
        format=kind.value,
        candidate="source",
        name=name,
        platforms=(platform,),
        encoding="int8-weights",
        size_bytes=size,
        file_bytes=4 * size,
        quality=0.9,
        quality_drop=more.pop("quality_drop", 0.01),
        accepted=accepted,
        message="" if accepted else "quality drops by 9.00%, more than maxQualityDrop 1%: raise it",
        **more,
    )


class TestOtherFormats:
    def test_a_file_has_its_own_numbers_and_says_what_it_is(self):
        found = report(candidate("int8", size=1000, chosen=True)).replace(
            formats=(Format.ONNX, Format.TFLITE),
            conversions=(conversion("tflite-int8", digest=DIGEST), conversion("tflite-bad", 900, accepted=False)),
        )
        result = summary.succeeded(
            found,
            (stored("source"), stored("int8"), Stored("linux/amd64", "tflite-int8", DIGEST, (), Format.TFLITE)),
            reference="oci-layout:///x",
            digest=DIGEST,
            report_digest=DIGEST,
        )
        assert [(v.name, v.format, v.digest is None) for v in result.variants] == [
            ("source", None, False),
            ("int8", None, False),
            ("tflite-int8", Format.TFLITE, False),
            ("tflite-bad", Format.TFLITE, True),
        ]
        assert result.variants[2].size_bytes == 1200
        assert result.message.startswith("int8: ")
        assert "; tflite-int8: 3.9 KiB to 1.2 KiB stored, Top1 0.9" in result.message
        # ONNX is not said: the message has 4096 bytes.
        assert [("format" in v.to_json()) for v in result.variants] == [False, False, True, True]

    def test_without_onnx_the_source_is_a_file_of_the_format(self):
        found = report(candidate("int8", refusals=[refusal()])).replace(
            formats=(Format.TFLITE,),
            budget=Budget(max_size="4Ki"),
            conversions=(conversion("source", 5000, digest=DIGEST), conversion("tflite-int8", digest=DIGEST)),
        )
        result = summary.succeeded(
            found,
            tuple(Stored("linux/arm64", n, DIGEST, (), Format.TFLITE) for n in ("source", "tflite-int8")),
            reference="oci-layout:///x",
            digest=DIGEST,
            report_digest=DIGEST,
        )
        source, small = result.variants
        assert (source.size_bytes, source.accepted, source.format) == (5000, False, Format.TFLITE)
        assert "maxSize 4Ki" in source.reason
        assert (small.name, small.platform, small.accepted) == ("tflite-int8", "linux/arm64", True)
        assert result.message == "tflite-int8: 3.9 KiB to 1.2 KiB stored, Top1 0.9"

    def test_a_refusal_names_the_nearest_file(self):
        found = report(candidate("int8")).replace(
            formats=(Format.TFLITE,),
            conversions=(
                conversion("source", 5000),
                conversion("tflite-int8-full", 1000, accepted=False, quality_drop=0.2),
                conversion("tflite-int8-weights", 1100, accepted=False, quality_drop=0.09),
            ),
        )
        result = summary.refused(found)
        assert result.message == (
            "none of 2 TFLite files keeps the budget; the nearest is tflite-int8-weights: quality drops by 9.00%, more than"
            " maxQualityDrop 1%: raise it"
        )
        assert [v.name for v in result.variants] == ["tflite-int8-full", "tflite-int8-weights"]

    def test_a_format_of_which_nothing_passed_is_told(self):
        found = report(candidate("int8", chosen=True)).replace(
            formats=(Format.ONNX, Format.COREML),
            conversions=(conversion("coreml-x", kind=Format.COREML, accepted=False),),
        )
        assert succeeded(found, "source", "int8").message.endswith("; no CoreML file keeps the budget")

    @pytest.mark.parametrize("platforms", [1, 2, 3])
    def test_what_is_in_the_index_fits_with_all_formats(self, platforms):
        share = choose.shares(platforms, tuple(Format))
        places = [f"linux/arm64/v{n}" for n in range(platforms)]
        onnx = [f"int8-static-u8s8-per-channel-prune{n}" for n in range(share[Format.ONNX])]
        tflite = [f"tflite-int8-weights-channels30-recovered-{n}" for n in range(share[Format.TFLITE])]
        core = [f"coreml-palettized-6-channels30-recovered-{n}" for n in range(share[Format.COREML])]
        found = report(*(candidate(n, latency=0.00123456) for n in onnx)).replace(
            formats=tuple(Format),
            conversions=(
                *(conversion(n, 123456789, digest=DIGEST) for n in tflite),
                *(conversion(n, 123456789, kind=Format.COREML, digest=DIGEST) for n in core),
                *(conversion(f"tflite-bad{n}", accepted=False) for n in range(20)),
            ),
        )
        variants = [stored(n, p, ("arm64-dotprod",)) for p in places for n in ("source", *onnx)]
        variants += [Stored(p, n, DIGEST, (), Format.TFLITE) for p in places for n in tflite]
        variants += [Stored("darwin/arm64", n, DIGEST, (), Format.COREML) for n in core]
        result = summary.succeeded(
            found, tuple(variants), reference="oci://registry.example/m", digest=DIGEST, report_digest=DIGEST
        )
        assert len(summary.to_bytes(result)) <= RESULT_LIMIT_BYTES
        assert sum(v.digest is not None for v in result.variants) == len(variants)
