"""Whole Jobs in this process: explicit steps, search, refusals, artifacts."""

import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgemodel_api.errors import InputError
from edgemodel_api.job import Outcome
from edgemodel_api.report import CompressionReport, QualityKind
from edgemodel_compressor import formats
from edgemodel_compressor.pipeline import run_job
from edgemodel_oci.artifact import fetch_model_file, read_index, read_report, read_variant
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import open_repository

PRUNE = {"prune": {"sparsity": "50%", "granularity": "Global"}}
WEIGHTS = {"quantize": {"precision": "Int8", "activations": "None"}}
STATIC = {"quantize": {"precision": "Int8", "activations": "Static"}}


def steps(*some):
    return {"steps": list(some)}


@pytest.fixture
def layout(lab):
    def opened(output="layout"):
        return open_repository(Reference.parse(f"oci-layout://{lab.folder / output}"))

    return opened


def test_explicit_steps_make_an_artifact(lab, layout, tmp_path):
    result, report = lab.run(lab.job(compression=steps(PRUNE, WEIGHTS)))
    assert result.outcome is Outcome.SUCCEEDED
    assert [v.name for v in result.variants] == ["source", "int8-weights-prune50"]
    source, variant = result.variants
    assert variant.size_bytes < source.size_bytes / 4
    assert variant.accepted
    assert abs(variant.quality - source.quality) < 0.02
    assert report.quality.kind is QualityKind.LABELS
    assert report.source.quality_low < report.source.quality < report.source.quality_high
    (candidate,) = report.candidates
    assert 0.45 < candidate.measurement.sparsity < 0.55
    assert candidate.measurement.peak_memory_bytes > 2**20
    assert candidate.digest == variant.digest
    with layout() as repo:
        index = read_index(repo, result.digest)
        assert index.descriptor.digest == read_index(repo, lab.job().revision).descriptor.digest == result.digest
        assert [v.digest for v in index.variants] == [source.digest, variant.digest]
        assert CompressionReport.model_validate_json(read_report(repo, result.digest)) == report
        stored = read_variant(repo, variant.digest)
        assert stored.weight.size == variant.size_bytes
        assert stored.golden_spec.max_error >= 1e-3
        fetch_model_file(repo, variant.digest, tmp_path / "pulled.onnx", max_bytes=2**24)
        fetch_model_file(repo, source.digest, tmp_path / "source.onnx", max_bytes=2**24)
    assert (tmp_path / "source.onnx").read_bytes() == (lab.digits / "model.onnx").read_bytes()
    session = ort.InferenceSession(str(tmp_path / "pulled.onnx"), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.zeros((2, 64), np.float32)})[0].shape == (2, 10)


def test_layers_tell_what_became_of_each_weight(lab):
    _, report = lab.run(lab.job(compression=steps(PRUNE, WEIGHTS)))
    assert [(layer.name, layer.node, layer.op) for layer in report.layers] == [
        (f"w{i}", f"dense{i}", "Gemm") for i in range(3)
    ]
    assert {layer.encoding for layer in report.layers} == {"int8"}
    assert all(0 < layer.bytes < layer.source_bytes for layer in report.layers)
    assert all(layer.sensitivity is not None and layer.sensitivity >= 0 for layer in report.layers)
    zeros = sum(layer.sparsity * np.prod(layer.shape) for layer in report.layers)
    assert zeros / sum(np.prod(layer.shape) for layer in report.layers) >= 0.49


def test_a_prune_only_recipe_shrinks_what_is_stored(lab):
    result, report = lab.run(lab.job(compression=steps(PRUNE)))
    (candidate,) = report.candidates
    assert candidate.encoding == "float32"
    assert candidate.measurement.size_bytes < 0.7 * report.source.size_bytes
    assert [v.name for v in result.variants] == ["source", "prune50"]


def test_static_gives_each_class_its_encoding(lab, layout):
    result, _ = lab.run(lab.job(compression=steps(STATIC), platforms=["linux/amd64", "linux/arm64"]))
    classes = {(v.platform, v.name): v.hardware_classes for v in result.variants if v.digest}
    assert classes["linux/amd64", "int8-static-u8s8"] == ("amd64-vnni",)
    assert classes["linux/amd64", "int8-static-u8u8"] == ()
    assert classes["linux/arm64", "int8-static-s8s8"] == ()
    assert ("linux/arm64", "int8-static-u8s8") not in classes
    assert {p for p, name in classes if name == "source"} == {"linux/amd64", "linux/arm64"}
    with layout() as repo:
        assert {read_variant(repo, v.digest).platform for v in read_index(repo, result.digest).variants} == {
            "linux/amd64",
            "linux/arm64",
        }


def test_local_quantizes_as_many_of_the_least_sensitive_nodes_as_the_budget_allows(lab):
    # Agreement: Int4 on everything changes answers, on some nodes it does not have to.
    local = {"quantize": {"scope": "Local", "precision": "Int4", "activations": "None"}}
    _, report = lab.run(lab.job(labels=None, budget={"maxQualityDrop": "0.1%"}, compression=steps(local)))
    whole, *partial = report.candidates
    assert not whole.accepted
    assert whole.quantized_nodes == 3
    assert partial
    assert all(0 < c.quantized_nodes < 3 for c in partial)


def test_search_finds_something_small_within_the_budget(lab):
    result, report = lab.run(lab.job())
    assert result.outcome is Outcome.SUCCEEDED
    chosen = next(c for c in report.candidates if c.chosen)
    assert chosen.measurement.size_bytes < report.source.size_bytes / 5
    assert chosen.measurement.quality_drop <= 0.02
    assert chosen.measurement.samples == report.quality.samples
    names = [v.name for v in result.variants if v.digest]
    assert names[0] == "source"
    assert 3 <= len(names) <= 6
    assert any(not v.hardware_classes for v in result.variants if v.digest and v.name != "source")
    assert any(c.on_front for c in report.candidates)
    in_artifact = [c for c in report.candidates if c.digest]
    assert {c.name for c in in_artifact} == set(names[1:])
    assert all(c.accepted and c.measurement.samples == report.quality.samples for c in in_artifact)


def test_refusal_names_the_nearest_number_and_limit(lab):
    rough = {"quantize": {"precision": "Int4", "activations": "None"}}
    prune = {"prune": {"sparsity": "95%"}}
    result, report = lab.run(lab.job(budget={"maxQualityDrop": "1%"}, compression=steps(prune, rough)))
    assert result.outcome is Outcome.REFUSED
    assert result.reason == "BudgetExceeded"
    assert "more than maxQualityDrop 1%" in result.message
    assert f"{report.candidates[0].measurement.quality_drop:.2%}" in result.message
    assert [v.digest for v in result.variants] == [None]
    assert (
        not (lab.folder / "layout" / "index.json").exists()
        or b"0123456789ab" not in (lab.folder / "layout" / "index.json").read_bytes()
    )


SIZES = {
    "maxSize": ({"maxQualityDrop": "5%", "maxSize": "1Ki"}, WEIGHTS, r"more than maxSize 1Ki \(1024 bytes\)"),
    "nothing saved": ({"maxQualityDrop": "5%"}, {"prune": {"sparsity": "0%"}}, r"not smaller than the source's \d+"),
}


@pytest.mark.parametrize(("budget", "step", "message"), SIZES.values(), ids=SIZES)
def test_size_gates(lab, budget, step, message):
    result, _ = lab.run(lab.job(budget=budget, compression=steps(step)))
    assert result.outcome is Outcome.REFUSED
    assert re.search(message, result.message)


def test_two_runs_give_the_same_index(lab):
    one, _ = lab.run(lab.job(output="one"))
    two, _ = lab.run(lab.job(output="two"))
    assert one.digest == two.digest
    assert [v.digest for v in lab.index("one").variants] == [v.digest for v in lab.index("two").variants]


def test_the_same_revision_is_not_built_twice(lab, digits, tmp_path):
    job = lab.job(compression=steps(PRUNE, WEIGHTS))
    first, report = lab.run(job)
    # Without its source nothing could be built.
    again, stored = lab.run(job.replace(base_dir=str(tmp_path / "nowhere")))
    assert again == first
    assert stored == report
    with pytest.raises(InputError):
        lab.run(job.replace(base_dir=str(tmp_path / "nowhere"), revision="other"))


def test_a_damaged_revision_is_built_again(lab, layout):
    job = lab.job(compression=steps(PRUNE, WEIGHTS))
    first, _ = lab.run(job)
    with layout() as repo:
        weight = read_variant(repo, first.variants[1].digest).weight.digest
    blob = lab.folder / "layout" / "blobs" / "sha256" / weight.removeprefix("sha256:")
    blob.unlink()
    again, _ = lab.run(job)
    assert again.digest == first.digest
    assert blob.exists()


def test_without_labels_quality_is_agreement_and_says_so(lab):
    result, report = lab.run(lab.job(labels=None, compression=steps(WEIGHTS)))
    assert report.quality.kind is QualityKind.AGREEMENT
    assert report.source.quality == 1
    assert any("agreement with the source" in w for w in report.warnings)
    assert result.outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    "quantize", [{"precision": "Int4"}, {"precision": "Int8", "activations": "None"}, {"precision": "Float16"}]
)
def test_steps_are_rounded_by_the_calibration_data(lab, quantize):
    job = lab.job(compression=steps(PRUNE, {"quantize": quantize}), budget={"maxQualityDrop": "90%"})
    _, report = lab.run(job)
    (candidate,) = report.candidates
    told = [n for n in candidate.notes if "rounded so that the calibration data gives nearly the same answers" in n]
    assert len(told) == (quantize["precision"] != "Float16")
    # In another output there is nothing to find; without the data, nothing to round by.
    plainly = job.replace(data=job.data.replace(calibration=None), output=f"oci-layout://{lab.folder / 'plain'}")
    _, other = lab.run(plainly)
    assert not any("rounded so that" in n for n in other.candidates[0].notes)
    assert candidate.measurement.sparsity == other.candidates[0].measurement.sparsity
    assert candidate.measurement.quality >= other.candidates[0].measurement.quality - 0.01


def test_without_any_data(lab):
    result, report = lab.run(lab.job(with_data=False, budget={"maxQualityDrop": "10%"}))
    assert result.outcome is Outcome.SUCCEEDED
    assert any("random numbers" in w for w in report.warnings)
    assert not any("static" in c.name for c in report.candidates)


def test_few_samples_warn_how_many_would_do(lab, digits):
    data = np.load(digits / "validation.npz")
    np.savez(lab.folder / "few.npz", x=data["x"][:40], y=data["y"][:40])
    validation = {"uri": f"file:{lab.folder / 'few.npz'}", "labels": "y"}
    job = lab.job(compression=steps(WEIGHTS), data={"validation": validation})
    _, report = lab.run(job)
    assert any("no data.calibration" in w for w in report.warnings)
    assert any("40 samples tell the quality drop" in w and "samples would settle it" in w for w in report.warnings)


def test_a_fixed_batch(lab):
    result, report = lab.run(lab.job(model="fixed.onnx", compression=steps(STATIC)))
    assert result.outcome is Outcome.SUCCEEDED
    assert report.quality.samples % 4 == 0


def test_fastest_orders_by_latency(lab):
    result, report = lab.run(lab.job(compression={"objective": "Fastest"}))
    latencies = [v.latency_median_seconds for v in result.variants if v.digest and v.name != "source"]
    assert latencies == sorted(latencies)
    assert report.objective == "Fastest"


@pytest.mark.parametrize(("wanted", "extra"), [(["ONNX", "TFLite"], "tflite"), (["CoreML"], "coreml")])
def test_a_format_without_its_library_is_refused_before_any_work(lab, monkeypatch, wanted, extra):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    monkeypatch.setattr(formats.platform, "machine", lambda: "x86_64")
    said = []
    with pytest.raises(InputError) as caught:
        run_job(lab.job(formats=wanted), work_dir=lab.work, progress=said.append)
    assert caught.value.reason == "NotSupported"
    assert f"install the extra `edgemodel[{extra}]` where the Job runs" in caught.value.message
    assert f"take {wanted[-1]} out of spec.formats" in caught.value.message
    assert not said
    assert not (lab.folder / "layout").exists()


def test_wrong_order_of_steps_is_bad_input(lab):
    with pytest.raises(InputError, match="put prune steps before quantize steps"):
        lab.run(lab.job(compression=steps(WEIGHTS, PRUNE)))


def test_the_source_is_never_changed(lab):
    before = (lab.digits / "model.onnx").read_bytes()
    lab.run(lab.job(compression=steps(PRUNE, STATIC)))
    assert (lab.digits / "model.onnx").read_bytes() == before
    onnx.checker.check_model(onnx.load(lab.digits / "model.onnx"))


NAMES = {
    "node": ({"nodes": ["dens0"]}, r"steps\[1\].quantize.exclude.nodes names 'dens0'.*nearest is 'dense0'"),
    "operator": ({"ops": ["Gem"]}, r"steps\[1\].quantize.exclude.ops names 'Gem'.*nearest is 'Gemm'"),
    "what another step has is no excuse": (
        {"nodes": ["relu0", "h0"]},
        r"names 'h0', which the model does not have",
    ),
}


@pytest.mark.parametrize(("exclude", "message"), NAMES.values(), ids=NAMES)
def test_names_that_the_model_lacks_are_typing_errors(lab, exclude, message):
    with pytest.raises(InputError, match=message):
        lab.run(lab.job(compression=steps(PRUNE, {"quantize": {"activations": "None", "exclude": exclude}})))


def test_pruning_nothing_is_bad_input(lab):
    nothing = {"prune": {"sparsity": "50%", "exclude": {"ops": ["Gemm"]}}}
    with pytest.raises(InputError, match="nothing to prune"):
        lab.run(lab.job(compression=steps(nothing)))
