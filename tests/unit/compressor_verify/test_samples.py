"""Samples: which are chosen, and how few answers are judged."""

from __future__ import annotations

import numpy as np
import pytest

from edgemodel_api.errors import InputError
from edgemodel_compressor.verify import samples

CLASSES = 4


@pytest.fixture
def classifier(v, tmp_path):
    """x itself is the answer; 200 rows, of which the first 20 are nearly undecided."""
    rng = np.random.default_rng(0)
    x = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, 200)] * 5
    x[:20] *= np.linspace(0.001, 0.02, 20, dtype=np.float32)[:, None]
    source = v.model([v.node("Identity", ["x"], "y", "i")], {}, (CLASSES,))
    return v.evaluator(source, x, x.argmax(axis=1), tmp_path), x


def rows(found):
    return np.concatenate([f["x"] for f in found.feeds])


def test_half_unsure_half_spread(classifier):
    evaluator, x = classifier
    found = samples(evaluator, limit=0.005, wanted=16, seed=1)
    chosen = rows(found)
    assert chosen.shape == (16, CLASSES)
    assert len({f["x"].tobytes() for f in found.feeds[0::2]} & {r.tobytes() for r in x[:20]}) > 6
    unsure = [f["x"].max() < 1 for f in found.feeds]
    # Any beginning of them is a fair choice: they alternate.
    assert unsure[0::2] == [True] * 8
    assert sum(unsure[1::2]) <= 2
    assert np.array_equal(chosen, rows(samples(evaluator, limit=0.005, wanted=16, seed=1)))
    assert not np.array_equal(chosen, rows(samples(evaluator, limit=0.005, wanted=16, seed=2)))


def test_the_same_answers_keep_the_quality(classifier):
    evaluator, _ = classifier
    found = samples(evaluator, limit=0.005, wanted=16)
    for count in (1, 7, 16):
        judged = found.judge([{"y": f["x"]} for f in found.feeds[:count]])
        assert (judged.quality, judged.drop, judged.over) == (1.0, 0.0, False)


def test_wrong_answers_are_over_the_budget(classifier):
    evaluator, _ = classifier
    found = samples(evaluator, limit=0.005, wanted=16)
    all_wrong = found.judge([{"y": np.roll(f["x"], 1, axis=1)} for f in found.feeds])
    assert (all_wrong.over, all_wrong.drop) == (True, 1.0)
    # One of the unsure ones, the others taken for unchanged: one in 200.
    one_wrong = [{"y": np.roll(f["x"], 1, axis=1) if i == 0 else f["x"]} for i, f in enumerate(found.feeds)]
    judged = found.judge(one_wrong)
    assert (judged.over, judged.drop) == (False, pytest.approx(1 / 200))
    assert samples(evaluator, limit=0.004, wanted=16).judge(one_wrong).over
    # One of the spread ones says little: its interval holds 0.
    one_wrong = [{"y": np.roll(f["x"], 1, axis=1) if i == 1 else f["x"]} for i, f in enumerate(found.feeds)]
    assert not found.judge(one_wrong).over


def test_answers_that_are_none(classifier):
    evaluator, _ = classifier
    found = samples(evaluator, limit=0.005, wanted=16)
    with pytest.raises(InputError, match="NaN"):
        found.judge([{"y": f["x"] * np.nan} for f in found.feeds])
    with pytest.raises(InputError, match="no answers"):
        found.judge([])


def test_few_samples_are_all_taken(v, tmp_path):
    x = np.eye(CLASSES, dtype=np.float32)
    source = v.model([v.node("Identity", ["x"], "y", "i")], {}, (CLASSES,))
    found = samples(v.evaluator(source, x, None, tmp_path), limit=0.0, wanted=32)
    assert sorted(map(tuple, rows(found).tolist())) == sorted(map(tuple, x.tolist()))
    assert found.judge([{"y": f["x"]} for f in found.feeds]).drop == 0.0


def test_a_fixed_batch_stays_whole(v, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, CLASSES)).astype(np.float32)
    source = v.model([v.node("Identity", ["x"], "y", "i")], {}, (CLASSES,))
    source.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    found = samples(v.evaluator(source, x, None, tmp_path, fixed=4), limit=0.01, wanted=16)
    assert (found.rows, len(found.feeds)) == (4, 4)
    assert all(f["x"].shape == (4, CLASSES) for f in found.feeds)
    assert {f["x"].tobytes() for f in found.feeds} <= {x[i : i + 4].tobytes() for i in range(0, 64, 4)}
    assert found.judge([{"y": f["x"]} for f in found.feeds[:3]]).drop == 0.0
    assert found.judge([{"y": -f["x"]} for f in found.feeds]).over
