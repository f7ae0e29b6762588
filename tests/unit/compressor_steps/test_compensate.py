"""Data-aware rounding: a hand-computed matrix, and what holds for every weight and every input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edgemodel_compressor.steps.compensate import (
    Encoder,
    Gram,
    answer_error,
    compensate,
    exact_product,
    exact_square,
    factor,
)  # fmt: skip
from edgemodel_compressor.steps.encodings import FLOAT16_WEIGHTS, INT4_WEIGHTS, INT8_WEIGHTS, stepped
from edgemodel_compressor.steps.weight_only import Stored, encode, limits_of
from edgemodel_compressor.steps.weights import Use, Weight, channels

ENCODINGS = {
    "int8": (INT8_WEIGHTS, (-127, 127)),
    "int4": (INT4_WEIGHTS, (-8, 7)),
    "steps": (stepped(3, per_channel=True, dead=0.6), (-3, 3)),
    "one step": (stepped(7, per_channel=False), (-7, 7)),
}


def gram_of(x, axes, groups=1):
    """Of inputs [positions, groups · n]."""
    split = np.moveaxis(x.reshape(len(x), groups, -1), 1, 0)
    return Gram(np.swapaxes(split, 1, 2) @ split / len(x), axes, len(x))


def error(values, stored, gram):
    difference = values.astype(np.float64) - stored.values(values.dtype).astype(np.float64)
    groups, n, _ = gram.matrix.shape
    return answer_error(channels(difference, gram.axes).reshape(groups, -1, n), gram).reshape(-1)


def test_golden_two_inputs_that_are_the_same():
    """Both inputs are always equal, so only the sum of the weights counts: 0.4 + 0.4 is 1, not 0 + 0."""
    values = np.array([[0.4, 0.4]], dtype=np.float32)
    plain = Stored(np.array([[0, 0]], dtype=np.int8), np.ones((1, 1), dtype=np.float32))
    gram = Gram(np.ones((1, 2, 2)), (0,), 1)
    # The first column rounds to 0; the second one takes nearly all of its error, 0.4 + 0.4 / 1.01, and rounds to 1.
    assert compensate(values, plain, gram, limits=(-7, 7)).numbers.tolist() == [[0, 1]]
    assert compensate(values, plain, gram, limits=(0, 0)).numbers.tolist() == [[0, 0]]
    pruned = compensate(values, plain, gram, limits=(-7, 7), zeros=np.array([[False, True]]))
    assert pruned.numbers.tolist() == [[0, 0]]
    assert compensate(values, plain, gram, limits=(-7, 7), dead=0.8).numbers.tolist() == [[0, 0]]


def test_inputs_that_have_nothing_in_common_round_as_before():
    values = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    plain = encode(values, (0,), INT8_WEIGHTS)
    gram = Gram(np.diag(np.arange(1.0, 8.0))[None], (0,), 9)
    assert np.array_equal(compensate(values, plain, gram, limits=(-127, 127)).numbers, plain.numbers)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("case", ENCODINGS)
@given(n=st.integers(2, 40), seed=st.integers(0, 2**32 - 1))
def test_the_largest_weights_stay_finite(case, dtype, n, seed):
    encoding, limits = ENCODINGS[case]
    random = np.random.default_rng(seed)
    most = np.finfo(dtype).max
    values = random.choice(np.array([-most, most, most * dtype(0.9), -most * dtype(0.95), 0], dtype=dtype), size=(6, n))
    gram = gram_of(random.standard_normal((20, 1)) + 0.1 * random.standard_normal((20, n)), (0,))
    found = compensate(values, encode(values, (0,), encoding), gram, limits=limits)
    assert np.isfinite(found.values(dtype)).all()


@pytest.mark.parametrize("case", ENCODINGS)
@given(
    rows=st.integers(1, 6),
    n=st.integers(1, 90),
    groups=st.integers(1, 3),
    positions=st.integers(1, 40),
    last=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_answers_are_never_worse_and_zeros_and_limits_hold(case, rows, n, groups, positions, last, seed):
    encoding, limits = ENCODINGS[case]
    random = np.random.default_rng(seed)
    axes = (1,) if last else (0,)
    whole = random.standard_normal((n, groups * rows) if last else (groups * rows, n)).astype(np.float32)
    zeros = random.random(whole.shape) < 0.3
    pruned = np.where(zeros, 0, whole).astype(np.float32)
    # Inputs that hang together, as a layer's do; some are never there.
    x = random.standard_normal((positions, 4)) @ random.standard_normal((4, groups * n)) + random.random(groups * n)
    x[:, random.random(groups * n) < 0.1] = 0
    gram = gram_of(x, axes, groups)
    plain = encode(pruned, axes, encoding)
    found = compensate(whole, plain, gram, limits=limits, zeros=zeros, dead=encoding.dead)
    before, after = error(whole, plain, gram), error(whole, found, gram)
    assert (after <= before * (1 + 1e-6) + 1e-9).all()
    assert not found.numbers[zeros].any()
    assert found.numbers.dtype == plain.numbers.dtype
    assert found.numbers.shape == plain.numbers.shape
    assert found.numbers.min(initial=0) >= limits[0]
    assert found.numbers.max(initial=0) <= limits[1]
    assert found.scales is plain.scales
    again = compensate(whole, plain, replace(gram), limits=limits, zeros=zeros, dead=encoding.dead)
    assert np.array_equal(again.numbers, found.numbers)


def test_it_pays_on_inputs_that_hang_together():
    random = np.random.default_rng(1)
    values = random.standard_normal((64, 128)).astype(np.float32)
    gram = gram_of(random.standard_normal((2000, 16)) @ random.standard_normal((16, 128)), (0,))
    plain = encode(values, (0,), stepped(7, per_channel=True))
    found = compensate(values, plain, gram, limits=(-7, 7))
    assert error(values, found, gram).sum() < 0.2 * error(values, plain, gram).sum()


def test_without_inputs_or_scales_nothing_changes():
    values = np.ones((2, 3), dtype=np.float32)
    gram = Gram(np.zeros((1, 3, 3)), (0,), 4)
    plain = encode(values, (0,), INT8_WEIGHTS)
    assert compensate(values, plain, gram, limits=(-127, 127)) is plain
    half = Stored(values.astype(np.float16))
    assert compensate(values, half, gram, limits=(-127, 127)) is half


def test_factor_times_its_transpose_is_the_damped_matrix():
    x = np.random.default_rng(3).standard_normal((2, 300, 150))
    matrix = np.swapaxes(x, 1, 2) @ x
    upper = factor(matrix)
    assert np.array_equal(upper, np.triu(upper))
    damped = matrix + 0.01 * np.trace(matrix, axis1=1, axis2=2)[:, None, None] / 150 * np.eye(150)
    np.testing.assert_allclose(upper @ np.swapaxes(upper, 1, 2), damped, atol=1e-4 * matrix.max())


@given(k=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_products_do_not_hang_on_the_order_of_their_sums(k, seed):
    random = np.random.default_rng(seed)
    a = random.standard_normal((2, 3, k)) * 10.0 ** random.integers(-30, 30, (2, 3, 1))
    b = random.standard_normal((2, k, 4)) * 10.0 ** random.integers(-30, 30, (2, 1, 4))
    found = exact_product(a, b)
    order = random.permutation(k)
    assert np.array_equal(found, exact_product(a[:, :, order], b[:, order]))
    close = np.abs(found - a @ b) / (np.abs(a).max(axis=2, keepdims=True) * np.abs(b).max(axis=1, keepdims=True) * k)
    assert close.max() < 1e-5


@given(positions=st.integers(1, 300), seed=st.integers(0, 2**32 - 1), power=st.sampled_from([-160, -20, 0, 20, 60]))
def test_a_square_is_the_product(positions, seed, power):
    random = np.random.default_rng(seed)
    x = random.standard_normal((2, positions, 5)) * 10.0 ** (power + random.integers(-9, 9, (2, 1, 5)))
    x[:, :, random.integers(5)] = 0
    for array in (x, x.clip(-1e38, 1e38).astype(np.float32)):
        wide = array.astype(np.float64)
        assert np.array_equal(exact_square(array), exact_product(np.swapaxes(wide, 1, 2), wide))


def test_encoder_compensates_where_inputs_are_known_and_remembers():
    random = np.random.default_rng(4)
    values = {name: random.standard_normal((16, 24)).astype(np.float32) for name in ("a", "b", "c")}
    known = gram_of(random.standard_normal((100, 3)) @ random.standard_normal((3, 24)), (0,))
    encoder = Encoder({"a": known, "c": replace(known, axes=(1,))})
    weight = {
        name: Weight(name, None, numpy_helper.from_array(array, name), (Use("n", "Gemm"),), (0,))
        for name, array in values.items()
    }
    step = stepped(7, per_channel=True)
    found = encoder(weight["a"], values["a"], step)
    plain = encode(values["a"], (0,), step)
    assert error(values["a"], found, known).sum() < 0.5 * error(values["a"], plain, known).sum()
    assert encoder(weight["a"], values["a"], step) is found
    assert encoder(weight["a"], values["a"], INT8_WEIGHTS) is not found
    assert encoder.compensated == {"a"}
    again = encoder.anew()
    assert again.compensated == set()
    assert again(weight["a"], values["a"], step) is found
    assert again.compensated == {"a"}
    # Inputs that are all zero tell nothing.
    blind = Encoder({"a": replace(known, matrix=np.zeros_like(known.matrix))})
    assert np.array_equal(blind(weight["a"], values["a"], step).numbers, plain.numbers)
    assert blind.compensated == set()
    # No inputs, inputs of another width, and halves, which have no steps: plainly.
    for name, encoding in (("b", step), ("c", step), ("a", FLOAT16_WEIGHTS)):
        expected = encode(values[name], (0,), encoding)
        assert np.array_equal(encoder(weight[name], values[name], encoding).numbers, expected.numbers)


def test_encoder_keeps_what_was_pruned():
    random = np.random.default_rng(4)
    values = random.standard_normal((16, 24)).astype(np.float32)
    values[random.random(values.shape) < 0.6] = 0
    encoder = Encoder({"a": gram_of(random.standard_normal((100, 3)) @ random.standard_normal((3, 24)), (0,))})
    weight = Weight("a", None, numpy_helper.from_array(values, "a"), (Use("n", "Gemm"),), (0,))
    found = encoder(weight, values, INT8_WEIGHTS)
    assert not found.numbers[values == 0].any()
    assert not np.array_equal(found.numbers, encode(values, (0,), INT8_WEIGHTS).numbers)
    assert encoder.compensated == {"a"}


def test_limits_are_those_that_numbers_reach():
    values = np.random.default_rng(5).standard_normal((64, 64)).astype(np.float32)
    for encoding, limits in ENCODINGS.values():
        numbers = encode(values, (0,), encoding).numbers
        assert limits_of(encoding) == limits
        assert limits[0] <= numbers.min() < 0 < numbers.max() <= limits[1]
