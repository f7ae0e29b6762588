"""Students: fewer channels, fewer blocks, lower rank; and what they start from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import checker

from edgemodel_api.edgemodel import DistillMethod, Student
from edgemodel_api.errors import InputError
from edgemodel_compressor.steps.weights import weights
from edgemodel_compressor.training.blocks import runs, shallower
from edgemodel_compressor.training.lowrank import factors, low_rank

pytest.importorskip("jax")
from edgemodel_compressor.training.heads import with_outputs
from edgemodel_compressor.training.initialise import initialised
from edgemodel_compressor.training.students import derive
from edgemodel_compressor.training.students import given as given_student

X = np.random.default_rng(0).normal(size=(16, 6)).astype("f4")
P = np.random.default_rng(1).normal(size=(16, 1, 6, 6)).astype("f4")


def size(model):
    return sum(w.size for w in weights(model))


def make(teacher, rows, method=DistillMethod.PARAMETER, seed=0, **student):
    return derive(teacher, Student(**student), method=method, seed=seed, rows=rows)


# Low rank.


@settings(max_examples=20, deadline=None)
@given(m=st.integers(1, 12), n=st.integers(1, 12), seed=st.integers(0, 9))
def test_factors_are_exact_at_full_rank_and_best_below(m, n, seed):
    matrix = np.random.default_rng(seed).normal(size=(m, n))
    full = min(m, n)
    a, b = factors(matrix, full)
    assert np.allclose(a @ b, matrix)
    a, b = factors(matrix, 1)
    rest = np.linalg.svd(matrix, compute_uv=False)[1:]
    assert np.linalg.norm(matrix - a @ b) == pytest.approx(np.sqrt(np.sum(rest**2)), abs=1e-9)


def test_a_matrix_of_low_rank_loses_nothing(build):
    """Gemm with and without transB and alpha, MatMul, Conv with stride and padding: weights of rank 2."""
    a, b = build.normal(1, 20, 2), build.normal(2, 2, 24)
    conv = (build.normal(3, 16, 2) @ build.normal(4, 2, 18)).reshape(16, 2, 3, 3)
    nodes = [
        build.node("Conv", ["x", "c", "cb"], "h", strides=[2, 2], pads=[1, 0, 1, 0]),
        build.node("Flatten", ["h"], "f"),
        build.node("Gemm", ["f", "g", "gb"], "i", transB=1, alpha=0.5, beta=2.0),
        build.node("MatMul", ["i", "m"], "j"),
        build.node("Gemm", ["j", "k"], "y"),
    ]
    flat = 16 * 3 * 2
    tensors = {
        "c": conv.astype("f4"), "cb": build.normal(5, 16),
        "g": (build.normal(6, 20, 2) @ build.normal(7, 2, flat)), "gb": build.normal(8, 20),
        "m": a @ b, "k": (build.normal(9, 24, 2) @ build.normal(10, 2, 20)),
    }  # fmt: skip
    model = build.model(nodes, tensors, {"x": ["n", 2, 6, 5]}, {"y": ["n", 20]})
    smaller, count = low_rank(model, 0.12)  # rank 2 of 16, 20, 20 and 20
    assert count == 4
    checker.check_model(smaller, full_check=True)
    x = build.normal(11, 3, 2, 6, 5)
    want, got = build.run(model, x=x)["y"], build.run(smaller, x=x)["y"]
    assert np.allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())
    assert size(smaller) == 2 * (16 + 18) + 2 * (20 + flat) + 2 * (20 + 24) + 2 * (24 + 20)


def test_rank_that_would_save_nothing(build):
    with pytest.raises(InputError, match=r"student.rank: at 90% .* no weight of this model gets smaller"):
        make(build.mlp(), {"x": X}, rank="90%")


def test_shared_and_grouped_weights_stay(build):
    nodes = [build.node("MatMul", ["x", "w"], "a"), build.node("MatMul", ["a", "w"], "y")]
    model = build.model(nodes, {"w": build.normal(1, 6, 6)}, {"x": ["n", 6]}, {"y": ["n", 6]})
    assert low_rank(model, 0.1)[1] == 0


# Depth.


def test_residual_blocks(build):
    found = runs(build.residual(4))
    assert [len(r.units) for r in found] == [4]
    smaller, total, stayed = shallower(build.residual(4), 0.5)
    assert (total, stayed) == (4, 2)
    checker.check_model(smaller, full_check=True)
    assert build.run(smaller, x=P)["y"].shape == (16, 3)
    names = {t.name for t in smaller.graph.initializer}
    # Evenly: the first and the third of four.
    assert {"wa1", "wa3"} <= names
    assert not {"wa2", "wa4"} & names


def test_the_blocks_that_turn_their_input_least_go(build):
    model = build.residual(4)
    for name, factor in (("wb1", 0.0), ("wb3", 0.0), ("bb1", 0.0), ("bb3", 0.0)):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(_scaled(tensor, factor))
    smaller, _, _ = shallower(model, 0.5, rows={"x": P})
    assert {t.name for t in smaller.graph.initializer} >= {"wa2", "wa4"}
    # Those did nothing, so nothing changes.
    assert np.allclose(build.run(smaller, x=P)["y"], build.run(model, x=P)["y"], atol=1e-5)


def _scaled(tensor, factor):
    from onnx import numpy_helper

    return numpy_helper.from_array((numpy_helper.to_array(tensor) * factor).astype("f4"), tensor.name)


def transformer(build, layers=3, *, post_norm=False):
    """Single-head attention and a feed-forward part, with a mask that passes by all of them."""
    nodes = [build.node("Gather", ["table", "ids"], "h0")]
    nodes += [build.node("Cast", ["mask"], "m1", to=1), build.node("Mul", ["m1", "big"], "m2")]
    nodes += [build.node("Unsqueeze", ["m2", "one"], "bias")]
    tensors = {"table": build.normal(1, 11, 8), "big": np.array([-9.0], "f4"), "one": np.array([1])}
    for i in range(layers):
        h, p = f"h{i}", f"l{i}."
        tensors |= {p + w: build.normal(20 + i, 8, 8, scale=0.3) for w in ("q", "k", "v", "o", "u", "d")}
        tensors |= {p + "s": np.ones(8, "f4"), p + "b": np.zeros(8, "f4")}
        nodes += [
            build.node("LayerNormalization", [h, p + "s", p + "b"], p + "n") if not post_norm else build.node("Identity", [h], p + "n"),
            build.node("MatMul", [p + "n", p + "q"], p + "qx"),
            build.node("MatMul", [p + "n", p + "k"], p + "kx"),
            build.node("MatMul", [p + "n", p + "v"], p + "vx"),
            build.node("Transpose", [p + "kx"], p + "kt", perm=[0, 2, 1]),
            build.node("MatMul", [p + "qx", p + "kt"], p + "a"),
            build.node("Add", [p + "a", "bias"], p + "am"),
            build.node("Softmax", [p + "am"], p + "as", axis=-1),
            build.node("MatMul", [p + "as", p + "vx"], p + "av"),
            build.node("MatMul", [p + "av", p + "o"], p + "ao"),
            build.node("Add", [p + "ao", h], p + "r"),
            build.node("MatMul", [p + "r", p + "u"], p + "f"),
            build.node("Relu", [p + "f"], p + "g"),
            build.node("MatMul", [p + "g", p + "d"], p + "e"),
            build.node("Add", [p + "e", p + "r"], p + "t" if post_norm else f"h{i + 1}"),
        ]  # fmt: skip
        if post_norm:
            nodes.append(build.node("LayerNormalization", [p + "t", p + "s", p + "b"], f"h{i + 1}"))
    nodes += [
        build.node("ReduceMean", [f"h{layers}"], "p", axes=[1], keepdims=0),
        build.node("MatMul", ["p", "w"], "y"),
    ]
    tensors["w"] = build.normal(50, 8, 3)
    ids = (7, ["n", 5])  # int64
    return build.model(nodes, tensors, {"ids": ids, "mask": ids}, {"y": ["n", 3]})


@pytest.mark.parametrize("post_norm", [False, True])
def test_transformer_layers_with_a_mask_that_passes_by(build, post_norm):
    model = transformer(build, 4, post_norm=post_norm)
    (run,) = runs(model)
    assert len(run.units) == 4
    smaller, total, stayed = shallower(model, 0.5)
    assert (total, stayed) == (4, 2)
    feeds = {"ids": np.arange(10).reshape(2, 5), "mask": np.zeros((2, 5), int)}
    assert build.run(smaller, **feeds)["y"].shape == (2, 3)
    # The same network, written with two layers.
    short = transformer(build, 2, post_norm=post_norm)
    assert size(smaller) == size(short)
    assert len(smaller.graph.node) == len(short.graph.node)


def test_no_blocks(build):
    with pytest.raises(InputError, match="no repeated or residual blocks"):
        make(build.mlp(), {"x": X}, depth="50%")


def test_all_blocks_would_stay(build):
    with pytest.raises(InputError, match="all of them"):
        shallower(build.residual(2), 0.9)


@settings(max_examples=10, deadline=None)
@given(blocks=st.integers(1, 5), percent=st.integers(1, 100))
def test_share_of_blocks(build, blocks, percent):
    wanted = max(1 if blocks > 1 else 0, int(np.floor(percent / 100 * blocks + 0.5)))
    if wanted == blocks:
        with pytest.raises(InputError, match="all of them"):
            shallower(build.residual(blocks), percent / 100)
    else:
        assert shallower(build.residual(blocks), percent / 100)[1:] == (blocks, wanted)


# Width, and together.


def test_width_keeps_the_teachers_channels(build):
    teacher = build.mlp()
    found = make(teacher, {"x": X}, width="50%")
    assert build.tensor(found.model, "w1").shape == (6, 8)
    kept = found.kept["h1"]
    assert np.array_equal(build.tensor(found.model, "w1"), build.tensor(teacher, "w1")[:, kept])
    assert "8 of" not in found.notes[0]
    assert "width 50%" in found.notes[0]
    assert build.run(found.model, x=X)["y"].shape == (16, 3)


@pytest.mark.parametrize("method", list(DistillMethod))
def test_all_three_together(build, method):
    found = make(build.residual(4), {"x": P}, method, width="50%", depth="50%", rank="50%")
    checker.check_model(found.model, full_check=True)
    assert size(found.model) < size(build.residual(4)) / 4
    assert build.run(found.model, x=P)["y"].shape == (16, 3)


def test_width_that_takes_nothing(build):
    with pytest.raises(InputError, match=r"student\.width: at 100%"):
        make(build.mlp(), {"x": X}, width="100%")


# What students start from.


def test_random_weights_are_seeded_and_scaled(build):
    teacher = build.residual(6)
    first, again, other = (initialised(teacher, seed=s, rows={"x": P}) for s in (1, 1, 2))
    assert first.SerializeToString() == again.SerializeToString() != other.SerializeToString()
    hidden = [n.output[0] for n in first.graph.node if n.op_type in ("Conv", "Gemm")]
    for name, values in build.run(with_outputs(first, hidden), x=P).items():
        assert float(values.std()) == pytest.approx(1.0, abs=0.02), name
    for tensor in first.graph.initializer:
        if tensor.name.startswith("b"):
            assert not build.tensor(first, tensor.name).any()
    assert {t.name: tuple(t.dims) for t in first.graph.initializer} == {
        t.name: tuple(t.dims) for t in teacher.graph.initializer
    }


def test_knowledge_forgets_the_teachers_weights(build):
    teacher = build.mlp()
    found = make(teacher, {"x": X}, DistillMethod.KNOWLEDGE, width="50%")
    assert not np.isin(build.tensor(found.model, "w1"), build.tensor(teacher, "w1")).any()


def test_norms_and_recurrent_biases(build):
    hidden, gates = 3, 4
    nodes = [
        build.node("LayerNormalization", ["x", "s", "t"], "n", axis=-1),
        build.node("LSTM", ["n", "W", "R", "B"], "h", hidden_size=hidden),
        build.node("Squeeze", ["h", "one"], "y"),
    ]
    tensors = {
        "s": build.normal(1, 5), "t": build.normal(2, 5), "W": build.normal(3, 1, gates * hidden, 5),
        "R": build.normal(4, 1, gates * hidden, hidden), "B": build.normal(5, 1, 2 * gates * hidden), "one": np.array([1]),
    }  # fmt: skip
    model = build.model(nodes, tensors, {"x": ["s", "n", 5]}, {"y": ["s", "n", hidden]})
    found = initialised(model, seed=0, rows={"x": build.normal(6, 2, 4, 5)})
    assert (build.tensor(found, "s") == 1).all()
    assert (build.tensor(found, "t") == 0).all()
    bias = build.tensor(found, "B")[0]
    assert np.flatnonzero(bias).tolist() == [6, 7, 8]
    assert np.abs(build.tensor(found, "W")).max() <= 1 / np.sqrt(hidden)


def test_a_student_from_a_file_keeps_its_weights(build):
    student = build.mlp(wide=5, seed=9)
    found = given_student(build.mlp(), student, method=DistillMethod.KNOWLEDGE, seed=0, rows={"x": X})
    assert found.model.SerializeToString() == student.SerializeToString()


def test_a_file_of_zeros_is_drawn_anew(build):
    student = build.mlp(wide=5)
    for tensor in student.graph.initializer:
        tensor.CopyFrom(_scaled(tensor, 0.0))
    found = given_student(build.mlp(), student, method=DistillMethod.KNOWLEDGE, seed=0, rows={"x": X})
    assert all(float(np.ptp(w.values())) > 0 for w in weights(found.model))
    assert "3 weights of the student's file were constant" in found.notes[1]


def test_parameter_with_a_file(build):
    teacher, student = build.mlp(), build.mlp(seed=20, classes=3)
    found = given_student(teacher, student, method=DistillMethod.PARAMETER, seed=0, rows={"x": X})
    assert np.array_equal(build.tensor(found.model, "w2"), build.tensor(teacher, "w2"))
    with pytest.raises(InputError, match="transfers weights"):
        given_student(
            teacher, build.mlp(wide=5), method=DistillMethod.PARAMETER, seed=0, rows={"x": X}
        )  # no weight of the same shape
