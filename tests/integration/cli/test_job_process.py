"""The Job's process: progress, results, and every way to end badly. The Job is a script that does as it is told."""

import json
import os
import textwrap
import time

import psutil
import pytest

from edgemodel_api.edgemodel import Source
from edgemodel_api.job import JobResult, JobSpec, Outcome
from edgemodel_cli.embedded import job_process
from edgemodel_cli.embedded.job_process import JobProcess

JOB = JobSpec(
    namespace="default",
    name="m",
    revision="r1",
    source=Source(uri="file:m.onnx"),
    platforms=("linux/amd64",),
    output="oci-layout:///r",
)
PREAMBLE = """
import argparse, json, os, signal, subprocess, sys, time
parser = argparse.ArgumentParser()
for name in ("--job", "--result", "--report"):
    parser.add_argument(name)
given = parser.parse_args()
job = json.load(open(given.job))
def result(**fields):
    open(given.result, "w").write(json.dumps(fields))
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A script's text → a JobProcess that runs it."""
    made = []

    def make(script):
        (tmp_path / "fakejob.py").write_text(PREAMBLE + textwrap.dedent(script))
        monkeypatch.setattr(job_process, "MODULE", "fakejob")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        seen = []
        process = JobProcess(tmp_path / "jobs" / "r1", seen.append)
        process.seen = seen
        made.append(process)
        return process

    yield make
    for process in made:
        process.stop(patience=0)


def finish(process, seconds=20):
    deadline = time.monotonic() + seconds
    while process.running():
        assert time.monotonic() < deadline, "the Job does not end"
        time.sleep(0.01)
    return process.result()


def test_progress_result_and_a_tidy_folder(job):
    process = job(
        """
        print(json.dumps({"stage": "fetch", "done": 1, "total": 2}), flush=True)
        print("a library says hello", flush=True)
        print("and complains", file=sys.stderr, flush=True)
        assert os.path.isdir(job["workDir"])
        result(outcome="Succeeded", digest="sha256:a")
        """
    )
    process.begin(JOB)
    assert finish(process) == JobResult(outcome=Outcome.SUCCEEDED, digest="sha256:a")
    assert [(p.stage, p.done, p.total) for p in process.seen] == [("fetch", 1, 2)]
    assert {"a library says hello", "and complains"} <= set(process.log.read_text().splitlines())
    assert sorted(p.name for p in process.folder.iterdir()) == ["job.json", "log", "result.json"]


ENDS = {
    "exit code": ("print('no memory', file=sys.stderr); sys.exit(3)", ["ended with exit code 3", "no memory"]),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", ["was killed by SIGKILL", "is there enough memory?"]),
    "no result": ("", ["ended with exit code 0 and without a result"]),
    "no JSON": ("open(given.result, 'w').write('{')", ["ended with exit code 0 and without a result"]),
    "too long": ("result(outcome='Succeeded', message='x' * 5000)", ["the Job's result has 4.9 KiB"]),
}


@pytest.mark.parametrize(("script", "messages"), ENDS.values(), ids=ENDS)
def test_bad_ends_are_results_too(job, script, messages):
    process = job(script)
    process.begin(JOB)
    result = finish(process)
    assert result.outcome is Outcome.FAILED
    for message in messages:
        assert message in result.message


def test_a_line_without_end_is_not_read_into_memory(job):
    process = job("sys.stdout.write('x' * 10_000_000); sys.stdout.flush(); result(outcome='Succeeded')")
    process.begin(JOB)
    assert finish(process).outcome is Outcome.SUCCEEDED


CHILDREN = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({"stage": str(child.pid)}), flush=True)
"""


def child_of(process):
    deadline = time.monotonic() + 20
    while not process.seen:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(process.seen[0].stage)


def gone(pid):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    "stubborn", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"], ids=["", "ignores SIGTERM"]
)
def test_stopping_ends_its_children_too(job, stubborn):
    process = job(stubborn + textwrap.dedent(CHILDREN) + "time.sleep(600)")
    process.begin(JOB)
    child = child_of(process)
    process.stop(patience=0.5)
    assert gone(child)
    assert process.result() is None
    assert process.begun()


def test_children_do_not_outlive_the_job(job):
    process = job(textwrap.dedent(CHILDREN) + "result(outcome='Succeeded')")
    process.begin(JOB)
    child = child_of(process)
    assert finish(process).outcome is Outcome.SUCCEEDED
    assert gone(child)


def test_the_next_command_ends_what_a_killed_one_left(job):
    process = job(textwrap.dedent(CHILDREN) + "time.sleep(600)")
    process.begin(JOB)
    child = child_of(process)
    pid = process.process.pid
    JobProcess(process.folder).end_leftover()
    assert gone(child)
    assert gone(pid)
    assert not (process.folder / "process.json").exists()


def test_an_old_record_ends_no_stranger(job):
    process = job("")
    process.folder.mkdir(parents=True)
    (process.folder / "process.json").write_text(json.dumps({"pid": os.getpid(), "created": 1.0}))
    process.end_leftover()  # would end pytest


def test_begun_again_the_old_result_is_gone(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    process = job("""
        if os.path.exists("begun"):
            time.sleep(60)
        open("begun", "w").close()
        result(outcome='Succeeded')
    """)
    process.begin(JOB)
    finish(process)
    assert process.result().outcome is Outcome.SUCCEEDED
    process.begin(JOB)
    assert process.result() is None
    process.stop()
    assert process.result() is None
