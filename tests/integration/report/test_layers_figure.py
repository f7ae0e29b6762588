"""Layers and kinds of CPU on the page: the figure, the columns, and numbers that mean no good."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from edgemodel_api.quantities import counted
from edgemodel_api.report import Layer, Verification, VerifiedHow
from edgemodel_cli.report import layers_figure, rows
from edgemodel_cli.report.sane import sane


def layer(name: str, size: int, error: float | None, seconds: float | None = None, **more: object) -> Layer:
    return Layer(name=name, node=name, op="Conv", shape=(4, 4), source_bytes=size, bytes=size // 4, sensitivity=error,
                 latency_seconds=seconds, **{"encoding": "int8", **more})  # fmt: skip


MANY = tuple(layer(f"/net/conv{i}", 1000 * (i + 1), 10.0 ** (-i % 5 - 1), 1e-4 * (i + 1)) for i in range(40))


def test_nothing_measured_is_no_figure() -> None:
    assert layers_figure.draw(()) is None
    assert layers_figure.draw((layer("a", 100, None), layer("b", 0, 0.1))) is None


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param((layer("a", 4096, 0.01, 0.002, quantized_latency_seconds=0.001),), id="one"),
        pytest.param((layer("a", 4096, 0.0), layer("b", 1, 1e6)), id="no times, extreme errors"),
        pytest.param((layer("a", 4096, None, 0.002), layer("b", 9, None, 1e-9)), id="no errors"),
        pytest.param(MANY, id="many"),
        pytest.param((layer("x" * 500, 2**40, 0.5, 100.0), layer("$a_{b}$<script>", 1, 0.5, 1e-6)), id="names"),
    ],
)
def test_the_figure_stands_alone_and_is_the_same_each_time(layers: tuple[Layer, ...]) -> None:
    found = layers_figure.draw(layers)
    assert found is not None
    assert found == layers_figure.draw(layers)
    assert found.startswith("<svg")
    assert "<script" not in found
    assert "nan" not in re.sub(r"<title>.*?</title>", "", found).lower()
    sensitive = [x for x in layers if x.sensitivity is not None]
    assert len(re.findall(r'id="l-layer\d+"', found)) == len(sensitive)
    assert f"of {counted(len(sensitive), 'layer')}" in found


def test_titles_have_all_numbers() -> None:
    one = layer("/net/conv", 4096, 0.01, 0.002, quantized_latency_seconds=0.001, quality_drop=0.004)
    found = layers_figure.draw((one,))
    assert "/net/conv · 4.0 KiB → 1.0 KiB as int8 · error 0.01 · quality drop 0.40 % · 2.00 ms → 1.00 ms" in found


VERIFIED = (
    Verification(hardware_class="amd64-vnni", how=VerifiedHow.NATIVE, cpu="Example", samples=32, quality=0.994,
                 quality_drop=0.0, max_error=0.0, holds=True),
    Verification(hardware_class="amd64-avx2", how=VerifiedHow.EMULATED, cpu="qemu 7.2.22 Haswell", samples=32,
                 quality=0.66, quality_drop=0.337, max_error=0.34, holds=False, message="quality drops by 33.70% there"),
    Verification(hardware_class="arm-v7", message="not verified: onnxruntime has no build for arm/v7 <b>"),
)  # fmt: skip


def test_each_kind_of_cpu_has_its_line(make: SimpleNamespace) -> None:
    plain = make.candidate("int8", 800_000).replace(verified=VERIFIED, repairs=("1 layer with 7-bit weights: mm",))
    best = make.candidate("int4", 500_000, chosen=True).replace(verified=VERIFIED[:1])
    report = make.report_of((plain, best))
    found = rows.verified_rows(report, frozenset({"int4"}))
    assert [(r.name, r.verdict, r.tone) for r in found] == [
        ("int4", "holds", "good"),
        ("int8", "holds", "good"),
        ("int8", "does not hold", "bad"),
        ("int8", "not run", "open"),
    ]
    assert [c.text for c in found[2].cells] == [
        "amd64-avx2", "emulated", "qemu 7.2.22 Haswell", "32", "66.00 %", "33.70 %", "0.34", "quality drops by 33.70% there",
    ]  # fmt: skip
    assert [c.text for c in found[3].cells][1:7] == ["no", "–", "–", "–", "–", "–"]
    row = next(r for r in rows.candidate_rows(report, frozenset()) if r.name == "int8")
    assert row.messages == ("Repaired: 1 layer with 7-bit weights: mm",)


def test_layer_rows_have_quality_and_time(make: SimpleNamespace) -> None:
    one = layer("a", 4096, 0.01, 0.002, quantized_latency_seconds=0.001, quality_drop=0.004)
    (row,) = rows.layer_rows((one,))
    assert dict(zip(rows.LAYER_COLUMNS, (c.text for c in row.cells), strict=True)) == {
        "Operator": "Conv", "Shape": "4 × 4", "Source": "4.0 KiB", "Stored": "1.0 KiB", "Smaller": "4.0×", "Zeros": "0.0 %",
        "Encoding": "int8", "Sensitivity": "0.01", "Drop": "0.40 %", "Time": "2.00 ms", "Time then": "1.00 ms",
    }  # fmt: skip
    (row,) = rows.layer_rows((layer("a", 4096, None),))
    assert [c.text for c in row.cells][-4:] == ["–"] * 4


def test_numbers_that_nothing_measured(make: SimpleNamespace) -> None:
    odd = layer("a", 10, -1.0, float("inf"), quality_drop=float("nan"), quantized_latency_seconds=-3.0)
    bad = VERIFIED[0].replace(samples=-5, quality=float("nan"), quality_drop=1e300, max_error=float("inf"))
    report = sane(make.report_of((make.candidate("c", 5).replace(verified=(bad,)),)).replace(layers=(odd,)))
    found = report.layers[0]
    assert (found.sensitivity, found.quality_drop) == (None, None)
    assert (found.latency_seconds, found.quantized_latency_seconds) == (None, None)
    seen = report.candidates[0].verified[0]
    assert (seen.samples, seen.quality, seen.quality_drop, seen.max_error) == (0, None, None, None)
