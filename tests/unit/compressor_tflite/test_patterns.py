"""Activations written as many nodes are one operator."""

from __future__ import annotations

import numpy as np
import pytest

from edgemodel_compressor.formats.tflite.lower import lower


def gelu_erf(build, swapped):
    n, order = build.node, (lambda a, b: [b, a]) if swapped else (lambda a, b: [a, b])
    nodes = [
        n("Div", ["c", "root"], "d"), n("Erf", ["d"], "e"), n("Add", order("e", "one"), "a"), n("Mul", order("c", "a"), "m"),
        n("Mul", order("m", "half")),
    ]  # fmt: skip
    return nodes, {"root": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}


def gelu_tanh(build, swapped):
    n, order = build.node, (lambda a, b: [b, a]) if swapped else (lambda a, b: [a, b])
    nodes = [
        n("Pow", ["c", "three"], "p"), n("Mul", order("p", "k"), "q"), n("Add", order("c", "q"), "s"),
        n("Mul", order("s", "root"), "t"), n("Tanh", ["t"], "h"), n("Add", order("h", "one"), "a"),
        n("Mul", order("c", "half"), "b"), n("Mul", order("a", "b")),
    ]  # fmt: skip
    constants = {"three": 3.0, "k": 0.044715, "root": np.sqrt(2 / np.pi), "one": 1.0, "half": 0.5}
    return nodes, {k: np.float32(v) for k, v in constants.items()}


def hard_swish(build, swapped):
    n, order = build.node, (lambda a, b: [b, a]) if swapped else (lambda a, b: [a, b])
    nodes = [
        n("Add", order("c", "three"), "p"), n("Clip", ["p", "zero", "six"], "q"), n("Mul", order("c", "q"), "r"),
        n("Div", ["r", "six"]),
    ]  # fmt: skip
    return nodes, {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("parts", "code"), [(gelu_erf, "GELU"), (gelu_tanh, "GELU"), (hard_swish, "HARD_SWISH")])
def test_found(build, parts, code, swapped):
    nodes, constants = parts(build, swapped)
    conv = build.node("Conv", ["x", "w"], "c", kernel_shape=[1, 1])
    model = build.model([conv, *nodes], {"x": ["N", 3, 5, 5]}, {"w": build.weights(4, 3, 1, 1), **constants})
    assert [op.code for op in lower(model).graph.ops] == ["TRANSPOSE", "CONV_2D", code, "TRANSPOSE"]
    build.convert(model)


def test_found_where_the_batch_becomes_fixed(build):
    """The graph is lowered twice then."""
    nodes, constants = gelu_erf(build, False)
    end = build.node("Slice", ["y", "from", "to"], "z")
    model = build.model(
        [*nodes, end], {"c": ["N", 5]}, {**constants, "from": np.asarray([0]), "to": np.asarray([1])}, outputs=("z",)
    )
    made = build.convert(model)
    assert not made.free_batch
    assert "it cuts the batch" in made.notes[0]


def test_what_is_nearly_one_is_left_as_it_is(build):
    nodes, constants = gelu_erf(build, False)
    constants["half"] = np.float32(0.49)
    model = build.model(nodes, {"c": ["N", 5]}, constants)
    assert "GELU" not in [op.code for op in lower(model).graph.ops]
    build.convert(model)
