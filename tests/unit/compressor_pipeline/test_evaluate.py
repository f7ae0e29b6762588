"""Intervals, metrics, latency, golden limits, gates: against formulas and against scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, top_k_accuracy_score

from edgemodel_api.edgemodel import Budget, Metric
from edgemodel_api.errors import InputError
from edgemodel_api.report import Measurement
from edgemodel_compressor import gates
from edgemodel_compressor.evaluate.f1 import f1_drop, f1_interval
from edgemodel_compressor.evaluate.golden import build_golden, npz_bytes
from edgemodel_compressor.evaluate.intervals import mean_interval, median_interval, paired_difference, wilson
from edgemodel_compressor.evaluate.latency import MIN_ROUNDS, compare_latency
from edgemodel_compressor.evaluate.memory import peak_memory
from edgemodel_compressor.evaluate.metrics import agreement_judge, check_labels, label_judge
from edgemodel_compressor.evaluate.runner import batch_rows
from edgemodel_oci.golden import compare_outputs, load_golden

binary = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60).map(np.array)


@given(binary)
def test_wilson_holds_the_share_and_stays_within_0_and_1(rows):
    value, low, high = mean_interval(rows)
    assert 0 <= low <= value <= high <= 1
    assert value == pytest.approx(rows.mean())
    assert high - low > 0  # never certain


def test_wilson_known_value():
    # Brown, Cai, DasGupta 2001: 0 of 20 gives an upper end of 16.1 %.
    assert wilson(0, 20).high == pytest.approx(0.161, abs=5e-4)


@given(binary, st.randoms())
def test_paired_difference_is_antisymmetric(rows, order):
    other = rows.copy()
    order.shuffle(other)
    there, back = paired_difference(rows, other), paired_difference(other, rows)
    assert there.value == pytest.approx(-back.value)
    assert there.low == pytest.approx(-back.high)
    assert there.low <= there.value <= there.high


def test_paired_beats_unpaired_where_answers_mostly_agree():
    rows = np.array([1.0] * 950 + [0.0] * 50)
    other = rows.copy()
    other[0] = 0
    assert paired_difference(rows, other).half_width < mean_interval(rows).half_width / 3


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=50))
def test_median_interval_holds_the_median(values):
    found = median_interval(np.array(values))
    assert found.low <= found.value <= found.high


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.integers(5, 60), st.integers(0, 999))
def test_f1_is_scikit_learns(classes, n, seed):
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, classes, n), rng.integers(0, classes, n)
    labels[:classes] = range(classes)
    average = "binary" if classes == 2 else "macro"
    want = f1_score(labels, predicted, average=average, zero_division=0)
    assert f1_interval(labels, predicted, seed=0).value == pytest.approx(want)
    assert f1_drop(labels, labels, predicted, seed=0).value == pytest.approx(1 - want)


@given(st.integers(3, 6), st.integers(1, 20), st.integers(0, 99))
def test_top_k_is_scikit_learns(classes, n, seed):
    rng = np.random.default_rng(seed)
    output, labels = rng.normal(size=(n, classes)).astype(np.float32), rng.integers(0, classes, n)
    k = classes - 1
    want = top_k_accuracy_score(labels, output, k=k, labels=range(classes))
    assert label_judge(Metric.TOPK, k).rows(output, labels).mean() == pytest.approx(want)


ROWS = {
    "one-hot labels": (Metric.TOP1, [[0.1, 0.9]], [[0, 1]], [1]),
    "probability of class 1": (Metric.TOP1, [[0.7], [0.2]], [1, 1], [1, 0]),
    "squared error": (Metric.MEAN_SQUARED_ERROR, [[1.0, 2.0]], [[0.0, 4.0]], [2.5]),
    "cosine": (Metric.COSINE, [[1.0, 0.0]], [[1.0, 1.0]], [1 / math.sqrt(2)]),
}


@pytest.mark.parametrize(("metric", "output", "labels", "want"), ROWS.values(), ids=ROWS)
def test_rows_of_metrics(metric, output, labels, want):
    judge, output, labels = label_judge(metric, 1), np.array(output), np.array(labels)
    check_labels(judge, labels, output)
    assert judge.rows(output, labels).tolist() == pytest.approx(want)


WRONG = {
    "label beyond the classes": (Metric.TOP1, np.zeros((2, 3)), np.array([0, 3]), "a label is 3, but the output has 3"),
    "label of another shape": (Metric.TOP1, np.zeros((2, 3)), np.zeros((2, 7)), "labels have shape"),
    "k too large": (Metric.TOPK, np.zeros((2, 3)), np.array([0, 1]), "more than 5 classes"),
    "text for numbers": (Metric.MEAN_SQUARED_ERROR, np.zeros((2, 1)), np.array(["a", "b"]), "needs numbers"),
    "other size": (Metric.COSINE, np.zeros((2, 3)), np.zeros((2, 4)), "labels have 4 numbers a sample"),
}


@pytest.mark.parametrize(("metric", "output", "labels", "message"), WRONG.values(), ids=WRONG)
def test_labels_that_do_not_fit(metric, output, labels, message):
    with pytest.raises(InputError, match=message):
        check_labels(label_judge(metric, 5), labels, output)


def test_agreement_by_kind_of_output():
    assert agreement_judge(np.zeros((2, 3), np.float32), None).name == "SameArgMax"
    assert agreement_judge(np.zeros((2, 1), np.float32), None).name == "Closeness"
    assert agreement_judge(np.zeros(2, np.int64), None).name == "SameAnswer"
    assert agreement_judge(np.zeros((2, 3), np.float32), Metric.COSINE).name == "Cosine"


class Clock:
    """Time passes only in models."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def model(self, seconds):
        def run(feeds):
            self.now += seconds(self.now) if callable(seconds) else seconds
            return {}

        return run


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.MEAN_SQUARED_ERROR])
def test_answers_of_nothing_agree_and_others_are_judged_as_before(metric):
    rng = np.random.default_rng(0)
    source = rng.normal(size=(50, 200))
    source[3] = 0
    source[4] *= 1e-9
    judge = agreement_judge(source.reshape(50, 10, 20), metric)
    floored = judge.with_floor(judge.squares(source))
    noisy = source + rng.normal(size=source.shape) * 1e-8
    assert judge.rows(noisy, source)[3:5].max() < 0.9
    assert floored.rows(noisy, source) == pytest.approx(1, abs=1e-4)
    # Something where the source has nothing is wrong, and elsewhere the floor is not felt.
    loud = source + rng.normal(size=source.shape) * 0.1
    assert floored.rows(loud, source)[3] < 0.2
    rest = np.delete(np.arange(50), [3, 4])
    assert floored.rows(loud, source)[rest] == pytest.approx(judge.rows(loud, source)[rest], abs=1e-5)


def test_slowdown_is_the_median_of_pairs():
    clock = Clock()
    found = compare_latency(clock.model(0.012), clock.model(0.010), [{}], seconds=1.0, clock=clock)
    assert found.slowdown.value == pytest.approx(0.2)
    assert found.candidate.median == pytest.approx(0.012)
    assert found.rounds >= MIN_ROUNDS


def test_what_slows_the_whole_machine_falls_out():
    clock = Clock()
    weather = lambda now: 0.010 * (3 if int(now * 4) % 3 == 0 else 1)  # noqa: E731
    found = compare_latency(clock.model(weather), clock.model(weather), [{}], seconds=2.0, clock=clock)
    assert abs(found.slowdown.value) < 0.02


def test_slow_models_get_few_rounds():
    clock = Clock()
    assert compare_latency(clock.model(3.0), clock.model(3.0), [{}], seconds=1.0, clock=clock).rounds == 5


class Rows:
    labels = None

    def __init__(self, x):
        self.x, self.samples = x, len(x)

    def batches(self, size):
        return ({"x": self.x[i : i + size]} for i in range(0, self.samples, size))

    def take(self, n, seed):
        return {"x": self.x[:n]}


def test_rows_go_one_at_a_time_where_a_batch_answers_otherwise():
    data = Rows(np.arange(20, dtype=np.float32).reshape(10, 2))
    assert batch_rows(lambda f: {"y": f["x"] * 2}, data, fixed=None) == 32
    assert batch_rows(lambda f: {"y": f["x"] - f["x"].mean()}, data, fixed=None) == 1
    assert batch_rows(lambda f: {"y": f["x"].reshape(1, -1)}, data, fixed=None) == 1
    assert batch_rows(lambda f: {"y": f["x"]}, data, fixed=7) == 7


@pytest.mark.parametrize("seed", range(8))
def test_a_model_that_branches_on_its_batch_runs_row_by_row(seed):
    """As an If over the mean of the batch: two rows alone often take the same branch."""
    data = Rows(np.random.default_rng(seed).normal(size=(64, 4)).astype(np.float32))
    assert batch_rows(lambda f: {"y": f["x"] * (2 if f["x"].mean() > 0 else 3)}, data, fixed=None) == 1


def test_golden_cases_are_small_deterministic_and_readable(tmp_path):
    data = Rows(np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32))
    golden = build_golden(lambda f: {"y": f["x"] * 2}, data, rows=1, dest_dir=tmp_path, seed=0)
    inputs, outputs, cases = load_golden(golden.path)
    assert cases == golden.cases == 32
    assert np.array_equal(outputs["y"], inputs["x"] * 2)
    assert golden.path.read_bytes() == npz_bytes(golden.inputs, golden.outputs)
    score = golden.score(lambda f: {"y": f["x"] * 2.02})
    limits = golden.limits(score)
    assert limits.max_error == pytest.approx(0.02, abs=0.002)
    assert score.passes(limits)
    assert golden.limits(score, tolerance=0.5).max_error == 0.5


def test_a_model_that_cannot_run_in_its_own_process_is_named(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match="cannot run in a process of its own: exit code 1"):
        peak_memory(tmp_path / "bad.onnx", {"x": np.zeros(1)}, work_dir=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.onnx"]


def measurement(**fields):
    return Measurement(**{"size_bytes": 1000, "file_bytes": 4000} | fields)


GATES = {
    "quality within": (Budget(max_quality_drop="1%"), {"quality_drop": 0.01}, None, []),
    "quality over": (Budget(max_quality_drop="1%"), {"quality_drop": 0.0101}, None, ["maxQualityDrop"]),
    "size over": (Budget(max_size="999"), {}, None, ["maxSize"]),
    "latency over": (Budget(max_latency="5ms"), {"latency_median_seconds": 0.006}, None, ["maxLatency"]),
    "memory over": (Budget(max_memory="1Mi"), {"peak_memory_bytes": 2**20 + 1}, None, ["maxMemory"]),
    "surely slower": (Budget(), {"slowdown": 0.05}, 0.03, ["maxSlowdown"]),
    "maybe slower": (Budget(), {"slowdown": 0.05}, 0.01, []),
    "far slower on a noisy machine": (Budget(), {"slowdown": 0.3}, -0.5, ["maxSlowdown"]),
    "slowdown allowed": (Budget(max_slowdown="50%"), {"slowdown": 0.3}, 0.29, []),
    "not measured": (Budget(max_latency="1ms", max_memory="1"), {}, None, []),
}


@pytest.mark.parametrize(("budget", "fields", "low", "want"), GATES.values(), ids=GATES)
def test_gates(budget, fields, low, want):
    found = gates.check(budget, measurement(**fields), slowdown_low=low)
    assert [r.gate for r in found] == want
    for refusal in found:
        assert refusal.value > refusal.limit
        assert refusal.gate in refusal.message
        assert "raise it" in refusal.message


@pytest.mark.parametrize(("size", "refused"), [(999, False), (1000, True), (1001, True)])
def test_a_file_that_did_not_shrink_is_refused(size, refused):
    found = gates.shrink_refusal(measurement(size_bytes=size), measurement())
    assert (found is not None) == refused
    if found:
        assert f"{size} bytes stored, not smaller than the source's 1000" in found.message
        assert found.gate in gates.DETERMINISTIC


def test_a_golden_case_without_an_answer_does_not_blind_the_check():
    """A detector that finds nothing answers with noise, which differs from CPU to CPU."""
    rng = np.random.default_rng(0)
    want = rng.normal(size=(4, 100)).astype(np.float32)
    want[2] = 0
    noise = (rng.normal(size=want.shape) * 1e-7).astype(np.float32)
    assert compare_outputs({"y": want + noise}, {"y": want}, 4).error < 1e-3
    wrong = want.copy()
    wrong[2] = 1
    assert compare_outputs({"y": wrong}, {"y": want}, 4).error > 100
