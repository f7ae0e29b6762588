"""What `compress()` returns: rows, files, a page, and how it looks."""

from dataclasses import asdict, replace

import pytest

from edgemodel import Compressed, CompressionRefusedError, InputError, RefusedError
from edgemodel.api import in_python
from edgemodel_api.formats import Format
from edgemodel_api.report import Original


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


def test_the_file_that_was_given_comes_after_the_source(make_done):
    done = make_done()
    given = Original(format=Format.TFLITE, sha256="", size_bytes=2000, file_bytes=2100, max_error=1e-7, cases=8)
    found = Compressed(replace(done, report=done.report.replace(original=given)))
    source, original, *_ = found.candidates
    assert (source.name, original.name, original.format) == ("source", "source (TFLite)", "TFLite")
    assert (original.size_bytes, original.file_bytes, original.smaller, original.quality) == (2000, 2100, 2.0, None)
    assert "source (TFLite)" in repr(found)
    assert "<td>as given</td>" in found._repr_html_()


def test_messages_are_in_the_words_of_the_call(make_done):
    done = make_done(accepted=False)
    result = done.result.replace(message="more than maxSize 1Mi: raise it")
    report = done.report.replace(warnings=("give data.calibration",))
    refused = CompressionRefusedError(replace(done, result=result, report=report, words=in_python))
    assert refused.message == "more than max_size 1Mi: raise it"
    assert "BudgetExceeded: more than max_size 1Mi" in refused._repr_html_()
    assert "warning: give calibration" in refused._repr_html_()
    assert {row.why.partition(":")[0] for row in refused.candidates if row.why} == {"max_slowdown", "max_quality_drop"}
    assert refused.report.warnings == ("give data.calibration",), "the report keeps the manifest's words"


def test_where_no_onnx_file_is_laid_out_it_says_why(make_done):
    done = replace(make_done(), left_out="none of 3 candidates keeps maxSlowdown", words=in_python)
    assert "no ONNX file: none of 3 candidates keeps max_slowdown" in repr(Compressed(done))


def test_a_refusal_has_what_was_found(make_done):
    refused = CompressionRefusedError(make_done(accepted=False))
    assert (refused.exit_code, refused.accepted) == (1, False)
    assert len(refused.candidates) == 5
    assert "BudgetExceeded: none of 3" in Compressed.__mro__[1].__repr__(refused)
    with pytest.raises(RefusedError, match="none of 3"):
        _ = CompressionRefusedError(make_done(accepted=False, report=False)).report
