"""The process's rim: every end has an exit code and a result that says what to change."""

import errno
import json
import os

import pytest

import edgemodel_compressor.pipeline
from edgemodel_api.errors import InputError, RefusedError, TransientError
from edgemodel_api.job import JobResult, Outcome
from edgemodel_compressor.__main__ import _write, main

JOB = {
    "namespace": "default",
    "name": "m",
    "revision": "r",
    "source": {"uri": "file:model.onnx"},
    "platforms": ["linux/amd64"],
    "output": "oci-layout:///x",
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(exit code, result) of a Job whose pipeline raises."""

    def run(error, **fields):
        def fail(*_args, **_more):
            raise error

        monkeypatch.setattr(edgemodel_compressor.pipeline, "run_job", fail)
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        (tmp_path / "job.json").write_text(json.dumps(JOB | {"workDir": str(work)} | fields))
        code = main(["--job", str(tmp_path / "job.json"), "--result", str(tmp_path / "result.json")])
        assert list(work.iterdir()) == []
        return code, JobResult.model_validate_json((tmp_path / "result.json").read_bytes())

    return run


ENDS = {
    "bad input": (InputError("no such model: correct it"), 2, Outcome.INVALID, "InvalidInput", "no such model"),
    "not supported": (InputError("s3", reason="NotSupported"), 2, Outcome.INVALID, "NotSupported", "s3"),
    "refused": (RefusedError("too large"), 1, Outcome.REFUSED, "BudgetExceeded", "too large"),
    "a registry is away": (TransientError("503"), 3, Outcome.FAILED, "Unavailable", "503"),
    "disk full": (
        OSError(errno.ENOSPC, "No space", "/w/x"),
        2,
        Outcome.INVALID,
        "InvalidInput",
        "/w/x: the disk is full",
    ),
    "read-only": (OSError(errno.EROFS, "ro", "/w/x"), 2, Outcome.INVALID, "InvalidInput", "read-only file system"),
    "not permitted": (
        PermissionError(errno.EACCES, "no", "/w/x"),
        2,
        Outcome.INVALID,
        "InvalidInput",
        "permission denied",
    ),
    "another error of the system": (OSError(errno.EIO, "I/O error", "/w/x"), 3, Outcome.FAILED, "Failed", "I/O error"),
    "memory": (MemoryError(), 3, Outcome.FAILED, "OutOfMemory", "memory ran out"),
    "a fault of ours": (ZeroDivisionError("oops"), 3, Outcome.FAILED, "InternalError", "ZeroDivisionError: oops"),
}


@pytest.mark.parametrize(("error", "code", "outcome", "reason", "text"), ENDS.values(), ids=ENDS)
def test_every_end_is_told(run, error, code, outcome, reason, text):
    got, result = run(error)
    assert (got, result.outcome, result.reason) == (code, outcome, reason)
    assert text in result.message


def test_an_unreadable_job(tmp_path):
    code = main(["--job", str(tmp_path / "absent"), "--result", str(tmp_path / "result.json")])
    result = JobResult.model_validate_json((tmp_path / "result.json").read_bytes())
    assert (code, result.outcome) == (2, Outcome.INVALID)
    assert "absent" in result.message


def test_a_wrong_field_is_named(run, tmp_path):
    code, result = run(AssertionError("never called"), platforms="amd64")
    assert code == 2
    assert "platforms" in result.message


def test_a_result_that_cannot_be_written_is_2(tmp_path):
    assert main(["--job", str(tmp_path / "absent"), "--result", str(tmp_path / "nowhere" / "result.json")]) == 2


def test_writing_replaces_whole_files_and_leaves_nothing_beside_them(tmp_path):
    path = tmp_path / "result.json"
    _write(path, b"one")
    _write(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["result.json"]
