"""The schedule's curve, and masks that only grow while they are applied."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edgemodel_api.edgemodel import Granularity, PruneMethod, PruneStep, Structure
from edgemodel_compressor.steps.prune import prune
from edgemodel_compressor.steps.schedule import masks, sparsity_at, target_of


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        pytest.param(0, 0.1, id="before it begins"),
        pytest.param(10, 0.1, id="at its begin"),
        pytest.param(15, 0.9 - 0.8 * 0.125, id="half way: seven eighths"),
        pytest.param(20, 0.9, id="at its end"),
        pytest.param(99, 0.9, id="after its end"),
    ],
)
def test_the_curve(step, expected):
    assert sparsity_at(step, begin=10, end=20, target=0.9, initial=0.1) == pytest.approx(expected)


@given(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1), st.floats(0, 1))
def test_it_never_falls_and_ends_at_the_target(begin, length, initial, share):
    target = initial + (1 - initial) * share
    curve = [
        sparsity_at(t, begin=begin, end=begin + length, target=target, initial=initial)
        for t in range(begin + length + 2)
    ]
    assert curve[-1] == target
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(curve))
    assert all(initial - 1e-12 <= s <= target + 1e-12 for s in curve)


STEPS = [
    PruneStep(sparsity="70%"),
    PruneStep(sparsity="70%", granularity=Granularity.CHANNEL),
    PruneStep(sparsity="70%", granularity=Granularity.GLOBAL, method=PruneMethod.MAX_RELATIVE),
    PruneStep(pattern="1:4"),
    PruneStep(sparsity="60%", structure=Structure.CHANNELS),
    PruneStep(sparsity="60%", structure=Structure.CHANNELS, granularity=Granularity.GLOBAL),
]
NAMES = ["Tensor", "Channel", "Global", "pattern", "channels", "channels Global"]


def multiplied(m, made, found):
    """The model with its masks applied."""
    changed = m.onnx.ModelProto()
    changed.CopyFrom(made)
    for tensor in changed.graph.initializer:
        if tensor.name in found:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(
                numpy_helper.from_array(np.where(found[tensor.name], values, 0).astype(values.dtype), tensor.name)
            )
    return changed


@pytest.mark.parametrize("step", STEPS, ids=NAMES)
def test_masks_are_what_prune_does(m, step):
    made = m.cnn()
    found = masks(made, step)
    result = prune(made, step).model
    x = m.normal(2, 1, 8, 8)
    masked = multiplied(m, made, found)
    if step.structure is Structure.WEIGHTS:
        assert m.raw(masked) == m.raw(result)
    else:
        np.testing.assert_allclose(m.run(masked, x), m.run(result, x), rtol=1e-4, atol=1e-5)
        assert "b2" in found
    # Once applied, the step takes what is zero already.
    np.testing.assert_allclose(m.run(prune(masked, step).model, x), m.run(result, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", STEPS, ids=NAMES)
def test_masks_only_grow(m, step):
    made, before = m.cnn(), None
    for t in range(6):
        found = masks(made, step, sparsity_at(t, begin=0, end=5, target=target_of(step)))
        if before is not None:
            assert found.keys() == before.keys()
            assert not any((found[n] & ~before[n]).any() for n in found)
        before = found
        made = multiplied(m, made, found)
        # Learning moves what stays.
        for tensor in made.graph.initializer:
            if tensor.name in found:
                values = numpy_helper.to_array(tensor)
                noise = np.random.default_rng(t).normal(size=values.shape).astype(values.dtype)
                tensor.CopyFrom(numpy_helper.from_array(values + noise * found[tensor.name], tensor.name))
    assert m.raw(prune(made, step).model) == m.raw(prune(multiplied(m, made, masks(made, step)), step).model)


def test_a_pattern_grows_by_whole_places(m):
    made = m.matmul(32, 16)
    shares = [float((~masks(made, PruneStep(pattern="1:4"), s)["w"]).mean()) for s in (0.0, 0.2, 0.5, 0.6, 0.75, 1.0)]
    assert shares == [0.0, 0.25, 0.5, 0.5, 0.75, 0.75]
