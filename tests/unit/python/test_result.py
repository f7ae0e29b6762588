"""What `compress()` returns: rows, files, a page, and how it looks."""

from dataclasses import asdict

import pytest

from edgemodel import Compressed, CompressionRefusedError, InputError, RefusedError


def test_rows_are_the_source_then_the_best(make_done):
    rows = Compressed(make_done()).candidates
    assert [(r.name, r.format, r.accepted) for r in rows] == [
        ("source", "ONNX", True),
        ("int8", "ONNX", True),
        ("tflite-int8", "TFLite", True),
        ("slow", "ONNX", False),
        ("<b>int4</b>", "ONNX", False),
    ]
    best = asdict(rows[1])
    assert (best["smaller"], best["quality_drop"], best["sparsity"], best["chosen"]) == (4.0, 0.005, 0.6, True)
    assert best["recipe"] == "prune 60%; quantize Int8"
    assert rows[-1].why == "maxQualityDrop: quality drops by 40%"
    assert rows[-1].size_bytes is None


def test_files_by_format_and_by_platform(make_done, tmp_path, monkeypatch):
    here = []
    monkeypatch.setattr("edgemodel.result.hardware.detect", lambda: make_done().report.host.replace(platform=here[-1]))
    out = tmp_path / "out"
    for platform, name in (
        ("linux/amd64", "tiny.onnx"),
        ("linux/arm64", "tiny-linux-arm64.onnx"),
        ("x/y", "tiny.onnx"),
    ):
        here.append(platform)
        done = Compressed(make_done())
        assert done.path == out / name
        assert done.files == {"ONNX": out / name, "TFLite": out / "tiny.tflite"}
        assert done.targets == {"linux/amd64": out / "tiny.onnx", "linux/arm64": out / "tiny-linux-arm64.onnx"}
    assert done.reference == f"oci-layout://{out}:0123456789ab"


def test_it_looks_like_the_command_line(make_done):
    text = repr(Compressed(make_done()))
    assert "Variants" in text
    assert "int8" in text
    assert "warning: only 100 samples" in text
    assert text.splitlines()[-1].startswith("TFLite: ")
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_a_notebook_gets_a_table_in_which_names_are_text(make_done):
    html = Compressed(make_done())._repr_html_()
    assert html.count("<tr>") == 6
    assert "<td>&lt;b&gt;int4&lt;/b&gt;</td>" in html
    assert "<b>" not in html
    assert "<td>4.00×</td>" in html


def test_the_page(make_done, tmp_path):
    path = Compressed(make_done()).save_html(tmp_path / "r.html")
    assert path == tmp_path / "r.html"
    assert path.read_text().startswith("<!")
    with pytest.raises(InputError, match="cannot be written"):
        Compressed(make_done()).save_html("/proc/none/r.html")


def test_a_refusal_has_what_was_found(make_done):
    refused = CompressionRefusedError(make_done(accepted=False))
    assert (refused.exit_code, refused.accepted) == (1, False)
    assert len(refused.candidates) == 5
    assert "BudgetExceeded: none of 3" in Compressed.__mro__[1].__repr__(refused)
    with pytest.raises(RefusedError, match="none of 3"):
        _ = CompressionRefusedError(make_done(accepted=False, report=False)).report
