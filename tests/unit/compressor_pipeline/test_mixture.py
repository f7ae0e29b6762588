"""Mixtures: what each weight could become, what it costs, and the model made of a choice."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_compressor import allocate, mixture
from edgemodel_compressor.candidates import LADDER, mixed
from edgemodel_compressor.steps.encodings import INT4_COARSE

LADDER_OF = mixed(0).mixture.ladder


@pytest.fixture(scope="module")
def model():
    """Two dense layers; the second one's weights are a hundred times as large, and matter a hundred times as much."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(64, 64)).astype(np.float32), rng.normal(size=(64, 64)).astype(np.float32)
    small = rng.normal(size=(64, 2)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
            helper.make_node("MatMul", ["h", "b"], ["g"], name="second"),
            helper.make_node("MatMul", ["g", "c"], ["y"], name="third"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(v, n) for n, v in (("a", first), ("b", second), ("c", small))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def options(model):
    return mixture.options(model, LADDER_OF, {"first": 0.001, "second": 0.1, "third": 0.5}, INT4_COARSE)


def test_small_weights_and_those_of_unknown_cost_stay(options, model):
    assert set(options) == {"a", "b"}
    assert "a" not in mixture.options(model, LADDER_OF, {"first": float("inf"), "second": 0.1}, INT4_COARSE)


def test_errors_are_in_proportion_to_what_was_measured(options):
    """The option that was measured has the error that was measured, squared."""
    place = LADDER.index(INT4_COARSE)
    whole = next(o for o in options["b"] if mixture._meaning(o.key) == (place, 0))
    assert whole.error == pytest.approx(0.1**2, rel=1e-9)
    assert min(o.error for o in options["b"]) == 0


def test_what_matters_less_goes_first(options, model):
    steps = [allocate.allocation(options, n) for n in range(allocate.moves(options) + 1)]
    touched = [{n for n, o in s.items() if o != steps[0][n]} for s in steps]
    first = next(t for t in touched if t)
    assert first == {"a"}
    half = steps[len(steps) // 2]
    assert half["a"].bytes < half["b"].bytes


def test_a_choice_becomes_a_model_that_runs(options, model, tmp_path):
    chosen = allocate.allocation(options, allocate.moves(options) * 2 // 3)
    before = model.SerializeToString(deterministic=True)
    mixed_model = mixture.mix(model, LADDER_OF, chosen)
    assert model.SerializeToString(deterministic=True) == before
    assert set(mixed_model.nodes) <= {"first", "second"}
    onnx.checker.check_model(mixed_model.model, full_check=True)
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    runs = [
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (model, mixed_model.model)
    ]
    assert runs[0].shape == runs[1].shape
    assert np.isfinite(runs[1]).all()
    again = mixture.mix(model, LADDER_OF, chosen)
    assert again.model.SerializeToString(deterministic=True) == mixed_model.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("sparsity", [0, 10, 50, 95])
def test_the_sparsity_is_what_was_asked(model, options, sparsity):
    place = LADDER.index(INT4_COARSE)
    option = next(o for o in options["b"] if mixture._meaning(o.key) == (place, sparsity))
    made = mixture.mix(model, LADDER_OF, {"b": option})
    assert made.nodes == ("second",)
    if sparsity:
        total = 64 * 64 * 2 + 64 * 2
        assert made.sparsity == pytest.approx(round(64 * 64 * sparsity / 100) / total, abs=1 / total)
    else:
        assert made.sparsity is None


def test_words_say_how_many_of_what():
    place = LADDER.index(INT4_COARSE)
    chosen = {
        "a": allocate.Option(mixture._key(-1, 0), 1, 0.0),
        "b": allocate.Option(mixture._key(place, 10), 1, 0.0),
        "c": allocate.Option(mixture._key(place, 60), 1, 0.0),
    }
    assert mixture.words(LADDER_OF, chosen) == (
        "1 weight as float32, pruned by 0 %",
        "2 weights as int4-weights-b128, pruned by 10 to 60 %",
    )


def test_large_weights_are_estimated_on_whole_channels():
    values = np.arange(2**18, dtype=np.float32).reshape(512, 512)
    part = mixture._sample(values, (0,))
    assert part.shape == (128, 512)
    assert (part == values[::4]).all()
    assert mixture._sample(values, ()) is values
