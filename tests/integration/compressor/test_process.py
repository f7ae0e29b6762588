"""`python -m edgemodel_compressor`: exit codes, progress, signals, what is left behind."""

import json
import re
import signal
import subprocess
import time

import pytest

from edgemodel_api.errors import InputError
from edgemodel_api.job import Outcome, Progress
from edgemodel_api.report import CompressionReport

WEIGHTS = {"steps": [{"quantize": {"precision": "Int8", "activations": "None"}}]}
ROUGH = {"steps": [{"prune": {"sparsity": "95%"}}]}


def test_success_is_0_with_progress_result_and_report(lab):
    done = lab.process(lab.job(compression=WEIGHTS))
    assert done.returncode == 0, done.stderr
    result = lab.result()
    assert result.outcome is Outcome.SUCCEEDED
    lines = [Progress.model_validate_json(line) for line in done.stdout.splitlines()]
    assert {"fetch", "source", "candidates", "store"} <= {p.stage for p in lines}
    assert any("int8-weights: " in p.message and "smaller" in p.message for p in lines)
    assert CompressionReport.model_validate_json((lab.folder / "report.json").read_bytes()).candidates
    assert list(lab.work.iterdir()) == []
    assert result.digest == lab.index().descriptor.digest


def test_a_refusal_is_1_and_leaves_a_report(lab):
    done = lab.process(lab.job(compression=ROUGH, budget={"maxQualityDrop": "0.5%"}))
    assert done.returncode == 1, done.stderr
    result = lab.result()
    assert result.outcome is Outcome.REFUSED
    assert "maxQualityDrop 0.5%" in result.message
    report = CompressionReport.model_validate_json((lab.folder / "report.json").read_bytes())
    assert report.candidates[0].refusals[0].gate == "maxQualityDrop"


def broken_model(lab):
    (lab.folder / "broken.onnx").write_bytes((lab.digits / "model.onnx").read_bytes()[:5000])
    return lab.job(source={"uri": f"file:{lab.folder / 'broken.onnx'}"})


BAD = {
    "broken model": (broken_model, "broken.onnx|model"),
    "no such file": (lambda lab: lab.job(model="absent.onnx"), "absent.onnx"),
    "no Job": (lambda lab: "{", "no JobSpec"),
    "a Job without platforms": (lambda lab: lab.job(platforms=[]), "names no platform"),
    "work folder is missing": (lambda lab: lab.job(workDir=str(lab.folder / "absent")), "absent.* does not exist"),
    "work folder is a file": (lambda lab: lab.job(workDir=str(lab.digits / "model.onnx")), "is not a folder"),
    "output is a file": (lambda lab: lab.job(output=str(lab.digits / "model.onnx")), "model.onnx"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_2_without_a_traceback(lab, make, message):
    done = lab.process(make(lab))
    assert done.returncode == 2, done.stderr
    result = lab.result()
    assert result.outcome is Outcome.INVALID
    assert re.search(message, result.message)
    assert "Traceback" not in done.stderr
    assert not lab.work.exists() or list(lab.work.iterdir()) == []


def test_a_full_disk_is_2_and_leaves_nothing(lab):
    # No file may become larger than this: what a quota or a full disk does, at the same calls.
    limit = ["import resource, runpy, sys", "resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))"]
    run = [*limit, "sys.argv[0] = 'x'", "runpy.run_module('edgemodel_compressor', run_name='__main__')"]
    command = lab.command(lab.job(compression=WEIGHTS))
    done = subprocess.run(
        [command[0], "-c", "; ".join(run), *command[3:]], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2, done.stderr
    result = lab.result()
    assert result.outcome is Outcome.INVALID
    assert result.reason == "DiskFull"
    assert "free space" in result.message
    assert "Traceback" not in done.stderr
    assert list(lab.work.iterdir()) == []


def test_sigterm_is_3_and_leaves_nothing_half_written(lab):
    process = lab.start(lab.job())
    for line in process.stdout:
        if json.loads(line)["stage"] == "candidates":
            break
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert time.monotonic() - started < 30
    result = lab.result()
    assert result.outcome is Outcome.FAILED
    assert result.reason == "Terminated"
    assert "SIGTERM" in result.message
    assert "Traceback" not in errors
    assert list(lab.work.iterdir()) == []
    with pytest.raises(InputError):
        lab.index()


def test_a_reader_that_goes_away_does_not_stop_the_job(lab):
    process = lab.start(lab.job(compression=WEIGHTS))
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert lab.result().outcome is Outcome.SUCCEEDED
