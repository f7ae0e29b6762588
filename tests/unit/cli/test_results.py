import re
from datetime import timedelta

import pytest

from edgemodel_api.edgenode import TargetState
from edgemodel_api.hardware import Hardware
from edgemodel_api.job import JobResult, Outcome, SourceSummary, VariantSummary
from edgemodel_api.report import Candidate, CompressionReport, Measurement, QualityBasis, QualityKind, Refusal
from edgemodel_cli import ending, results
from edgemodel_cli.ending import End

AT = "2026-11-24T12:00:00Z"
JOB = JobResult(
    outcome=Outcome.SUCCEEDED,
    digest="sha256:i",
    source=SourceSummary(size_bytes=4000, quality=0.8, latency_median_seconds=0.002),
    variants=(
        VariantSummary(platform="linux/amd64", name="source", digest="sha256:a", size_bytes=4000, quality=0.8),
        VariantSummary(
            platform="linux/amd64",
            name="int8",
            digest="sha256:b",
            size_bytes=1000,
            quality=0.796,
            latency_median_seconds=0.001,
        ),
    ),
)
REPORT = CompressionReport(
    quality=QualityBasis(kind=QualityKind.LABELS, metric="Top1", samples=100),
    source=Measurement(size_bytes=4000, file_bytes=4100, quality=0.8),
    candidates=(
        Candidate(name="int8", accepted=True, measurement=Measurement(size_bytes=1, file_bytes=1, quality_drop=0.0051)),
        Candidate(
            name="int4",
            platforms=("linux/amd64", "linux/arm64"),
            measurement=Measurement(size_bytes=600, file_bytes=1000, quality=0.5, quality_drop=0.375),
            refusals=(Refusal(gate="maxQualityDrop", message="quality drops by 37.5%"),),
        ),
    ),
)


def condition(kind, status, reason="", message=""):
    return {
        "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": AT,
        "observedGeneration": 1,
    }  # fmt: skip


READY = condition("Ready", "True", "RolledOutToAll", "3 of 3 nodes serve")
ROLLOUT = {
    "revision": "r2",
    "rolledBack": True,
    "finishedAt": AT,
    "reason": "TooManyFailures",
    "message": "1 of 3 failed",
}
FAILED = JobResult(outcome=Outcome.FAILED, reason="Failed", message="killed")
INVALID = JobResult(outcome=Outcome.INVALID, reason="InvalidInput", message="NaN weights")
ENDINGS = {
    "nothing yet": ({}, None, None),
    "not yet seen": ({"observedGeneration": 0, "conditions": [READY]}, None, None),
    "ready": ({"observedGeneration": 1, "conditions": [READY]}, JOB, End(0, "RolledOutToAll", "3 of 3 nodes serve")),
    "ready, but at work": (
        {"observedGeneration": 1, "conditions": [READY, condition("Reconciling", "True", "Soaking")]},
        JOB,
        None,
    ),
    "stalled": (
        {"observedGeneration": 1, "conditions": [condition("Stalled", "True", "BudgetExceeded", "5 % over 1 %")]},
        JobResult(outcome=Outcome.REFUSED),
        End(1, "BudgetExceeded", "5 % over 1 %"),
    ),
    "stalled by bad input": (
        {"observedGeneration": 1, "conditions": [condition("Stalled", "True", "InvalidInput", "x")]},
        INVALID,
        End(2, "InvalidInput", "NaN weights"),
    ),
    "stalled by the spec": (
        {"observedGeneration": 1, "conditions": [condition("Stalled", "True", "InvalidInput", "no such time zone")]},
        JOB,
        End(2, "InvalidInput", "no such time zone"),
    ),
    "stalled by a failed Job": (
        {"observedGeneration": 1, "conditions": [condition("Stalled", "True", "CompressionFailed", "x")]},
        FAILED,
        End(3, "Failed", "killed"),
    ),
    "rolled back": (
        {"observedGeneration": 1, "conditions": [condition("Ready", "False", "RolledBack")], "rollout": ROLLOUT},
        JOB,
        End(1, "TooManyFailures", "1 of 3 failed"),
    ),
}


@pytest.mark.parametrize(("status", "job", "end"), ENDINGS.values(), ids=ENDINGS)
def test_ending(make_model, status, job, end):
    assert ending.ending(make_model(status=status), job) == end


def test_json_has_the_fields_of_the_contract(make_model, make_node, now):
    status = {"revision": "r2", "observedGeneration": 1, "rollout": {"revision": "r2", "wave": 1, "finishedAt": AT}}
    model = make_model(status=status, rollout={"waves": [{"nodes": 1, "soak": "1s"}, {"nodes": "100%"}]})
    nodes = [make_node(n, TargetState.SERVING, running="r2") for n in ("n1", "n2")]
    found = results.run_json(
        model,
        End(0, "RolledOutToAll", "2 of 2"),
        variants=results.variant_rows(JOB, REPORT, model),
        nodes=[results.node_row(n, model.key, now) for n in nodes],
        waves=results.wave_rows(model, ["n2", "n1"]),
        job=JOB,
    )
    assert set(found) == {"ready", "revision", "source", "variants", "nodes", "rollout"}
    assert found["ready"] is True
    assert found["source"] == {"sizeBytes": 4000, "quality": 0.8, "latencyMedianSeconds": 0.002}
    for variant in found["variants"]:
        assert set(variant) == {
            "platform", "name", "format", "digest", "sizeBytes", "quality", "latencyMedianSeconds", "accepted", "reason",
        }  # fmt: skip
    assert found["nodes"][0] == {
        "name": "n1",
        "state": "Serving",
        "revision": "r2",
        "variant": "int8",
        "endpoint": "http://127.0.0.1:1/v2/models/m",
    }
    assert found["rollout"]["rolledBack"] is False
    assert found["rollout"]["reason"] == "RolledOutToAll: 2 of 2"
    assert found["rollout"]["waves"] == [
        {"nodes": ["n1"], "admitted": 1, "soak": "1s", "state": "Done"},
        {"nodes": ["n2"], "admitted": 2, "soak": "0s", "state": "Done"},
    ]


def test_refused_candidates_come_from_the_report():
    rows = results.variant_rows(JOB, REPORT)
    assert [(r.platform, r.name, r.accepted) for r in rows] == [
        ("linux/amd64", "source", True),
        ("linux/amd64", "int8", True),
        ("linux/amd64", "int4", False),
        ("linux/arm64", "int4", False),
    ]
    assert rows[2].reason == "quality drops by 37.5%"
    assert [r.drop for r in rows[:3]] == [None, 0.0051, 0.375]


def test_without_a_report_the_drop_is_computed():
    assert results.variant_rows(JOB, None)[1].drop == pytest.approx(0.005)


NODES = {
    "serving": ({"state": TargetState.SERVING, "running": "r2"}, ("Serving", "r2")),
    "old one still serves": ({"state": TargetState.CHECKING, "running": "r1"}, ("Checking", "r1")),
    "nothing serves yet": ({"state": TargetState.DOWNLOADING}, ("Downloading", "r2")),
    "offline": ({"state": TargetState.SERVING, "running": "r2", "age": 61.0}, ("Offline", "")),
    "not assigned": ({}, ("Unassigned", "")),
}


@pytest.mark.parametrize(("given", "expected"), NODES.values(), ids=NODES)
def test_node_row(make_node, now, given, expected):
    row = results.node_row(make_node("n1", **given), "default/m", now)
    assert (row.state, row.revision) == expected


SETTLED = {
    "all serve": ([{"state": TargetState.SERVING}, {"state": TargetState.SERVING}], True),
    "one failed": ([{"state": TargetState.SERVING}, {"state": TargetState.FAILED}], True),
    "one is on its way": ([{"state": TargetState.SERVING}, {"state": TargetState.DOWNLOADED}], False),
    "one has not seen its spec": ([{"state": TargetState.SERVING, "seen": False}], False),
    "an offline one is not waited for": ([{"state": TargetState.DOWNLOADED, "age": 100.0}], True),
    "no nodes": ([], True),
}


@pytest.mark.parametrize(("nodes", "expected"), SETTLED.values(), ids=SETTLED)
def test_settled(make_node, now, nodes, expected):
    made = [make_node(f"n{i}", **given) for i, given in enumerate(nodes)]
    assert ending.settled(made, now) is expected
    assert ending.settled(made, now + timedelta(hours=1)) is True


WAVES = {
    "not begun": ({"revision": "r2", "wave": -1}, ["Waiting", "Waiting", "Waiting"]),
    "first": ({"revision": "r2", "wave": 0, "waveStartedAt": AT}, ["Active", "Waiting", "Waiting"]),
    "waits for approval of the first": ({"revision": "r2", "wave": 0}, ["Waiting", "Waiting", "Waiting"]),
    "second": ({"revision": "r2", "wave": 1, "waveStartedAt": AT}, ["Done", "Active", "Waiting"]),
    "finished": ({"revision": "r2", "wave": 2, "waveStartedAt": AT, "finishedAt": AT}, ["Done", "Done", "Done"]),
    "rolled back": (
        {"revision": "r2", "wave": 1, "waveStartedAt": AT, "rolledBack": True, "finishedAt": AT},
        ["Done", "RolledBack", "Waiting"],
    ),
    "of another revision": (
        {"revision": "r1", "wave": 2, "waveStartedAt": AT, "finishedAt": AT},
        ["Waiting", "Waiting", "Waiting"],
    ),
}


@pytest.mark.parametrize(("rollout", "states"), WAVES.values(), ids=WAVES)
def test_wave_states(make_model, rollout, states):
    waves = {"waves": [{"nodes": 1}, {"nodes": "50%"}, {"nodes": "100%"}]}
    model = make_model(status={"revision": "r2", "rollout": rollout}, rollout=waves)
    rows = results.wave_rows(model, [f"n{i}" for i in range(4)])
    assert [r.state for r in rows] == states
    assert [r.admitted for r in rows] == [1, 2, 4]


def here(*candidates, platform="linux/amd64", hardware_class="amd64-vnni"):
    return REPORT.replace(
        host=Hardware(platform=platform, hardware_class=hardware_class, memory_bytes=1, cores=1),
        candidates=tuple(
            Candidate(name=name, digest="sha256:x", accepted=True, hardware_classes=classes, refusals=refusals)
            for name, classes, refusals in candidates
        ),
    )


def slow(value):
    return (Refusal(gate="maxSlowdown", value=value, limit=0.0, message=f"{value:+.0%}, maxSlowdown 0%"),)


HERE = {
    "one keeps it": (here(("a", (), slow(0.2)), ("b", (), ())), None),
    "none keeps it": (
        here(("a", (), slow(0.2)), ("b", (), slow(0.1))),
        r"none of 2 .* this machine.*nearest is b: \+10%",
    ),
    "the one that does is for another CPU": (here(("a", (), slow(0.2)), ("b", ("amd64-avx2",), ())), "none of 1"),
    "all are for another CPU": (here(("b", ("amd64-avx2",), slow(0.2))), None),
    "this machine is of another platform": (here(("a", (), slow(0.2)), platform="linux/arm64"), None),
}


@pytest.mark.parametrize(("report", "message"), HERE.values(), ids=HERE)
def test_refused_here(report, message):
    why = results.refused_here(report, ("linux/amd64",))
    assert (why is None) if message is None else re.match(message, why)


def test_rows_of_this_machine_are_accepted_only_within_all_limits():
    rows = (results.VariantRow("linux/amd64", "a", accepted=True), results.VariantRow("linux/amd64", "b", accepted=True, reason="slow"),
            results.VariantRow("linux/arm64", "b", accepted=True, reason="slow"))  # fmt: skip
    assert [r.accepted for r in results.judged_here(rows, here())] == [True, False, True]


def trial(hardware_class, chosen, refused, *, measured_on="n1"):
    return {
        "hardwareClass": hardware_class, "platform": "linux/amd64", "name": chosen, "digest": "sha256:a",
        "sizeBytes": 1, "measuredOn": measured_on, "refused": [{"name": n, "message": m} for n, m in refused.items()],
    }  # fmt: skip


SLOW = {"int8": "+30.0% latency beside the source, maxSlowdown is 0%"}
TRIALS = {
    "every class refused it": (
        [trial("amd64-vnni", "source", SLOW), trial("amd64-avx2", "source", SLOW, measured_on="n2")],
        False,
        "amd64-vnni on n1: +30.0% latency beside the source, maxSlowdown is 0%; amd64-avx2 on n2: +30.0% latency",
    ),
    "one class took it": ([trial("amd64-vnni", "source", SLOW), trial("amd64-avx2", "int8", {})], True, ""),
    "no trial yet": ([trial("amd64-vnni", "", SLOW, measured_on="")], True, ""),
    "another platform": ([{**trial("arm64-base", "source", SLOW), "platform": "linux/arm64"}], True, ""),
}


@pytest.mark.parametrize(("variants", "accepted", "reason"), TRIALS.values(), ids=TRIALS)
def test_what_every_trial_refused_is_refused(make_model, variants, accepted, reason):
    model = make_model(status={"variants": variants})
    row = results.variant_rows(JOB, REPORT, model)[1]
    assert (row.name, row.accepted) == ("int8", accepted)
    assert row.reason.startswith(reason)
    assert bool(row.reason) == bool(reason)
