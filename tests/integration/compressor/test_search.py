"""Whole searches: with workers as without, from the cache as anew, stopped in time, learned; and why nothing passed."""

import numpy as np
import pytest

from edgemodel_api import reasons
from edgemodel_api.edgemodel import Search
from edgemodel_api.errors import InputError
from edgemodel_api.job import Outcome
from edgemodel_compressor import deadline, workers
from edgemodel_compressor.summary import to_bytes

FEW = {"search": {"maxCandidates": 11}}
WEIGHTS = {"quantize": {"precision": "Int8", "activations": "None"}}
CLOCKS = {"latency_median_seconds", "latency_p99_seconds", "slowdown", "peak_memory_bytes"}
HOST_GATES = {"maxLatency", "maxSlowdown", "maxMemory"}


def told(report):
    """Everything of the candidates but what a clock said."""
    return [
        (
            c.name,
            c.recipe,
            c.hardware_classes,
            c.measurement.model_dump(exclude=CLOCKS) if c.measurement is not None else None,
            [r.message for r in c.refusals if r.gate not in HOST_GATES],
            c.digest,
            c.notes,
        )
        for c in report.candidates
    ]


def test_with_workers_as_without_and_from_the_cache_as_anew(lab, monkeypatch):
    cache = str(lab.folder / "cache")
    serial, one = lab.run(lab.job(output="serial", compression=FEW, workers=1, cacheDir=cache))
    assert len(one.candidates) >= 9
    parallel, two = lab.run(lab.job(output="parallel", compression=FEW, workers=2))
    assert told(two) == told(one)
    assert parallel.digest == serial.digest

    # Nothing is judged again; only what goes into the artifact is built again.
    monkeypatch.setattr(workers.Here, "submit", lambda *_: pytest.fail("judged again"))
    cached, three = lab.run(lab.job(output="cached", compression=FEW, workers=1, cacheDir=cache))
    assert told(three) == told(one)
    assert cached.digest == serial.digest


def test_another_budget_measures_only_what_is_new(lab, monkeypatch):
    cache, done = str(lab.folder / "cache"), []
    submit = workers.Here.submit

    def counted(self, task):
        done.append(task)
        return submit(self, task)

    monkeypatch.setattr(workers.Here, "submit", counted)
    job = {"workers": 1, "compression": {**FEW, "budget": {"maxQualityDrop": "2%"}}}
    lab.run(lab.job(output="one", cacheDir=cache, **job))
    first = len(done)
    job["compression"] = {**FEW, "budget": {"maxQualityDrop": "0.1%"}}
    strict, report = lab.run(lab.job(output="two", cacheDir=cache, **job))
    again = len(done) - first
    fresh, anew = lab.run(lab.job(output="three", **job))
    assert again < len(done) - first - again
    assert told(report) == told(anew)
    assert strict.digest == fresh.digest


def test_damaged_entries_change_nothing(lab):
    cache = lab.folder / "cache"
    job = {"compression": {"steps": [WEIGHTS]}, "cacheDir": str(cache)}
    result, report = lab.run(lab.job(output="one", **job))
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes().replace(b"complete", b"complet3"))
    again, anew = lab.run(lab.job(output="two", **job))
    assert (again.digest, told(anew)) == (result.digest, told(report))


def test_a_worker_that_dies_makes_one_candidate_bad(lab, monkeypatch):
    judge = workers._Worker.judge
    killed = []

    def dies(self, task):
        if not killed:
            killed.append(task)
            self._process.kill()
        return judge(self, task)

    monkeypatch.setattr(workers._Worker, "judge", dies)
    result, report = lab.run(lab.job(compression={"search": {"maxCandidates": 3}}, workers=2))
    assert result.outcome is Outcome.SUCCEEDED
    (bad,) = [c for c in report.candidates if not c.accepted]
    assert "crashed on it (SIGKILL)" in bad.refusals[0].message


@pytest.mark.parametrize("count", [1, 2])
def test_a_timeout_gives_the_best_so_far_and_says_so(lab, monkeypatch, count):
    whole = [c.name for c in lab.run(lab.job(output="whole", compression=FEW, workers=1))[1].candidates]
    now = [0.0]

    def clock():
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(deadline.Deadline.of.__func__, "__defaults__", (clock,))
    job = lab.job(compression={"search": {"timeout": "12s"}}, workers=count)
    result, report = lab.run(job)
    assert result.outcome is Outcome.SUCCEEDED
    names = [c.name for c in report.candidates]
    assert 1 <= len(names) < len(whole)
    assert names == whole[: len(names)]
    (said,) = [w for w in report.warnings if "the search stopped after" in w]
    assert "compression.search.timeout 12s" in said
    assert "second run may end elsewhere" in said


def test_one_candidate_there_is_however_short_the_time(lab):
    _, report = lab.run(lab.job(compression={"search": {"timeout": "1ms"}}))
    assert len(report.candidates) == 1


def test_the_limit_of_candidates_is_kept_and_said(lab):
    _, report = lab.run(lab.job(compression={"search": {"maxCandidates": 4}}))
    assert len(report.candidates) <= 4
    assert any("maxCandidates 4" in w for w in report.warnings)


def test_why_nothing_passed(lab):
    result, report = lab.run(lab.job(budget={"maxQualityDrop": "0%", "maxSize": "2Ki"}, compression=FEW))
    assert result.outcome is Outcome.REFUSED
    found = report.diagnosis
    assert found.nearest in {c.name for c in report.candidates}
    assert "maxSize" in found.gates
    assert found.missing["maxSize"] > 0
    assert set(found.costly_layers) <= {"dense0", "dense1", "dense2"}
    assert found.costly_layers
    assert any("would let" in s and "maxSize" in s for s in found.suggestions)
    assert found.suggestions[0] in result.message
    assert len(to_bytes(result)) <= 4096


def training(lab, rows=600):
    given = np.load(lab.digits / "calibration.npz")
    path = lab.folder / "training.npz"
    np.savez(path, x=np.concatenate([given["x"]] * (rows // 200)))
    return {"uri": f"file:{path}"}


RECOVER = {"epochs": 1, "batchSize": 32, "learningRate": "0.001"}


def test_recover_and_distill_as_explicit_steps_are_trained_once(lab, monkeypatch):
    pytest.importorskip("jax")
    cache = str(lab.folder / "cache")
    steps = [
        {"distill": {"method": "Parameter", "student": {"width": "50%"}, "epochs": 1, "batchSize": 32}},
        {"prune": {"sparsity": "50%", "granularity": "Global", "recover": RECOVER}},
        WEIGHTS,
    ]
    job = lab.job(budget={"maxQualityDrop": "90%"}, compression={"steps": steps}, cacheDir=cache)
    job = job.replace(data=job.data.replace(training=training(lab)))
    result, report = lab.run(job)
    (candidate,) = report.candidates
    assert candidate.name == "int8-weights-distill-parameter-width50-prune50-recovered"
    assert result.outcome is Outcome.SUCCEEDED
    assert candidate.measurement.size_bytes < report.source.size_bytes / 8
    assert any("learned again" in n for n in candidate.notes)

    def never(*_args, **_more):
        raise AssertionError("trained again")

    monkeypatch.setattr("edgemodel_compressor.steps.distill.distill", never)
    monkeypatch.setattr("edgemodel_compressor.training.recover.recover", never)
    again, anew = lab.run(job.replace(output=f"oci-layout://{lab.folder / 'again'}"))
    assert (again.digest, told(anew)) == (result.digest, told(report))


def test_learning_that_does_not_fit_is_told_by_its_reason_and_a_search_goes_on(lab, monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.setattr("edgemodel_compressor.training.room.in_use", lambda: 2**50)
    steps = [{"prune": {"sparsity": "50%", "recover": RECOVER}}]
    job = lab.job(budget={"maxQualityDrop": "90%"}, compression={"steps": steps})
    job = job.replace(data=job.data.replace(training=training(lab)))
    with pytest.raises(InputError, match=r"learning takes about .* for 1 row at a time") as caught:
        lab.run(job)
    assert caught.value.reason == reasons.INSUFFICIENT_MEMORY
    search = job.compression.replace(steps=None, search=Search(max_candidates=40))
    result, report = lab.run(job.replace(compression=search))
    assert result.outcome is Outcome.SUCCEEDED
    refused = [c for c in report.candidates if any("learning takes about" in r.message for r in c.refusals)]
    assert refused
    assert len(report.candidates) > len(refused) + 3


def test_a_search_with_training_data_learns(lab):
    pytest.importorskip("jax")
    job = lab.job(budget={"maxQualityDrop": "1%"}, compression={"search": {"maxCandidates": 40}})
    job = job.replace(data=job.data.replace(training=training(lab)))
    _, report = lab.run(job)
    names = [c.name for c in report.candidates]
    assert any("recovered" in n for n in names)
    assert any("channels" in n for n in names)


def test_nothing_to_learn_from_is_said_before_any_work(lab):
    job = lab.job(
        with_data=False, base_dir="/nowhere", compression={"steps": [{"distill": {"student": {"width": "50%"}}}]}
    )
    with pytest.raises(InputError, match=r"steps\[0\].distill has nothing to learn from: give data.training"):
        lab.run(job)


def test_a_students_file_is_fetched_and_named(lab):
    steps = [{"distill": {"student": {"uri": "file:absent.onnx"}}}]
    with pytest.raises(InputError, match=r"absent\.onnx"):
        lab.run(lab.job(compression={"steps": steps}))
    (lab.folder / "text.onnx").write_text("no model")
    steps = [{"distill": {"student": {"uri": f"file:{lab.folder / 'text.onnx'}"}}}]
    with pytest.raises(InputError, match=r"compression.steps\[0\].distill.student: "):
        lab.run(lab.job(compression={"steps": steps}))
