"""`edgemodel compress`: the Job alone."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgemodel_compressor.formats.tflite import convert
from edgemodel_oci.artifact import read_index
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import open_repository


def test_a_folder_with_everything(project):
    out = project.folder / "out"
    ended = project.compress("--out", out, "-o", "json")
    assert ended.code == 0, ended
    found = ended.json
    (file,) = found["modelFiles"].values()
    onnx.checker.check_model(onnx.load(file))
    assert sorted(p.name for p in out.iterdir()) == [
        "blobs", "index.json", "oci-layout", "report.html", "report.json", "tiny.onnx",
    ]  # fmt: skip
    index = read_index(open_repository(Reference.parse(f"oci-layout://{out}")), found["revision"])
    assert index.descriptor.digest == found["digest"]
    assert {v["digest"] for v in found["variants"] if v["digest"]} == {d.digest for d in index.variants}
    assert json.loads((out / "report.json").read_text())["revision"] == found["revision"]

    again = project.compress("--out", out, "-o", "json")
    assert again.json["digest"] == found["digest"], "two runs give the same digests"
    assert sorted(p.name for p in project.folder.iterdir()) == ["edgemodel.yaml", "m.onnx", "out", "v.npz"]


REFUSALS = {
    "gate": ({"maxSize": "100"}, 1, "maxSize 100"),
    "gate that holds for this machine": ({"maxMemory": "1Mi"}, 1, "more than maxMemory 1Mi (1048576 bytes)"),
    "bad input": (None, 2, "source file:m.onnx: no ONNX model"),
}


@pytest.mark.parametrize(("budget", "code", "message"), REFUSALS.values(), ids=REFUSALS)
def test_nothing_is_written_unless_it_is_complete(project, budget, code, message):
    if budget is None:
        (project.folder / "m.onnx").write_bytes(b"this is no model")
    else:
        project.spec["compression"]["budget"].update(budget)
        project.write()
    ended = project.compress("--out", project.folder / "out")
    assert ended.code == code, ended
    assert message in ended.err
    assert sorted(p.name for p in project.folder.iterdir()) == ["edgemodel.yaml", "m.onnx", "v.npz"]
    assert project.left_over() == []


def test_a_model_and_options_do_without_a_manifest(project):
    options = ["--validation", "v.npz", "--labels", "y", "--max-quality-drop", "50%", "--max-slowdown", "1000%"]
    (project.folder / "edgemodel.yaml").unlink()
    ended = project.edgemodel("compress", "m.onnx", *options, "--quantize", "Float16", "-o", "json")
    assert ended.code == 0, ended
    (file,) = ended.json["modelFiles"].values()
    assert file == str(project.folder / "m-compressed" / "m.onnx")
    assert {v["name"] for v in ended.json["variants"]} == {"source", "float16-weights"}

    ended = project.edgemodel("compress", "m.onnx", "--max-size", "5Q")
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended
    assert "--max-size 5Q" in ended.err
    ended = project.edgemodel("compress", "--prune", "50%")
    assert (ended.code, "name a model" in ended.err) == (2, True), ended


def test_a_tflite_model_and_files_of_two_formats(project):
    convert(onnx.load(project.folder / "m.onnx"), project.folder / "n.tflite")
    options = ["--validation", "v.npz", "--labels", "y", "--max-quality-drop", "50%", "--max-slowdown", "1000%"]
    steps = ["--quantize", "Int8", "--activations", "None"]
    ended = project.edgemodel(
        "compress", "n.tflite", *options, *steps, "--format", "ONNX", "--format", "TFLite", "-o", "json"
    )
    assert ended.code == 0, ended
    (files,) = ended.json["formatFiles"].values()
    assert {kind: Path(file).name for kind, file in files.items()} == {"ONNX": "n.onnx", "TFLite": "n.tflite"}
    assert list(ended.json["modelFiles"].values()) == [files["ONNX"]]
    onnx.checker.check_model(onnx.load(files["ONNX"]))
    assert Path(files["TFLite"]).read_bytes()[4:8] == b"TFL3"


MISTAKES = {
    "labels": (["--validation", "v.npz", "--labels", "z"], "--labels is 'z', but the file's arrays are"),
    "names": (
        ["--validation", "w.npz", "--labels", "y"],
        "--validation: there is no array for the model's input 'x', only 'z', 'y'",
    ),
    "output": (
        ["--validation", "v.npz", "--labels", "y", "--judged-output", "o"],
        "--judged-output is 'o', but the model's outputs are y",
    ),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_that_only_the_job_sees_are_told_in_the_options_words(project, options, message):
    np.savez(project.folder / "w.npz", z=np.zeros((4, 32), np.float32), y=np.zeros(4))
    before = sorted(p.name for p in project.folder.iterdir())
    ended = project.edgemodel("compress", "m.onnx", "--quantize", "Int8", *options)
    assert (ended.code, ended.out) == (2, ""), ended
    assert message in ended.err
    assert sorted(p.name for p in project.folder.iterdir()) == before
