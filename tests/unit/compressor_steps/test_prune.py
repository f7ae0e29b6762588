"""Pruning: what is zero afterwards, exactly."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.edgemodel import Exclude, Granularity, PruneMethod, PruneStep
from edgemodel_api.errors import InputError
from edgemodel_compressor.steps.prune import prune, smallest, zeros_wanted
from edgemodel_compressor.steps.weights import weights

ABSOLUTE, RELATIVE = PruneMethod.MIN_ABSOLUTE, PruneMethod.MAX_RELATIVE
TENSOR, GLOBAL, CHANNEL = Granularity.TENSOR, Granularity.GLOBAL, Granularity.CHANNEL
#: Two layers; the second is a tenth of the first.
A = np.array([[4.0, -1.0], [2.0, 3.0]], dtype=np.float32)
B = np.array([[0.1, -0.4], [0.3, 0.2]], dtype=np.float32)


def two_layers(m, a=A, b=B):
    nodes = [m.node("MatMul", ["x", "a"], "h", name="one"), m.node("MatMul", ["h", "b"], "y", name="two")]
    return m.model(nodes, {"a": a, "b": b}, x=("n", 2))


@pytest.mark.parametrize(
    ("method", "granularity", "sparsity", "a", "b"),
    [
        pytest.param(ABSOLUTE, TENSOR, "50%", [[4, 0], [0, 3]], [[0, -0.4], [0.3, 0]], id="half of each tensor"),
        pytest.param(ABSOLUTE, GLOBAL, "50%", [[4, -1], [2, 3]], [[0, 0], [0, 0]], id="global takes the small layer"),
        pytest.param(RELATIVE, GLOBAL, "50%", [[4, 0], [0, 3]], [[0, -0.4], [0.3, 0]], id="relative spares it"),
        pytest.param(ABSOLUTE, CHANNEL, "50%", [[4, 0], [0, 3]], [[0, -0.4], [0.3, 0]], id="one of each column"),
        pytest.param(RELATIVE, TENSOR, "25%", [[4, 0], [2, 3]], [[0, -0.4], [0.3, 0.2]], id="a quarter"),
        pytest.param(RELATIVE, CHANNEL, "100%", [[0, 0], [0, 0]], [[0, 0], [0, 0]], id="everything"),
        pytest.param(ABSOLUTE, TENSOR, "0%", A.tolist(), B.tolist(), id="nothing"),
        pytest.param(ABSOLUTE, TENSOR, "37.5%", [[4, 0], [0, 3]], [[0, -0.4], [0.3, 0]], id="1.5 of 4 rounds up"),
        pytest.param(ABSOLUTE, TENSOR, "37.4%", [[4, 0], [2, 3]], [[0, -0.4], [0.3, 0.2]], id="1.496 of 4 rounds down"),
    ],
)
def test_hand_computed(m, method, granularity, sparsity, a, b):
    result = prune(two_layers(m), PruneStep(method=method, granularity=granularity, sparsity=sparsity))
    np.testing.assert_array_equal(m.tensor(result.model, "a"), np.array(a, dtype=np.float32))
    np.testing.assert_array_equal(m.tensor(result.model, "b"), np.array(b, dtype=np.float32))
    zeros = np.count_nonzero(np.array([a, b]) == 0)
    assert result.sparsity == zeros / 8


def test_a_channel_is_a_row_of_a_conv(m):
    w = np.array([[[[1, 2, 3, 4]]], [[[40, 30, 20, 10]]]], dtype=np.float32)
    made = m.model([m.node("Conv", ["x", "w"], "y")], {"w": w}, x=(1, 1, 1, 8))
    got = m.tensor(prune(made, PruneStep(sparsity="50%", granularity=CHANNEL)).model, "w")
    np.testing.assert_array_equal(got.reshape(2, 4), [[0, 0, 3, 4], [40, 30, 0, 0]])


def test_ties_are_broken_by_index(m):
    made = two_layers(m, np.ones((2, 2), np.float32), np.ones((2, 2), np.float32))
    result = prune(made, PruneStep(sparsity="50%", granularity=GLOBAL))
    assert m.tensor(result.model, "a").tolist() == [[0, 0], [0, 0]]
    assert m.tensor(result.model, "b").tolist() == [[1, 1], [1, 1]]
    tied = prune(made, PruneStep(sparsity="50%"))
    assert m.tensor(tied.model, "a").tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("exclude", "touched"),
    [
        pytest.param(Exclude(nodes=("one",)), {"b"}, id="a node"),
        pytest.param(Exclude(ops=("MatMul",)), set(), id="an operator"),
        pytest.param(Exclude(), {"a", "b"}, id="nothing"),
    ],
)
def test_exclude(m, exclude, touched):
    result = prune(two_layers(m), PruneStep(sparsity="50%", exclude=exclude))
    assert {t.name for t in result.tensors} == touched
    for name, before in (("a", A), ("b", B)):
        assert (m.tensor(result.model, name) != before).any() == (name in touched)
    assert bool(result.notes) == (not touched)


def test_an_unknown_exclude_is_noted(m):
    (note,) = prune(two_layers(m), PruneStep(sparsity="50%", exclude=Exclude(nodes=("onee",)))).notes
    assert "'onee'" in note
    assert "'one'" in note


def test_a_shared_weight_is_pruned_once_and_spared_if_one_reader_is_excluded(m):
    nodes = [m.node("MatMul", ["x", "a"], "h", name="one"), m.node("MatMul", ["h", "a"], "y", name="two")]
    made = m.model(nodes, {"a": A}, x=("n", 2))
    result = prune(made, PruneStep(sparsity="25%"))
    assert [(t.name, t.sparsity) for t in result.tensors] == [("a", 0.25)]
    assert prune(made, PruneStep(sparsity="25%", exclude=Exclude(nodes=("two",)))).tensors == ()


def test_biases_and_norms_stay(m):
    before = m.cnn()
    after = prune(before, PruneStep(sparsity="90%", granularity=GLOBAL)).model
    for name in ("b2", "g", "be", "mu", "var", "b3"):
        np.testing.assert_array_equal(m.tensor(after, name), m.tensor(before, name))
    assert {w.name for w in weights(after)} == {"w1", "w2", "w3"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused_by_name(m, bad):
    a = A.copy()
    a[0, 0] = bad
    with pytest.raises(InputError, match=r"weight 'a' of node 'one' \(MatMul\) holds 1 NaN or infinite"):
        prune(two_layers(m, a), PruneStep(sparsity="50%"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@given(
    percent=st.integers(0, 1000).map(lambda n: f"{n / 10}%"),
    granularity=st.sampled_from(Granularity),
    method=st.sampled_from(PruneMethod),
    seed=st.integers(0, 99),
    steps=st.sampled_from([3, 1000]),
)
def test_sparsity_is_what_was_asked_for(m, dtype, percent, granularity, method, seed, steps):
    rng = np.random.default_rng(seed)
    # Few distinct values: many ties.
    a, b = ((rng.integers(1, steps + 1, size=s) * rng.choice([-1, 1], size=s)).astype(dtype) for s in ((5, 7), (7, 3)))
    nodes = [m.node("MatMul", ["x", "a"], "h", name="one"), m.node("MatMul", ["h", "b"], "y", name="two")]
    made = m.model(nodes, {"a": a, "b": b}, x=("n", 5))
    before = m.raw(made)
    step = PruneStep(sparsity=percent, granularity=granularity, method=method)
    result = prune(made, step)
    assert m.raw(made) == before
    assert m.raw(result.model) == m.raw(prune(made, step).model)
    share = Decimal(percent[:-1]) / 100
    got = [m.tensor(result.model, n) for n in "ab"]
    assert [g.dtype for g in got] == [dtype, dtype]

    def wanted(n: int) -> int:
        return int((n * share).to_integral_value(ROUND_HALF_UP))

    zeros = [int((g == 0).sum()) for g in got]
    if granularity is GLOBAL:
        assert sum(zeros) == wanted(56)
    elif granularity is TENSOR:
        assert zeros == [wanted(35), wanted(21)]
    else:
        assert [(g == 0).sum(axis=0).tolist() for g in got] == [[wanted(5)] * 7, [wanted(7)] * 3]
    assert result.sparsity == sum(zeros) / 56
    # What is left is untouched, and in each tensor no kept weight is smaller than a pruned one.
    for g, w in zip(got, (a, b), strict=True):
        assert ((g == w) | (g == 0)).all()
        if granularity is not CHANNEL and (g == 0).any() and (g != 0).any():
            assert np.abs(w[g == 0]).max() <= np.abs(w[g != 0]).min()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.data())
def test_smallest_equals_a_stable_sort(values, data):
    scores = np.array(values, dtype=np.float64)
    count = data.draw(st.integers(0, len(values)))
    expected = np.zeros(len(values), dtype=bool)
    expected[np.argsort(scores, kind="stable")[:count]] = True
    assert smallest(scores, count).tolist() == expected.tolist()


def test_zeros_wanted_is_exact_where_floats_are_not():
    # 0.29 · 100 is 28.999999999999996 in floats.
    assert zeros_wanted(100, Decimal("0.29")) == 29
    assert zeros_wanted(50, Decimal("0.29")) == 15
