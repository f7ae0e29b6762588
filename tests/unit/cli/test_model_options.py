"""A command line that names a model means the same as a manifest."""

import inspect
import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgemodel
from edgemodel_api.edgemodel import Activations, DistillMethod, Format, Metric, Objective, Precision, Structure
from edgemodel_api.errors import InputError
from edgemodel_api.manifest import load
from edgemodel_cli import main
from edgemodel_cli.model_options import (
    FIELDS,
    STEPS,
    ModelOptions,
    edge_model,
    flag,
    in_options,
    manifest_of,
    manifest_text,
    name_of,
)

WHOLE = ModelOptions(
    model=Path("a b%c.onnx"),
    validation=Path("v.npz"),
    labels="y",
    metric="F1",
    k=3,
    judged_output="o",
    calibration=Path("c.npz"),
    training=Path("t.npz"),
    training_labels="z",
    objective="Fastest",
    max_quality_drop="0.5%",
    max_size="20Mi",
    max_latency="5ms",
    max_memory="200Mi",
    max_slowdown="3%",
    search_timeout="10m",
    max_candidates=7,
    formats=("ONNX", "TFLite"),
    distill="Parameter",
    student_width="50%",
    student_depth="60%",
    student_rank="70%",
    distill_epochs=2,
    prune="60%",
    structure="Channels",
    recover_epochs=4,
    quantize="Int8",
    activations="None",
)


def test_every_option_has_its_place():
    model = edge_model(WHOLE)
    assert (model.metadata.name, model.spec.source.uri) == ("a-b-c", "file:a b%25c.onnx")
    data, compression = model.spec.data, model.spec.compression
    assert (data.validation.labels, data.validation.metric, data.calibration.uri) == ("y", Metric.F1, "file:c.npz")
    assert (data.validation.k, data.validation.output) == (3, "o")
    assert (data.training.uri, data.training.labels) == ("file:t.npz", "z")
    assert compression.objective is Objective.FASTEST
    assert compression.budget.to_json() == {
        "maxQualityDrop": "0.5%", "maxSize": "20Mi", "maxLatency": "5ms", "maxMemory": "200Mi", "maxSlowdown": "3%",
    }  # fmt: skip
    assert (compression.search.timeout, compression.search.max_candidates) == ("10m", 7)
    assert model.spec.formats == (Format.ONNX, Format.TFLITE)
    distill, prune, quantize = (s.distill or s.prune or s.quantize for s in compression.steps)
    assert (distill.method, distill.epochs, distill.student.width) == (DistillMethod.PARAMETER, 2, "50%")
    assert (distill.student.depth, distill.student.rank) == ("60%", "70%")
    assert (prune.sparsity, prune.structure, prune.recover.epochs) == ("60%", Structure.CHANNELS, 4)
    assert (quantize.precision, quantize.activations) == (Precision.INT8, Activations.NONE)
    assert set(WHOLE.given()) == {flag(name) for name in (*FIELDS, *STEPS)} - {"--student"}


def test_every_option_is_one_of_the_command_line_and_of_python():
    of_options = {f.name for f in fields(ModelOptions)}
    of_command = set(inspect.signature(main.compress).parameters) - {"file", "output", "show_manifest", "target"}
    of_python = set(inspect.signature(edgemodel.compress).parameters) - {"target", "progress"}
    assert of_options == of_command - {"out", "timeout"} | {"steps"}
    assert of_options == of_python - {"out", "timeout"}
    assert of_options == {"model", "steps", *FIELDS, *STEPS}


@given(st.sets(st.sampled_from(sorted({*FIELDS, *STEPS} - {"student"}))))
@settings(max_examples=25)
def test_what_is_typed_is_the_manifest_that_is_shown(names):
    """Any of the options together: refused with words, or the manifest that `--show-manifest` prints is theirs."""
    options = ModelOptions(Path("m.onnx"), **{name: getattr(WHOLE, name) for name in names})
    typed = [part for name in sorted(names) for value in _values(getattr(WHOLE, name)) for part in (flag(name), value)]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main.main(["compress", "m.onnx", *typed, "--show-manifest"])
    refused, wanted = "", None
    try:
        wanted = edge_model(options)
    except InputError as error:
        refused = f"edgemodel: {error.message}\n"
    assert err.getvalue() == refused
    assert (load(out.getvalue()) if wanted else out.getvalue()) == (wanted or "")
    assert (ended.value.code or 0) == (2 if refused else 0)


def _values(value: object) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (str(value),)


PRUNING = {
    "share": ({"prune": "60%"}, {"sparsity": "60%"}),
    "pattern": ({"prune": "2:4"}, {"pattern": "2:4"}),
    "fields": ({"prune": {"sparsity": "5%", "granularity": "Global"}}, {"sparsity": "5%", "granularity": "Global"}),
    "fields and an option": (
        {"prune": {"sparsity": "5%"}, "recover_epochs": 2},
        {"sparsity": "5%", "recover": {"epochs": 2}},
    ),
}


@pytest.mark.parametrize(("said", "step"), PRUNING.values(), ids=PRUNING)
def test_a_step_by_a_word_or_by_its_fields(said, step):
    options = ModelOptions(Path("m.onnx"), calibration=Path("c.npz"), **said)
    assert manifest_of(options)["spec"]["compression"]["steps"] == [{"prune": step}]
    edge_model(options)


def test_steps_as_in_a_manifest_exclude_the_options_for_steps():
    steps = ({"quantize": {"precision": "Int8"}}, {"prune": {"sparsity": "5%"}})
    assert manifest_of(ModelOptions(Path("m.onnx"), steps=steps))["spec"]["compression"]["steps"] == list(steps)
    with pytest.raises(InputError, match="steps are all steps: put prune among them"):
        manifest_of(ModelOptions(Path("m.onnx"), steps=steps, prune="5%"))
    with pytest.raises(InputError, match=r"^steps\[0\].quantize.precision: .*did you mean Int8"):
        edge_model(ModelOptions(Path("m.onnx"), steps=({"quantize": {"precision": "int8"}},)))


MESSAGES = {
    "data.validation.labels is 'digt'": "--labels is 'digt'",
    "data.validation: there is no array": "--validation: there is no array",
    "spec.data.training.uri: x": "--training: x",
    "compression.steps[0].distill.student: bad": "--student: bad",
    "compression.steps[1].prune.pattern 2:4; compression.steps[2].quantize": "--prune 2:4; --quantize",
    "name it in data.validation.output.": "name it in --judged-output.",
    "compression.search.maxCandidates 9 was reached": "--max-candidates 9 was reached",
    "take TFLite out of spec.formats, or": "take TFLite out of --format, or",
    "formats: TFLite needs ai_edge_litert": "--format: TFLite needs ai_edge_litert",
    "formats besides ONNX; formats: a; formats names no ONNX": "formats besides ONNX; --format: a; --format names no ONNX",
    "more than maxQualityDrop 1%: raise it; maxSizes": "more than --max-quality-drop 1%: raise it; maxSizes",
    "maxSlowdown by 3% and maxLatency": "--max-slowdown by 3% and --max-latency",
    "weights only (activations: None), which; activations: of": "weights only (--activations None), which; activations: of",
    "compression.steps[0].prune.recover has nothing to learn from": "--recover-epochs has nothing to learn from",
    "the student of compression.steps[0] cannot be": "--student cannot be",
    "compression.steps[1].quantize.include.ops names": "--quantize.include.ops names",
    "mydata.validation and data.validation.other stay": "mydata.validation and data.validation.other stay",
}


@pytest.mark.parametrize(("message", "shown"), MESSAGES.items())
def test_messages_of_the_job_in_the_words_of_the_command_line(message, shown):
    assert in_options(message) == shown


def test_with_the_manifests_own_steps_they_are_what_was_typed():
    message = "compression.steps[1].prune.sparsity 0%; more than maxSize 1Mi; see spec.compression.steps"
    assert in_options(message, steps=True) == "steps[1].prune.sparsity 0%; more than --max-size 1Mi; see steps"


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
