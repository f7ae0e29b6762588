"""What people type wrong on a laptop: exit code 2, one message that says what to change, and nothing written."""

import numpy as np
import pytest

from edgemodel_cli import main as rim

DATA = ["--validation", "v.npz", "--labels", "y"]
LEARN = ["--training", "v.npz"]

MISTAKES = {
    "nothing": ([], "name a model (edgemodel compress model.onnx) or a manifest (-f FILE)"),
    "nothing to show": (["--show-manifest"], "name a model"),
    "options, but no model": (["--prune", "50%", "--k", "3"], "--k, --prune: name a model: edgemodel compress model.onnx"),
    "a letter turned": (["modle.onnx"], "modle.onnx: there is no such file; beside it: model.onnx, other.onnx"),
    "a folder": (["."], ". is a folder: name the model file in it: model.onnx, other.onnx"),
    "another folder": (["gone/model.onnx"], "gone/model.onnx: there is no such file\n"),
    "PyTorch": (["net.pt"], "net.pt is a PyTorch file, and ONNX or TFLite is read: export it with torch.onnx.export("),
    "Keras": (["net.keras"], "net.keras is a Keras file, and ONNX or TFLite is read: export it with model.export("),
    "safetensors": (["net.safetensors"], "optimum-cli export onnx"),
    "Core ML": (["net.mlpackage"], "net.mlpackage is a Core ML file"),
    "two models": (["model.onnx", "other.onnx"], "unexpected extra argument"),
    "a model and a manifest": (["model.onnx", "-f", "em.yaml"], "both -f em.yaml and the model model.onnx were given"),
    "a model as manifest": (["-f", "model.onnx"], "a manifest is expected; for a model: edgemodel compress model.onnx"),
    "a manifest and options": (["-f", "em.yaml", "--prune", "50%"], "--prune: with -f this is in the manifest"),
    "the manifest of a manifest": (["-f", "em.yaml", "--show-manifest"], "em.yaml is one already: edgemodel validate -f"),
    "table of numbers": (["model.onnx", "--validation", "v.csv"], "--validation v.csv is no .npz file: write one with numpy.savez"),
    "no such data": (["model.onnx", "--calibration", "c.npz"], "--calibration c.npz: there is no such file; beside it: v.npz"),
    "folder of data": (["model.onnx", "--training", "."], "--training . is a folder: name the .npz file in it: v.npz"),
    "labels of nothing": (["model.onnx", "--labels", "y"], "--labels say how --validation FILE is judged: give that file"),
    "training labels of nothing": (["model.onnx", "--training-labels", "y"], "--training-labels names an array of --training"),
    "metric": (["model.onnx", *DATA, "--metric", "accuracy"], '--metric accuracy: "accuracy" is not allowed; use one of Top1,'),
    "lower case": (["model.onnx", "--objective", "smallest"], "(did you mean Smallest?)"),
    "fraction": (["model.onnx", "--max-quality-drop", "0.5"], '--max-quality-drop 0.5: "0.5" is not a percentage from 0% to'),
    "comma": (["model.onnx", "--max-quality-drop", "0,5%"], 'such as "5%" or "0.5%"'),
    "negative": (["model.onnx", "--max-quality-drop=-1%"], '"-1%" is not a percentage'),
    "megabytes": (["model.onnx", "--max-size", "20MB"], '"20MB" is not a quantity, such as 20Mi'),
    "seconds": (["model.onnx", "--max-latency", "5"], '--max-latency 5: "5" is not a duration, such as'),
    "architecture alone": (["model.onnx", "--target", "arm64"], "--target arm64 is not known: use linux/amd64, linux/arm64, "),
    "the near one": (["model.onnx", "--target", "arm/v7"], "(did you mean linux/arm/v7?)"),
    "a device": (["model.onnx", "--target", "rpi4"], "--target rpi4 is not known"),
    "precision": (["model.onnx", "--quantize", "int8"], '--quantize int8: "int8" is not allowed; use one of Int8, Int4, Float16'),
    "bits": (["model.onnx", "--quantize", "8"], '--quantize 8: "8" is not allowed'),
    "share": (["model.onnx", "--prune", "0.6"], '--prune 0.6: "0.6" is not a percentage'),
    "more than all": (["model.onnx", "--prune", "120%"], '--prune 120%: "120%" is not a percentage'),
    "M:N": (["model.onnx", "--prune", "4:2"], '--prune 4:2: "4:2" is not "1:2", or N:4,'),
    "structure alone": (["model.onnx", "--structure", "Channels"], "give --prune too, such as --prune 60%"),
    "structure": (["model.onnx", "--prune", "9%", "--structure", "channel"], "--structure channel: "),
    "pattern of channels": (
        ["model.onnx", "--prune", "2:4", "--structure", "Channels"],
        "--prune: --structure Channels goes with sparsity",
    ),
    "recover alone": (["model.onnx", "--recover-epochs", "3"], "--recover-epochs says how to prune: give --prune too"),
    "recover from nothing": (
        ["model.onnx", "--prune", "50%", "--recover-epochs", "3"],
        "--recover-epochs has nothing to learn from: give --training FILE",
    ),
    "activations alone": (["model.onnx", "--activations", "Dynamic"], "give --quantize too, such as --quantize Int8"),
    "dynamic Int4": (["model.onnx", "--quantize", "Int4", "--activations", "Dynamic"], "--activations Dynamic needs --quantize Int8"),
    "no student": (["model.onnx", *LEARN, "--distill", "Knowledge"], "say which, by --student-width 50%"),
    "no teacher's data": (
        ["model.onnx", "--distill", "Knowledge", "--student-width", "50%"],
        "--distill has nothing to learn from: give --training FILE",
    ),
    "method": (["model.onnx", *LEARN, "--distill", "knowlege", "--student-width", "5%"], "(did you mean Knowledge?)"),
    "width": (["model.onnx", *LEARN, "--student-width", "50"], '--student-width 50: "50" is not a percentage above 0%'),
    "two students": (
        ["model.onnx", *LEARN, "--student", "other.onnx", "--student-width", "50%"],
        "--student other.onnx is the whole student, and --student-width would derive one",
    ),
    "student that is not there": (["model.onnx", *LEARN, "--student", "s.onnx"], "--student s.onnx: there is no such file"),
    "format": (["model.onnx", "--format", "tflite"], '--format tflite: "tflite" is not allowed; use one of ONNX, TFLite, CoreML'),
    "the same format twice": (["model.onnx", "--format", "ONNX", "--format", "ONNX"], "--format ONNX ONNX: more than one item"),
    "no candidates": (["model.onnx", "--max-candidates", "0"], "--max-candidates 0: 0 is not a whole number from 1 to 1000"),
    "search time": (["model.onnx", "--search-timeout", "10"], '--search-timeout 10: "10" is not a duration'),
    "time": (["model.onnx", "--timeout", "soon"], "--timeout: 'soon' is not a duration"),
    "out is a file": (["model.onnx", "--out", "v.csv"], "v.csv exists and is no folder: name another one"),
    "out holds work": (["model.onnx", "--out", "."], "holds files of something else: name a new or empty folder"),
    "option": (["model.onnx", "--validaton", "v.npz"], "--validation"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("model.onnx", "other.onnx", "net.pt", "net.keras", "net.safetensors", "net.mlpackage"):
        (tmp_path / name).write_bytes(b"model")
    (tmp_path / "v.csv").write_text("1,2\n")
    (tmp_path / "em.yaml").write_text("apiVersion: edgemodel.dev/v1alpha1\nkind: EdgeModel\n")
    np.savez(tmp_path / "v.npz", x=np.zeros((2, 3)), y=np.zeros(2))
    return tmp_path


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_and_nothing_is_written(folder, capsys, arguments, message):
    before = sorted(p.name for p in folder.iterdir())
    with pytest.raises(SystemExit) as ended:
        rim.main(["compress", *arguments])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert sorted(p.name for p in folder.iterdir()) == before


def test_the_manifest_is_shown_without_a_look_at_the_files(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        rim.main(
            ["compress", "later.onnx", "--prune", "2:4", "--format", "ONNX", "--format", "TFLite", "--show-manifest"]
        )
    out, err = capsys.readouterr()
    assert (ended.value.code or 0, err) == (0, "")
    assert "- prune:\n        pattern: '2:4'" in out or "pattern: 2:4" in out or 'pattern: "2:4"' in out
    assert "formats:\n" in out
    assert "TFLite" in out
