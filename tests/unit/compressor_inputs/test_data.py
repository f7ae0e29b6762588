"""Data that fits the model, handed out in batches."""

import io
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemodel_api.errors import InputError
from edgemodel_compressor.data import Dataset, TensorSpec, open_dataset, synthetic

X = TensorSpec("x", np.dtype(np.float32), (None, 3))
ROWS = np.arange(60, dtype=np.float64).reshape(20, 3) / 7


def opened(
    build: Any, *inputs: TensorSpec, labels: str | None = None, max_bytes: int = 2**24, **arrays: Any
) -> Dataset:
    path = build.npz(**arrays)
    work = build.folder
    return open_dataset(path, inputs, labels=labels, work_dir=work, max_bytes=max_bytes, what="data.validation")


def everything(data: Dataset, size: int = 7) -> np.ndarray:
    return np.concatenate([b["x"] for b in data.batches(size)])


LAYOUTS = {
    "float64": ROWS,
    "float16": ROWS.astype(np.float16),
    "column-major": np.asfortranarray(ROWS),
    "big-endian": ROWS.astype(">f4"),
    "bytes": ROWS.astype(np.uint8),
    "truth": ROWS > 4,
    "int16": ROWS.astype(np.int16),
    "one row": ROWS[:1],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_numbers_survive_storage_and_cast(build: Any, name: str):
    given_rows = LAYOUTS[name]
    data = opened(build, X, x=given_rows)
    assert data.samples == len(given_rows)
    found = everything(data)
    assert found.dtype == np.dtype(np.float32)
    np.testing.assert_array_equal(found, given_rows.astype(np.float32))


def test_three_axes_in_columns(build: Any):
    rows = np.asfortranarray(np.random.default_rng(0).integers(0, 99, (11, 4, 5)))
    data = opened(build, TensorSpec("x", np.dtype(np.int64), (None, None, 5)), x=rows)
    np.testing.assert_array_equal(everything(data), rows)
    assert not list(build.folder.rglob("*.columns"))


def test_text(build: Any):
    rows = np.array([["a"], ["ünïcode"]])
    data = opened(build, TensorSpec("x", np.dtype(np.str_), (None, 1)), x=rows)
    assert everything(data).tolist() == rows.tolist()


UNSAFE = {
    "int64 to float32": (np.int64, np.float32),
    "int64 to int32": (np.int64, np.int32),
    "float32 to int32": (np.float32, np.int32),
    "uint64 to int64": (np.uint64, np.int64),
    "int8 to uint8": (np.int8, np.uint8),
    "float32 to bool": (np.float32, np.bool_),
    "numbers to text": (np.float32, np.str_),
    "text to numbers": (np.str_, np.float32),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_casts_that_may_lose_are_refused(build: Any, name: str):
    have, need = UNSAFE[name]
    spec = TensorSpec("x", np.dtype(need), (None, 3))
    with pytest.raises(InputError, match="astype"):
        opened(build, spec, x=np.ones((2, 3)).astype(have))


@settings(max_examples=40)
@given(samples=st.integers(1, 40), size=st.integers(1, 50))
def test_batches_are_the_rows_in_order(session_build: Any, samples: int, size: int):
    rows = np.arange(samples * 3, dtype=np.float32).reshape(samples, 3)
    data = opened(session_build, X, x=rows)
    sizes = [len(b["x"]) for b in data.batches(size)]
    assert sum(sizes) == samples
    assert all(s == size for s in sizes[:-1])
    np.testing.assert_array_equal(everything(data, size), rows)


@settings(max_examples=40)
@given(samples=st.integers(1, 40), n=st.integers(1, 50), seed=st.integers(0, 2**31))
def test_take_is_spread_and_repeatable(session_build: Any, samples: int, n: int, seed: int):
    rows = np.arange(samples * 3, dtype=np.float32).reshape(samples, 3)
    data = opened(session_build, X, x=rows)
    taken = data.take(n, seed)["x"]
    np.testing.assert_array_equal(taken, data.take(n, seed)["x"])
    indices = (taken[:, 0] // 3).astype(int)
    assert len(indices) == min(n, samples)
    assert (np.diff(indices) > 0).all()
    # One from each stretch: none is further from its neighbour than two stretches.
    stretch = -(-samples // len(indices))
    assert (np.diff(indices) < 2 * stretch).all()


def test_labels_and_several_inputs(build: Any):
    spec = TensorSpec("z:0", np.dtype(np.int32), (None,))
    labels = np.arange(20)
    data = opened(
        build, X, spec, labels="y", **{"x": ROWS, "z:0": labels.astype(np.int16), "y": labels, "other": labels}
    )
    assert data.labels is not None
    np.testing.assert_array_equal(data.labels, labels)
    assert {k: v.dtype.name for k, v in data.take(3, 0).items()} == {"x": "float32", "z:0": "int32"}


def test_an_input_may_be_its_own_label(build: Any):
    data = opened(build, X, labels="x", x=ROWS)
    np.testing.assert_array_equal(data.labels, ROWS)


def test_rows_beyond_whole_batches_are_left_out_and_it_is_said(build: Any):
    data = opened(build, TensorSpec("x", np.dtype(np.float32), (8, 3)), labels="y", x=ROWS, y=np.arange(20))
    assert data.samples == 16
    assert data.labels is not None
    assert len(data.labels) == 16
    assert data.note is not None
    assert "the last 4 of 20 samples" in data.note


def test_limit_is_of_what_is_read(build: Any):
    arrays = {"x": ROWS, "big": np.zeros(10**6)}
    assert opened(build, X, max_bytes=ROWS.nbytes, **arrays).samples == 20
    with pytest.raises(InputError, match="at most 479"):
        opened(build, X, max_bytes=ROWS.nbytes - 1, **arrays)


def test_memory_does_not_grow_with_samples(build: Any):
    rows = np.ones((2_000_000, 3), np.float32)
    path = build.npz(x=rows)
    tracemalloc.start()
    data = open_dataset(path, (X,), labels=None, work_dir=build.folder, max_bytes=2**28, what="data.calibration")
    for _batch in data.batches(10_000):
        pass
    data.take(10, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # They are looked through in blocks of 8 MiB, with a mask of a quarter more.
    assert peak < 14 * 2**20 < rows.nbytes


def test_a_second_dataset_takes_the_place_of_the_first(build: Any):
    opened(build, X, x=ROWS)
    data = opened(build, X, x=ROWS[:5])
    assert data.samples == 5


def test_synthetic_rows_depend_on_seed_and_number_only():
    inputs = (X, TensorSpec("k", np.dtype(np.int64), (None, None)), TensorSpec("s", np.dtype(np.str_), (None,)))
    data = synthetic(inputs, samples=10, seed=3)
    whole = np.concatenate([b["x"] for b in data.batches(3)])
    np.testing.assert_array_equal(
        whole, np.concatenate([b["x"] for b in synthetic(inputs, samples=10, seed=3).batches(4)])
    )
    assert not np.array_equal(whole, np.concatenate([b["x"] for b in synthetic(inputs, samples=10, seed=4).batches(4)]))
    taken = data.take(4, 0)
    assert {k: (v.shape, v.dtype.kind) for k, v in taken.items()} == {
        "x": ((4, 3), "f"), "k": ((4, 16), "i"), "s": ((4,), "U"),
    }  # fmt: skip
    assert set(np.unique(taken["k"])) <= {0, 1}
    assert "no data was given" in (data.note or "")


def test_synthetic_rows_fill_whole_batches():
    assert synthetic((TensorSpec("x", np.dtype(np.float32), (8, 3)),), samples=10, seed=0).samples == 16


def test_synthetic_rows_stay_small_whatever_is_free():
    spec = TensorSpec("x", np.dtype(np.float32), (None,) * 12)
    assert synthetic((spec,), samples=1, seed=0).take(1, 0)["x"].size <= 2**22
    picture = TensorSpec("x", np.dtype(np.float32), (None, 3, None, None))
    assert synthetic((picture,), samples=1, seed=0).take(1, 0)["x"].shape == (1, 3, 64, 64)


def test_text_that_is_none(build: Any):
    rows = np.array([["good"], ["bad!"]])
    rows.view(np.uint32)[1, 2] = 0xD800
    with pytest.raises(InputError, match="1 character that is none in Unicode"):
        opened(build, TensorSpec("x", np.dtype(np.str_), (None, 1)), x=rows)


def test_text_of_no_width(build: Any):
    buffer = io.BytesIO()
    header = {"descr": "<U0", "fortran_order": False, "shape": (2**40, 1)}
    np.lib.format.write_array_header_1_0(buffer, header)
    path = build.folder / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", buffer.getvalue())
    spec = TensorSpec("x", np.dtype(np.str_), (None, 1))
    with pytest.raises(InputError, match="impossible shape"):
        open_dataset(path, (spec,), labels=None, work_dir=build.folder, max_bytes=2**20, what="data.validation")
