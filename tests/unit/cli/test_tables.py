import io

import pytest
from rich.console import Console

from edgemodel_api.formats import Format
from edgemodel_api.report import CompressionReport, Diagnosis, Measurement, Original, QualityBasis, QualityKind
from edgemodel_cli import tables
from edgemodel_cli.model_options import in_options
from edgemodel_cli.results import NodeRow, VariantRow, WaveRow

TOP1 = QualityBasis(kind=QualityKind.LABELS, metric="Top1", samples=100)
AGREEMENT = QualityBasis(kind=QualityKind.AGREEMENT, metric="Top1", samples=100)
MSE = QualityBasis(kind=QualityKind.LABELS, metric="MeanSquaredError", higher_is_better=False)
SOURCE = VariantRow("linux/amd64", "source", "sha256:a", 4096, 0.8, None, 0.002, accepted=True)
INT8 = VariantRow(
    "linux/amd64", "int8", "sha256:b", 1024, 0.796, 0.005, 0.001, accepted=True, chosen_for=("amd64-vnni",)
)
INT4 = VariantRow("linux/amd64", "int4", None, 600, 0.5, 0.375, None, reason="quality drops by 37.5%")


def shown(renderable) -> list[list[str]]:
    """Cells of each line, split at two or more spaces."""
    out = io.StringIO()
    Console(file=out, width=220, color_system=None).print(renderable)
    return [[c.strip() for c in line.split("  ") if c.strip()] for line in out.getvalue().splitlines() if line.strip()]


def test_variants():
    lines = shown(tables.variants_table([SOURCE, INT8, INT4], TOP1))
    assert lines[0] == ["Variants for linux/amd64"]
    assert lines[1] == ["Variant", "Stored", "Smaller", "Top1", "Drop", "Latency", "Of source", "Verdict"]
    assert lines[3] == ["source", "4.0 KiB", "1.00×", "80.00 %", "–", "2.00 ms", "1.00×", "accepted"]
    assert lines[4] == ["int8", "1.0 KiB", "4.00×", "79.60 %", "0.50 %", "1.00 ms", "0.50×", "chosen for amd64-vnni"]
    assert lines[5] == ["int4", "600 B", "6.83×", "50.00 %", "37.50 %", "–", "–", "refused"]
    assert lines[6:] == [["int4: quality drops by 37.5%"]]


def test_sizes_are_compared_on_the_same_platform():
    arm = VariantRow("linux/arm64", "source", "sha256:c", 8192, accepted=True)
    arm8 = VariantRow("linux/arm64", "int8", "sha256:d", 1024, accepted=True)
    lines = shown(tables.variants_table([SOURCE, INT8, arm, arm8], TOP1))
    assert lines[0] == ["Variants"]
    assert [(line[0], line[3]) for line in lines[3:]] == [
        ("linux/amd64", "1.00×"), ("linux/amd64", "4.00×"), ("linux/arm64", "1.00×"), ("linux/arm64", "8.00×"),
    ]  # fmt: skip


def test_the_file_that_was_given_has_a_row_of_its_own():
    given = Original(
        format=Format.TFLITE, sha256="", size_bytes=2048, max_error=2e-7, cases=24, ran_with="LiteRT 2.3.0"
    )
    lines = shown(tables.variants_table([SOURCE, INT8], TOP1, given))
    assert lines[3] == ["source (TFLite)", "2.0 KiB", "2.00×", "–", "–", "–", "–", "as given"]
    assert lines[6] == ["source (TFLite): read as ONNX: relative error 2e-07 on 24 rows, run by LiteRT 2.3.0"]
    assert shown(tables.variants_table([SOURCE], None, given.replace(size_bytes=0)))[3][1:3] == ["–", "–"]
    assert tables.basis(None) == (None, None)


def test_messages_are_put_in_the_words_of_whoever_asked():
    report = CompressionReport(
        quality=TOP1,
        source=Measurement(size_bytes=1, file_bytes=1),
        diagnosis=Diagnosis(nearest="a", gates=("maxSize",), suggestions=("maxSize 2Ki would do",)),
        warnings=("give data.calibration",),
    )
    assert shown(tables.warnings_lines(report, in_options)) == [["warning: give --calibration"]]
    assert shown(tables.diagnosis_lines(report, in_options)) == [
        ["nearest: a (misses --max-size)"], ["or: --max-size 2Ki would do"],
    ]  # fmt: skip


QUALITIES = {
    "share": (0.8, TOP1, "80.00 %"),
    "agreement": (1.0, AGREEMENT, "100.00 %"),
    "share of the first three": (0.8, TOP1.replace(metric="Top3"), "80.00 %"),
    "same answer": (0.8, AGREEMENT.replace(metric="SameArgMax"), "80.00 %"),
    "error": (0.01234567, MSE, "0.01235"),
    "unknown": (None, TOP1, "–"),
    "no basis": (0.5, None, "0.5"),
}


@pytest.mark.parametrize(("value", "basis", "text"), QUALITIES.values(), ids=QUALITIES)
def test_quality(value, basis, text):
    assert tables.format_quality(value, basis) == text


def test_agreement_is_called_so():
    assert tables.quality_title(AGREEMENT) == "Agreement with source (Top1)"


def test_a_drop_below_zero_is_a_gain():
    row = VariantRow("linux/amd64", "better", "sha256:e", 1, 0.81, -0.0125, accepted=True)
    assert "-1.25 %" in shown(tables.variants_table([SOURCE, row], TOP1))[4]


def test_nodes():
    rows = [
        NodeRow("n1", "Serving", "r2", "int8", "http://127.0.0.1:1/v2/models/m", reason="Serving"),
        NodeRow("n2", "Failed", "r1", "int8", "http://127.0.0.1:2/v2/models/m", reason="GoldenMismatch"),
        NodeRow("n3", "Offline"),
    ]
    lines = shown(tables.nodes_table(rows))
    assert lines[3] == ["n1", "Serving", "r2", "int8", "http://127.0.0.1:1/v2/models/m"]
    assert lines[4][:3] == ["n2", "Failed (GoldenMismatch)", "r1"]
    assert lines[5] == ["n3", "Offline", "–", "–", "–"]


def test_of_many_nodes_the_troubled_ones_are_shown():
    rows = [NodeRow(f"n{i:03}", "Failed" if i == 77 else "Serving") for i in range(100)]
    lines = shown(tables.nodes_table(rows))
    assert any(line[:2] == ["n077", "Failed"] for line in lines)
    assert lines[-1] == ["… and 60 more nodes"]


def test_waves():
    lines = shown(tables.waves_table([WaveRow(("n1",), 1, "30s", "Done"), WaveRow(("n2", "n3"), 3, "0s", "Active")]))
    assert lines[3:] == [["1", "n1", "1", "30s", "Done"], ["2", "n2, n3", "3", "0s", "Active"]]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "–"), (2, "0, 1"), (6, "0, 1, 2, 3, 4, 5"), (9, "0, 1, 2, 3, 4 and 4 more")]
)
def test_names(count, text):
    assert tables.names([str(i) for i in range(count)]) == text


def test_hostile_names_are_no_markup():
    row = VariantRow("linux/amd64", "x", reason="[red]not markup[/red]")
    assert shown(tables.variants_table([row], None))[-1] == ["x: [red]not markup[/red]"]


def test_why_nothing_passed():
    found = Diagnosis(
        nearest="int8",
        missing={"maxQualityDrop": 0.231},
        costly_layers=("conv1", "conv2"),
        suggestions=("maxQualityDrop 1.24% would let int8 through", "more samples"),
    )
    source = Measurement(size_bytes=1, file_bytes=1)
    lines = shown(tables.diagnosis_lines(CompressionReport(quality=TOP1, source=source, diagnosis=found)))
    assert lines == [
        ["nearest: int8 (misses maxQualityDrop by 23.1% of its limit)"],
        ["layers that cost most quality: conv1, conv2"],
        ["or: maxQualityDrop 1.24% would let int8 through"],
        ["or: more samples"],
    ]
    assert (
        shown(tables.diagnosis_lines(None))
        == shown(tables.diagnosis_lines(CompressionReport(quality=TOP1, source=source)))
        == []
    )
