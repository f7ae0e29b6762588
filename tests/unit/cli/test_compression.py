"""What a Job came to, judged by the limits that hold on this machine."""

import pytest

from edgemodel_api.formats import Format
from edgemodel_api.hardware import Hardware
from edgemodel_api.job import JobResult, Outcome, VariantSummary
from edgemodel_api.report import Candidate, CompressionReport, Measurement, QualityBasis, QualityKind, Refusal
from edgemodel_cli.compression import _judged

HOST = Hardware(platform="linux/amd64", hardware_class="amd64-vnni", memory_bytes=1, cores=1)
SLOW = Refusal(gate="maxLatency", value=0.2, limit=0.1, message="median latency 200 ms, more than maxLatency 100ms")


def report(*refusals: Refusal) -> CompressionReport:
    return CompressionReport(
        quality=QualityBasis(kind=QualityKind.LABELS, metric="Top1"),
        source=Measurement(size_bytes=1, file_bytes=1),
        host=HOST,
        candidates=(Candidate(name="int8", digest="sha256:a", accepted=True, refusals=refusals),),
    )


def result(*variants: tuple[str, Format, bool]) -> JobResult:
    return JobResult(
        outcome=Outcome.SUCCEEDED,
        digest="sha256:i",
        variants=tuple(
            VariantSummary(platform="linux/amd64", name=n, digest="sha256:a", format=f, accepted=a)
            for n, f, a in variants
        ),
    )


ONNX = [("source", Format.ONNX, True), ("int8", Format.ONNX, True)]
CASES = {
    "one keeps all": (ONNX, report(), Outcome.SUCCEEDED, ""),
    "none does": (ONNX, report(SLOW), Outcome.REFUSED, ""),
    "none does, but another format's file": (
        [*ONNX, ("tflite-int8", Format.TFLITE, True)], report(SLOW), Outcome.SUCCEEDED, "more than maxLatency 100ms",
    ),
    "another format's was refused": ([*ONNX, ("tflite-int8", Format.TFLITE, False)], report(SLOW), Outcome.REFUSED, ""),
    "another format has the source alone": ([*ONNX, ("source", Format.TFLITE, True)], report(SLOW), Outcome.REFUSED, ""),
}  # fmt: skip


@pytest.mark.parametrize(("variants", "said", "outcome", "left_out"), CASES.values(), ids=CASES)
def test_other_formats_are_laid_out_where_no_onnx_file_holds_here(variants, said, outcome, left_out):
    found, why = _judged(result(*variants), said, ("linux/amd64",))
    assert found.outcome is outcome
    assert left_out in why
    assert bool(why) == bool(left_out)
    assert (found.digest is None) == (outcome is Outcome.REFUSED)
