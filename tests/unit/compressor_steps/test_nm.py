"""N:M patterns: along the input, exactly N of each M."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.edgemodel import Exclude, Granularity, PruneMethod, PruneStep
from edgemodel_compressor.steps.nm import gone, input_axis, parse
from edgemodel_compressor.steps.prune import prune
from edgemodel_compressor.steps.weights import weights


def kept(values, axis, n, m, **options):
    values = np.array(values, np.float32)
    return np.where(gone(values, axis, n, m, **options), 0, values).tolist()


@pytest.mark.parametrize(
    ("values", "axis", "n", "m", "expected"),
    [
        pytest.param([[1, -4, 3, 2]], 1, 2, 4, [[0, -4, 3, 0]], id="the two largest magnitudes"),
        pytest.param([[1], [-4], [3], [2]], 0, 2, 4, [[0], [-4], [3], [0]], id="down a column"),
        pytest.param([[1, 1, 1, 1]], 1, 2, 4, [[0, 0, 1, 1]], id="of equal ones the first go"),
        pytest.param([[5, 1, 2, 3, 9, 8]], 1, 1, 2, [[5, 0, 0, 3, 9, 0]], id="1 of 2"),
        pytest.param([[1, 2, 3, 4, 7, 6, 5]], 1, 2, 4, [[0, 0, 3, 4, 7, 6, 0]], id="a rest of three keeps two"),
        pytest.param([[1, 2, 3, 4, 7, 6]], 1, 2, 4, [[0, 0, 3, 4, 7, 6]], id="a rest of two stays"),
        pytest.param([[1, 2]], 1, 2, 4, [[1, 2]], id="shorter than a group"),
        pytest.param([[0, 0, 0, 5]], 1, 2, 4, [[0, 0, 0, 5]], id="zeros are the first to go"),
    ],
)
def test_hand_computed(values, axis, n, m, expected):
    assert kept(values, axis, n, m) == expected


def test_counting_begins_anew_in_each_block():
    assert kept([[1, 2, 3, 6, 5, 4]], 1, 1, 2, blocks=2) == [[0, 2, 3, 6, 0, 4]]
    assert kept([[1, 2, 3, 6, 5, 4]], 1, 1, 2) == [[0, 2, 0, 6, 5, 0]]


def one(m, op, shape, x, **attributes):
    extra = {"r": m.normal(1, shape[1], shape[1] // 4)} if op == "LSTM" else {}
    if op == "Gather":
        return m.model([m.node(op, ["w", "x"], "y")], {"w": m.normal(*shape)}, x=x, x_type=7)
    return m.model([m.node(op, ["x", "w", *extra], "y", **attributes)], {"w": m.normal(*shape), **extra}, x=x)


@pytest.mark.parametrize(
    ("op", "shape", "x", "attributes", "axis"),
    [
        pytest.param("MatMul", (8, 3), ("n", 8), {}, 0, id="MatMul"),
        pytest.param("MatMul", (2, 8, 3), (2, "n", 8), {}, 1, id="MatMul in a batch"),
        pytest.param("Gemm", (8, 3), ("n", 8), {}, 0, id="Gemm"),
        pytest.param("Gemm", (3, 8), ("n", 8), {"transB": 1}, 1, id="Gemm transposed"),
        pytest.param("Conv", (5, 8, 3, 3), ("n", 8, 4, 4), {}, 1, id="Conv"),
        pytest.param("Conv", (8, 1, 3, 3), ("n", 8, 4, 4), {"group": 8}, 1, id="depthwise Conv"),
        pytest.param("ConvTranspose", (8, 5, 3, 3), ("n", 8, 4, 4), {}, 0, id="ConvTranspose"),
        pytest.param("LSTM", (1, 16, 8), (3, "n", 8), {"hidden_size": 4}, 2, id="LSTM"),
        pytest.param("Gather", (8, 4), ("n",), {}, None, id="an embedding has none"),
    ],
)
def test_the_axis_is_the_one_that_is_summed_over(m, op, shape, x, attributes, axis):
    made = one(m, op, shape, x, **attributes)
    weight = next(w for w in weights(made) if w.name == "w")
    assert input_axis(weight) == axis
    result = prune(made, PruneStep(pattern="2:4"))
    before, after = m.tensor(made, "w"), m.tensor(result.model, "w")
    if axis is None or before.shape[axis] <= 2:
        np.testing.assert_array_equal(after, before)
        assert ("w stay" in " ".join(result.notes)) == (axis is None)
        return
    rows = np.moveaxis(after, axis, -1)
    assert ((rows.reshape(*rows.shape[:-1], -1, 4) != 0).sum(axis=-1) == 2).all()
    assert [t.sparsity for t in result.tensors if t.name == "w"] == [0.5]


def test_groups_of_a_transposed_convolution_count_for_themselves(m):
    w = np.array([1, 2, 3, 6, 5, 4], np.float32).reshape(6, 1, 1, 1)
    nodes = [m.node("ConvTranspose", ["x", "w"], "y", group=2)]
    made = m.model(nodes, {"w": w}, x=(1, 6, 2, 2))
    assert m.tensor(prune(made, PruneStep(pattern="1:2")).model, "w").reshape(-1).tolist() == [0, 2, 3, 6, 0, 4]


def test_exclude_is_honoured(m):
    made = m.mlp()
    result = prune(made, PruneStep(pattern="1:4", exclude=Exclude(nodes=("fc1",))))
    assert [(t.name, t.sparsity) for t in result.tensors] == [("w2", 0.75)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@given(
    pattern=st.sampled_from([(1, 2), (1, 4), (2, 4), (3, 4), (5, 8), (4, 16), (15, 16)]),
    length=st.integers(1, 40),
    method=st.sampled_from(PruneMethod),
    granularity=st.sampled_from(Granularity),
    seed=st.integers(0, 99),
)
def test_no_group_keeps_more_than_it_may(m, dtype, pattern, length, method, granularity, seed):
    n, of = pattern
    rng = np.random.default_rng(seed)
    # Few distinct values: many ties.
    w = (rng.integers(1, 5, size=(length, 3)) * rng.choice([-1, 1], size=(length, 3))).astype(dtype)
    made = m.model([m.node("MatMul", ["x", "w"], "y")], {"w": w}, x=("n", length))
    step = PruneStep(pattern=f"{n}:{of}", method=method, granularity=granularity)
    assert parse(step.pattern) == pattern
    result = prune(made, step)
    got = m.tensor(result.model, "w")
    assert (got.dtype, got.shape) == (w.dtype, w.shape)
    assert m.raw(result.model) == m.raw(prune(made, step).model)
    assert ((got == w) | (got == 0)).all()
    for start in range(0, length, of):
        group, before = got[start : start + of], w[start : start + of]
        assert ((group != 0).sum(axis=0) == min(n, len(group))).all()
        for column in range(3):
            dropped = np.abs(before[group[:, column] == 0, column])
            stays = np.abs(before[group[:, column] != 0, column])
            assert dropped.max(initial=0) <= stays.min()
    # Pruned again, nothing more goes.
    assert m.raw(prune(result.model, step).model) == m.raw(result.model)
