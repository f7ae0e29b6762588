"""Training rows: what is held out, reading by number, the digest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.errors import InputError
from edgemodel_compressor.data import open_dataset, synthetic
from edgemodel_compressor.tensor_spec import TensorSpec
from edgemodel_compressor.training.data import TrainingSet, split

SPEC = (TensorSpec("x", np.dtype("f4"), (None, 3)),)


@given(samples=st.integers(1, 400), unit=st.integers(1, 8), seed=st.integers(0, 3))
def test_split(samples, unit, seed):
    if samples < unit:
        with pytest.raises(InputError, match=f"takes {unit} samples at a time"):
            split(samples, seed=seed, unit=unit)
        return
    found = split(samples, seed=seed, unit=unit)
    again = split(samples, seed=seed, unit=unit)
    assert np.array_equal(found.train, again.train)
    assert np.array_equal(found.held_out, again.held_out)
    assert len(found.held_out) % unit == 0
    assert len(found.train) >= unit
    assert len(found.held_out) >= unit
    if found.shared:
        assert samples < 10 or samples < 2 * unit
        assert np.array_equal(found.train, found.held_out)
    else:
        assert sorted([*found.train, *found.held_out]) == list(range(samples))
        assert len(found.held_out) == max(samples // 10 // unit, 1) * unit


def test_rows_of_a_file_by_number(tmp_path):
    x = np.arange(30, dtype="f4").reshape(10, 3)
    np.savez(tmp_path / "t.npz", x=x, y=np.arange(10))
    data = open_dataset(tmp_path / "t.npz", SPEC, labels="y", work_dir=tmp_path, max_bytes=10**6, what="data.training")
    rows = TrainingSet(data)
    order = np.array([7, 3, 4, 5, 0, 9])
    assert np.array_equal(rows.take(order)["x"], x[order])
    assert np.array_equal(np.concatenate([b["x"] for _, b in rows.blocks(4)]), x)
    assert np.array_equal(rows.labels, np.arange(10))
    assert rows.digest == TrainingSet.of({"x": x}, labels=np.arange(10)).digest


def test_made_up_rows_by_number():
    rows = TrainingSet(synthetic(SPEC, samples=6, seed=1))
    whole = rows.take(np.arange(6))["x"]
    assert np.array_equal(rows.take(np.array([4, 1]))["x"], whole[[4, 1]])


def test_digest_sees_everything():
    x, y = np.zeros((4, 2), "f4"), np.arange(4)
    variants = [
        TrainingSet.of({"x": x}),
        TrainingSet.of({"x": x}, labels=y),
        TrainingSet.of({"x": x}, labels=y[::-1].copy()),
        TrainingSet.of({"x": x}, labels=y, output="z"),
        TrainingSet.of({"x": x + 1}, labels=y),
        TrainingSet.of({"z": x}, labels=y),
        TrainingSet.of({"x": x.astype("f8")}, labels=y),
    ]
    assert len({v.digest for v in variants}) == len(variants)


def test_no_rows():
    with pytest.raises(InputError, match="no samples"):
        TrainingSet.of({"x": np.zeros((0, 2))})


def test_uneven_arrays():
    with pytest.raises(InputError, match=r"\[2, 3\] samples"):
        TrainingSet.of({"x": np.zeros((2, 2))}, labels=np.zeros(3))
