"""A command line that names a model means the same as a manifest."""

from pathlib import Path

import pytest

from edgemodel_api.edgemodel import Metric, Objective, Precision
from edgemodel_api.errors import InputError
from edgemodel_api.manifest import load
from edgemodel_cli.model_options import FIELDS, STEPS, ModelOptions, edge_model, manifest_text, name_of

WHOLE = ModelOptions(
    model=Path("a b%c.onnx"),
    validation=Path("v.npz"),
    labels="y",
    metric="F1",
    calibration=Path("c.npz"),
    objective="Fastest",
    max_quality_drop="0.5%",
    max_size="20Mi",
    max_latency="5ms",
    max_memory="200Mi",
    max_slowdown="3%",
    prune="60%",
    quantize="Int8",
)


def test_every_option_has_its_place():
    model = edge_model(WHOLE)
    assert (model.metadata.name, model.spec.source.uri) == ("a-b-c", "file:a b%25c.onnx")
    data, compression = model.spec.data, model.spec.compression
    assert (data.validation.labels, data.validation.metric, data.calibration.uri) == ("y", Metric.F1, "file:c.npz")
    assert compression.objective is Objective.FASTEST
    assert compression.budget.to_json() == {
        "maxQualityDrop": "0.5%", "maxSize": "20Mi", "maxLatency": "5ms", "maxMemory": "200Mi", "maxSlowdown": "3%",
    }  # fmt: skip
    prune, quantize = compression.steps
    assert (prune.prune.sparsity, quantize.quantize.precision) == ("60%", Precision.INT8)
    assert set(WHOLE.given()) == {f"--{n.replace('_', '-')}" for n in (*FIELDS, *STEPS)}


def test_a_name_that_yaml_takes_for_a_truth_is_quoted():
    assert "labels: 'y'" in manifest_text(WHOLE)


@pytest.mark.parametrize("options", [WHOLE, ModelOptions(Path("m.onnx"))], ids=["all", "none"])
def test_the_manifest_that_is_shown_means_the_same(options):
    assert load(manifest_text(options)) == edge_model(options)


COMPLAINTS = {
    "percentage": ({"max_quality_drop": "5"}, '--max-quality-drop 5: "5" is not a percentage'),
    "quantity": ({"max_size": "20Q"}, '--max-size 20Q: "20Q" is not a quantity'),
    "step": ({"quantize": "int8"}, "--quantize int8: .*did you mean Int8"),
    "second step": ({"prune": "50%", "quantize": "Int9"}, "--quantize Int9: "),
    "metric": ({"validation": Path("v"), "metric": "top1"}, "--metric top1: .*did you mean Top1"),
    "labels without data": ({"labels": "y"}, "give that file too"),
}


@pytest.mark.parametrize(("options", "message"), COMPLAINTS.values(), ids=COMPLAINTS)
def test_a_complaint_names_the_option(options, message):
    with pytest.raises(InputError, match=message):
        edge_model(ModelOptions(Path("m.onnx"), **options))


@pytest.mark.parametrize(
    ("file", "name"),
    [("My Model_v2.onnx", "my-model-v2"), ("…onnx", "onnx"), ("ü.onnx", "model"), ("x" * 99 + ".onnx", "x" * 63)],
)
def test_a_name_that_kubernetes_takes(file, name):
    assert name_of(Path(file)) == name
