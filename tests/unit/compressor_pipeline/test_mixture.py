"""Mixtures: what each weight could become, what it costs, and the model made of a choice."""

import numpy as np
import onnx
import onnxruntime
import pytest
import zstandard
from onnx import TensorProto, helper, numpy_helper

from edgemodel_compressor import allocate, mixture
from edgemodel_compressor.candidates import LADDER, mixed
from edgemodel_compressor.layers import layers
from edgemodel_compressor.steps.encodings import INT4_COARSE, LIMITS, WIDE, stepped
from edgemodel_compressor.steps.graph import graphs
from edgemodel_compressor.steps.prepare import prepare
from edgemodel_compressor.steps.weights import weights

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
    whole = next(o for o in options["b"] if o.key == place)
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


def test_all_encodings_of_the_ladder_can_be_made(model, options):
    """The option's error is the one that the weight then has."""
    by = {o.key: o for o in options["b"]}
    assert set(by) == {-1, *range(len(LADDER))}
    for place, encoding in enumerate(LADDER):
        made = mixture.mix(model, LADDER_OF, {"b": by[place]})
        assert made.nodes == ("second",)
        small = (TensorProto.INT8, TensorProto.FLOAT16)
        stored = [numpy_helper.to_array(t) for t in made.model.graph.initializer if t.data_type in small]
        assert len(stored) == (2 if encoding.limit > 127 else 1)
        numbers = sum(part.astype(int) * 16**place for place, part in enumerate(stored[::-1]))
        assert np.abs(numbers).max() <= (encoding.limit or 127)
    assert mixture.mix(model, LADDER_OF, {"b": by[-1]}).nodes == ()


def test_finer_steps_take_more_bytes_and_err_less(options):
    steps = [
        next(o for o in options["a"] if o.key == LADDER.index(stepped(n, per_channel=True))) for n in (*WIDE, *LIMITS)
    ]
    assert [o.bytes for o in steps] == sorted((o.bytes for o in steps), reverse=True)
    assert [o.error for o in steps] == sorted(o.error for o in steps)


@pytest.mark.parametrize("step", [0.05, 0.3, 0.7, 1.0, 1.4, 2.0, 3.0])
@pytest.mark.parametrize("kind", ["normal", "laplace"])
def test_bytes_are_those_of_the_artifact(step, kind):
    """Level 16, as `edgemodel_oci` packs, on numbers from 0.8 to 7 bits."""
    numbers = np.rint(getattr(np.random.default_rng(0), kind)(size=2**15) / step).clip(-127, 127).astype(np.int8)
    real = len(zstandard.ZstdCompressor(level=16).compress(numbers.tobytes()))
    assert mixture._packed(numbers) == pytest.approx(real, rel=0.06)


def test_repeated_numbers_are_seen():
    row = np.random.default_rng(0).integers(-127, 128, size=256).astype(np.int8)
    assert mixture._packed(np.tile(row, (64, 1))) < 1000


def test_huffman_golden():
    # Codes of 1, 2, 3 and 3 bits.
    assert mixture._huffman([8, 4, 2, 2]) == 8 + 8 + 6 + 6
    assert mixture._huffman([5]) == 0


def test_words_say_how_many_of_what():
    places = [LADDER.index(stepped(n, per_channel=n > 10)) for n in (40, 20, 5)]
    chosen = {
        "a": allocate.Option(-1, 1, 0.0),
        **{name: allocate.Option(place, 1, 0.0) for name, place in zip("bcd", places, strict=True)},
        "e": allocate.Option(LADDER.index(INT4_COARSE), 1, 0.0),
    }
    assert mixture.words(LADDER_OF, chosen) == (
        "1 weight as float32",
        "1 weight as int4-weights-b128",
        "2 weights as steps of each output channel, numbers up to 20 to 40",
        "1 weight as steps of each weight, numbers up to 5",
    )


def test_large_weights_are_estimated_on_whole_channels():
    values = np.arange(2**18, dtype=np.float32).reshape(512, 512)
    part = mixture._sample(values, (0,))
    assert part.shape == (128, 512)
    assert (part == values[::4]).all()
    assert mixture._sample(values, ()) is values


def renamed(model, names):
    found = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in found.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in found.graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
    return found


@pytest.mark.parametrize("names", [{}, {"a": "1", "b": "0", "c": "2"}, {"a": "W", "b": "W_1", "c": "W/2"}], ids=str)
def test_the_report_finds_what_weights_became_though_names_are_short(model, names):
    source = renamed(model, names)
    found = mixture.options(source, LADDER_OF, {"first": 0.001, "second": 0.1, "third": 0.5}, INT4_COARSE)
    made = mixture.mix(source, LADDER_OF, allocate.allocation(found, allocate.moves(found)))
    first, second, third = layers(source, made.model, {})
    assert [x.node for x in (first, second, third)] == ["first", "second", "third"]
    for layer in (first, second):
        assert layer.encoding in ("int4", "int8")
        assert layer.bytes < layer.source_bytes / 4
    assert (third.encoding, third.bytes) == ("float32", third.source_bytes)
    # Nothing was moved yet: halves at most, each under its own weight.
    whole = mixture.mix(source, LADDER_OF, allocate.allocation(found, 1))
    assert sum(layer.bytes for layer in layers(source, whole.model, {})) > 0.4 * sum(
        layer.source_bytes for layer in (first, second, third)
    )


def test_a_weight_that_the_measured_encoding_stores_exactly_is_not_free(model):
    """Its error was 0, which says nothing of coarser steps."""
    grid = onnx.ModelProto.FromString(model.SerializeToString())
    numbers = np.random.default_rng(0).integers(-7, 8, (64, 64)).astype(np.float32) / 64
    numbers[:, 0] = 7 / 64
    numbers[0] = 7 / 64
    grid.graph.initializer[0].CopyFrom(numpy_helper.from_array(numbers, "a"))
    found = mixture.options(grid, LADDER_OF, {"first": 0.0, "second": 0.1}, INT4_COARSE)
    coarse = LADDER.index(stepped(1, per_channel=False))
    errors = {name: next(o.error for o in some if o.key == coarse) for name, some in found.items()}
    assert errors["a"] > 0.1 * errors["b"] > 0


def test_branches_have_a_weight_each_though_of_one_name():
    rng = np.random.default_rng(2)

    def branch(name, hidden):
        nodes = [
            helper.make_node("MatMul", ["x", "w"], [f"h{hidden}"], name=f"mul{hidden}"),
            helper.make_node("ReduceMean", [f"h{hidden}"], [f"y{hidden}"], axes=[1]),
        ]
        out = helper.make_tensor_value_info(f"y{hidden}", TensorProto.FLOAT, None)
        values = rng.normal(size=(64, hidden)).astype(np.float32)
        return helper.make_graph(nodes, name, [], [out], [numpy_helper.from_array(values, "w")])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("a", 32), else_branch=branch("b", 48)),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32(0), "zero")],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model = prepare(source)
    found = mixture.options(model, LADDER_OF, {"mul32": 0.01, "mul48": 0.01}, INT4_COARSE)
    assert sorted(o[0].bytes // 4000 for o in found.values()) == [1, 2]  # of 8 and 12 KiB
    # One of each: 2032 steps, and 16.
    finest, coarser = (LADDER_OF.index(next(q for q in LADDER_OF if q.encoding.limit == n)) for n in (2032, 16))
    of = {w.node: w.name for w in weights(model)}
    for places in ((finest, coarser), (coarser, finest)):
        chosen = {
            of[node]: next(o for o in found[of[node]] if o.key == place)
            for node, place in zip(("mul32", "mul48"), places, strict=True)
        }
        mixed_model = mixture.mix(model, LADDER_OF, chosen).model
        assert sum(t.data_type == TensorProto.INT8 for g in graphs(mixed_model.graph) for t in g.initializer) == 3
        for sign, place in ((1, places[0]), (-1, places[1])):
            x = sign * np.abs(rng.normal(size=(3, 64))).astype(np.float32)
            want, got = (
                onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
                    None, {"x": x}
                )[0]
                for m in (source, mixed_model)
            )
            error = np.linalg.norm(got - want) / np.linalg.norm(want)
            assert error < (0.002 if place == finest else 0.2)
