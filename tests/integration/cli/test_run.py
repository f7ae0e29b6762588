"""`edgemodel run`: the same life of a model as in a cluster, on this machine."""

import json
import re
import signal
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

FIELDS = {"ready", "revision", "source", "variants", "nodes", "rollout"}


def states(ended):
    return [(n["state"], n["revision"]) for n in ended.json["nodes"]]


def test_rolled_out_then_nothing_to_do_then_a_bad_node(project):
    first = project.run()
    assert first.code == 0, first
    found = first.json
    assert set(found) == FIELDS
    assert found["ready"] is True
    assert [n["name"] for n in found["nodes"]] == ["node-1", "node-2", "node-3"]
    assert states(first) == [("Serving", found["revision"])] * 3
    assert all(n["endpoint"].startswith("http://127.0.0.1:") for n in found["nodes"])
    source, *others = found["variants"]
    assert source["name"] == "source"
    assert any(v["accepted"] and v["sizeBytes"] < source["sizeBytes"] for v in others)
    assert [w["nodes"] for w in found["rollout"]["waves"]] == [["node-1"], ["node-2", "node-3"]]
    assert (found["rollout"]["rolledBack"], {w["state"] for w in found["rollout"]["waves"]}) == (False, {"Done"})
    assert (project.workdir / "report.html").is_file()
    assert project.left_over() == []

    again = project.run()
    assert again.code == 0, again
    assert again.json["revision"] == found["revision"]
    assert states(again) == states(first)
    assert "was built before: nothing is rebuilt" in again.err
    assert project.left_over() == []
    report = json.loads((project.workdir / "jobs" / found["revision"] / "result.json").read_text())
    assert report["outcome"] == "Succeeded"

    looked = project.edgemodel("plan", "-f", project.file, "-o", "json")
    assert looked.code == 0, looked
    assert (looked.json["built"], looked.json["bytesExact"], looked.json["bytes"]) == (True, True, 0)

    project.model(2)
    nodes = project.nodes_file(
        {"name": "node-1"}, {"name": "node-2", "rehearse": {"fault": "WrongOutput", "after": 1}}, {"name": "node-3"}
    )
    bad = project.run("--nodes-file", nodes)
    assert bad.code == 1, bad
    assert bad.json["ready"] is False
    assert bad.json["revision"] != found["revision"]
    assert bad.json["rollout"]["rolledBack"] is True
    assert "node-2" in bad.json["rollout"]["reason"]
    assert "GoldenMismatch" in bad.json["rollout"]["reason"] or "error" in bad.json["rollout"]["reason"]
    assert states(bad) == [("Serving", found["revision"])] * 3
    assert project.left_over() == []


def test_a_new_revision_rolls_over_the_old_one_while_it_serves(project, load):
    first = project.run("--keep-serving")
    assert first.code == 0, first
    endpoints = [n["endpoint"] for n in first.json["nodes"]]
    project.model(2)
    # Other labels mean other options: node-1's agent is replaced too, while its server goes on.
    nodes = project.nodes_file({"name": "node-1", "labels": {"site": "north"}}, {"name": "node-2"}, {"name": "node-3"})
    with load(endpoints) as clients:
        second = project.run("--keep-serving", "--nodes-file", nodes)
        seen_at_the_end = clients.count
        time.sleep(0.3)
    assert second.code == 0, second
    assert clients.failures == []
    assert "the agent of node-1 is replaced" in second.err
    assert clients.count > seen_at_the_end, "the servers must go on after the command"
    assert [n["endpoint"] for n in second.json["nodes"]] == endpoints
    assert states(second) == [("Serving", second.json["revision"])] * 3
    assert clients.versions == {first.json["revision"], second.json["revision"]}
    stopped = project.edgemodel("stop", "--workdir", project.workdir)
    assert (stopped.code, stopped.out) == (0, "stopped: node-1, node-2, node-3\n"), stopped
    assert project.left_over() == []
    assert project.edgemodel("stop", "--workdir", project.workdir).out == "nothing was running\n"


def test_refused_by_a_gate(project):
    project.spec["compression"]["budget"]["maxSize"] = "100"
    project.write()
    ended = project.run("--nodes", "1")
    assert ended.code == 1, ended
    assert ended.json["ready"] is False
    assert "maxSize 100" in ended.json["rollout"]["reason"]
    assert "maxSize 100" in ended.err
    assert [v for v in ended.json["variants"] if v["accepted"] and v["name"] != "source"] == []
    assert project.left_over() == []


BAD_MODELS = {"no model": b"this is no model", "empty": b"", "truncated": None}


@pytest.mark.parametrize("content", BAD_MODELS.values(), ids=BAD_MODELS)
def test_bad_models_are_bad_input(project, content):
    path = project.folder / "m.onnx"
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    ended = project.run("--nodes", "1")
    assert (ended.code, ended.out) == (2, ""), ended
    assert "Traceback" not in ended.err
    assert "source file:m.onnx: " in ended.err
    assert "source.onnx" not in ended.err
    assert project.left_over() == []


def test_one_run_at_a_time_and_every_end_leaves_nothing(project):
    project.spec["rollout"]["waves"] = [{"nodes": 1, "soak": "1h"}, {"nodes": "100%"}]
    project.write()
    process = project.start("run", "-f", project.file, "--nodes", "2", "-o", "json")
    job = project.workdir / "jobs"
    project.wait("the Job runs", lambda: list(job.glob("*/process.json")), process)
    other = project.run("--nodes", "2")
    assert (other.code, other.out) == (2, ""), other
    assert f"is in use by edgemodel run -f {project.file} (process {process.pid}, since " in other.err
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out) == (130, ""), err
    assert "stopped by SIGINT" in err
    assert project.left_over() == []

    timed_out = project.run("--nodes", "2", "--timeout", "5s")
    assert timed_out.code == 1, timed_out
    waits_for = r"TimedOut: not rolled out within --timeout 5 s; (Compressing|Trialing|RollingOut|Soaking): .+"
    assert re.fullmatch(waits_for, timed_out.json["rollout"]["reason"])
    assert project.left_over() == []

    process = project.start("run", "-f", project.file, "--nodes", "2")
    project.wait("a server runs", lambda: [p for p in project.left_over() if p.startswith("server")], process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=40)
    assert process.returncode == 143
    assert project.left_over() == []


def test_killed_without_a_chance_to_tidy_up(project):
    process = project.start("run", "-f", project.file, "--nodes", "1")
    project.wait("the Job runs", lambda: list(project.workdir.glob("jobs/*/process.json")), process)
    process.kill()
    process.wait()
    ended = project.edgemodel("stop", "--workdir", project.workdir)
    assert ended.code == 0, ended
    assert project.left_over() == []
    assert project.run("--nodes", "1").code == 0
