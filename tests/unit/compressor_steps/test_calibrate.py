"""Ranges: exact minima and maxima, clipping, and memory that does not grow with the samples."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.errors import InputError
from edgemodel_compressor.steps import calibrate as module
from edgemodel_compressor.steps.calibrate import calibrate
from edgemodel_compressor.steps.histogram import Histogram
from edgemodel_compressor.steps.prepare import prepare


def save(made, tmp_path):
    path = tmp_path / "float.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def test_ranges_are_those_of_the_float_model(m, tmp_path):
    base = prepare(m.cnn())
    x = np.random.default_rng(0).normal(size=(50, 1, 8, 8)).astype(np.float32)
    steps = []
    ranges = calibrate(
        save(base, tmp_path), m.Data(x=x), rows=7, samples=999, seed=0, progress=lambda *a: steps.append(a)
    )
    assert ranges.samples == 49  # seven whole batches; the last one holds a single row
    assert (ranges.tensors["x"].low, ranges.tensors["x"].high) == (x[:49].min(), x[:49].max())
    y = m.run(base, x[:49])
    assert ranges.tensors["y"].low == pytest.approx(y.min(), rel=1e-5)
    assert ranges.tensors["y"].high == pytest.approx(y.max(), rel=1e-5)
    assert ranges.tensors["r1"].low == 0
    assert set(ranges.tensors) == {"x", "n1", "r1", "c2", "a", "p", "f", "y"}
    assert steps == [(i, 7) for i in range(1, 8)]
    assert all(type(v) is float for r in ranges.tensors.values() for v in (r.low, r.high, *r.clipped))


def test_groups_do_not_change_the_ranges(m, tmp_path, monkeypatch):
    path = save(prepare(m.cnn()), tmp_path)
    data = m.Data(x=m.normal(20, 1, 8, 8))
    together = calibrate(path, data, rows=5, samples=20, seed=0)
    monkeypatch.setattr(module, "GROUP_BYTES", 1)
    assert calibrate(path, data, rows=5, samples=20, seed=0) == together
    monkeypatch.setattr(module, "GROUP_BYTES", 32 * 2**20)
    monkeypatch.setattr(module, "GROUP_TENSORS", 2)
    assert calibrate(path, data, rows=5, samples=20, seed=0) == together


@pytest.mark.parametrize(
    ("rows", "samples", "held", "used"),
    [
        pytest.param(4, 100, 10, 8, id="all whole batches"),
        pytest.param(4, 8, 100, 8, id="spread"),
        pytest.param(4, 9, 100, 12, id="rounded up to batches"),
        pytest.param(8, 8, 3, 3, id="fewer rows than one batch"),
        pytest.param(1, 1, 5, 1, id="one"),
    ],
)
def test_how_many_samples_are_used(m, tmp_path, rows, samples, held, used):
    data = m.Data(x=m.normal(held, 32))
    ranges = calibrate(save(m.matmul(), tmp_path), data, rows=rows, samples=samples, seed=3)
    assert ranges.samples == used
    assert ranges == calibrate(save(m.matmul(), tmp_path), data, rows=rows, samples=samples, seed=3)


def test_infinities_are_flagged(m, tmp_path):
    x = m.normal(4, 32)
    x[1, 1] = np.inf
    ranges = calibrate(save(m.matmul(), tmp_path), m.Data(x=x), rows=2, samples=4, seed=0)
    assert not ranges.tensors["x"].finite
    assert not ranges.tensors["y"].finite


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param({"x": np.zeros((0, 32), np.float32)}, "holds no samples", id="no samples"),
        pytest.param({"x": np.zeros((4, 31), np.float32)}, "fails on the calibration data", id="a wrong shape"),
        pytest.param({"z": np.zeros((4, 32), np.float32)}, "fails on the calibration data", id="a wrong name"),
    ],
)
def test_messages(m, tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        calibrate(save(m.matmul(), tmp_path), m.Data(**data), rows=2, samples=4, seed=0)


def test_a_file_that_is_no_model(m, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match=r"broken\.onnx cannot be read as ONNX"):
        calibrate(path, m.Data(x=m.normal(2, 32)), rows=2, samples=4, seed=0)


CHILD = """
import json, sys
from pathlib import Path
import numpy as np
from edgemodel_compressor.steps.calibrate import calibrate
samples = int(sys.argv[2])

class Stream:
    samples, labels = samples, None
    def batches(self, size):
        for i in range(0, samples, size):
            rng = np.random.default_rng(i)
            yield {"x": rng.normal(size=(min(size, samples - i), 1, 64, 64)).astype(np.float32)}

ranges = calibrate(Path(sys.argv[1]), Stream(), rows=8, samples=samples, seed=0)
peak = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
print(json.dumps([ranges.samples, peak * 1024]))
"""


def test_memory_does_not_grow_with_the_samples(m, tmp_path):
    """Each batch answers 6 MB of activations: kept, ten times the samples would take 430 MB more.

    What is freed goes back at once here. Left alone, glibc raises the size from which it does so with what it sees freed, and then
    keeps between 0 and 30 MB, by chance.
    """
    tensors = {"w1": m.normal(16, 1, 3, 3), "w2": m.normal(16, 16, 3, 3)}
    nodes = [
        m.node("Conv", ["x", "w1"], "a", pads=[1, 1, 1, 1]), m.node("Relu", ["a"], "b"),
        m.node("Conv", ["b", "w2"], "y", pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    path = save(m.model(nodes, tensors, x=("n", 1, 64, 64)), tmp_path)
    peaks = {}
    for samples in (64, 640):
        child = [sys.executable, "-c", CHILD, str(path), str(samples)]
        env = {"PYTHONPATH": ":".join(sys.path), "MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_ARENA_MAX": "1"}
        used, peaks[samples] = json.loads(
            subprocess.run(child, env=env, capture_output=True, text=True, check=True).stdout
        )
        assert used == samples
    assert peaks[640] - peaks[64] < 4 * 2**20


@given(
    st.lists(st.integers(-300, 300).map(lambda n: n / 16), min_size=1, max_size=60),
    st.integers(1, 7),
    st.integers(-20, 20),
)
def test_a_histogram_counts_whatever_the_order(values, parts, exponent):
    values = np.array(values, dtype=np.float32) * np.float32(2.0**exponent)
    one, many = Histogram(), Histogram()
    one.add(values)
    for part in np.array_split(np.sort(values), parts):
        many.add(part)
    assert one.count == many.count == len(values)
    assert (one.low, one.high) == (many.low, many.high) == (values.min(), values.max())
    low, high = one.least_error()
    assert min(one.low, 0) <= low <= 0 <= high <= max(one.high, 0)


def test_growing_merges_bins_exactly():
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    one, many = Histogram(), Histogram()
    one.add(np.concatenate([values, [np.float32(1000)]]))
    many.add(values)
    many.add(np.array([1000], dtype=np.float32))
    np.testing.assert_array_equal(one._counts, many._counts)


def test_an_outlier_is_clipped_and_a_flat_tensor_is_not():
    values = np.random.default_rng(0).normal(size=1_000_000).astype(np.float32)
    lonely, flat = Histogram(), Histogram()
    lonely.add(np.append(values, np.float32(20)))
    low, high = lonely.least_error()
    assert 5 < high < 15
    assert low < -2.5
    flat.add(np.linspace(-1, 3, 10_000))
    assert flat.least_error() == (-1, 3)


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0], [np.nan], [1e-38], [3e38]])
def test_degenerate_streams(values):
    histogram = Histogram()
    histogram.add(np.array(values, dtype=np.float32))
    assert histogram.finite == (not np.isnan(values).any())
    low, high = histogram.least_error()
    assert low <= high
    assert np.isfinite([low, high]).all()
