"""Whole Jobs with formats besides ONNX, into a real layout, their files run from there."""

import zipfile

import numpy as np
import onnx
import pytest

from edgemodel_api.artifact import MODEL_FILES
from edgemodel_api.edgemodel import Format
from edgemodel_api.errors import InputError
from edgemodel_api.job import Outcome
from edgemodel_compressor import summary
from edgemodel_compressor.formats import coreml, tflite
from edgemodel_oci.artifact import read_index, read_variant
from edgemodel_oci.golden import compare_outputs, load_golden, run_cases
from edgemodel_oci.pack import unpack_file
from edgemodel_oci.pull import fetch_blob

#: A conversion takes a second, and there are a dozen.
pytestmark = pytest.mark.timeout(400)
LIMIT = 0.02
OPENED = {Format.TFLITE: tflite.open_run, Format.COREML: coreml.open_run}


@pytest.fixture(scope="module")
def everything(digits, tmp_path_factory, make_lab):
    """(lab, result, report) of a Job with all formats."""
    lab = make_lab(digits, tmp_path_factory.mktemp("everything"))
    return (lab, *lab.run(lab.job("ONNX", "TFLite", "CoreML")))


def unpacked(lab, digest, folder):
    """(variant, its model file, its golden file)."""
    with lab.open() as repo:
        variant = read_variant(repo, digest)
        for blob, name in ((variant.weight, "layer"), (variant.golden, "golden.npz")):
            fetch_blob(repo, blob, folder / name)
    path = folder / variant.file_name
    unpack_file(folder / "layer", path, file_digest=variant.file_digest, file_size=variant.file_size)
    return variant, path, folder / "golden.npz"


def test_each_format_has_variants_under_its_platforms(everything):
    lab, result, _ = everything
    assert result.outcome is Outcome.SUCCEEDED
    found = lab.variants()
    assert found[0] == ("linux/amd64", "source", "ONNX", "float32")
    assert {(p, f) for p, _, f, _ in found} == {
        ("linux/amd64", "ONNX"),
        ("linux/amd64", "TFLite"),
        ("darwin/arm64", "CoreML"),
    }
    assert ("linux/amd64", "tflite-int8-weights", "TFLite", "int8-weights") in found
    stored = [v for v in result.variants if v.digest]
    assert [(v.platform, v.name) for v in stored if v.format is None] == [
        ("linux/amd64", "source"),
        ("linux/amd64", "int8-weights"),
    ]
    assert len(stored) == len(found)
    assert len(summary.to_bytes(result)) <= 4096


def test_each_published_file_keeps_its_golden_limits_in_its_own_runtime(everything, tmp_path):
    lab, result, report = everything
    rows = {c.name: c for c in report.conversions}
    tried = 0
    for v in (v for v in result.variants if v.digest and v.format):
        folder = tmp_path / v.name
        folder.mkdir()
        variant, path, golden = unpacked(lab, v.digest, folder)
        assert (variant.format, path.name) == (v.format, MODEL_FILES[v.format])
        inputs, outputs, cases = load_golden(golden)
        score = compare_outputs(run_cases(OPENED[v.format](path), inputs), outputs, cases)
        assert score.passes(variant.golden_spec)
        # The limit is this file's, not a constant that anything passes.
        assert variant.golden_spec.max_error <= max(1e-3, 2.2 * score.error)
        row = rows[v.name]
        assert (row.digest, row.size_bytes, row.file_bytes) == (v.digest, variant.weight.size, path.stat().st_size)
        assert row.accepted
        assert row.size_bytes < report.source.size_bytes
        tried += 1
    assert tried >= 4


def test_a_tflite_file_is_judged_on_all_validation_data(everything, tmp_path):
    lab, result, report = everything
    row = next(c for c in report.conversions if c.name == "tflite-int8-weights")
    _, path, _ = unpacked(lab, row.digest, tmp_path)
    with np.load(lab.digits / "validation.npz") as data:
        answers = tflite.run(path, {"x": data["x"]})["y"]
        right = float((answers.argmax(-1) == data["y"]).mean())
    assert row.quality == pytest.approx(right)
    assert row.quality_drop == pytest.approx((report.source.quality - right) / report.source.quality)
    assert row.ran_with == tflite.runtime()
    assert next(v.quality for v in result.variants if v.name == row.name) == pytest.approx(right, abs=1e-5)


def test_core_ml_says_that_it_was_not_run(everything):
    _, _, report = everything
    rows = [c for c in report.conversions if c.format == "CoreML"]
    assert {c.encoding for c in rows} == set(coreml.ENCODINGS) - {"sparse"}
    for c in rows:
        assert "not run on Core ML" in c.ran_with
        assert c.digest is None or c.quality is not None or c.encoding in ("float16", "float32")
        # On all the data are judged the smallest, until enough of them hold.
        assert c.quality is None or c.encoding not in ("float16", "float32")
        assert 0 < c.cases <= 32
        assert c.accepted == (c.quality_drop <= LIMIT and c.size_bytes < report.source.size_bytes)
        # The golden cases are the easy part: the samples that the source is least sure of count too.
        assert c.quality is not None or c.quality_drop >= 1 - c.agreement - 1e-9
    coarse = next(c for c in rows if c.encoding == "palettized-2")
    assert not coarse.accepted
    assert "more than maxQualityDrop 2%" in coarse.message
    assert f"{coarse.quality_drop:.2%}" in coarse.message
    assert "golden cases" in coarse.message
    assert any("Core ML was not run" in w for w in report.warnings)


def test_every_encoding_has_a_row_accepted_or_not(everything):
    _, result, report = everything
    rows = {c.encoding: c for c in report.conversions if c.format == "TFLite"}
    assert set(rows) == set(tflite.ENCODINGS)
    assert rows["float32"].max_error < 1e-5
    assert not rows["float32"].accepted
    assert "not smaller than the source" in rows["float32"].message
    assert any(v.name == "tflite-float32" and not v.accepted and v.digest is None for v in result.variants)
    assert report.runtimes.keys() >= {"ai-edge-litert", "coremltools"}
    assert "tflite-int8-weights: " in result.message
    assert "coreml-" in result.message


def test_the_same_job_gives_the_same_digest_whatever_the_order_of_formats(everything, lab):
    _, first, _ = everything
    second, _ = lab.run(lab.job("CoreML", "TFLite", "ONNX"))
    assert second.digest == first.digest


def test_tflite_alone_has_a_source_of_its_own(lab, tmp_path):
    job = lab.job("TFLite")
    result, report = lab.run(job)
    assert result.outcome is Outcome.SUCCEEDED
    found = lab.variants()
    assert found[0] == ("linux/amd64", "source", "TFLite", "float32")
    assert {f for _, _, f, _ in found} == {"TFLite"}
    source = result.variants[0]
    assert (source.name, source.format, source.accepted) == ("source", Format.TFLITE, True)
    assert source.size_bytes == next(c.size_bytes for c in report.conversions if c.name == "source")
    variant, path, golden = unpacked(lab, source.digest, tmp_path)
    assert path.read_bytes()[4:8] == b"TFL3"
    inputs, outputs, cases = load_golden(golden)
    assert compare_outputs(run_cases(tflite.open_run(path), inputs), outputs, cases).error < 1e-5
    assert variant.golden_spec.max_error == 1e-3
    assert result.message.startswith("tflite-")
    assert not any(c.chosen or c.digest for c in report.candidates)
    assert any("formats names no ONNX" in w for w in report.warnings)
    # It is there: the second run answers the same without work.
    stages = []
    again, _ = lab.run(job, progress=lambda p: stages.append(p.stage))
    assert again == result
    assert stages == ["resolve"]


def test_core_ml_alone_stands_under_its_own_platform(lab):
    job = lab.job("CoreML", platforms=["linux/amd64", "linux/arm64"])
    result, _ = lab.run(job)
    assert result.outcome is Outcome.SUCCEEDED
    assert {(p, f) for p, _, f, _ in lab.variants()} == {("darwin/arm64", "CoreML")}
    assert result.variants[0].name == "source"
    stages = []
    again, _ = lab.run(job, progress=lambda p: stages.append(p.stage))
    assert again == result
    assert stages == ["resolve"]


def test_what_no_file_keeps_is_refused_with_its_numbers(lab):
    result, report = lab.run(lab.job("TFLite", budget={"maxQualityDrop": "2%", "maxSize": "1Ki"}))
    assert result.outcome is Outcome.REFUSED
    assert result.reason == "BudgetExceeded"
    assert "none of 3 TFLite files keeps the budget; the nearest is tflite-" in result.message
    assert "maxSize 1Ki" in result.message
    assert all(not c.accepted and c.digest is None for c in report.conversions)
    with lab.open() as repo, pytest.raises(InputError):
        read_index(repo, "0123456789ab")


def test_what_onnx_cannot_keep_tflite_may(lab):
    """Int4 in both ops of this model breaks the budget; a file of another format that keeps it is worth storing."""
    steps = [{"prune": {"sparsity": "95%"}}]
    result, report = lab.run(lab.job("ONNX", "TFLite", steps=steps, budget={"maxQualityDrop": "0%"}))
    assert not any(c.accepted for c in report.candidates)
    assert result.outcome is Outcome.SUCCEEDED
    assert lab.variants()[0][1:3] == ("source", "ONNX")
    assert {f for _, _, f, _ in lab.variants()[1:]} == {"TFLite"}
    # Pruned ones broke the budget, so the source was converted too.
    assert {c.candidate for c in report.conversions} == {"prune95", "source"}
    assert all(not c.accepted for c in report.conversions if c.candidate == "prune95")
    assert result.message.startswith("tflite-")


def test_the_pruned_model_is_what_is_converted(lab, tmp_path):
    steps = [{"prune": {"sparsity": "40%", "granularity": "Global"}}, {"quantize": {"activations": "None"}}]
    result, report = lab.run(lab.job("ONNX", "TFLite", "CoreML", steps=steps, budget={"maxQualityDrop": "10%"}))
    rows = {c.name: c for c in report.conversions}
    assert {"tflite-int8-weights-prune40", "coreml-sparse-prune40"} <= rows.keys()
    assert rows["tflite-int8-weights-prune40"].size_bytes < 0.9 * 4750
    assert rows["tflite-int8-weights-prune40"].max_error < 0.05
    assert any(v.name == "tflite-int8-weights-prune40" and v.digest for v in result.variants)


def test_operators_that_cannot_be_converted_are_listed_before_anything_is_measured(lab):
    stages = []
    with pytest.raises(InputError) as error:
        lab.run(lab.job("ONNX", "TFLite", "CoreML", model="bad.onnx"), progress=lambda p: stages.append(p.stage))
    assert error.value.reason == "NotSupported"
    text = error.value.message
    assert "node determinant (Det)" in text
    assert "node 'determinant' (Det)" in text
    assert "cannot be converted to TFLite" in text
    assert "take CoreML out of spec.formats" in text
    assert "source" not in stages
    result, _ = lab.run(lab.job("ONNX", model="bad.onnx"))
    assert result.outcome is Outcome.SUCCEEDED


def test_a_fixed_batch_stays(lab, tmp_path):
    _, report = lab.run(lab.job("ONNX", "TFLite", model="fixed.onnx"))
    row = next(c for c in report.conversions if c.encoding == "int8-weights")
    assert row.accepted
    assert abs(row.quality_drop) <= LIMIT
    variant, path, golden = unpacked(lab, row.digest, tmp_path)
    inputs, outputs, cases = load_golden(golden)
    score = compare_outputs(run_cases(tflite.open_run(path), inputs, rows=4), outputs, cases)
    assert score.passes(variant.golden_spec)


def test_hostile_names_become_no_paths(lab, digits):
    """Names of tensors and nodes go into signatures and messages, never into the names of files."""
    model = onnx.load(digits / "model.onnx")
    odd = {"x": "x\n\x1b[31m", "y": "/etc/passwd", "scores": "s" * 20_000}
    for node in model.graph.node:
        node.name = f"../{node.name}\x07\u202e" + "n" * 5000
        for names in (node.input, node.output):
            names[:] = [odd.get(n, n) for n in names]
    for value in (*model.graph.input, *model.graph.output):
        value.name = odd.get(value.name, value.name)
    onnx.save(model, lab.folder / "model.onnx")
    with np.load(digits / "validation.npz") as data:
        np.savez(lab.folder / "validation.npz", **{odd["x"]: data["x"], "y": data["y"]})
        np.savez(lab.folder / "calibration.npz", **{odd["x"]: data["x"][:64]})
    before = set(lab.folder.parent.iterdir())
    result, report = lab.run(lab.job("ONNX", "TFLite", "CoreML", baseDir=str(lab.folder)))
    assert result.outcome is Outcome.SUCCEEDED
    assert len(summary.to_bytes(result)) <= 4096
    assert all(c.accepted or c.message for c in report.conversions)
    assert {c.format for c in report.conversions if c.digest} == {"TFLite", "CoreML"}
    assert set(lab.folder.parent.iterdir()) == before


def test_the_package_in_the_layer_is_a_zip_that_unpacks_to_one_folder(everything, tmp_path):
    lab, result, _ = everything
    digest = next(v.digest for v in result.variants if v.format is Format.COREML and v.digest)
    _, path, _ = unpacked(lab, digest, tmp_path)
    with zipfile.ZipFile(path) as archive:
        assert {n.split("/")[0] for n in archive.namelist()} == {"model.mlpackage"}


def test_a_free_axis_that_is_no_batch_is_fixed_by_the_data(lab, digits):
    model = onnx.load(digits / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    onnx.save(model, lab.folder / "free.onnx")
    job = lab.job("ONNX", "TFLite", source={"uri": f"file:{lab.folder / 'free.onnx'}"})
    result, report = lab.run(job)
    assert result.outcome is Outcome.SUCCEEDED
    assert any(c.accepted for c in report.conversions)
