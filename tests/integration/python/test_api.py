"""Arguments become the options of the command line; messages come back in the arguments' words."""

from datetime import timedelta

import numpy as np
import pytest

import edgemodel
from edgemodel.api import in_python
from edgemodel_api.job import Progress
from edgemodel_cli import compression
from edgemodel_cli.model_options import FIELDS, STEPS, flag


@pytest.fixture
def asked(monkeypatch, make_done):
    """What `compress()` asks of the command line's code, which answers at once."""
    found = {}

    def fake(manifest, **options):
        found.update(options, spec=manifest.model.spec, base_dir=manifest.base_dir, name=manifest.model.metadata.name)
        options["progress"](Progress(stage="fetch", message="source"))
        options["check"]()
        return make_done(accepted=found.get("accepted", True))

    monkeypatch.setattr(compression, "compress", fake)
    return found


def test_everything_that_is_said_is_asked_for(asked, make_model, tmp_path):
    edgemodel.compress(
        make_model("x", name="net"),
        validation=np.zeros((4, 3)),
        labels=np.zeros(4),
        training={"x": np.zeros((4, 3)), "y": np.zeros(4)},
        training_labels="y",
        max_quality_drop="0.5%",
        target="linux/arm64",
        formats=["ONNX", "TFLite"],
        prune={"sparsity": "60%", "recover": {"epochs": 2}},
        quantize="Int8",
        student=None,
        out=tmp_path / "o",
        timeout=timedelta(minutes=5),
        progress=None,
    )
    spec = asked["spec"]
    assert (asked["name"], asked["platforms"], asked["out"]) == ("net", ("linux/arm64",), tmp_path / "o")
    assert asked["timeout"] == timedelta(minutes=5)
    assert [f.value for f in spec.formats] == ["ONNX", "TFLite"]
    assert (spec.data.validation.labels, spec.data.training.labels) == ("labels", "y")
    assert all(remote.sha256 for remote in (spec.source, spec.data.validation, spec.data.training))
    assert spec.compression.budget.max_quality_drop == "0.5%"
    prune, quantize = spec.compression.steps
    assert (prune.prune.sparsity, prune.prune.recover.epochs, quantize.quantize.precision) == ("60%", 2, "Int8")
    assert not asked["base_dir"].exists()


def test_a_student_is_a_file_or_a_message(asked, make_model):
    edgemodel.compress(
        make_model("x"), training=np.zeros((4, 3)), student=make_model("x", name="small"), progress=False
    )
    (step,) = asked["spec"].compression.steps
    assert step.distill.student.sha256
    assert step.distill.student.uri.endswith("student/small.onnx")


def test_the_same_arrays_are_the_same_revision(asked, make_model):
    digests = []
    for _ in range(2):
        edgemodel.compress(make_model("x"), validation=np.ones((4, 3)), progress=False)
        digests.append((asked["spec"].source.sha256, asked["spec"].data.validation.sha256))
    assert digests[0] == digests[1]


WRONG = {
    "percentage": ({"max_quality_drop": "5"}, r'^max_quality_drop 5: "5" is not a percentage'),
    "a number": ({"max_quality_drop": 0.005}, r"^max_quality_drop 0.005: 0.005 is a number, but this must be a percentage"),
    "an object": ({"max_size": object()}, r"^max_size .*: give texts and numbers"),
    "word": ({"quantize": "int8"}, r"^quantize int8: .*did you mean Int8"),
    "field": ({"prune": {"sparsty": "5%"}}, r"^prune.sparsty: unknown field; did you mean sparsity"),
    "step": ({"steps": [{"quantise": {}}]}, r"^steps\[0\]\.?.*quantise: unknown field; did you mean quantize"),
    "format": ({"formats": "tflite"}, r"^formats tflite: .*did you mean TFLite"),
    "formats": ({"formats": [1]}, r"^formats \[1\]: give a text, or a list of texts"),
    "no formats": ({"formats": []}, r"^formats is empty: name at least one, such as formats=\['TFLite'\], or leave it out"),
    "formats by name": ({"formats": {"TFLite": True}}, r"^formats \{'TFLite': True\}: give a text, or a list of texts"),
    "formats as bytes": ({"formats": b"TFLite"}, r"^formats b'TFLite': give a text, or a list"),
    "a number of formats": ({"formats": 3}, r"^formats 3: give a text, or a list of texts"),
    "no target": ({"target": ()}, r"^target is empty: name at least one, such as target=\['linux/arm64'\]"),
    "target by name": ({"target": {"linux/arm64": 1}}, r"^target \{.*\}: give a text, or a list of texts"),
    "no steps": ({"steps": []}, r"^steps is empty: name at least one, .*: the search does it all"),
    "one step": ({"steps": {"prune": {"sparsity": "5%"}}}, r"^steps \{'prune'.*: give a list of the manifest's steps, such as"),
    "steps by name": ({"steps": "quantize"}, r"^steps 'quantize': give a list of the manifest's steps"),
    "words for steps": ({"steps": ["quantize"]}, r"^steps \['quantize'\]: give a list of the manifest's steps"),
    "a folder": ({"out": 5}, r"^out 5: give the path of a folder"),
    "labels": ({"labels": "y"}, r"^labels say how validation FILE is judged: give that file too"),
    "learning": ({"distill": {"student": {"width": "50%"}}}, r"^distill has nothing to learn from: give training FILE"),
    "student": ({"distill": "Knowledge"}, r"^distill trains a smaller student: say which, by student_width 50%"),
    "timeout": ({"timeout": "soon"}, r"^timeout: 'soon' is not a duration"),
    "no time": ({"timeout": "0s"}, r"^timeout 0s: give more than nothing"),
    "data": ({"validation": "none.npz"}, r"^validation /.*none.npz: there is no such file"),
}  # fmt: skip


@pytest.mark.parametrize(("said", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_are_told_in_the_words_of_the_call(make_model, said, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(edgemodel.InputError, match=message):
        edgemodel.compress(make_model("x"), progress=False, **said)
    assert not list(tmp_path.iterdir())


def test_any_collection_of_texts_will_do(asked, make_model):
    for formats in (["ONNX", "TFLite"], ("ONNX", "TFLite"), {"ONNX", "TFLite"}, iter(["ONNX", "TFLite"])):
        edgemodel.compress(make_model("x"), formats=formats, steps=iter([{"quantize": {}}]), progress=False)
        assert {f.value for f in asked["spec"].formats} == {"ONNX", "TFLite"}
        assert len(asked["spec"].compression.steps) == 1
    edgemodel.compress(make_model("x"), progress=False)
    assert (asked["platforms"], asked["spec"].compression.steps) == ((), None)


def test_what_was_no_file_is_not_named_as_one(asked, make_model):
    """Temporary files are nothing that the caller knows."""
    edgemodel.compress(
        make_model("x"), training=np.zeros((4, 3)), student=make_model("x", name="small"), progress=False
    )
    folder, words = asked["base_dir"], asked["words"]
    said = {
        f"source file:{folder}/tiny.onnx: no graph": "model: no graph",
        f"source file://{folder}/tiny.onnx: no graph": "model: no graph",
        f"compression.steps[0].distill.student: {folder}/student/small.onnx has": "student: student has",
        f"--training {folder}/training.npz cannot be read": "training cannot be read",
        "source file:/home/me/m.onnx: no graph": "source file:/home/me/m.onnx: no graph",
        "take TFLite out of spec.formats; more than maxSize 1Mi": "take TFLite out of formats; more than max_size 1Mi",
    }
    assert {message: words(message) for message in said} == said


def test_a_platform_that_is_none(make_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(edgemodel.InputError, match=r"^target arm64 is not known: .*did you mean linux/arm64"):
        edgemodel.compress(make_model("x"), target="arm64", progress=False)


def test_every_flag_has_its_argument():
    for name in (*FIELDS, *STEPS):
        assert in_python(f"{flag(name)} x") == f"{name} x"
    assert in_python("--platform a, --out o, --timeout 1s, --job stays, x--out stays") == (
        "target a, out o, timeout 1s, --job stays, x--out stays"
    )


def test_a_refusal_is_an_error_with_the_findings(asked, make_model):
    asked["accepted"] = False
    with pytest.raises(edgemodel.CompressionRefusedError, match="none of 3 candidates keeps the budget") as refused:
        edgemodel.compress(make_model("x"), progress=False)
    assert isinstance(refused.value, edgemodel.RefusedError)
    assert refused.value.reason == "BudgetExceeded"
    assert [row.name for row in refused.value.candidates][:2] == ["source", "int8"]


def test_progress_goes_to_a_function_whose_error_ends_the_work(asked, make_model, capsys):
    seen = []
    edgemodel.compress(make_model("x"), progress=seen.append)
    assert [p.stage for p in seen] == ["fetch"]

    def stop(_):
        raise StopIteration("enough")

    with pytest.raises(StopIteration, match="enough"):
        edgemodel.compress(make_model("x"), progress=stop)
    assert capsys.readouterr().err == ""
    edgemodel.compress(make_model("x"))
    assert "compression: fetch: source" in capsys.readouterr().err
