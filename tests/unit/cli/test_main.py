"""The rim: exit codes and what goes where."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from edgemodel_api.errors import InputError, RefusedError, TransientError
from edgemodel_cli import main as rim

MANIFEST = """
apiVersion: edgemodel.dev/v1alpha1
kind: EdgeModel
metadata: {name: tiny}
spec:
  source: {uri: "file:m.onnx"}
"""


@pytest.fixture
def manifest(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"model")
    path = tmp_path / "edgemodel.yaml"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def edgemodel(capsys):
    """arguments → (exit code, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            rim.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


USAGE = {
    "unknown command": ["fly"],
    "no manifest": ["validate"],
    "unknown output": ["run", "-f", "x", "-o", "xml"],
    "nodes is no number": ["run", "-f", "x", "--nodes", "three"],
    "missing manifest": ["run", "-f", "none.yaml"],
    "bad timeout": ["run", "-f", "x", "--timeout", "soon"],
    "no timeout": ["run", "-f", "x", "--timeout", "0s"],
    "stop nothing": ["stop", "--workdir", "none"],
    "report of nothing": ["report", "--workdir", "none"],
}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_bad_usage_exits_with_2(edgemodel, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = edgemodel(*arguments)
    assert (code, out) == (2, "")
    assert err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


BAD_INPUT = {
    "count": (["--nodes", "0"], "--nodes 0 is not between 1 and 1000"),
    "both": (["--nodes", "1", "--nodes-file", "n.yaml"], "exclude each other"),
    "nodes file": (["--nodes-file", "none.yaml"], "--nodes-file none.yaml cannot be read"),
    "workdir": (["--workdir", "/dev/null/x"], "--workdir /dev/null/x cannot be used"),
}


@pytest.mark.parametrize(("options", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_leaves_nothing(edgemodel, manifest, options, message):
    code, out, err = edgemodel("run", "-f", manifest, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert sorted(p.name for p in manifest.parent.iterdir()) == ["edgemodel.yaml", "m.onnx"]


ERRORS = {
    "input": (InputError("bad"), 2, "edgemodel: bad\n"),
    "refused": (RefusedError("no"), 1, "edgemodel: no\n"),
    "transient": (TransientError("later"), 3, "edgemodel: later\n"),
}


@pytest.mark.parametrize(("error", "code", "text"), ERRORS.values(), ids=ERRORS)
def test_errors_have_their_exit_code(edgemodel, manifest, monkeypatch, error, code, text):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("edgemodel_cli.commands.validate.validate", fail)
    assert edgemodel("validate", "-f", manifest) == (code, "", text)


DISKS = {
    "full": (errno.ENOSPC, 2, "No space left on device; free some disk, or name a folder on another one"),
    "read-only": (errno.EROFS, 2, "Read-only file system; name a folder that can be written with --workdir"),
    "broken": (errno.EIO, 3, "Input/output error; name another folder"),
}


@pytest.mark.parametrize(("number", "code", "message"), DISKS.values(), ids=DISKS)
def test_a_disk_that_cannot_be_written(edgemodel, manifest, monkeypatch, number, code, message):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("edgemodel_cli.embedded.loop.Run.prepare", fail)
    ended, out, err = edgemodel("run", "-f", manifest)
    workdir = manifest.parent / ".edgemodel" / "tiny"
    assert (ended, out) == (code, "")
    assert err.endswith(f"edgemodel: --workdir {workdir} cannot be written: {message}\n")


def test_an_interrupt_is_no_refusal(edgemodel, manifest, monkeypatch):
    monkeypatch.setattr(
        "edgemodel_cli.commands.validate.validate", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)
    )
    before = signal.getsignal(signal.SIGINT)
    assert edgemodel("validate", "-f", manifest) == (130, "", "edgemodel: stopped by SIGINT\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_fault_of_ours_is_one_line_and_a_log(edgemodel, manifest, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("edgemodel_cli.commands.validate.validate", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, out, err = edgemodel("validate", "-f", manifest)
    (log,) = tmp_path.glob("edgemodel-*.log")
    assert (code, out, err) == (3, "", f"edgemodel: ZeroDivisionError: oops; traceback in {log}\n")
    assert "Traceback" in log.read_text()


def test_debugging_shows_the_traceback(manifest, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("edgemodel_cli.commands.validate.validate", fail)
    monkeypatch.setenv("EDGEMODEL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        rim.main(["validate", "-f", str(manifest)])


def test_validate_says_what_it_understood(edgemodel, manifest):
    code, out, err = edgemodel("validate", "-f", manifest)
    assert (code, err) == (0, "")
    assert out.startswith("default/tiny is valid.\n")
    assert "file:m.onnx (5 B, sha256 " in out


def test_validate_as_json(edgemodel, manifest):
    code, out, _ = edgemodel("validate", "-f", manifest, "-o", "json")
    found = json.loads(out)
    assert (code, found["valid"], found["name"]) == (0, True, "tiny")
    assert found["spec"]["compression"]["budget"]["maxQualityDrop"] == "1%"


WINDOWS = {
    "time zone": ('{schedule: "0 2 * * *", duration: 1h, timeZone: Mars/Olympus}', "'Mars/Olympus' is not a time zone"),
    "schedule": ('{schedule: "0 25 * * *", duration: 1h}', "'0 25 * * *' is not a cron schedule"),
}


@pytest.mark.parametrize(("window", "message"), WINDOWS.values(), ids=WINDOWS)
def test_windows_that_never_come(edgemodel, manifest, window, message):
    manifest.write_text(f"{MANIFEST}  rollout: {{windows: [{window}]}}\n")
    code, out, err = edgemodel("validate", "-f", manifest)
    assert (code, out) == (2, "")
    assert "spec.rollout.windows[0]" in err
    assert message in err


NOTES = {
    "distillation": (
        "  compression: {steps: [{distill: {student: {width: 50%}}}]}",
        "steps[0].distill has nothing to learn from: give data.training",
    ),
    "recovery": (
        "  compression: {steps: [{prune: {sparsity: 50%, recover: {}}}]}",
        "steps[0].prune.recover has nothing to learn from: give data.training",
    ),
    "formats": ("  formats: [ONNX, TFLite]", "spec.formats: TFLite not supported yet"),
    "claims": ("  data: {calibration: {uri: 'pvc://claim/x'}}", "looks for it in the folder EDGEMODEL_VOLUMES"),
    "credentials": (
        f"  data: {{calibration: {{uri: 's3://bucket/x', sha256: {'a' * 64}, credentialsSecretRef: {{name: keys}}}}}}",
        "spec.data.calibration.credentialsSecretRef: on this machine its keys are files in ",
    ),
    "credentials for nothing": (
        "  data: {calibration: {uri: 'pvc://claim/x', credentialsSecretRef: {name: keys}}}",
        "spec.data.calibration.credentialsSecretRef is not used: pvc: needs no credentials",
    ),
}


@pytest.mark.parametrize(("more", "note"), NOTES.values(), ids=NOTES)
def test_validate_notes_what_is_not_there_yet(edgemodel, manifest, more, note):
    manifest.write_text(MANIFEST + more + "\n")
    code, out, _ = edgemodel("validate", "-f", manifest)
    assert code == 0
    assert f"note: {note}" in out or note in out


def test_plan_writes_nothing(edgemodel, manifest):
    code, out, err = edgemodel("plan", "-f", manifest, "--nodes", "5", "-o", "json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert [w["nodes"] for w in found["waves"]] == [["node-1"], ["node-2"], ["node-3", "node-4", "node-5"]]
    assert (found["bytes"], found["bytesExact"], found["built"]) == (25, False, False)
    assert len(found["revision"]) == 12
    assert found["minimumSeconds"] == 60
    assert sorted(p.name for p in manifest.parent.iterdir()) == ["edgemodel.yaml", "m.onnx"]


def test_plan_as_text(edgemodel, manifest):
    code, out, _ = edgemodel("plan", "-f", manifest)
    assert code == 0
    assert "3 nodes fetch ≤ 15 B in all" in out
    assert "note: not built yet" in out


OUTS = {
    "file": "m.onnx is no folder",
    "folder": "holds files of something else",
}


@pytest.mark.parametrize("kind", OUTS)
def test_compress_replaces_only_its_own(edgemodel, manifest, tmp_path_factory, kind):
    elsewhere = tmp_path_factory.mktemp("out")
    out = elsewhere / "m.onnx"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.txt").write_text("")
    else:
        out.write_text("")
    code, _, err = edgemodel("compress", "-f", manifest, "--out", out)
    assert code == 2
    assert ("exists and is no folder" if kind == "file" else OUTS[kind]) in err
    assert [p.name for p in elsewhere.iterdir()] == ["m.onnx"]


def test_compress_knows_platforms(edgemodel, manifest):
    code, _, err = edgemodel("compress", "-f", manifest, "--out", manifest.parent / "o", "--platform", "windows/amd64")
    assert code == 2
    assert "--target windows/amd64 is not known: use linux/amd64, linux/arm64, linux/arm/v7" in err


def test_version(edgemodel):
    code, out, _ = edgemodel("--version")
    assert code == 0
    assert out.startswith("edgemodel ")


def test_the_command_line_loads_nothing_heavy():
    code = (
        "import sys, edgemodel_cli.main, edgemodel_cli.commands.validate\n"
        "print(sorted({'onnx', 'onnxruntime', 'matplotlib', 'numpy', 'httpx', 'jinja2'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
