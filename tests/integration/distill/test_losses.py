"""Losses against numbers computed by hand, and what must hold of them for any logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("jax")
from edgemodel_compressor.training import losses

LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3)


def softmax(values, t):
    e = np.exp(np.array(values) / t)
    return e / e.sum()


def test_soft_targets_by_hand():
    # T = 2: teacher softmax([2, 0] / 2) = [0.7311, 0.2689], student softmax([0, 0]) = [0.5, 0.5];
    # KL = 0.7311 ln(0.7311 / 0.5) + 0.2689 ln(0.2689 / 0.5) = 0.11094; times T² = 0.44378.
    found = float(losses.soft_targets(np.zeros((1, 2), "f4"), np.array([[2.0, 0.0]], "f4"), 2.0))
    p = 1 / (1 + np.exp(-1.0))
    assert found == pytest.approx(4 * (p * np.log(p / 0.5) + (1 - p) * np.log((1 - p) / 0.5)), rel=1e-5)
    assert found == pytest.approx(0.44378, abs=1e-4)


@settings(max_examples=30)
@given(student=LOGITS, teacher=LOGITS, t=st.sampled_from([0.5, 1.0, 4.0, 20.0]))
def test_soft_targets_formula(student, teacher, t):
    p, q = softmax(teacher, t), softmax(student, t)
    wanted = t * t * np.sum(p * np.log(p / q))
    found = float(losses.soft_targets(np.array([student], "f4"), np.array([teacher], "f4"), t))
    assert found == pytest.approx(wanted, rel=1e-3, abs=2e-4 * t * t)
    assert found >= -1e-4 * t * t


def test_rows_are_averaged_and_positions_too():
    s, t = np.zeros((1, 2), "f4"), np.array([[2.0, 0.0]], "f4")
    both = losses.soft_targets(np.concatenate([s, t]), np.concatenate([t, t]), 2.0)
    assert float(both) == pytest.approx(float(losses.soft_targets(s, t, 2.0)) / 2, rel=1e-5)
    places = losses.soft_targets(np.stack([s, t], 1), np.stack([t, t], 1), 2.0)
    assert float(places) == pytest.approx(float(both), rel=1e-5)


def test_gradients_keep_their_size_at_high_temperatures():
    """Hinton et al., equation 4: for a high T the gradient is that of matching zero-mean logits, over their number."""
    import jax

    s, t = np.array([[0.5, -0.25, -0.25]], "f4"), np.array([[1.0, 0.0, -1.0]], "f4")
    gradient = jax.grad(lambda v: losses.soft_targets(v, t, 100.0))(s)
    assert np.allclose(gradient, (s - t) / 3, atol=5e-3)


def test_decisions_are_two_class_soft_targets():
    s, t = np.array([[0.3], [-2.0]], "f4"), np.array([[1.5], [0.4]], "f4")
    pairs = [np.concatenate([v, np.zeros_like(v)], axis=1) for v in (s, t)]
    assert float(losses.soft_decisions(s, t, 3.0)) == pytest.approx(float(losses.soft_targets(*pairs, 3.0)), rel=1e-4)


def test_entropies_by_hand():
    logits = np.array([[0.0, np.log(3.0)]], "f4")  # 1/4, 3/4
    assert float(losses.class_entropy(logits, np.array([1]))) == pytest.approx(-np.log(0.75), rel=1e-5)
    assert float(losses.class_entropy(logits, np.array([0]))) == pytest.approx(-np.log(0.25), rel=1e-5)
    found = losses.decision_entropy(np.array([[np.log(3.0)]], "f4"), np.array([[1.0]], "f4"))
    assert float(found) == pytest.approx(-np.log(0.75), rel=1e-5)


def test_matching_is_1_for_the_mean():
    wanted = np.array([[0.0], [2.0]], "f4")
    assert float(losses.matching(np.full((2, 1), 1.0, "f4"), wanted, float(wanted.var()))) == pytest.approx(1.0)
    assert float(losses.matching(wanted, wanted, 1.0)) == 0.0


def test_alpha_at_its_ends_ignores_the_other_loss():
    assert losses.mixed(2.0, float("nan"), 1.0) == 2.0
    assert losses.mixed(float("nan"), 3.0, 0.0) == 3.0
    assert losses.mixed(2.0, 4.0, 0.25) == 3.5


def test_distance_is_relative():
    start = {"w": np.array([[3.0, 4.0]], "f4")}
    assert float(losses.distance({"w": np.array([[3.0, 9.0]], "f4")}, start)) == pytest.approx(1.0)
